"""HDF5 files: which arrays and frames of pandas they hold, and one of them opened.

In: a file, perhaps the name of a dataset or frame. Out: a source, from `hdf5_dataset` or `frame_hdf5`. Never reads
values when opening, never unpickles.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from windowloader.errors import SourceFormatError

from .base import unknown_variable
from .frame_hdf5 import is_frame, open_frame
from .handles import Stamp
from .hdf5_dataset import open_dataset, open_file

if TYPE_CHECKING:
    from windowloader.source import Source

__all__ = ["list_hdf5", "open_hdf5"]


def list_hdf5(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the arrays of numbers in a file, and of the frames that pandas wrote; () for a lone frame."""
    with open_file(Stamp.of(path)) as file:
        names = _names(file)
        return () if len(names) == 1 and is_frame(file[names[0]]) else names


def _names(file: Any) -> tuple[str, ...]:
    """Frames by their group, datasets by their path; dimension scales only where there is nothing else."""
    frames: list[str] = []
    datasets: list[str] = []
    scales: list[str] = []

    def visit(name: str, item: Any) -> None:
        if any(name.startswith(f"{frame}/") for frame in frames):
            return
        if is_frame(item):
            frames.append(name)
        elif getattr(item, "ndim", 0) >= 1 and item.dtype.kind in "fiub":
            (scales if item.is_scale else datasets).append(name)

    file.visititems(visit)
    return tuple(frames + datasets) or tuple(scales)


def open_hdf5(
    path: str | os.PathLike[str], *, variable: str | None = None, axes: str | None = None, **options: Any
) -> Source:
    """Open one array of an HDF5 file.

    Parameters
    ----------
    path : path-like
        The file.
    variable : str, optional
        Path of a dataset in the file, or key of a pandas frame; may be left out where there is one.
    axes : str, optional
        One letter an axis; default from dimension labels, else ``tn`` or ``tnf``.
    **options
        Of a frame; see `windowloader.sources.tables.TableOptions`.

    Raises
    ------
    SourceFormatError
        Where there are several arrays and none was named, or none of that name; the message lists them.
    """
    stamp = Stamp.of(path)
    with open_file(stamp) as file:
        names = _names(file)
        asked = variable.strip("/") if variable else names[0] if len(names) == 1 else None
        if asked is None or asked not in file:
            unknown_variable(os.fspath(path), variable, names)
        if is_frame(file[asked]):
            return open_frame(stamp, file[asked], axes=axes, **options)
        if options:
            raise SourceFormatError(
                f"{asked!r} of {os.fspath(path)!r} is no frame of pandas, and takes no options of tables; "
                f"{sorted(options)} were given."
            )
        if not hasattr(file[asked], "shape"):
            unknown_variable(os.fspath(path), variable, names)
        return open_dataset(stamp, file[asked], axes=axes, dims=_dims(file[asked]))


def _dims(dataset: Any) -> tuple[str, ...] | None:
    names = tuple(dim.label or (dim.keys()[0] if len(dim) else "") for dim in dataset.dims)
    return names if all(names) else None
