"""Sources one after another in time: one file a month, read as one array.

In: sources of one form, in any order where they have times. Out: `JoinedSource`, or the source itself where there is
but one. Never reads values when built, and keeps no more than a few dozen files open.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SeriesError, SourceFormatError
from windowloader.util.calendars import Times, calendar_of, own
from windowloader.util.labels import order

from .base import BOXES, LOCAL_TIERS, TIERS, SourceOver, digest
from .memory import LoadedSource
from .reads import begun
from .selected import All, SelectedSource
from .storage import given, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .base import Source
    from .reads import Pending
    from .storage import Box, Storage

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
    names = repr(source.name), f"{first.name!r}, with which it is joined along time"
    along = {}
    for axis in range(1, len(first.shape) if source.axes == first.axes else 0):
        picked = order(source.labels(axis), first.labels(axis), *names, SourceFormatError)
        along.update({} if picked is None else {axis: picked})
    return SelectedSource(source, along=along) if along else source


class JoinedSource(SourceOver):
    """Sources that follow one another in time.

    Parameters
    ----------
    parts : sequence of Source
        In the order of their times.
    """

    parts: tuple[Source, ...] = ()
    times: Sequence[np.ndarray | None] = ()  # of the parts, where they were read already

    def __init__(self, parts: Sequence[Source]) -> None:
        first, dtype = parts[0], np.result_type(*[part.dtype for part in parts])
        for part in parts:
            has = f"{part.name!r} has axes {part.axes!r} and shape {part.shape}"
            if "t" not in part.axes:
                raise SourceFormatError(f"{has}, without the time along which a list joins.")
            if part.axes != first.axes or part.shape[1:] != first.shape[1:]:
                raise SourceFormatError(
                    f"{has}, but {first.name!r}, which it is joined with along time, has {first.axes!r} and "
                    f"{first.shape}. All but the time must agree."
                )
            if part.dtype != dtype and (part.dtype.kind == "b" or not np.can_cast(part.dtype, dtype)):
                raise SourceFormatError(
                    f"{part.name!r} has dtype {part.dtype}, which does not fit the {dtype} of the parts it is joined "
                    "with."
                )
        self.parts = tuple(parts)
        self.borders = np.cumsum([0, *(part.shape[0] for part in parts)], dtype=np.int64)
        name = f"{first.name} … {parts[-1].name} ({len(parts)} parts)"
        shape = (int(self.borders[-1]), *first.shape[1:])
        super().__init__(name, shape=shape, dtype=dtype, axes=first.axes)
        self.boxes = min((part.boxes for part in parts), key=BOXES.index)
        self._recent: dict[int, None] = {}  # parts that may be open, the one used last at the end

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "times": (), "_recent": {}}  # pickles small

    def storage(self, box: Box | None = None) -> Storage:
        """Return that of the parts, one after another."""
        parts = [part.storage(box) for part in self.parts if part.shape[0]]
        return joined(parts, np.unique(self.borders)) if parts else super().storage(box)

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> All:
        """Begin to read every part at once."""
        self.check_range(start, stop, out, box)
        reads: list[Pending] = []
        begins: list[int] = []
        converted: list[tuple[np.ndarray, np.ndarray]] = []  # rows of another dtype, and their place
        first = int(np.searchsorted(self.borders, start, side="right")) - 1
        last = int(np.searchsorted(self.borders, stop)) if out.size else first
        for number in range(first, last):
            part, border = self.parts[number], int(self.borders[number])
            low, high = max(start - border, 0), min(stop - border, part.shape[0])
            rows = place = out[border + low - start : border + high - start]
            begins.append(border + low - start)
            if part.dtype != out.dtype:
                rows = np.empty(place.shape, part.dtype)
                converted.append((place, rows))
            reads.append(begun(part.submit(low, high, rows, *given(box)), part.name))
            self._limit_open(number)

        def finish() -> None:
            for place, rows in converted:
                place[...] = rows

        return All(reads, begins, finish=finish)

    def _limit_open(self, number: int) -> None:
        """Close the parts that were not used for the longest time; each step here is atomic."""
        self._recent.pop(number, None)
        self._recent[number] = None
        for old in list(self._recent)[:-OPEN_PARTS]:
            self._recent.pop(old, None)
            self.parts[old].close()

    @property
    def tier(self) -> str:
        """That of the parts: "cached" if all are; "memory" or "mapped" if all are either and can stay open."""
        tiers = {part.tier for part in self.parts}
        alike = tiers <= {*LOCAL_TIERS} or len(tiers) == 1
        if len(self.parts) > OPEN_PARTS and any(isinstance(one, LoadedSource) for one in self.origins):
            alike = False  # parsing a file again for each window would cost more than any block order
        return max(tiers, key=TIERS.index) if alike else "streamed"

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis: those of the first part, which all share."""
        return self.parts[0].labels(axis) if axis else None

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of all parts; `SeriesError` where a part begins before the one before it ends."""
        times = self.times or [part.timestamps() for part in self.parts]
        known = [(part, time) for part, time in zip(self.parts, times, strict=True) if time is not None]
        if not known:
            return None
        if len(known) < len(times):
            without = next(part for part, time in zip(self.parts, times, strict=True) if time is None)
            raise SeriesError(f"{without.name!r} has no timestamps, but other parts joined with it have.")
        for (before, early), (after, late) in itertools.pairwise(one for one in known if one[1].size):
            if late[0] <= early[-1]:
                raise SeriesError(
                    f"{after.name!r} begins at {late[0]}, but {before.name!r} before it ends at {early[-1]}. Parts "
                    "that are joined along time must not overlap: cut one, or list each time once."
                )
        calendars = {calendar_of(time) for _, time in known}
        if len(calendars) > 1 and any(map(own, calendars)):
            raise SeriesError(
                f"the parts of {self.name!r} are in the calendars {sorted(name or 'standard' for name in calendars)}, "
                "whose days are not the same. Convert them to one, e.g. by convert_calendar of xarray."
            )
        calendar = calendars.pop() if len(calendars) == 1 else ""
        return Times(np.concatenate([time for _, time in known]), calendar)

    def fingerprint(self) -> str:
        """Fingerprints of the parts, in order."""
        return digest(*[part.fingerprint() for part in self.parts])
