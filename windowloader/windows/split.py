"""Splits of the windows of a series by targets, rows, window numbers or entities.

In: a series and a spec, or a window set; ratios, borders, ranges or entities. Out: `Split`, one window set per part.
What each way of splitting lets parts share is documented, and `Split.audit` lists it.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.errors import SplitError

from .audit import Audit, audit
from .parts import Parts, entity_parts, refuse_ratios, row_regions
from .spec import WindowSpec
from .window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

    from windowloader.series.series import Series

    from .index import Starts

    By = Literal["targets", "rows", "windows", "entities"]

__all__ = ["Split", "folds", "split"]

WAYS = ("targets", "rows", "windows", "entities")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Split:
    """Window sets in order, by number or name.

    Parameters
    ----------
    names : tuple of str
    sets : tuple of WindowSet
    by : str
        How windows were assigned.

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.arange(100.0).reshape(100, 1))
    >>> parts = wl.split(series, wl.WindowSpec(lookback=3, horizon=2), {"fit": 0.75, "check": 0.25})
    >>> fit, check = parts
    >>> parts["check"] is check, len(fit), len(check)
    (True, 71, 24)
    """

    names: tuple[str, ...]
    sets: tuple[WindowSet, ...]
    by: str

    def __len__(self) -> int:
        return len(self.sets)

    def __iter__(self) -> Iterator[WindowSet]:
        return iter(self.sets)

    def __getitem__(self, part: int | str) -> WindowSet:
        if isinstance(part, str):
            if part not in self.names:
                raise KeyError(f"no part {part!r}; there are {', '.join(map(repr, self.names))}")
            part = self.names.index(part)
        return self.sets[part]

    def keys(self) -> tuple[str, ...]:
        """Names of the parts: ``dict(split)`` maps them to their window sets."""
        return self.names

    def audit(self) -> Audit:
        """List the rows that parts share, as inputs and as targets.

        Returns
        -------
        Audit
            Prints as a list; ``.shared`` and ``.leaks`` are its entries.
        """
        return audit(list(zip(self.names, self.sets, strict=True)))

    def __repr__(self) -> str:
        lines = []
        for name, windows in zip(self.names, self.sets, strict=True):
            first, last = windows.row_range
            lines.append(f"  {name}: {len(windows):,} windows of rows {first} … {last - 1}")
        return "\n".join([f"Split by {self.by}", *lines])

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        from windowloader.view.notebook import split_html

        return split_html(self)

    def plot(self) -> Figure:
        """Draw the parts on a time line (extra ``plot``); see `windowloader.view.pictures`."""
        from windowloader.view.pictures import plot_split

        return plot_split(self)


def split(
    series: Series | WindowSet,
    spec: WindowSpec | None,
    parts: Any,
    *,
    by: By = "targets",
    purge: int = 0,
) -> Split:
    """Split windows into parts, in order of time.

    Parameters
    ----------
    series : Series or WindowSet
        Of a window set (then ``spec`` is None) only its own windows are split.
    spec : WindowSpec or None
        What a window reads.
    parts : sequence or mapping
        Ratios that sum to 1; border dates or rows, one fewer than parts; or a mapping of names to ratios or to
        ranges ``(from, to)`` of dates or rows, ``to`` excluded, None for an open end. For ``by="entities"`` ratios or
        lists of entities. One set is returned per part.
    by : {"targets", "rows", "windows", "entities"}
        What assigns a window to a part.

        - targets: all its target rows lie in the part, and its inputs before the part's end. Inputs may reach back
          into earlier parts, as they do in use; no target row of one part is an input or target of an earlier one.
        - rows: all its rows lie in the part, so parts share nothing.
        - windows: its number. ``round(n·r0)`` train, ``round(n·r2)`` test, the rest val: DCRNN's and PGT-I's
          arithmetic, for published numbers. Neighbouring parts share up to ``span - 1`` rows, targets among them.
        - entities: its entity.
    purge : int
        Rows at least between the end of one part and the beginning of the next, taken from the earlier one; for
        ``by="windows"``, rows between their starts.

    Returns
    -------
    Split
        Unpacks into window sets.

    Raises
    ------
    SplitError
        For parts without windows, that overlap, or that cannot be read; the message says what to do.

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.zeros((2016, 4)), timestamps=("2012-03-01", "5min"))
    >>> spec = wl.WindowSpec(lookback=12, horizon=12)
    >>> train, val, test = wl.split(series, spec, (0.7, 0.1, 0.2), by="windows")
    >>> len(train), len(val), len(test)
    (1395, 199, 399)
    >>> wl.split(series, spec, ["2012-03-06"])
    Split by targets
      train: 1,417 windows of rows 0 … 1439
      test: 565 windows of rows 1428 … 2015
    """
    windows = _windows(series, spec)
    if by not in WAYS:
        raise SplitError(f"by={by!r} is unknown. Known are {', '.join(map(repr, WAYS))}.")
    if not isinstance(purge, int | np.integer) or purge < 0:
        raise SplitError(f"purge must be an integer number of rows >= 0, got {purge!r}.")
    given = Parts.of(parts)
    if by == "windows":
        chosen = _by_windows(windows, given, int(purge))
    elif by == "entities":
        chosen = _by_entities(windows, given, int(purge))
    else:
        rows = (0, windows.series.num_steps) if windows is not series else windows.row_range
        chosen = _by_rows(windows, given, row_regions(windows.series, given, rows, int(purge)), by)
    sets = [windows.chosen(index, part=name) for name, index in zip(given.names, chosen, strict=True)]
    return Split(given.names, tuple(sets), by)


def _windows(series: Series | WindowSet, spec: WindowSpec | None) -> WindowSet:
    if isinstance(series, WindowSet) and spec in (None, series.spec):
        return series
    if isinstance(series, WindowSet) or not isinstance(spec, WindowSpec):
        raise SplitError(
            f"the second argument is {reprlib.repr(spec)}. Pass a series and its spec, wl.split(series, spec, "
            "(0.7, 0.1, 0.2)), or a window set, which has its own, wl.split(windows, None, (0.7, …))."
        )
    return WindowSet(series, spec)


def _by_rows(
    windows: WindowSet, parts: Parts, regions: tuple[np.ndarray, np.ndarray], by: str
) -> Iterator[Starts]:
    """Assign windows by their rows: all of them, or their targets."""
    spec, borders = windows.spec, windows.series.entity_borders
    if by == "targets" and spec.num_targets == 0:
        raise SplitError(
            "by='targets' goes by target rows, and horizon=0 has none. Say by='rows' or by='windows'."
        )
    low = int(spec.target_rows[0]) if by == "targets" else 0
    # No row of a window lies past its part, inputs included: targets of a later part are unknown to it.
    high = int(max([*spec.input_rows[-1:], *spec.target_rows[-1:]]))
    entity = np.zeros(1, np.int64) if borders is None else borders[:-1]
    for name, begins, ends in zip(parts.names, *regions, strict=True):
        # Clipped to the entity, so that the ranges of starts do not overlap; no valid window is lost.
        found = windows.index.within(np.maximum(begins - low, entity), ends - high)
        if len(found) == 0:
            raise _empty(name, begins, ends, high - low + 1, by, windows)
        yield found


def _empty(
    name: str, begins: np.ndarray, ends: np.ndarray, needed: int, by: str, windows: WindowSet
) -> SplitError:
    """Return the error for a part without windows: which rows it has, and how to change that."""
    series, spec = windows.series, windows.spec
    longest = int(np.argmax(ends - begins))
    begin, end = int(begins[longest]), int(ends[longest])
    had = f"its rows {begin} … {end - 1} are {end - begin}"
    if begin == end:
        had = f"it has none of the {series.num_steps} rows"
        if series.clock is not None:
            had += f", {' … '.join(series.clock.texts([0, series.num_steps - 1]))}"
    elif end - begin >= needed:
        had += ", where no window fits within a segment or misses few enough values"
    what, advice = "the target rows of a window", "Shorten the windows, or "
    if by == "rows":
        what = "all rows of a window"
        if spec.num_targets:
            targets = int(spec.target_rows[-1] - spec.target_rows[0]) + 1
            advice = f"Say by='targets', for which inputs may reach back and {targets} rows are enough, or "
    return SplitError(
        f"part {name!r} has no windows: by={by!r} puts {what} into it, {needed} rows, and {had}. {advice}give the "
        "part more rows."
    )


def _by_windows(windows: WindowSet, parts: Parts, purge: int) -> Iterator[Starts]:
    """Assign windows by their number."""
    refuse_ratios(windows.series, parts)
    count = len(windows)
    ends = [
        (0 if low is None else low, count if high is None else high) for low, high in parts.ends(0, count)
    ]
    if not all(isinstance(end, int | np.integer) and 0 <= end <= count for pair in ends for end in pair):
        raise SplitError(
            f"by='windows' cuts window numbers, from 0 to {count:,}, not dates or rows: {parts.values}. For those say "
            "by='targets'."
        )
    numbers = np.array(ends, np.int64)
    parts.check_order(numbers[:, :1], numbers[:, 1:])
    if purge and not windows.index.rising:
        raise SplitError("purge= counts rows between parts, and these windows are not in order of rows.")
    for part, (first, stop) in enumerate(numbers.tolist()):
        later = ends[part + 1][0] if part + 1 < len(ends) else count
        if purge and later < count:
            stop = min(stop, int(windows.index.rank(windows.starts(later) - purge)))
        if stop <= first:
            share = f"{parts.values[part]:g} of {count:,} windows" if parts.kind == "ratios" else "it"
            raise SplitError(
                f"part {parts.names[part]!r} has no windows: {share} comes to 0 with purge={purge}. Give it a larger "
                "share, or say by='targets', which cuts rows."
            )
        yield windows.index.slice(first, stop)


def _by_entities(windows: WindowSet, parts: Parts, purge: int) -> Iterator[Starts]:
    """Assign whole entities."""
    if purge:
        raise SplitError(
            f"purge={purge} leaves out rows between parts, and entities share none. Leave purge=0."
        )
    chosen, borders = entity_parts(windows.series, parts), windows.series.entity_borders
    assert borders is not None  # entity_parts raised
    for name, numbers in zip(parts.names, chosen, strict=True):
        found = windows.index.within(borders[numbers], borders[numbers + 1])
        if len(found) == 0:
            raise SplitError(
                f"part {name!r} has no windows: its {len(numbers)} of {len(borders) - 1} entities have none of "
                f"{windows.spec.span} rows. Give it more entities, or shorten the windows."
            )
        yield found


def folds(
    series: Series | WindowSet,
    spec: WindowSpec | None,
    n: int,
    *,
    test_steps: int | None = None,
    train_steps: int | None = None,
    val_steps: int = 0,
    by: Literal["targets", "rows"] = "targets",
    purge: int = 0,
) -> tuple[Split, ...]:
    """Split several times, each time further on: rolling origin.

    The last fold tests on the last rows, the fold before on the rows before them, and so on; each trains on what
    came before its test.

    Parameters
    ----------
    series, spec
        As in `split`.
    n : int
        Folds, at least 1.
    test_steps : int, optional
        Rows of a fold's test part. Default: the rows there are by n + 1.
    train_steps : int, optional
        Rows trained on: the window slides. None: all before, it expands.
    val_steps : int
        Rows of a part between the two; 0: none.
    by, purge
        As in `split`.

    Returns
    -------
    tuple of Split
        With parts train, (val,) test.

    Raises
    ------
    SplitError
        If there are too few rows, or several entities.

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.zeros((100, 1)))
    >>> for train, test in wl.folds(series, wl.WindowSpec(lookback=4, horizon=1), 3):
    ...     print(train.row_range, test.row_range)
    (0, 25) (21, 50)
    (0, 50) (46, 75)
    (0, 75) (71, 100)
    """
    windows = _windows(series, spec)
    borders = windows.series.entity_borders
    if borders is not None and len(borders) > 2:
        raise SplitError(
            f"folds cut rows, and {len(borders) - 1} entities lie end to end. Give dates to split(), a fold at a time: "
            "{'train': (None, day), 'test': (day, next_day)}."
        )
    if by not in ("targets", "rows"):
        raise SplitError(f"by={by!r} is unknown. Known are 'targets' and 'rows'.")
    first, last = (0, windows.series.num_steps) if windows is not series else windows.row_range
    test = (last - first) // (n + 1) if test_steps is None and n > 0 else test_steps or 0
    earliest = last - n * test - val_steps
    if (
        n < 1
        or test < 1
        or val_steps < 0
        or earliest <= first
        or (train_steps is not None and train_steps < 1)
    ):
        raise SplitError(
            f"{n} folds of test_steps={test} and val_steps={val_steps} leave {earliest - first} of {last - first} rows "
            "to train the first on. Ask for fewer folds or shorter parts; all counts are at least 1."
        )
    found = []
    for fold in range(n):
        stop = last - (n - 1 - fold) * test
        middle = stop - test - val_steps
        begin = first if train_steps is None else max(first, middle - train_steps)
        ranges = {"train": (begin, middle), "val": (middle, stop - test), "test": (stop - test, stop)}
        if val_steps == 0:
            del ranges["val"]
        found.append(split(windows, None, ranges, by=by, purge=purge))
    return tuple(found)
