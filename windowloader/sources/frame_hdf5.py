"""Frames that pandas wrote to HDF5 (``to_hdf``), as metr-la.h5 and pems-bay.h5 come: columns are sensors.

In: the group of a frame or series. Out: a source with timestamps and column labels. pandas reads them, by PyTables. A
frame in the fixed format whose numbers are one block, with one level of labels on both sides, is described from its
labels and stays in the file. Never unpickles anything but what pandas itself writes beside a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

from .base import Described, Description, optional, unknown_variable
from .handles import Stamp
from .hdf5_dataset import open_dataset, opened
from .table_files import TableOptions
from .tables import index_times, labels_of, open_table, wide
from .unpickle import load_attribute

if TYPE_CHECKING:
    from windowloader.sources import Source

__all__ = ["is_frame", "open_frame", "read_frame"]

KINDS = ("frame", "frame_table", "series", "series_table")
SAMPLE = 1000  # rows that tell whether the columns are all readings


def is_frame(item: Any) -> bool:
    """Whether an HDF5 item is a group that pandas wrote a frame or series to."""
    return _attribute(item, "pandas_type") in KINDS


def open_frame(stamp: Stamp, group: Any, *, axes: str | None = None, **options: Any) -> Source:
    """Open a frame: in its file where it is one block of numbers, else read by pandas.

    Parameters
    ----------
    stamp : Stamp
        The file.
    group : h5py.Group
        Of the frame, open.
    axes : str, optional
        ``tn`` (default), or another that `windowloader.sources.tables.open_table` takes.
    **options
        See `windowloader.sources.table_files.TableOptions`.
    """
    description = FrameDescription(stamp, TableOptions(axes=axes, key=group.name, **options))
    plain = (
        set(options) <= {"time"} and options.get("time") in (None, True, False) and axes in (None, "tn", "tf")
    )
    block = _block(group) if plain else None
    if block is None or (found := description.of(block)) is None:
        return open_table(stamp.path, axes=axes, key=group.name, **options)
    source = open_dataset(stamp, block.dataset, axes=axes or "tn", description=description)
    source.doubts = found.doubts
    return source


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
        import pandas

        return pandas.DataFrame(self.dataset[:rows], self.index[:rows], self.columns, copy=False)


@dataclass(frozen=True, slots=True)
class FrameDescription(Description):
    """Column labels and timestamps of a frame of one block, read when asked for.

    Parameters
    ----------
    stamp : Stamp
        The file.
    options : TableOptions
        Names the frame.
    """

    stamp: Stamp
    options: TableOptions

    def of(self, block: Block) -> Described | None:
        """Labels and times, as of the frame in memory; None where its values would not be the block."""
        name = block.dataset.parent.name
        values, head = wide(block.frame(SAMPLE), self.options, name)
        if values.shape[1] != len(block.columns) or values.dtype != block.dataset.dtype:
            return None
        times = index_times(block.index, self.options, name)
        return Described(labels_of(block.index, block.columns, timed=times is not None), times, head.doubts)

    def _found(self) -> Described:
        with opened(self.stamp) as file:
            block = _block(file[self.options.key])
            return (block and self.of(block)) or Described()

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along a dimension as stored: of the columns, and of rows that are no times."""
        return self._found().labels(dim)

    def timestamps(self) -> np.ndarray | None:
        """Index of the frame where it is times, else None."""
        return self._found().timestamps()


def _block(group: Any) -> Block | None:
    """Return the block of a frame that has but one; None where pandas has to read it."""
    import h5py

    dataset = group.get("block0_values")
    if (
        dataset is None
        or int(group.attrs.get("nblocks", 0)) != 1
        or not dataset.attrs.get("transposed", True)
    ):
        return None
    numbers = dataset.id.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
    index, columns, items = (_index(group, name) for name in ("axis1", "axis0", "block0_items"))
    if not numbers or {"shape", "value_type"} & set(dataset.attrs) or index is None or columns is None:
        return None
    fits = columns.equals(items) and dataset.shape == (len(index), len(columns))
    return Block(dataset, index, columns) if fits else None


def _index(group: Any, name: str) -> Any:
    """Labels of one level, as pandas has them: text, whole numbers and moments; None for others."""
    import pandas

    dataset = group.get(name)
    if dataset is None or dataset.ndim != 1 or "shape" in dataset.attrs:
        return None
    raw, zone = dataset[:], _attribute(dataset, "tz")
    kind = str(_attribute(dataset, "kind") or ("string" if raw.dtype.kind == "S" else "integer"))
    found: Any
    if kind == "string" and raw.dtype.kind == "S":
        found = pandas.Index(np.char.decode(raw, _attribute(group, "encoding") or "UTF-8"))
    elif kind == "integer" and raw.dtype.kind in "iu":
        if _attribute(dataset, "index_class") not in (None, "index"):
            return None
        found = pandas.Index(raw)
    elif kind.startswith("datetime64") and raw.dtype == np.int64:
        found = pandas.DatetimeIndex(raw.view(kind if "[" in kind else "datetime64[ns]"))
        found = found if zone is None else found.tz_localize("UTC").tz_convert(zone)
    else:
        return None
    return found.rename(_attribute(dataset, "name"))


def read_frame(path: str, key: str | None = None) -> Any:
    """Read a frame or series of an HDF5 file, as pandas does; without ``key`` the only one there is.

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
        block = _block(file[key])
        if block is not None:
            return block.frame()
        _refuse_objects(file[key], path)
    optional("tables", extra="tables", purpose=f"reading the frame {key!r} of {path!r} by PyTables")
    import pandas

    return pandas.read_hdf(path, key=key, mode="r")


def _refuse_objects(group: Any, path: str) -> None:
    """Refuse what PyTables would unpickle: columns of objects, and attributes that name more than pandas writes."""
    import h5py

    nodes = [group]
    group.visititems(lambda _, node: nodes.append(node))
    for node in nodes:
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "O":
            raise SourceFormatError(
                f"{node.name!r} of {path!r} holds pickled objects, such as text, which are never unpickled. Write "
                "frame.select_dtypes('number'), or text with format='table'."
            )
        links = [node.get(name, getlink=True) for name in node] if isinstance(node, h5py.Group) else []
        if not all(isinstance(link, h5py.HardLink) for link in links):
            raise SourceFormatError(f"{node.name!r} of {path!r} has links, which no frame of pandas has.")
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
    """Value of a text attribute as PyTables has it: what ends in a point is a pickle; None where there is none."""
    import h5py

    if name not in node.attrs:
        return None
    identifier = h5py.h5a.open(node.id, name.encode())
    kind, space = identifier.get_type(), identifier.get_space().get_simple_extent_type()
    if kind.get_class() != h5py.h5t.STRING or space != h5py.h5s.SCALAR:
        return None
    if kind.is_variable_str():
        raw = str(node.attrs[name]).encode("utf-8", "surrogateescape")
    else:  # all of its bytes: HDF5 ends text at the first zero, and PyTables does not
        stored = np.empty((), f"V{kind.get_size()}")
        identifier.read(stored, mtype=kind)
        raw = stored.tobytes().rstrip(b"\0")
    return load_attribute(raw) if raw.endswith(b".") else raw.decode("utf-8", "replace")
