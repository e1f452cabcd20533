"""Frames that pandas wrote to HDF5 (``to_hdf``), as metr-la.h5 and pems-bay.h5 come: columns are sensors.

In: the group of a frame, fixed or ``table`` format. Out: a source with timestamps and column labels. Never
needs pandas or PyTables, and never unpickles anything but lists of names and numbers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import AxesError, SourceFormatError

from .base import Description, LocalSource, digest, to_nanoseconds
from .handles import Handle, Stamp
from .hdf5_dataset import open_dataset, open_file
from .unpickle import load_plain

if TYPE_CHECKING:
    from windowloader.source import Source

    from .box import Box

__all__ = ["FrameSource", "is_frame", "open_frame"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Columns of one dtype: a dataset of their own, or a field of a table.

    Parameters
    ----------
    dataset : h5py.Dataset
        Open.
    field : str or None
        Name in the table's records; None for a dataset of numbers.
    columns : ndarray of int64
        Where the columns stand in the frame.
    rows_first : bool
        False where the dataset is columns × rows.
    """

    dataset: Any
    field: str | None
    columns: np.ndarray
    rows_first: bool = True

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        dtype: np.dtype = self.dataset.dtype if self.field is None else self.dataset.dtype[self.field].base
        return dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Values of rows ``[start, stop)``, shape (rows, columns)."""
        if self.field is not None:
            return np.asarray(self.dataset.fields(self.field)[start:stop]).reshape(stop - start, -1)
        found = self.dataset[start:stop] if self.rows_first else self.dataset[:, start:stop].T
        return np.asarray(found)


def is_frame(item: Any) -> bool:
    """Whether an HDF5 item is a group that pandas wrote a frame to."""
    return "pandas_type" in item.attrs and _text(item.attrs["pandas_type"]) in ("frame", "frame_table")


def open_frame(stamp: Stamp, group: Any, *, axes: str | None = None) -> Source:
    """Open a frame: mapped or by chunks where all its columns are one block, else block by block."""
    pieces, rows = _pieces(group)
    description = FrameDescription(stamp, group.name)
    whole = pieces[0]
    if (
        len(pieces) == 1
        and whole.field is None
        and np.array_equal(whole.columns, np.arange(whole.columns.size))
    ):
        axes = axes or "tn"
        if not whole.rows_first:
            axes, description = axes[::-1], FrameDescription(stamp, group.name, rows_first=False)
        return open_dataset(stamp, whole.dataset, axes=axes, description=description)
    return FrameSource(stamp, group.name, pieces, rows, axes=axes or "tn", description=description)


class FrameSource(LocalSource):
    """A frame in several blocks, or in ``table`` format.

    Parameters
    ----------
    stamp : Stamp
        The file.
    key : str
        The frame's group.
    pieces : sequence of Piece
        As found when opening; found again where it was pickled to.
    rows : int
        Number of rows.
    axes : str
        Two letters.
    description : FrameDescription
        Labels and timestamps.
    """

    def __init__(
        self,
        stamp: Stamp,
        key: str,
        pieces: list[Piece],
        rows: int,
        *,
        axes: str,
        description: FrameDescription,
    ) -> None:
        self._stamp, self._key = stamp, key
        self._handle: Handle[_OpenFrame] = Handle()
        columns = sum(piece.columns.size for piece in pieces)
        chunk = max((piece.dataset.chunks or (0,))[0] if piece.rows_first else 0 for piece in pieces)
        super().__init__(
            f"{os.path.basename(stamp.path)}:{key.lstrip('/')}",
            shape=(rows, columns),
            dtype=np.result_type(*[piece.dtype for piece in pieces]),
            axes=axes,
            chunks=(chunk, columns) if chunk else None,
            description=description,
        )
        if self.order[0] != 0:
            raise AxesError(
                f"axes={axes!r} of {self.name!r}: the rows of a frame are its time, e.g. axes='tn'."
            )

    def check(self) -> None:
        """Raise `SourceChangedError` where the file is no longer what was opened."""
        self._stamp.check()

    def _open(self) -> _OpenFrame:
        self.check()
        return _OpenFrame(self._stamp, self._key)

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        with self._handle.held(self._open) as opened:
            for piece in opened.pieces:
                out[:, piece.columns] = piece.read(start, stop)
        self.check()
        return self.bytes_of(start, stop)

    def stored_bytes(self) -> int | None:
        """Bytes of the file."""
        return self._stamp.size

    def fingerprint(self) -> str:
        """Key, shape, dtype, and size and time of change of the file."""
        return digest(self.shape, self.dtype.str, self._key, self._stamp.size, self._stamp.mtime_ns)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._handle.close()


class _OpenFrame:
    """The pieces of a frame and the file they keep open."""

    def __init__(self, stamp: Stamp, key: str) -> None:
        self.file = open_file(stamp)
        self.pieces, _ = _pieces(self.file[key])

    def close(self) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class FrameDescription(Description):
    """Column labels and timestamps of a frame, read when asked for.

    Parameters
    ----------
    stamp : Stamp
        The file.
    key : str
        The frame's group.
    rows_first : bool
        Whether the rows are the first stored dimension.
    """

    stamp: Stamp
    key: str
    rows_first: bool = True

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels of the columns; None for the rows."""
        if (dim == 0) == self.rows_first:
            return None
        with open_file(self.stamp) as file:
            return _columns(file[self.key])

    def timestamps(self) -> np.ndarray | None:
        """Index of the frame where it is times (in UTC where it has a zone), else None."""
        with open_file(self.stamp) as file:
            group = file[self.key]
            if "table" in group:
                kind, raw = group["table"].attrs.get("index_kind", ""), group["table"].fields("index")[:]
            elif "axis1" in group:
                kind, raw = group["axis1"].attrs.get("kind", ""), group["axis1"][:]
            else:
                return None
        unit = _text(kind)
        if not unit.startswith("datetime64"):
            return None
        unit = "datetime64[ns]" if unit == "datetime64" else unit.split(",")[0].rstrip("]") + "]"
        return to_nanoseconds(np.asarray(raw, "int64").view(unit), self.key)


def _pieces(group: Any) -> tuple[list[Piece], int]:
    """Blocks of a frame and its number of rows."""
    pieces = _table_pieces(group) if "table" in group else _fixed_pieces(group)
    for piece in pieces:
        if piece.dtype.kind not in "fiub":
            raise SourceFormatError(
                f"the frame {group.name!r} of {group.file.filename!r} has columns of dtype {piece.dtype} "
                "beside its numbers. Write the numbers alone, e.g. frame.select_dtypes('number').to_hdf(...)."
            )
    if not pieces:
        raise SourceFormatError(f"the frame {group.name!r} of {group.file.filename!r} has no columns.")
    first = pieces[0]
    return pieces, int(first.dataset.shape[0 if first.rows_first else 1])


def _fixed_pieces(group: Any) -> list[Piece]:
    labels = _columns(group)
    order = {label: i for i, label in enumerate(labels.tolist())} if labels is not None else {}
    pieces: list[Piece] = []
    for number in range(int(group.attrs.get("nblocks", 1))):
        dataset = group[f"block{number}_values"]
        items = _labels(group.get(f"block{number}_items"))
        if items is not None and order:
            columns = np.array([order[item] for item in items.tolist()], dtype=np.int64)
        else:  # labels of several levels: the blocks stand in order where there is but one
            columns = np.arange(dataset.shape[-1], dtype=np.int64)
        if dataset.ndim != 2:
            raise SourceFormatError(
                f"{dataset.name!r} of {group.file.filename!r} holds pickled objects, which are never "
                "unpickled. Write the numbers alone, e.g. frame.select_dtypes('number').to_hdf(...)."
            )
        pieces.append(Piece(dataset, None, columns, bool(dataset.attrs.get("transposed", True))))
    return pieces


def _table_pieces(group: Any) -> list[Piece]:
    table = group["table"]
    labels = _columns(group)
    order = {label: i for i, label in enumerate(labels.tolist())} if labels is not None else {}
    pieces: list[Piece] = []
    position = 0
    for field in table.dtype.names:
        if field == "index":
            continue
        width = int(np.prod(table.dtype[field].shape, dtype=np.int64))
        items = _literal(table.attrs.get(f"{field}_kind"))
        known = isinstance(items, list) and len(items) == width and all(item in order for item in items)
        columns = [order[item] for item in items] if known else range(position, position + width)
        pieces.append(Piece(table, field, np.array(columns, dtype=np.int64)))
        position += width
    return pieces


def _columns(group: Any) -> np.ndarray | None:
    """Labels of a frame's columns; None where they have several levels or are pickled."""
    if "table" not in group:
        return _labels(group.get("axis0"))
    axes = _literal(group.attrs.get("non_index_axes"))
    try:
        return np.array(axes[0][1])
    except (TypeError, IndexError, KeyError):
        return None


def _labels(dataset: Any) -> np.ndarray | None:
    if dataset is None or dataset.ndim != 1 or dataset.dtype.kind not in "iufbS":
        return None
    found: np.ndarray = dataset[:]
    return np.char.decode(found, "utf-8") if found.dtype.kind == "S" else found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _literal(value: Any) -> Any:
    """Turn a list that PyTables stored in an attribute back into one; None for anything else."""
    if not isinstance(value, bytes):
        return None
    try:
        return load_plain(value, encoding="utf-8")
    except SourceFormatError:
        return None
