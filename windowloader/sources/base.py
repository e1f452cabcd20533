"""The source protocol: an array of rows along time that can be read by row range, and by part of the other axes.

In: what an engine knows about its array. Out: `Source`, its base classes and small helpers. Knows nothing of windows.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from windowloader.errors import MissingExtraError, SourceFormatError, hide_secrets
from windowloader.util.axes import check_axes, check_dtype, check_shape, default_axes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .reads import Pending
    from .storage import Box, Storage

__all__ = [
    "BOXES", "LOCAL_TIERS", "TIERS", "Described", "Description", "LocalSource", "SlabSource", "Source", "SourceOver",
    "digest", "optional", "to_nanoseconds", "unknown_variable",
]  # fmt: skip

MOST_CHUNKS = 1 << 25  # along time, or in one row: plans hold a number for each


class Description:
    """Labels, timestamps and attributes, looked up when asked for, so that sources pickle small."""

    __slots__ = ()

    by_dim: Mapping[int, np.ndarray] = MappingProxyType({})
    times: np.ndarray | None = None

    def labels(self, dim: int) -> np.ndarray | None:
        """Labels along dimension ``dim`` of the array as stored."""
        return self.by_dim.get(dim)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, datetime64[ns]."""
        return self.times

    def attributes(self) -> Mapping[str, Any]:
        """Attributes that the file gives the array: units, names, titles."""
        return {}


@dataclass(frozen=True, slots=True)
class Described(Description):
    """Labels and timestamps that are in memory.

    Parameters
    ----------
    by_dim : mapping of int to ndarray
        Labels along a dimension of the array as stored.
    times : ndarray of datetime64[ns], optional
        Timestamps of the rows.
    doubts : tuple of str
        What was assumed: see `Source`.
    """

    by_dim: Mapping[int, np.ndarray] = field(default_factory=dict)
    times: np.ndarray | None = None
    doubts: tuple[str, ...] = ()


BOXES = ("whole", "slices", "indices")  # each reads less that is not needed than the one before
TIERS = ("memory", "mapped", "cached", "streamed")  # where rows come from, nearest first
LOCAL_TIERS = ("memory", "mapped")


class Source:
    """An array whose first axis is time and which can be read by row range.

    Subclass it and define ``read``; all other members have defaults. ``t`` is always the first axis, whatever the order
    in storage; the other axes keep their order. Instances pickle small, open their handles lazily, once per process,
    and reopen them after a fork.

    Parameters
    ----------
    name : str
        Path, URL or description, for messages.
    shape : sequence of int
        As stored.
    dtype : dtype-like
        As stored, any byte order.
    axes : str, optional
        One letter for each stored dimension; None: from ``dims``, else the default. A source without time, for
        static covariates, has no ``t``.
    dims : sequence of str, optional
        Dimension names of the stored array.
    chunks : sequence of int, optional
        Shape of a chunk, in the stored order: the least that a read fetches. None: any range of rows can be read.
    description : Description, optional
        Labels and timestamps.

    Attributes
    ----------
    order : tuple of int
        Stored dimensions in the order of `axes`, `shape`, `dims` and `chunks`.
    dtype : numpy.dtype
        Native byte order; what `read` delivers.
    boxes : {"whole", "slices", "indices"}
        What `read` accepts as ``box``: nothing but whole axes; a slice of each axis after the first; or slices and
        increasing positions. `SelectedSource` reads the smallest box possible and selects from it.
    tier : str
        "memory" or "mapped" where the rows are in memory or a mapped file, so that a shuffle is a permutation of all
        windows; "streamed" where they must be read in blocks. Default: derived from `array`.
    shards : tuple of int or None
        Sizes of a shard of a Zarr array, in the order of `axes`.
    padded : bool
        Whether a chunk that reaches beyond the array is stored, and read, whole.
    stored_itemsize : int
        Bytes per value that reads count: of the delivered or of the stored type.
    fill_value : float or None
        Value of cells that were never written, as delivered; None where the format has no such value.
    moved : bool
        Whether it joins parts in the order of their times, and they were given in another order.
    doubts : tuple of str
        What was assumed about it and what to write instead; issued as warnings for a series' own variables.
    """

    boxes: Literal["whole", "slices", "indices"] = "whole"
    shards: tuple[int, ...] | None = None
    padded = False
    fill_value: float | None = None
    moved = False
    doubts: tuple[str, ...] = ()
    _last_storage: tuple[Box | None, Storage | None] = (None, None)  # cache of `bytes_of`

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_storage": (None, None)}

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
        sizes = check_shape(shape, self.stored_dtype.itemsize, name)
        if axes is None:
            axes = default_axes(len(sizes), dims, name, sizes)
        check_axes(axes, len(sizes), name=name, need_time=False, dims=dims)
        first = max(axes.find("t"), 0)
        self.order = (first, *(dim for dim in range(len(sizes)) if dim != first)) if sizes else ()
        self.name = hide_secrets(name)
        self.axes = "".join(axes[dim] for dim in self.order)
        self.dims = tuple(str(dims[dim]) for dim in self.order) if dims else None
        self.shape = tuple(sizes[dim] for dim in self.order)
        self.dtype = check_dtype(self.stored_dtype, name)
        self.stored_itemsize = self.dtype.itemsize
        self.chunks: tuple[int, ...] | None = None
        self.description = description or Described()
        if chunks is None:
            return
        chunks = check_shape(chunks, self.stored_dtype.itemsize, name, what="chunks", least=1)
        self.chunks = tuple(chunks[dim] for dim in self.order)
        grid = [-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True)]
        if max([*grid[:1], math.prod(grid[1:])]) > MOST_CHUNKS:
            raise SourceFormatError(
                f"{self.name!r} of shape {self.shape} has chunks of {self.chunks}: more than {MOST_CHUNKS} along "
                "time or in a row, which is too many. Rewrite it in larger chunks, e.g. by `windowloader convert`."
            )
        if math.prod([*grid[1:], *self.chunks]) * self.stored_itemsize >= 2**62:
            raise SourceFormatError(
                f"{self.name!r} of shape {self.shape} has chunks of {self.chunks}: a row of chunks has more bytes than "
                "can be addressed. Its metadata are damaged."
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.axes} {self.shape} {self.dtype}>"

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        r"""Read rows ``[start, stop)`` into ``out``, any strides, and return the bytes taken from storage.

        Parameters
        ----------
        start, stop : int
        out : ndarray, shape (stop - start, \*sizes of the box), `dtype`
        box : tuple of slice or ndarray, optional
            One for each axis after the first: a slice of step 1 with both ends, or increasing positions, as `boxes`
            allows. None: whole axes. A source whose `boxes` is "whole" need not take it.

        Returns
        -------
        int
            Decoded bytes of the chunks that were read.
        """
        raise NotImplementedError(f"{type(self).__name__} has no read(start, stop, out).")

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin `read` and return at once; default: on a thread. ``out`` must stay alive until the result.

        Requests cannot be cancelled: after a failed read, e.g. by `SourceTimeoutError`, do not reuse ``out``, which may
        still be written to.

        Returns
        -------
        Pending or concurrent.futures.Future
            Its result is that of `read`.
        """
        from .reads import in_thread

        return in_thread(self.read, start, stop, out, *(() if box is None else (box,)))

    def array(self) -> np.ndarray | None:
        """Return an addressable array of `shape` and `dtype` (in memory or mapped), or None where rows must be read."""
        return None

    @property
    def tier(self) -> str:
        """Where rows come from; see the class."""
        from .mapping import is_mapped

        array = self.array()
        return "streamed" if array is None else "mapped" if is_mapped(array) else "memory"

    def storage(self, box: Box | None = None) -> Storage:
        """Return the layout in storage of the array, or of a box of it. Default: a grid of `chunks`."""
        from .storage import Storage

        return Storage.of_grid(
            self.shape, self.chunks, itemsize=self.dtype.itemsize, stored_itemsize=self.stored_itemsize, box=box,
            shards=self.shards, whole=self.padded,
        )  # fmt: skip

    def bytes_of(self, start: int, stop: int, box: Box | None = None) -> int:
        """Count the bytes of the chunks that contain rows, or a box of them."""
        last, storage = self._last_storage
        if storage is None or last is not box:  # consecutive reads pass the same box
            storage = self.storage(box)
            self._last_storage = (box, storage)
        return storage.bytes(start, stop)

    def check_range(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> None:
        """Raise `IndexError` for rows out of range, `ValueError` where the shape of ``out`` does not fit."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows [{start}, {stop}) of {self.name!r}, which has rows [0, {self.shape[0]}).")
        sizes = self.shape[1:]
        if box is not None:
            from .storage import box_shape

            sizes = box_shape(box)
        expected = (stop - start, *sizes)
        if out.shape != expected:
            raise ValueError(
                f"rows [{start}, {stop}) of {self.name!r} have shape {expected}; out has {out.shape}."
            )

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis of `shape` as the file has them (sensor ids, latitudes, feature names), or None."""
        return self.description.labels(self.order[axis])

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, datetime64[ns], if the file has them."""
        return self.description.timestamps()

    def fingerprint(self) -> str:
        """Short text that changes with the data, without reading values. Default: of name, shape and dtype."""
        return digest(self.name, self.axes, self.shape, self.dtype.str)

    def check(self) -> None:
        """Raise `SourceChangedError` where a local file was changed after opening; called before each pass."""

    def close(self) -> None:
        """Close handles; a later read opens them again."""

    @property
    def origins(self) -> tuple[Source, ...]:
        """Sources that are finally read, along time; itself unless it wraps others."""
        return (self,)

    def attributes(self) -> Mapping[str, Any]:
        """Attributes that the file gives the array: units, names, titles."""
        return self.description.attributes()

    def codecs(self) -> list[str]:
        """Names of the codecs of the stored array."""
        return []

    def stored_bytes(self) -> int | None:
        """Bytes on disk, where they are known without a request."""
        return None

    def address(self) -> str:
        """Return the part of the location that `name` omits: a bucket's endpoint, the query of a URL."""
        return ""

    def state(self) -> str:
        """Text that changes when values are rewritten under the same metadata; may make requests."""
        return ""

    @property
    def cached_in(self) -> str | None:
        """Folder of the disk cache that keeps its rows."""
        return None


class LocalSource(Source):
    """Base of local sources: a subclass defines `array` or `_read`, and `fingerprint`."""

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Read rows ``[start, stop)`` into ``out``, any strides."""
        self.check_range(start, stop, out, box)
        if not out.size:
            return 0
        from .failures import Asked, Guard

        with Guard(Asked(self.name, (start, stop))):
            return self._read(start, stop, out, box)

    def _read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        raise NotImplementedError

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Read immediately: local rows come from memory, the page cache or under a lock."""
        from .reads import Done

        return Done(self.read(start, stop, out, *(() if box is None else (box,))))


class SourceOver(Source):
    """Base of sources that read another, `source`, or several, `parts`; descriptions are those of the first."""

    source: Source

    @property
    def parts(self) -> tuple[Source, ...]:
        """Sources that it reads."""
        return (self.source,)

    @property
    def origins(self) -> tuple[Source, ...]:
        """Origins of its parts."""
        return tuple(origin for part in self.parts for origin in part.origins)

    @property
    def cached_in(self) -> str | None:
        """Folder of the disk cache that keeps the rows of the first part."""
        return self.parts[0].cached_in

    def state(self) -> str:
        """State of all parts."""
        return digest([part.state() for part in self.parts])

    @property
    def fill_value(self) -> float | None:  # type: ignore[override]
        """Fill value of the first origin."""
        return self.origins[0].fill_value

    @property
    def tier(self) -> str:
        """Tier of the other source."""
        return self.source.tier

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Read rows ``[start, stop)`` into ``out``, any strides."""
        return self.submit(start, stop, out, box).result()

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis."""
        return self.parts[0].labels(axis)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the other source."""
        return self.source.timestamps()

    def fingerprint(self) -> str:
        """Fingerprint of the other source."""
        return self.source.fingerprint()

    def check(self) -> None:
        """Check all parts."""
        for part in self.parts:
            part.check()

    def close(self) -> None:
        """Close all parts."""
        for part in self.parts:
            part.close()


class SlabSource(LocalSource):
    """A local source that reads slabs of the stored array."""

    boxes = "slices"
    padded = True

    def slab(self, start: int, stop: int, box: Box | None = None) -> tuple[slice, ...]:
        """Index of rows ``[start, stop)`` into the stored array."""
        index: list[Any] = [slice(None)] * len(self.order)
        for dim, part in zip(self.order, (slice(start, stop), *(box or ())), strict=False):
            index[dim] = part
        return tuple(index)

    def as_stored(self, out: np.ndarray) -> np.ndarray:
        """View ``out`` in the stored order of axes."""
        return out.transpose([self.order.index(dim) for dim in range(len(self.order))])


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
