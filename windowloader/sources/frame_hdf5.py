"""Frames that pandas wrote to HDF5 (``to_hdf``), such as metr-la.h5 and pems-bay.h5.

In: a file, or the group of a frame or series. Out: a pandas frame, read by pandas with PyTables; or the one block of
numbers of a frame in the fixed format, with the labels of both sides, which can stay in the file. Never unpickles
anything but what pandas itself writes beside a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from windowloader.errors import SourceFormatError

from .base import optional, unknown_variable
from .handles import Stamp
from .hdf5_dataset import opened
from .unpickle import load_attribute

__all__ = ["Block", "block_of", "is_frame", "read_frame"]

KINDS = ("frame", "frame_table", "series", "series_table")


def is_frame(item: Any) -> bool:
    """Whether an HDF5 item is a group that pandas wrote a frame or series to."""
    return _attribute(item, "pandas_type") in KINDS


@dataclass(frozen=True, slots=True)
class Block:
    """The numbers of a frame as one dataset, and the labels of both sides.

    Parameters
    ----------
    dataset : h5py.Dataset
        Open: rows × columns.
    index, columns : pandas.Index
    """

    dataset: Any
    index: Any
    columns: Any

    def frame(self, rows: int | None = None) -> Any:
        """Return the frame, or its first rows."""
        return pandas.DataFrame(self.dataset[:rows], self.index[:rows], self.columns, copy=False)


def block_of(group: Any) -> Block | None:
    """Return the block of a frame that has one, with one level of labels; None where pandas has to read it."""
    import h5py

    dataset, attributes = group.get("block0_values"), group.attrs
    if dataset is None or int(attributes.get("nblocks", 0)) != 1 or not dataset.attrs.get("transposed", True):
        return None
    numbers = dataset.id.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
    index, columns, items = (_index(group, name) for name in ("axis1", "axis0", "block0_items"))
    if not numbers or {"shape", "value_type"} & set(dataset.attrs) or index is None or columns is None:
        return None
    fits = columns.equals(items) and dataset.shape == (len(index), len(columns))
    return Block(dataset, index, columns) if fits else None


def _index(group: Any, name: str) -> Any:
    """Labels of one level as a pandas index: text, whole numbers and times; None for others."""
    dataset = group.get(name)
    if dataset is None or dataset.ndim != 1 or "shape" in dataset.attrs:
        return None
    raw, zone = dataset[:], _attribute(dataset, "tz")
    kind = str(_attribute(dataset, "kind") or ("string" if raw.dtype.kind == "S" else "integer"))
    plain = _attribute(dataset, "index_class") in (None, "index")
    found: Any = None
    if kind == "string" and raw.dtype.kind == "S":
        found = pandas.Index(np.char.decode(raw, _attribute(group, "encoding") or "UTF-8"))
    elif kind == "integer" and raw.dtype.kind in "iu" and plain:
        found = pandas.Index(raw)
    elif kind.startswith("datetime64") and raw.dtype == np.int64:
        found = pandas.DatetimeIndex(raw.view(kind if "[" in kind else "datetime64[ns]"))
        found = found if zone is None else found.tz_localize("UTC").tz_convert(zone)
    return None if found is None else found.rename(_attribute(dataset, "name"))


def read_frame(path: str, key: str | None = None) -> Any:
    """Read a frame or series of an HDF5 file by pandas; ``key`` may be left out where there is one.

    Raises
    ------
    SourceFormatError
        Where it holds pickled objects.
    MissingExtraError
        Where pandas needs PyTables for it, which is not installed.
    """
    with opened(Stamp.of(path)) as file:
        frames: list[str] = []
        file.visititems(lambda name, item: frames.append(name) if is_frame(item) else None)
        key = key or (frames[0] if len(frames) == 1 else None)
        if key is None or key.strip("/") not in frames:
            unknown_variable(path, key, frames)
        if (block := block_of(file[key])) is not None:
            return block.frame()
        _refuse_objects(file[key], path)
    optional("tables", extra="tables", purpose=f"reading the frame {key!r} of {path!r} by PyTables")
    return pandas.read_hdf(path, key=key, mode="r")


def _refuse_objects(group: Any, path: str) -> None:
    """Refuse what PyTables would unpickle: columns of objects, and attributes that name more than pandas writes."""
    import h5py

    nodes = [group]
    group.visititems(lambda _, node: nodes.append(node))
    for node in nodes:
        links = [node.get(name, getlink=True) for name in node] if isinstance(node, h5py.Group) else []
        if not all(isinstance(link, h5py.HardLink) for link in links):
            raise SourceFormatError(f"{node.name!r} of {path!r} has links, which no frame of pandas has.")
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "O":
            raise SourceFormatError(
                f"{node.name!r} of {path!r} holds pickled objects, such as text, which are never unpickled. Write "
                "frame.select_dtypes('number'), or text with format='table'."
            )
    while nodes[-1].name != "/":
        nodes.append(nodes[-1].parent)
    for owner, name in [(node, name) for node in nodes for name in node.attrs]:
        try:
            _attribute(owner, name)
        except SourceFormatError as error:
            raise SourceFormatError(
                f"the attribute {name!r} of {owner.name!r} in {path!r} is refused: {error} If you trust the file, "
                "write the frame again with pandas."
            ) from error


def _attribute(node: Any, name: str) -> Any:
    """Value of a text attribute as PyTables reads it, which unpickles text that ends in a point; None without."""
    import h5py

    if name not in node.attrs:
        return None
    identifier = h5py.h5a.open(node.id, name.encode())
    kind, space = identifier.get_type(), identifier.get_space().get_simple_extent_type()
    if kind.get_class() != h5py.h5t.STRING or space != h5py.h5s.SCALAR:
        return None
    if kind.is_variable_str():
        raw = str(node.attrs[name]).encode("utf-8", "surrogateescape")
    else:  # all of its bytes: HDF5 ends text at the first zero, PyTables does not
        stored = np.empty((), f"V{kind.get_size()}")
        identifier.read(stored, mtype=kind)
        raw = stored.tobytes().rstrip(b"\0")
    return load_attribute(raw) if raw.endswith(b".") else raw.decode("utf-8", "replace")
