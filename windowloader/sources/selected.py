"""A part of a source: rows, nodes, features. Lazy: a view where possible, else reads of what is needed.

In: a source and what to keep of it. Out: `SelectedSource`, and `All`, several reads as one. Reads nothing when built.
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
from .reads import Done, Pending, begun, taken
from .storage import Storage, box_shape, given

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .base import Source
    from .storage import Box

__all__ = ["All", "SelectedSource"]

WHOLE = slice(None)
Pick = tuple[tuple[int, ...], tuple[np.ndarray, ...]]
"""Axes of a source that become one, and the position of each kept value along each of them."""


class SelectedSource(SourceOver):
    """Rows, nodes and features of another source.

    Parameters
    ----------
    source : Source
        The whole. A selection of a selection reads the same source as the first.
    rows : slice, optional
        Of time, step 1.
    nodes, features : slice or array_like of int, optional
        What to keep of the space and of the feature axes, in this order. Several axes of one letter count as one,
        in C order, and become one where an array is given.
    along : mapping of int to array_like of int, optional
        What to keep of single axes of the source, which stay apart.

    Raises
    ------
    SourceFormatError
        For an index outside its axis, a letter the source does not have, or a step of rows.

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

    first: int  # row of the source
    picks: list[Pick]
    _gone: tuple[int, ...]  # axes that became one with another

    def __init__(
        self,
        source: Source,
        *,
        rows: slice | None = None,
        nodes: slice | Sequence[int] | np.ndarray | None = None,
        features: slice | Sequence[int] | np.ndarray | None = None,
        along: Mapping[int, Any] = MappingProxyType({}),
    ) -> None:
        asked: list[tuple[str | int, Any]] = [("n", nodes), ("f", features), *along.items()]
        picks = [_pick(source, letter, index) for letter, index in asked if index is not None]
        self._timed = source.axes[:1] == "t"
        self.first, last, step = (rows or WHOLE).indices(source.shape[0] if self._timed else 0)
        if step != 1:
            raise SourceFormatError(f"rows={rows} of {source.name!r}: a slice of step 1 is needed.")
        num_rows = max(last - self.first, 0)
        if isinstance(source, SelectedSource) and not source._gone:
            self.first += source.first
            picks, source = _composed(picks, source.picks), source.source
        self.source, self.picks = source, picks
        self._gone = tuple(axis for axes, _ in picks for axis in axes[1:])
        self._kept = [axis for axis in range(len(source.shape)) if axis not in self._gone]
        kept = {axes[0]: places[0].size for axes, places in picks}
        sizes = [kept.get(axis, source.shape[axis]) for axis in self._kept]
        if self._timed:
            sizes[0] = num_rows
        axes = "".join(source.axes[axis] for axis in self._kept)
        super().__init__(source.name, shape=sizes, dtype=source.dtype, axes=axes)
        self._box, self._within = _narrowed(source, picks)
        self._slices = {axes[0]: _as_slice(places[0]) if len(axes) == 1 else None for axes, places in picks}

    def array(self) -> np.ndarray | None:
        """Return a view, where nodes and features are slices and the source is addressable; else None."""
        whole = self.source.array()
        if whole is None or None in self._slices.values():
            return None
        index = dict(self._slices)
        if self._timed:
            index[0] = slice(self.first, self.first + self.shape[0])
        return whole[tuple(index.get(axis, WHOLE) for axis in range(whole.ndim))]

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read what is needed; it is copied to ``out`` when the result is asked for."""
        self.check_range(start, stop, out, box)
        if not out.size:
            return Done()
        first, last = 0, self.source.shape[0]
        if self._timed:
            first, last = self.first + start, self.first + stop
        direct = self._timed and not self._within
        sizes = self.source.shape[1:] if self._box is None else box_shape(self._box)
        block = out if direct else np.empty((last - first, *sizes), self.dtype)
        pending = begun(self.source.submit(first, last, block, *given(self._box)), self.name)
        if direct:
            return pending

        def finish() -> None:
            picked = block
            for axes, places in self._within:
                moved = np.moveaxis(picked, axes, range(len(axes)))[places]
                picked = np.expand_dims(np.moveaxis(moved, 0, axes[0]), axes[1:])
            picked = picked.squeeze(self._gone)
            out[...] = picked if self._timed else picked[start:stop]

        return All([pending], [0], finish)

    def storage(self, box: Box | None = None) -> Storage:
        """Return the storage of the source, of the box that is read of it, counted in the selected rows."""
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        if not self._timed:
            return Storage(None, row_bytes=row_bytes)
        return self.source.storage(self._box).of_rows(self.first, self.first + self.shape[0], row_bytes)

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels of the selection; None where several axes became one."""
        found = None if self.axes[axis] == "t" else self.source.labels(self._kept[axis])
        for axes, places in self.picks:
            if axes[0] == self._kept[axis] and found is not None:
                found = found[places[0]] if len(axes) == 1 else None
        return found

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the selected rows."""
        times = self.source.timestamps()
        return times[self.first :][: self.shape[0]] if times is not None and self._timed else None

    def fingerprint(self) -> str:
        """Fingerprint of the source and of the selection."""
        picked = [(axes, digest(*[part.tobytes() for part in places])) for axes, places in self.picks]
        return digest(self.source.fingerprint(), self.first, self.shape[0], picked)


def _pick(source: Source, letter: str | int, index: Any) -> Pick:
    """Turn an index over all axes of a letter, or over one axis, into positions along each."""
    axes = tuple(axis for axis, found in enumerate(source.axes) if letter in (found, axis))
    sizes = tuple(source.shape[axis] for axis in axes)
    if not axes:
        raise SourceFormatError(
            f"{source.name!r} has axes {source.axes!r}, none of them {letter!r} to select from."
        )
    flat = np.arange(math.prod(sizes))
    try:
        flat = flat[index if isinstance(index, slice) else np.asarray(index, None if len(index) else int)]
    except IndexError as error:
        raise SourceFormatError(f"an index into {letter!r} of {source.name!r}: {error}.") from error
    if flat.ndim != 1:
        raise SourceFormatError(f"an index into {letter!r} of {source.name!r} has more than one dimension.")
    return axes, np.unravel_index(flat, sizes)


def _composed(picks: Sequence[Pick], inner: Sequence[Pick]) -> list[Pick]:
    """Translate picks of a selection to picks of its source; the ``inner`` ones of the selection have one axis each."""
    before = {axes[0]: places[0] for axes, places in inner}
    picked = [
        (
            axes,
            tuple(
                before[axis][one] if axis in before else one for axis, one in zip(axes, places, strict=True)
            ),
        )
        for axes, places in picks
    ]
    again = {axis for axes, _ in picks for axis in axes}
    return picked + [pick for pick in inner if pick[0][0] not in again]


def _as_slice(index: np.ndarray) -> slice | None:
    """Return the slice that selects the same, where all steps are equal: then a view will do."""
    steps = np.unique(np.diff(index))
    if steps.size > 1 or 0 in steps:
        return None
    first, step = (int(part[0]) if part.size else default for part, default in ((index, 0), (steps, 1)))
    end = first + step * index.size
    return slice(first, end if end >= 0 else None, step)


def _narrowed(source: Source, picks: Sequence[Pick]) -> tuple[Box | None, list[Pick]]:
    """Smallest box of a source that holds what is picked, as far as it reads boxes, and the picks within that box."""
    if source.axes[:1] != "t" or source.boxes == "whole" or any(not places[0].size for _, places in picks):
        return None, list(picks)
    box: list[slice | np.ndarray] = [slice(0, size) for size in source.shape[1:]]
    within: list[Pick] = []
    for axes, places in picks:
        inside = []
        for axis, place in zip(axes, places, strict=True):
            kept, inverse = np.unique(place, return_inverse=True)
            reach = slice(int(kept[0]), int(kept[-1]) + 1)
            apart = source.boxes == "indices" and reach.stop - reach.start > kept.size
            box[axis - 1] = kept if apart else reach
            inside.append(inverse if apart else place - reach.start)
        size = box_shape((box[axes[0] - 1],))[0]
        if len(axes) > 1 or not np.array_equal(inside[0], np.arange(size)):
            within.append((axes, tuple(inside)))
    return tuple(box) if box_shape(tuple(box)) != source.shape[1:] else None, within


@dataclass(slots=True, eq=False)
class All(Pending):
    """Several reads as one.

    Parameters
    ----------
    reads : sequence of Pending
    begins : sequence of int
        Where the rows of each begin.
    finish : callable, optional
        Called when all have finished, each time that the result is asked for; copies rows to their place.
    """

    reads: Sequence[Pending]
    begins: Sequence[int]
    finish: Callable[[], None] | None = None

    @property
    def fetched(self) -> list[tuple[int, int]] | None:  # type: ignore[override]
        """Rows that caches had to fetch; None where not all parts have a cache."""
        found: list[tuple[int, int]] = []
        for read, first in zip(self.reads, self.begins, strict=True):
            if (rows := read.fetched) is None:
                return None
            found += [(first + begin, first + end) for begin, end in rows]
        return found

    def result(self, timeout: float | None = None) -> int:
        """Wait for every read, then raise the error of the first one that failed."""
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
        """Whether every read has finished."""
        return all(read.done() for read in self.reads)

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call ``call(self)`` once every read has finished."""
        counter = itertools.count(1 - len(self.reads))  # atomic, whichever threads the reads end in
        if not self.reads:
            call(self)
        for read in self.reads:
            read.add_done_callback(lambda _: None if next(counter) else call(self))

    def overdue(self) -> bool:
        """Whether one of the reads is overdue."""
        return any(read.overdue() for read in self.reads)
