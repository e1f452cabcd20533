"""A part of a source: rows, nodes, features. Lazy: a view where it can be one, else reads of what is needed.

In: a source and what stays. Out: `SelectedSource`. Never reads when built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

from .base import SourceOver, digest
from .box import box_shape
from .mapping import unchanged
from .reads import Done, Pending, begun
from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .base import Source
    from .box import Box

__all__ = ["SelectedSource"]

WHOLE = slice(None)


@dataclass(frozen=True, slots=True)
class Pick:
    """What stays of the axes of one letter.

    Parameters
    ----------
    axes : tuple of int
        Of the source.
    coordinates : tuple of ndarray, each shape (kept,), int64
        Where each value that stays lies, an array an axis.
    view : slice or None
        The same, where it is a slice of one axis.
    """

    axes: tuple[int, ...]
    coordinates: tuple[np.ndarray, ...]
    view: slice | None

    def take(self, block: np.ndarray, present: list[int]) -> np.ndarray:
        """Pick from a block whose axes are those ``present`` of the source; the list is brought up to date."""
        places = [present.index(axis) for axis in self.axes]
        present[:] = [axis for axis in present if axis not in self.axes[1:]]
        if self.view is not None:
            return block[(WHOLE,) * places[0] + (self.view,)]
        moved = np.moveaxis(block, places, range(len(places)))
        return np.moveaxis(moved[self.coordinates], 0, places[0])


def _pick(source: Source, letter: str | int, index: Any) -> Pick:
    """Turn an index over all axes of a letter, or over one axis, into one that `Pick` holds."""
    axes = tuple(axis for axis, found in enumerate(source.axes) if letter in (found, axis))
    sizes = tuple(source.shape[axis] for axis in axes)
    total = int(np.prod(sizes))
    if not axes:
        raise SourceFormatError(
            f"{source.name!r} has axes {source.axes!r}, none of them {letter!r} to select from."
        )
    if isinstance(index, slice):
        flat = np.arange(total)[index]
    else:
        flat = np.asarray(index)
        if flat.ndim != 1 or (flat.size and flat.dtype.kind not in "iu"):
            raise SourceFormatError(
                f"an index into {letter!r} of {source.name!r} has shape {flat.shape} and dtype {flat.dtype}; it takes "
                "a slice or whole numbers in one dimension."
            )
        flat = flat.astype(np.int64)
        if flat.size and not (-total <= flat.min() and flat.max() < total):
            raise SourceFormatError(
                f"an index into {letter!r} of {source.name!r} reaches from {flat.min()} to {flat.max()}, and there are "
                f"{total}."
            )
        flat = np.where(flat < 0, flat + total, flat)
    view = _as_slice(flat) if len(axes) == 1 else None
    return Pick(axes, tuple(part.astype(np.int64) for part in np.unravel_index(flat, sizes)), view)


def _as_slice(index: np.ndarray) -> slice | None:
    """Return the slice that picks the same, where the steps are all alike: then a view will do."""
    if index.size < 2:
        first = int(index[0]) if index.size else 0
        return slice(first, first + index.size)
    step = int(index[1] - index[0])
    if step == 0 or (np.diff(index) != step).any():
        return None
    end = int(index[-1]) + step
    return slice(int(index[0]), end if end >= 0 else None, step)


def _narrowed(source: Source, picks: Sequence[Pick]) -> tuple[Box | None, list[Pick]]:
    """Box of a source that holds what is picked, as far as it reads boxes, and the picks that are left within it."""
    if source.axes[:1] != "t" or source.boxes == "whole" or source.array() is not None:
        return None, list(picks)
    box: list[slice | np.ndarray] = [slice(0, size) for size in source.shape[1:]]
    within: list[Pick] = []
    for pick in picks:
        coordinates: list[np.ndarray] = []
        for axis, places in zip(pick.axes, pick.coordinates, strict=True):
            kept, inverse = np.unique(places, return_inverse=True)
            if not kept.size:
                coordinates.append(places)
                continue
            reach = slice(int(kept[0]), int(kept[-1]) + 1)
            apart = source.boxes == "indices" and reach.stop - reach.start > kept.size
            box[axis - 1] = kept if apart else reach
            coordinates.append(inverse if apart else places - reach.start)
        sizes = box_shape(tuple(box[axis - 1] for axis in pick.axes))
        if len(pick.axes) > 1 or not np.array_equal(coordinates[0], np.arange(sizes[0])):
            within.append(replace(pick, coordinates=tuple(coordinates), view=None))
    whole = all(
        isinstance(part, slice) and part == slice(0, size)
        for part, size in zip(box, source.shape[1:], strict=True)
    )
    return None if whole else tuple(box), within


class SelectedSource(SourceOver):
    """Rows, nodes and features of another source.

    Parameters
    ----------
    source : Source
        The whole.
    rows : slice, optional
        Of time, step 1 or more.
    nodes, features : slice or array_like of int, optional
        What stays of the space and of the feature axes, in this order. Several axes of one letter count as one,
        in C order, and become one where an array is given.
    along : mapping of int to array_like of int, optional
        What stays of single axes of the source, which stay apart.

    Raises
    ------
    SourceFormatError
        For an index outside its axis, a letter the source does not have, a step below 1.

    Examples
    --------
    >>> from windowloader.sources.memory import ArraySource
    >>> part = SelectedSource(ArraySource(np.arange(12).reshape(4, 3)), rows=slice(1, 3), nodes=[2, 0])
    >>> out = np.empty(part.shape, part.dtype)
    >>> taken = part.read(0, 2, out)
    >>> out
    array([[5, 3],
           [8, 6]])
    """

    def __init__(
        self,
        source: Source,
        *,
        rows: slice | None = None,
        nodes: slice | Sequence[int] | np.ndarray | None = None,
        features: slice | Sequence[int] | np.ndarray | None = None,
        along: Mapping[int, Any] = MappingProxyType({}),
    ) -> None:
        self.source = source
        self.rows = range(*(rows or WHOLE).indices(source.shape[0] if source.axes[:1] == "t" else 0))
        if self.rows.step < 1:
            raise SourceFormatError(
                f"rows={rows} of {source.name!r}: rows are taken forwards, by steps of 1 or more."
            )
        asked: list[tuple[str | int, Any]] = [("n", nodes), ("f", features), *along.items()]
        self.picks = [_pick(source, letter, index) for letter, index in asked if index is not None]
        kept = self._kept_axes()
        taken = {pick.axes[0]: pick.coordinates[0].size for pick in self.picks}
        sizes = [taken.get(axis, source.shape[axis]) for axis in kept]
        grid = source.chunks and [
            min(source.chunks[axis], max(size, 1)) for axis, size in zip(kept, sizes, strict=True)
        ]
        if source.axes[:1] == "t":
            sizes[0] = len(self.rows)
            grid = grid and [max(1, grid[0] // self.rows.step), *grid[1:]]
        axes = "".join(source.axes[axis] for axis in kept)
        super().__init__(source.name, shape=sizes, dtype=source.dtype, axes=axes, chunks=grid)
        self.fill_value = source.fill_value
        self._box, self._within = _narrowed(self.source, self.picks)
        self._part: tuple[Box | None, SelectedSource | None] = (None, None)  # of the box that was read last
        self.boxes = "indices" if all(len(pick.axes) == 1 for pick in self.picks) else "whole"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_part": (None, None)}

    def _of_box(self, box: Box) -> SelectedSource:
        """Return the source of what a box of this one holds."""
        found, part = self._part
        if part is None or found is not box:  # whoever reads a part asks for the same one each time
            along = {pick.axes[0]: pick.coordinates[0] for pick in self.picks}
            for origin, places in zip(self._kept_axes()[1:], box, strict=True):
                along[origin] = along.get(origin, np.arange(self.source.shape[origin]))[places]
            part = SelectedSource(self.source, rows=self._row_slice(), along=along)
            self._part = (box, part)
        return part

    def _kept_axes(self) -> list[int]:
        """Axes of the source that are still there: the first of those that became one."""
        gone = {axis for pick in self.picks for axis in pick.axes[1:]}
        return [axis for axis in range(len(self.source.shape)) if axis not in gone]

    def array(self) -> np.ndarray | None:
        """Return a view, where nodes and features are slices and the source is addressable; else None."""
        whole = self.source.array()
        if whole is None or any(pick.view is None for pick in self.picks):
            return None
        index = [WHOLE] * whole.ndim
        for pick in self.picks:
            index[pick.axes[0]] = pick.view or WHOLE
        if "t" in self.axes:
            index[0] = self._row_slice()
        return whole[tuple(index)]

    def _row_slice(self) -> slice:
        return slice(self.rows.start, max(self.rows.stop, self.rows.start), self.rows.step)

    def _block(self, start: int, stop: int) -> tuple[int, int]:
        """Rows of the source that rows ``[start, stop)`` lie among."""
        if "t" not in self.axes:
            return 0, self.source.shape[0]
        return self.rows[start], self.rows[stop - 1] + 1

    def _take(self, block: np.ndarray, picks: Sequence[Pick], start: int, stop: int, out: np.ndarray) -> None:
        """Write what is asked for, from the rows of the source that hold it."""
        if "t" in self.axes:
            block = block[:: self.rows.step]
        present = list(range(block.ndim))
        for pick in picks:
            block = pick.take(block, present)
        out[...] = block if "t" in self.axes else block[start:stop]

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Read what is needed, and pick from it."""
        return self.submit(start, stop, out, box).result()

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read what is needed; it is put in place when the result is asked for."""
        self.check_range(start, stop, out, box)
        if not out.size:
            return Done()
        return self._begin(start, stop, out) if box is None else self._of_box(box)._begin(start, stop, out)

    def _begin(self, start: int, stop: int, out: np.ndarray) -> Pending:
        first, last = self._block(start, stop)
        whole = self.source.array()
        if whole is not None:
            with unchanged(whole):
                self._take(whole[first:last], self.picks, start, stop, out)
            return Done(out.nbytes)
        more = () if self._box is None else (self._box,)
        if not self._within and self.rows.step == 1 and "t" in self.axes:
            return begun(self.source.submit(first, last, out, *more), self.name)
        sizes = self.source.shape[1:] if self._box is None else box_shape(self._box)
        block = np.empty((last - first, *sizes), self.dtype)
        pending = begun(self.source.submit(first, last, block, *more), self.name)
        return Picked(self, pending, block, (start, stop), out)

    @property
    def tier(self) -> str:
        """That of the source."""
        return self.source.tier

    def check(self) -> None:
        """Check the source."""
        self.source.check()

    def storage(self, box: Box | None = None) -> Storage:
        """Return that of the source, of the box that is read of it, counted in the rows that stay."""
        if box is not None:
            return self._of_box(box).storage()
        if "t" not in self.axes or self.source.array() is not None:
            return Storage.of_grid(self.shape, None, itemsize=self.dtype.itemsize)
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        return self.source.storage(*(() if self._box is None else (self._box,))).of_rows(self.rows, row_bytes)

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels of what stays; None where several axes became one."""
        origin = self._kept_axes()[axis]
        pick = next((pick for pick in self.picks if pick.axes[0] == origin), None)
        if pick is not None and len(pick.axes) > 1:
            return None
        found = None if self.axes[axis] == "t" else self.source.labels(origin)
        return found if found is None or pick is None else found[pick.coordinates[0]]

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows that stay."""
        times = self.source.timestamps()
        return None if times is None or "t" not in self.axes else times[self._row_slice()]

    def fingerprint(self) -> str:
        """Fingerprint of the source, and what stays of it."""
        picked = [(pick.axes, digest(*[part.tobytes() for part in pick.coordinates])) for pick in self.picks]
        return digest(self.source.fingerprint(), self.rows, picked)


class Picked(Pending):
    """A read of more than what is asked for, which is picked from it once it is there.

    Parameters
    ----------
    source : SelectedSource
        Whose rows they are.
    pending : Pending
        The read.
    block : ndarray
        What it fills.
    rows : tuple of int
        Rows of ``source``.
    out : ndarray
        Where they go.
    """

    def __init__(
        self,
        source: SelectedSource,
        pending: Pending,
        block: np.ndarray,
        rows: tuple[int, int],
        out: np.ndarray,
    ) -> None:
        self._source, self._pending, self._block, self._rows, self._out = source, pending, block, rows, out

    def result(self, timeout: float | None = None) -> int:
        """Wait for the read and put what is asked for in place; a second time does the same again."""
        size = self._pending.result(timeout)
        self._source._take(self._block, self._source._within, *self._rows, self._out)
        return size

    def done(self) -> bool:
        """Whether the read is over."""
        return self._pending.done()

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call ``call(self)`` once the read is over."""
        self._pending.add_done_callback(lambda _: call(self))

    @property
    def fetched(self) -> list[tuple[int, int]] | None:  # type: ignore[override]
        """Rows that a cache had to fetch for it; None where there is none."""
        found, step = self._pending.fetched, self._source.rows.step
        return None if found is None else [(begin // step, -(-end // step)) for begin, end in found]

    def overdue(self) -> bool:
        """Whether the read is."""
        return self._pending.overdue()
