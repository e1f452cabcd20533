"""What the local sources share: axes with time first, checked ranges, labels and timestamps.

In: what a family found out about its file. Out: `LocalSource` to build on, and small helpers. Never opens
a file itself.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import math
import operator
import reprlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from windowloader.axes import check_axes, default_axes
from windowloader.errors import MissingExtraError, SourceFormatError
from windowloader.hiding import hide_secrets

from .failures import Asked, Guard
from .reads import Done

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from windowloader.source import Pending, Source

    from .chunked import ArrayInfo

__all__ = [
    "Described",
    "Description",
    "LocalSource",
    "SlabSource",
    "check_dtype",
    "check_shape",
    "chunk_edges",
    "complete",
    "digest",
    "optional",
    "to_nanoseconds",
    "unknown_variable",
]


MOST_CHUNKS = 1 << 25  # along time, or of one row: plans have a number for each


class Description(Protocol):
    """Labels and timestamps, looked up when asked for, so that sources pickle small."""

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along dimension ``dim`` of the array as stored."""

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, datetime64[ns]."""


@dataclass(frozen=True, slots=True)
class Described:
    """Labels and timestamps that are in hand.

    Parameters
    ----------
    by_dim : mapping of int to ndarray
        Labels along a dimension of the array as stored.
    times : ndarray of datetime64[ns], optional
        Timestamps of the rows.
    doubts : tuple of str
        What was assumed: see `LocalSource`.
    """

    by_dim: Mapping[int, np.ndarray] | None = None
    times: np.ndarray | None = None
    doubts: tuple[str, ...] = ()

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along dimension ``dim``, or None."""
        return (self.by_dim or {}).get(dim)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, or None."""
        return self.times


class LocalSource:
    """Base of the local sources: everything of `windowloader.source.Source` but the values.

    A family gives `array` (an addressable array) or `_read` (rows that must be read), and `fingerprint`.

    Parameters
    ----------
    name : str
        For messages.
    shape : sequence of int
        As stored.
    dtype : dtype-like
        As stored, any byte order.
    axes : str, optional
        Letters of the stored shape; None: from ``dims``, else the default.
    dims : sequence of str, optional
        Dimension names of the stored array.
    chunks : sequence of int, optional
        Storage grid, in the stored order.
    description : Description, optional
        Labels and timestamps.

    Attributes
    ----------
    info : ArrayInfo or None
        Chunks and shards of a Zarr array, in the stored order; None for other sources.
    selection : mapping of int to ndarray
        Positions along stored dimensions that are read, for dimensions of ``info`` that are not read whole.
    box : tuple of slice or None
        Part of the stored array that is read; None: all of it.
    whole_chunks : bool
        Whether storage returns whole chunks, also of a chunk that reaches beyond the array.
    can_take : bool
        Whether ``take(axis, index)`` returns a source of some positions.
    fill_value : float or None
        What cells hold that were never written, as delivered; None where the format has no such value.
    moved : bool
        Whether its parts stand in another order of time than they were given in.
    doubts : tuple of str
        What was assumed about it, with what to write instead; a warning where it is a series' own variable.
    """

    info: ArrayInfo | None = None
    selection: Mapping[int, np.ndarray] = MappingProxyType({})
    box: tuple[slice, ...] | None = None
    whole_chunks = False
    can_take = False
    fill_value: float | None = None
    moved = False
    doubts: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        *,
        shape: Sequence[int],
        dtype: Any,
        axes: str | None = None,
        dims: Sequence[str] | None = None,
        chunks: Sequence[int] | None = None,
        description: Description | None = None,
    ) -> None:
        self.stored_dtype = np.dtype(dtype)
        shape = check_shape(shape, self.stored_dtype.itemsize, name)
        if chunks is not None:
            chunks = check_shape(chunks, self.stored_dtype.itemsize, name, what="chunks", least=1)
        if axes is None:
            axes = default_axes(len(shape), dims, name, shape)
        check_axes(axes, len(shape), name=name, need_time=False, dims=dims)
        first = max(axes.find("t"), 0)
        self.order: tuple[int, ...] = (
            (first, *(dim for dim in range(len(shape)) if dim != first)) if shape else ()
        )
        self.name = hide_secrets(name)
        self.axes = "".join(axes[dim] for dim in self.order)
        self.dims = (
            tuple(str(dims[dim]) for dim in self.order) if dims else None
        )  # names, where the file has some
        self.shape = tuple(shape[dim] for dim in self.order)
        self.dtype = check_dtype(self.stored_dtype, name)
        self.chunks: tuple[int, ...] | None = (
            None if chunks is None else tuple(chunks[dim] for dim in self.order)
        )
        grid = [-(-size // chunk) for size, chunk in zip(self.shape, self.chunks or (), strict=False)]
        if grid and max(grid[0], math.prod(grid[1:])) > MOST_CHUNKS:
            raise SourceFormatError(
                f"{self.name!r} of shape {self.shape} has chunks of {self.chunks}: over {MOST_CHUNKS} along time or "
                "for a row, more than can be planned. If that is no damage, `windowloader convert` makes larger ones."
            )
        self.description = description or Described()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.axes} {self.shape} {self.dtype}>"

    def array(self) -> np.ndarray | None:
        """Return an addressable array of `shape` and `dtype`, or None where rows must be read."""
        return None

    def read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Read rows ``[start, stop)`` into ``out``, any strides."""
        self.check_range(start, stop, out)
        if out.size:
            with Guard(Asked(self.name, (start, stop))):
                self._read(start, stop, out)

    def check_range(self, start: int, stop: int, out: np.ndarray) -> None:
        """Raise `IndexError` for rows that are not there, `ValueError` where ``out`` does not fit them."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows [{start}, {stop}) of {self.name!r}, which has rows [0, {self.shape[0]}).")
        if out.shape != (expected := (stop - start, *self.shape[1:])):
            raise ValueError(
                f"rows [{start}, {stop}) of {self.name!r} have shape {expected}; out has {out.shape}."
            )

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        raise NotImplementedError

    def submit(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Read at once: local rows come from memory, the page cache or under a lock."""
        self.read(start, stop, out)
        return Done()

    def edges(self) -> np.ndarray | None:
        """Rows where a storage chunk begins, with 0 and the end, int64."""
        return None if self.chunks is None else chunk_edges(self.shape[0], self.chunks[0])

    def check(self) -> None:
        """Raise `SourceChangedError` where a local file is no longer what was opened; called before each pass."""

    @property
    def can_cut(self) -> bool:
        """Whether ``cut(box)`` returns a source of a part."""
        return False

    @property
    def inner(self) -> LocalSource:
        """The source whose chunks are read: itself, or what it selects from, caches or joins first."""
        return self

    @property
    def piece_rows(self) -> int | None:
        """Rows that are best read together at most; None: as many as are asked for."""
        return None

    def request_counter(self) -> Callable[[int, int], int] | None:
        """Return what counts the requests of rows ``[start, stop)``; None: one a chunk or shard."""
        return None

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis of `shape`, or None."""
        return self.description.labels(self.order[axis])

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, datetime64[ns], or None."""
        return self.description.timestamps()

    def fingerprint(self) -> str:
        """Short text that changes when the data do."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of handles; a later read opens them again."""


class Adopted(LocalSource):
    """A source that was written without the base class, with the defaults of `LocalSource`.

    Parameters
    ----------
    source : Source
        Meets the protocol.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(
            source.name, shape=source.shape, dtype=source.dtype, axes=source.axes, chunks=source.chunks
        )
        self.source = source

    @property
    def tier(self) -> str:
        """That of the source."""
        from .tiers import tier_of

        return tier_of(self.source)

    def array(self) -> np.ndarray | None:
        """Return what the source returns."""
        return self.source.array()

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        self.source.read(start, stop, out)

    def submit(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Begin to read."""
        return self.source.submit(start, stop, out)

    def edges(self) -> np.ndarray | None:
        """Return what the source returns."""
        return self.source.edges()

    def labels(self, axis: int) -> np.ndarray | None:
        """Return what the source returns."""
        return self.source.labels(axis)

    def timestamps(self) -> np.ndarray | None:
        """Return what the source returns."""
        return self.source.timestamps()

    def fingerprint(self) -> str:
        """Return what the source returns."""
        return self.source.fingerprint()

    def close(self) -> None:
        """Close the source."""
        self.source.close()


def complete(source: Source) -> LocalSource:
    """Return a source with all that the package asks of one: itself, or `Adopted`."""
    return source if isinstance(source, LocalSource) else Adopted(source)


class SlabSource(LocalSource):
    """A source that is read by slabs of the stored array, so that a part of it can be read alone."""

    whole_chunks = True

    @property
    def can_cut(self) -> bool:
        """Whether ``cut(box)`` returns a source of a part."""
        return True

    def cut(self, box: Sequence[slice]) -> SlabSource:
        """Return the part within ``box``: a slice of step 1 an axis of `shape`, the first one whole.

        Its labels are still those of the whole; who cuts knows which to take.
        """
        part = copy.copy(self)
        own = [slice(0, self.shape[self.order.index(dim)]) for dim in range(len(self.order))]
        for axis, dim in enumerate(self.order):
            begin = (self.box or own)[dim].start
            own[dim] = slice(begin + box[axis].start, begin + box[axis].stop)
        part.box = tuple(own)
        part.shape = tuple(own[dim].stop - own[dim].start for dim in self.order)
        return part

    def slab(self, start: int, stop: int) -> tuple[slice, ...]:
        """Index of rows ``[start, stop)`` into the stored array."""
        index = list(self.box or [slice(None)] * len(self.order))
        index[self.order[0]] = slice(start, stop)
        return tuple(index)

    def as_stored(self, out: np.ndarray) -> np.ndarray:
        """View ``out`` in the stored order of axes."""
        return out.transpose([self.order.index(dim) for dim in range(len(self.order))])


def check_dtype(dtype: np.dtype, name: str) -> np.dtype:
    """Native form of a dtype that can be delivered, else `SourceFormatError` with what to do.

    Examples
    --------
    >>> check_dtype(np.dtype(">f4"), "x.npy")
    dtype('float32')
    """
    if dtype.kind in "fiub" and dtype.itemsize <= 8:
        return dtype.newbyteorder("=")
    advice = {
        "O": "Objects would have to be unpickled, which is never done; save it as float32.",
        "c": "Give the real and the imaginary part as two features.",
        "M": "Pass times as timestamps=, or turn them into numbers.",
        "m": "Turn durations into numbers, e.g. x / np.timedelta64(1, 's').",
        "S": "Text cannot be a window's value; encode it as numbers.",
        "U": "Text cannot be a window's value; encode it as numbers.",
        "V": "Take one field of the record at a time, e.g. records['speed'].",
        "f": "Extended precision is not portable; use float64.",
    }.get(dtype.kind, "Turn it into numbers.")
    raise SourceFormatError(
        f"{name!r} has dtype {dtype}; real, integer and boolean arrays can be opened. {advice}"
    )


def check_shape(
    shape: Any, itemsize: int, name: str, *, what: str = "shape", least: int = 0
) -> tuple[int, ...]:
    """Sizes as integers, else `SourceFormatError`: damaged metadata and typing errors give any.

    Examples
    --------
    >>> check_shape((288, np.int64(207)), 4, "x.npy")
    (288, 207)
    """
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        sizes = (-1,)
    if min(sizes, default=least) < least or math.prod(max(size, 1) for size in sizes) * itemsize >= 1 << 63:
        raise SourceFormatError(
            f"{name!r} has {what}={reprlib.repr(shape)} of {itemsize} bytes each; sizes are integers of {least} or "
            "more, of fewer than 2**63 bytes together. Its metadata are damaged, or it was not what was meant."
        )
    return sizes


def chunk_edges(num_rows: int, chunk: int) -> np.ndarray:
    """Rows where a chunk begins, and the end.

    Examples
    --------
    >>> chunk_edges(10, 4)
    array([ 0,  4,  8, 10])
    """
    return np.append(np.arange(0, num_rows, max(chunk, 1), dtype=np.int64), np.int64(num_rows))


def digest(*parts: object) -> str:
    """Short hexadecimal text of some values."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def optional(module: str, *, extra: str, purpose: str) -> Any:
    """Import a package that only some formats need; `MissingExtraError` says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module}, which is not installed: pip install 'windowloader[{extra}]'"
        ) from error


def to_nanoseconds(times: np.ndarray, name: str) -> np.ndarray:
    """datetime64 of any unit as datetime64[ns]; years that do not fit are an error, not a wrap-around."""
    exact = times.astype("datetime64[ns]")
    if not np.array_equal(exact.astype(times.dtype), times, equal_nan=True):
        raise SourceFormatError(
            f"timestamps of {name!r} reach from {times.min()} to {times.max()}, and nanoseconds hold "
            "1677-09-21 to 2262-04-11. Pass timestamps= of your own."
        )
    return exact


def unknown_variable(name: str, asked: str | None, found: Sequence[str]) -> NoReturn:
    """Raise `SourceFormatError` with the variables there are to choose from."""
    listed = ", ".join(repr(variable) for variable in found[:20]) + (", …" if len(found) > 20 else "")
    if not found:
        raise SourceFormatError(f"{name!r} holds no array of numbers.")
    if asked is None:
        raise SourceFormatError(
            f"{name!r} holds {len(found)} arrays: {listed}. Choose in wl.open, e.g. "
            f"variables=[{found[0]!r}] (variable={found[0]!r} where a source is opened by itself)."
        )
    raise SourceFormatError(f"{name!r} has no variable {asked!r}; it holds {listed}.")
