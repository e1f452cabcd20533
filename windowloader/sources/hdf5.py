"""HDF5 and netCDF-4 files, here and in a bucket: which arrays and frames they hold, and one of them opened.

In: a path or an object, perhaps the name of an array. Out: a source, from `hdf5_dataset` or `frame_hdf5`. Never reads
values when opening, never unpickles.
"""

from __future__ import annotations

import os
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from windowloader.errors import SourceFormatError
from windowloader.util.axes import default_axes

from .base import digest
from .description import Contents, opened, split_path
from .handles import Stamp
from .hdf5_dataset import open_dataset, open_file, told
from .netcdf import FileOpener, XarraySource, described
from .tables import open_stored_frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .base import Source
    from .remote_objects import RemoteObject

__all__ = ["describe", "list_hdf5", "open_hdf5"]

MOST_CHUNKS = 4096  # of a coordinate that are read at once
NO_NUMBERS = ["char", "cell", "struct", "function_handle", "table", "string"]  # of MATLAB: codes, references


@dataclass(eq=False)
class HDF5Contents(Contents):
    """The groups of a file, which is open.

    Parameters
    ----------
    file : h5py.File
        As `open_file` opens it.
    where : Stamp or RemoteObject
        The file or object.
    frames, tables : list of str
        Groups of pandas frames, and datasets of records, by path.
    """

    file: Any = None
    where: Any = None
    frames: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Paths of what can be opened; frames first."""
        return (*self.frames, *self.variables())

    def _numbers(self) -> Iterator[str]:
        for path in super()._numbers():
            said, parts = self.raw(path).attrs, (*self.tables, *self.frames)
            empty = "MATLAB_empty" in said or said.get("MATLAB_class") in NO_NUMBERS
            if not empty and split_path(path)[0] not in parts:
                yield path

    def holds(self, path: str) -> bool:
        """Whether there is an array or frame of that path."""
        return path in self.frames or super().holds(path)

    def choose(self, variable: str | None) -> str:
        """Return the path of the array or frame that is meant."""
        asked = [variable.strip("/")] if variable else [] if self.names() else self.tables
        fields = [
            f"{path}/{name}"
            for path in asked
            for name, one in (self.groups[path].data_vars.items() if path in self.tables else ())
            if one.dtype.kind != "S"
        ]
        if fields:
            raise SourceFormatError(
                f"{self.name!r} holds compound datasets (records), of which one field is opened at a time: {fields}. "
                f"Choose in wl.open, e.g. variables=[{fields[0]!r}]; or read the records by pandas and pass the frame."
            )
        return super().choose(variable)

    def load(self, path: str) -> None:
        """Read a coordinate, which then stays in memory: the pages that its chunks lie in all at once."""
        item = self.dataset(path)
        if self.file.raw is not None and item is not None and item.chunks:
            places: list[Any] = []
            item.id.chunk_iter(places.append)
            ranges = [(one.byte_offset, one.byte_offset + one.size) for one in places[:MOST_CHUNKS]]
            self.file.raw.fetch(ranges)
        super().load(path)

    def dataset(self, path: str) -> Any:
        """Return the dataset of a variable; netCDF-4 has another name for one that is called as a foreign dimension."""
        group, _, name = path.rpartition("/")
        found = self.file.get(f"{group}/_nc4_non_coord_{name}") or self.file.get(path)
        return found if hasattr(found, "chunks") else None


def describe(where: Stamp | RemoteObject) -> HDF5Contents:
    """Open a file or object, and describe its groups."""
    from .hdf5_groups import survey

    file, name = open_file(where), where.path if isinstance(where, Stamp) else where.name
    try:
        with told(name, file, where):
            groups, frames, tables = survey(file)
    except BaseException:
        file.close()
        raise
    problem = (lambda: None) if file.raw is None else (lambda: file.raw.problem)
    contents = HDF5Contents(name, groups, file.close, problem, file, where, tuple(frames), tuple(tables))
    weakref.finalize(
        contents, file.close
    )  # HDF5 must not call an object's methods when the interpreter has ended
    return contents


def _opener(target: Any, storage_options: Mapping[str, Any] | None) -> FileOpener:
    from .remote_objects import blob_of

    if "://" not in os.fspath(target):
        stamp = Stamp.of(target)
        return FileOpener(stamp.path, stamp, stamp, "h5netcdf")
    blob = blob_of(target, storage_options)
    return FileOpener(blob.name, blob, digest(target, sorted((storage_options or {}).items())), "h5netcdf")


@contextmanager
def _held(opener: FileOpener) -> Iterator[Any]:
    held: Any = opened(opener)
    with held as contents, told(contents.name, contents.file, contents.where):
        yield contents


def list_hdf5(target: Any, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Names of the arrays of numbers in a file, and of the frames that pandas wrote; () for a lone frame."""
    with _held(_opener(target, storage_options)) as contents:
        names: tuple[str, ...] = contents.names()
        return () if names == contents.frames and len(names) == 1 else names


def open_hdf5(
    target: str | os.PathLike[str],
    *,
    variable: str | None = None,
    axes: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    mask_and_scale: bool = True,
    **options: Any,
) -> Source:
    """Open one array of an HDF5 or netCDF-4 file.

    Parameters
    ----------
    target : path or URL
        The file.
    variable : str, optional
        Path of an array in the file, ``"forecast/surface/t2m"``, or key of a pandas frame; may be left out where there
        is one.
    axes : str, optional
        One letter an axis; default from the names of dimensions, else ``tn`` or ``tnf``. Of MATLAB's files in the
        order that MATLAB shows, which the file has in reverse.
    storage_options : mapping, optional
        For a URL.
    mask_and_scale : bool
        Whether ``scale_factor``, ``add_offset`` and ``_FillValue`` are applied, as xarray does.
    **options
        Of a frame; see `windowloader.sources.table_files.TableOptions`.

    Raises
    ------
    SourceFormatError
        Where there are several arrays and none was named, or none of that name; the message lists them.
    """
    opener = _opener(target, storage_options)
    with _held(opener) as contents:
        path = contents.choose(variable)
        if path not in contents.frames:
            if options:
                raise SourceFormatError(
                    f"{path!r} of {contents.name!r} is no frame of pandas, and takes no options of tables; "
                    f"{sorted(options)} were given."
                )
            return _open_array(replace(opener, where=contents.where), contents, path, axes, mask_and_scale)
        if isinstance(contents.where, Stamp):
            return open_stored_frame(contents.where, contents.file[path], axes=axes, **options)
    from .fetching import open_fetched

    return open_fetched(
        str(target), storage_options, lambda here: open_hdf5(here, variable=path, axes=axes, **options)
    )


def _open_array(
    opener: FileOpener, contents: HDF5Contents, path: str, axes: str | None, mask_and_scale: bool
) -> Source:
    raw, item, asked = contents.raw(path), contents.dataset(path), axes
    matlab = "MATLAB_class" in raw.attrs
    if matlab:
        axes = (asked or default_axes(raw.ndim, None, path))[::-1]
    array, how = described(opener, contents, path, axes, mask_and_scale)
    source: Source
    if item is None or item.shape != raw.shape or item.dtype.newbyteorder("=") != raw.dtype.newbyteorder("="):
        source = XarraySource(opener, path, array=array, **how)
    else:
        source = open_dataset(contents.where, item, **how)
    if matlab and asked is None and raw.ndim > 1:
        shown, letters = " × ".join(map(str, raw.shape[::-1])), (axes or "")[::-1]
        source.doubts = (
            f"{path!r} of {contents.name!r} was written by MATLAB, whose dimensions a file has in reverse. It is read "
            f"as MATLAB shows it, {shown}, with axes={letters!r}; give axes= in that order.",
        )
    return source
