"""A part of a source: rows, nodes, features. Lazy: a view where it can be one, else reads of what is needed.

In: a source and what stays. Out: `SelectedSource`. Never reads when built.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

from .base import SourceOver, digest
from .box import box_shape, given
from .mapping import unchanged
from .reads import Done, Pending, begun, taken
from .storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .base import Source
    from .box import Box

__all__ = ["All", "SelectedSource"]

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
    view: slice | None = None

    def take(self, block: np.ndarray) -> np.ndarray:
        """Pick from rows of the source; of several axes the first has what stays, and the others have size 1."""
        if self.view is not None:
            return block[(WHOLE,) * self.axes[0] + (self.view,)]
        moved = np.moveaxis(block, self.axes, range(len(self.axes)))[self.coordinates]
        return np.expand_dims(np.moveaxis(moved, 0, self.axes[0]), self.axes[1:])


def _pick(source: Source, letter: str | int, index: Any) -> Pick:
    """Turn an index over all axes of a letter, or over one axis, into one that `Pick` holds."""
    axes = tuple(axis for axis, found in enumerate(source.axes) if letter in (found, axis))
    sizes = tuple(source.shape[axis] for axis in axes)
    total = int(np.prod(sizes))
    if not axes:
        raise SourceFormatError(
            f"{source.name!r} has axes {source.axes!r}, none of them {letter!r} to select from."
        )
    flat = np.arange(total)[index] if isinstance(index, slice) else np.asarray(index)
    if flat.ndim != 1 or (flat.size and flat.dtype.kind not in "iu"):
        raise SourceFormatError(
            f"an index into {letter!r} of {source.name!r} has shape {flat.shape} and dtype {flat.dtype}; it takes "
            "a slice or whole numbers in one dimension."
        )
    if flat.size and not (-total <= flat.min() and flat.max() < total):
        raise SourceFormatError(
            f"an index into {letter!r} of {source.name!r} reaches from {flat.min()} to {flat.max()}, and there are "
            f"{total}."
        )
    flat = np.where(flat < 0, flat + total, flat).astype(np.int64)
    return Pick(axes, np.unravel_index(flat, sizes), _as_slice(flat) if len(axes) == 1 else None)


def _as_slice(index: np.ndarray) -> slice | None:
    """Return the slice that picks the same, where the steps are all alike: then a view will do."""
    steps = np.unique(np.diff(index))
    if steps.size > 1 or 0 in steps:
        return None
    first, step = (int(part[0]) if part.size else default for part, default in ((index, 0), (steps, 1)))
    end = first + step * index.size
    return slice(first, end if end >= 0 else None, step)


def _narrowed(source: Source, picks: Sequence[Pick]) -> tuple[Box | None, list[Pick]]:
    """Box of a source that holds what is picked, as far as it reads boxes, and the picks that are left within it."""
    empty = any(not pick.coordinates[0].size for pick in picks)
    if source.axes[:1] != "t" or source.boxes == "whole" or source.array() is not None or empty:
        return None, list(picks)
    box: list[slice | np.ndarray] = [slice(0, size) for size in source.shape[1:]]
    within: list[Pick] = []
    less = False
    for pick in picks:
        coordinates: list[np.ndarray] = []
        for axis, places in zip(pick.axes, pick.coordinates, strict=True):
            kept, inverse = np.unique(places, return_inverse=True)
            less |= kept.size < source.shape[axis]
            reach = slice(int(kept[0]), int(kept[-1]) + 1)
            apart = source.boxes == "indices" and reach.stop - reach.start > kept.size
            box[axis - 1] = kept if apart else reach
            coordinates.append(inverse if apart else places - reach.start)
        size = box_shape((box[pick.axes[0] - 1],))[0]
        if len(pick.axes) > 1 or not np.array_equal(coordinates[0], np.arange(size)):
            within.append(Pick(pick.axes, tuple(coordinates)))
    return tuple(box) if less else None, within


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
        self.source, self._timed = source, source.axes[:1] == "t"
        self.rows = range(*(rows or WHOLE).indices(source.shape[0] if self._timed else 0))
        if self.rows.step < 1:
            raise SourceFormatError(
                f"rows={rows} of {source.name!r}: rows are taken forwards, by steps of 1 or more."
            )
        asked: list[tuple[str | int, Any]] = [("n", nodes), ("f", features), *along.items()]
        self.picks = [_pick(source, letter, index) for letter, index in asked if index is not None]
        self._gone = tuple(axis for pick in self.picks for axis in pick.axes[1:])  # became one with another
        self._kept = [axis for axis in range(len(source.shape)) if axis not in self._gone]
        taken = {pick.axes[0]: pick.coordinates[0].size for pick in self.picks}
        sizes = [taken.get(axis, source.shape[axis]) for axis in self._kept]
        if self._timed:
            sizes[0] = len(self.rows)
        super().__init__(
            source.name,
            shape=sizes,
            dtype=source.dtype,
            axes="".join(source.axes[axis] for axis in self._kept),
        )
        self._box, self._within = _narrowed(source, self.picks)
        self._part: tuple[Box | None, SelectedSource | None] = (None, None)  # of the box that was read last
        self.boxes = "whole" if self._gone else "indices"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_part": (None, None)}

    def _of_box(self, box: Box) -> SelectedSource:
        """Return the source of what a box of this one holds."""
        found, part = self._part
        if part is None or found is not box:  # whoever reads a part asks for the same one each time
            along = {pick.axes[0]: pick.coordinates[0] for pick in self.picks}
            for axis, places in zip(self._kept[1:], box, strict=True):
                along[axis] = along.get(axis, np.arange(self.source.shape[axis]))[places]
            part = SelectedSource(self.source, rows=self._row_slice(), along=along)
            self._part = (box, part)
        return part

    def array(self) -> np.ndarray | None:
        """Return a view, where nodes and features are slices and the source is addressable; else None."""
        whole = self.source.array()
        if whole is None or any(pick.view is None for pick in self.picks):
            return None
        index = {pick.axes[0]: pick.view for pick in self.picks}
        if self._timed:
            index[0] = self._row_slice()
        return whole[tuple(index.get(axis, WHOLE) for axis in range(whole.ndim))]

    def _row_slice(self) -> slice:
        return slice(self.rows.start, max(self.rows.stop, self.rows.start), self.rows.step)

    def _take(self, block: np.ndarray, picks: Sequence[Pick], start: int, stop: int, out: np.ndarray) -> None:
        """Write what is asked for, from the rows of the source that hold it."""
        block = block[:: self.rows.step] if self._timed else block
        for pick in picks:
            block = pick.take(block)
        block = block.squeeze(self._gone)
        out[...] = block if self._timed else block[start:stop]

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read what is needed; it is put in place when the result is asked for."""
        self.check_range(start, stop, out, box)
        if not out.size:
            return Done()
        return (self if box is None else self._of_box(box))._begin(start, stop, out)

    def _begin(self, start: int, stop: int, out: np.ndarray) -> Pending:
        first, last = 0, self.source.shape[0]
        if self._timed:
            first, last = self.rows[start], self.rows[stop - 1] + 1
        whole = self.source.array()
        if whole is not None:
            with unchanged(whole):
                self._take(whole[first:last], self.picks, start, stop, out)
            return Done(out.nbytes)
        direct = not self._within and self.rows.step == 1 and self._timed
        sizes = self.source.shape[1:] if self._box is None else box_shape(self._box)
        block = out if direct else np.empty((last - first, *sizes), self.dtype)
        pending = begun(self.source.submit(first, last, block, *given(self._box)), self.name)
        if direct:
            return pending
        return All([pending], [0], self.rows.step, lambda: self._take(block, self._within, start, stop, out))

    def storage(self, box: Box | None = None) -> Storage:
        """Return that of the source, of the box that is read of it, counted in the rows that stay."""
        if box is not None:
            return self._of_box(box).storage()
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        if not self._timed or self.source.array() is not None:
            return Storage(None, row_bytes=row_bytes)
        return self.source.storage(self._box).of_rows(self.rows, row_bytes)

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels of what stays; None where several axes became one."""
        origin = self._kept[axis]
        found = None if self.axes[axis] == "t" else self.source.labels(origin)
        for pick in self.picks:
            if pick.axes[0] == origin and found is not None:
                found = found[pick.coordinates[0]] if len(pick.axes) == 1 else None
        return found

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows that stay."""
        times = self.source.timestamps()
        return times[self._row_slice()] if times is not None and self._timed else None

    def fingerprint(self) -> str:
        """Fingerprint of the source, and what stays of it."""
        picked = [(pick.axes, digest(*[part.tobytes() for part in pick.coordinates])) for pick in self.picks]
        return digest(self.source.fingerprint(), self.rows, picked)


@dataclass(slots=True, eq=False)
class All(Pending):
    """Several reads as one.

    Parameters
    ----------
    reads : sequence of Pending
        Under way.
    begins : sequence of int
        Where the rows of each begin.
    step : int
        Rows that are read for one that stays.
    finish : callable, optional
        Called when all are over, each time that the result is asked for; puts rows in place.
    """

    reads: Sequence[Pending]
    begins: Sequence[int]
    step: int = 1
    finish: Callable[[], None] | None = None

    @property
    def fetched(self) -> list[tuple[int, int]] | None:  # type: ignore[override]
        """Rows that caches had to fetch; None where not all parts have one."""
        found: list[tuple[int, int]] = []
        for read, first in zip(self.reads, self.begins, strict=True):
            if (rows := read.fetched) is None:
                return None
            found += [((first + begin) // self.step, -(-(first + end) // self.step)) for begin, end in rows]
        return found

    def result(self, timeout: float | None = None) -> int:
        """Wait for every read, then raise what the first one that failed raised."""
        errors: list[Exception] = []
        size = 0
        for read in self.reads:
            try:
                size += taken(read.result(timeout), "a part")
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        if self.finish is not None:
            self.finish()
        return size

    def done(self) -> bool:
        """Whether every read is over."""
        return all(read.done() for read in self.reads)

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call ``call(self)`` once every read is over."""
        counter = itertools.count(
            1 - len(self.reads)
        )  # its steps are atomic, whichever threads the reads end in
        if not self.reads:
            call(self)
        for read in self.reads:
            read.add_done_callback(lambda _: None if next(counter) else call(self))

    def overdue(self) -> bool:
        """Whether one of the reads is."""
        return any(read.overdue() for read in self.reads)
