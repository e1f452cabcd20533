"""Sources one after another in time: one file a month, read as one array.

In: sources of one form, in any order where they have times. Out: `JoinedSource`, or the source itself where there is
but one. Never reads values when built, and keeps no more than a few dozen files open.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.clocks.calendars import Times, calendar_of, own
from windowloader.errors import SeriesError, SourceFormatError

from .base import BOXES, Source, digest
from .memory import LoadedSource
from .reads import Done, Pending, begun, taken
from .selected import SelectedSource
from .storage import joined
from .tiers import AT_HAND, TIERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .box import Box
    from .storage import Storage

__all__ = ["JoinedSource", "join"]

OPEN_PARTS = 32  # more would run into limits of descriptors where months become decades


def join(sources: Sequence[Source]) -> Source:
    """Concatenate sources along time: in the order of their times, where all have some, each labelled axis by label.

    Parameters
    ----------
    sources : sequence of Source
        At least one, alike in axes and sizes apart from time; each has the labels of the first, or more.

    Raises
    ------
    SourceFormatError
        Where one differs from the first; the message names it.

    Examples
    --------
    >>> from windowloader.sources.memory import ArraySource
    >>> join([ArraySource(np.zeros((2, 3))), ArraySource(np.ones((4, 3)))]).shape
    (6, 3)
    """
    if not sources:
        raise SourceFormatError(
            "an empty list has nothing to join along time; give at least one array or file."
        )
    if len(sources) == 1:
        return sources[0]
    times = [source.timestamps() for source in sources]
    places = list(range(len(sources)))
    if all(time is not None for time in times):
        places.sort(key=lambda place: (not len(times[place]), *times[place][:1]))  # type: ignore[arg-type,index]
    first, *others = (sources[place] for place in places)
    whole = JoinedSource([first, *(_aligned(source, first) for source in others)])
    whole.times = [times[place] for place in places]
    whole.moved = places != sorted(places)
    whole.doubts = first.doubts
    zones = sorted({calendar_of(time) or "UTC" for time in times if time is not None})
    if len(zones) > 1 and not any(map(own, zones)):
        whole.doubts += (
            f"the parts of {whole.name!r} have times of the zones {', '.join(zones)}: clocks such as time_of_day are "
            "of UTC. For clocks of one zone pass timestamps=, a pandas index with that zone.",
        )
    return whole


def _aligned(source: Source, first: Source) -> Source:
    """Return a part with the labels of the first, in its order."""
    from windowloader.assembly.alignment import order

    names = repr(source.name), f"{first.name!r}, with which it is joined along time"
    along = {}
    for axis in range(1, len(first.shape) if source.axes == first.axes else 0):
        picked = order(source.labels(axis), first.labels(axis), *names, SourceFormatError)
        along.update({} if picked is None else {axis: picked})
    return SelectedSource(source, along=along) if along else source


class JoinedSource(Source):
    """Sources that follow one another in time.

    Parameters
    ----------
    parts : sequence of Source
        In the order of their times.
    """

    times: Sequence[np.ndarray | None] = ()  # of the parts, where they are known already

    def __init__(self, parts: Sequence[Source]) -> None:
        for part in parts[1:]:
            _check_alike(parts[0], part)
        lengths = [part.shape[0] for part in parts]
        self.parts = tuple(parts)
        self.borders = np.append(0, np.cumsum(lengths)).astype(np.int64)
        grid = [part.chunks or part.shape for part in parts] if any(part.chunks for part in parts) else []
        super().__init__(
            f"{parts[0].name} … {parts[-1].name} ({len(parts)} parts)",
            shape=(int(self.borders[-1]), *parts[0].shape[1:]),
            dtype=_common_dtype(parts),
            axes=parts[0].axes,
            chunks=[max(sizes) for sizes in zip(*grid, strict=True)] or None,
        )
        self.fill_value = parts[0].fill_value
        self.boxes = min((part.boxes for part in parts), key=BOXES.index)
        self._recent = _Recent()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "times": ()}  # pickles small

    def check(self) -> None:
        """Check every part."""
        for part in self.parts:
            part.check()

    def storage(self, box: Box | None = None) -> Storage:
        """Return that of the parts, one after another."""
        parts = [part.storage(box) for part in self.parts if part.shape[0]]
        return joined(parts, np.unique(self.borders)) if parts else super().storage(box)

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[int, int, int, slice]]:
        """Parts that rows ``[start, stop)`` lie in: number, first and last row there, place in the rows asked."""
        if start == stop:
            return
        first = int(np.searchsorted(self.borders, start, side="right")) - 1
        for number in range(first, len(self.parts)):
            begin, end = int(self.borders[number]), int(self.borders[number + 1])
            low, high = max(start, begin), min(stop, end)
            if begin >= stop:
                return
            if low < high:
                yield number, low - begin, high - begin, slice(low - start, high - start)

    def read(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> int:
        """Read rows from each part that has some of them."""
        return self.submit(start, stop, out, box).result()

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> All:
        """Begin to read every part at once; those of another dtype are read before this returns."""
        self.check_range(start, stop, out, box)
        more = () if box is None else (box,)
        reads: list[Pending] = []
        begins: list[int] = []
        for number, first, last, place in self._overlaps(start, stop) if out.size else ():
            part = self.parts[number]
            if part.dtype == out.dtype:
                reads.append(begun(part.submit(first, last, out[place], *more), part.name))
            else:
                rows = np.empty(out[place].shape, part.dtype)
                reads.append(Done(taken(part.read(first, last, rows, *more), part.name)))
                out[place] = rows
            begins.append(place.start)
            self._touch(number)
        return All(reads, begins)

    def _touch(self, number: int) -> None:
        for old in self._recent.touch(number):
            self.parts[old].close()

    @property
    def tier(self) -> str:
        """That of the parts: "cached" if all are; "memory" or "mapped" if all are either and can stay open."""
        tiers = {part.tier for part in self.parts}
        whole = [part.source if isinstance(part, SelectedSource) else part for part in self.parts]
        if len(whole) > OPEN_PARTS and any(isinstance(part, LoadedSource) for part in whole):
            return (
                "streamed"  # a part that is parsed again for each window would cost more than any block order
            )
        if tiers <= {*AT_HAND}:
            return max(tiers, key=TIERS.index)
        return "cached" if tiers == {"cached"} else "streamed"

    def stored_bytes(self) -> int | None:
        """Bytes of all parts, where each is known."""
        sizes = [part.stored_bytes() for part in self.parts]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the first part."""
        return self.parts[0].attributes()

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis: those of the first part, which all share."""
        return None if axis == 0 else self.parts[0].labels(axis)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of all parts; `SeriesError` where a part begins before the one before it ends."""
        times = self.times or [part.timestamps() for part in self.parts]
        known = [time for time in times if time is not None]
        if not known:
            return None
        if len(known) < len(times):
            without = next(part for part, time in zip(self.parts, times, strict=True) if time is None)
            raise SeriesError(f"{without.name!r} has no timestamps, but other parts joined with it have.")
        filled = [(part, time) for part, time in zip(self.parts, known, strict=True) if time.size]
        for (before, early), (after, late) in itertools.pairwise(filled):
            if late[0] <= early[-1]:
                raise SeriesError(
                    f"{after.name!r} begins at {late[0]}, but {before.name!r} before it ends at {early[-1]}. Parts "
                    "that are joined along time must not overlap: cut one, or list each time once."
                )
        calendars = {calendar_of(time) for time in known}
        if len(calendars) > 1 and any(map(own, calendars)):
            raise SeriesError(
                f"the parts of {self.name!r} are in the calendars {sorted(name or 'standard' for name in calendars)}, "
                "whose days are not the same. Convert them to one, e.g. by convert_calendar of xarray."
            )
        return Times(np.concatenate(known), calendars.pop() if len(calendars) == 1 else "")

    def fingerprint(self) -> str:
        """Fingerprints of the parts, in order."""
        return digest(*[part.fingerprint() for part in self.parts])

    def close(self) -> None:
        """Close every part."""
        for part in self.parts:
            part.close()


class All(Pending):
    """Several reads as one.

    Parameters
    ----------
    reads : sequence of Pending
        Under way.
    begins : sequence of int
        Where the rows of each begin.
    """

    def __init__(self, reads: Sequence[Pending], begins: Sequence[int]) -> None:
        self._reads, self._begins = reads, begins

    @property
    def fetched(self) -> list[tuple[int, int]] | None:  # type: ignore[override]
        """Rows that caches had to fetch; None where not all parts have one."""
        found = [read.fetched for read in self._reads]
        if any(rows is None for rows in found):
            return None
        pairs = zip(self._begins, found, strict=True)
        return [(place + begin, place + end) for place, rows in pairs for begin, end in rows or ()]

    def result(self, timeout: float | None = None) -> int:
        """Wait for every read, then raise what the first one that failed raised."""
        errors: list[Exception] = []
        size = 0
        for read in self._reads:
            try:
                size += taken(read.result(timeout), "a part")
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return size

    def done(self) -> bool:
        """Whether every read is over."""
        return all(read.done() for read in self._reads)

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call ``call(self)`` once every read is over."""
        waiting = [read for read in self._reads if not read.done()]
        if not waiting:
            call(self)
            return
        counter = itertools.count(1)

        def ended(_read: object) -> None:
            if next(counter) == len(waiting):
                call(self)

        for read in waiting:
            read.add_done_callback(ended)

    def overdue(self) -> bool:
        """Whether one of the reads is."""
        return any(read.overdue() for read in self._reads)


class _Recent:
    """Which parts were used last, so that the others' files can be closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[int, None] = {}

    def __reduce__(self) -> tuple[type[_Recent], tuple[()]]:
        return (_Recent, ())

    def touch(self, number: int) -> list[int]:
        """Note that a part was used; return those to close."""
        with self._lock:
            self._used.pop(number, None)
            self._used[number] = None
            old = list(self._used)[:-OPEN_PARTS]
            for part in old:
                del self._used[part]
            return old


def _check_alike(first: Source, part: Source) -> None:
    if "t" not in part.axes:
        raise SourceFormatError(
            f"{part.name!r} has axes {part.axes!r}, without the time along which a list joins."
        )
    if part.axes != first.axes or part.shape[1:] != first.shape[1:]:
        raise SourceFormatError(
            f"{part.name!r} has axes {part.axes!r} and shape {part.shape}, but {first.name!r}, which it is joined with "
            f"along time, has {first.axes!r} and {first.shape}. All but the time must agree."
        )


def _common_dtype(parts: Sequence[Source]) -> np.dtype:
    dtype = np.result_type(*[part.dtype for part in parts])
    for part in parts:
        if part.dtype != dtype and (part.dtype.kind == "b" or not np.can_cast(part.dtype, dtype, "safe")):
            raise SourceFormatError(
                f"{part.name!r} has dtype {part.dtype}, which does not fit the {dtype} of the parts it is joined with."
            )
    return dtype
