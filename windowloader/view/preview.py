"""Which rows windows and parts hold, drawn for people before they trust a split.

In: a window set or a split. Out: `Preview`: some windows row by row, the parts on a time line, the audit.
Never reads values.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.series.clock import Clock
    from windowloader.windows.split import Split
    from windowloader.windows.window_set import WindowSet

__all__ = ["PartLine", "Preview", "WindowRows", "draw_window", "part_lines", "preview"]

WIDTH = 64
CHUNK = 1 << 18  # rows counted together
TARGETS, INPUTS, NOTHING = "█", "░", "·"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRows:
    """The rows of one window.

    Attributes
    ----------
    which : str
        "first", "random", "last".
    position, start : int
        Number in the set, and first row.
    inputs, targets : tuple of int
        Rows.
    input_times, target_times : tuple of str
        When those were; () without timestamps.
    """

    which: str
    position: int
    start: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    input_times: tuple[str, ...] = ()
    target_times: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLine:
    """One part on the time line.

    Attributes
    ----------
    name : str
    windows : int
    rows : tuple of int
        First row held, and one past the last.
    times : tuple of str
        When the first and last row were; () without timestamps.
    input_rows, target_rows : int
        Rows that windows of the part hold as inputs, as targets.
    only_inputs : int
        Rows held as inputs alone: those a later part looks back at.
    line : str
        The series from its first to its last row: ``█`` targets, ``░`` inputs only, ``·`` neither.
    """

    name: str
    windows: int
    rows: tuple[int, int]
    times: tuple[str, ...]
    input_rows: int
    target_rows: int
    only_inputs: int
    line: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What `preview` found.

    Attributes
    ----------
    name : str
    steps : int
    lookback, horizon, span : int
    by : str or None
        How the parts were told apart.
    windows : tuple of WindowRows
        First, random and last of the first part.
    parts : tuple of PartLine
    unused : int
        Rows that are in no window of any part: purged, or left over.
    unused_line : str
        Where: ``█``.
    audit : str or None
    leaks : int
        Target rows of later parts that earlier ones read.
    """

    name: str
    steps: int
    lookback: int
    horizon: int
    span: int
    by: str | None
    windows: tuple[WindowRows, ...]
    parts: tuple[PartLine, ...]
    unused: int
    unused_line: str = field(repr=False)
    audit: str | None
    leaks: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def preview(parts: Split | WindowSet, *, seed: int = 0, width: int = WIDTH) -> Preview:
    """Look at windows and parts.

    Parameters
    ----------
    parts : Split or WindowSet
    seed : int
        Of the random window.
    width : int
        Characters of the time line.

    Returns
    -------
    Preview

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.arange(40.0).reshape(40, 1))
    >>> found = preview(wl.split(series, wl.WindowSpec(lookback=4, horizon=2), (0.5, 0.5)), width=20)
    >>> for part in found.parts:
    ...     print(part.line)
    ░░████████··········
    ········░░██████████
    >>> found.windows[0].inputs, found.windows[0].targets, found.leaks
    ((0, 1, 2, 3), (4, 5), 0)
    """
    sets = _sets(parts)
    first = sets[0][1]
    series, spec = first.series, first.spec
    lines, used, cells = part_lines(sets, width)
    audit = parts.audit() if hasattr(parts, "audit") else None
    return Preview(
        name=series.name,
        steps=series.num_steps,
        lookback=len(spec.input_rows),
        horizon=len(spec.target_rows),
        span=spec.span,
        by=getattr(parts, "by", None),
        windows=tuple(_some_windows(first, seed)),
        parts=lines,
        unused=series.num_steps - used,
        unused_line="".join(NOTHING if cell else TARGETS for cell in cells),
        audit=None if audit is None else repr(audit),
        leaks=0 if audit is None else sum(shared.rows for shared in audit.leaks),
    )


def _sets(parts: Split | WindowSet) -> list[tuple[str, WindowSet]]:
    from windowloader.windows.window_set import WindowSet

    if isinstance(parts, WindowSet):
        return [(parts.part or "all", parts)]
    return list(zip(parts.names, parts.sets, strict=True))


def _some_windows(windows: WindowSet, seed: int) -> list[WindowRows]:
    count = len(windows)
    chosen = {"first": 0, "random": int(np.random.default_rng(seed).integers(count)), "last": count - 1}
    found = []
    for which, position in chosen.items():
        start = int(windows.starts([position])[0])
        inputs, targets = start + windows.spec.input_rows, start + windows.spec.target_rows
        clock = windows.series.clock
        found.append(
            WindowRows(
                which=which,
                position=position,
                start=start,
                inputs=tuple(inputs.tolist()),
                targets=tuple(targets.tolist()),
                input_times=_times(clock, inputs),
                target_times=_times(clock, targets),
            )
        )
    return found


def _times(clock: Clock | None, rows: np.ndarray) -> tuple[str, ...]:
    if clock is None or not len(rows):
        return ()
    return tuple(clock.texts(rows))


def part_lines(
    sets: Sequence[tuple[str, WindowSet]], width: int = WIDTH
) -> tuple[tuple[PartLine, ...], int, np.ndarray]:
    """Draw each part along the series.

    Parameters
    ----------
    sets : sequence of (str, WindowSet)
    width : int

    Returns
    -------
    lines : tuple of PartLine
    used : int
        Rows that some window holds.
    cells : ndarray of bool, shape (width,)
        Whether all rows of a cell are used.
    """
    steps = sets[0][1].series.num_steps
    width = max(1, min(width, steps))
    edges = np.linspace(0, steps, width + 1).astype(np.int64)
    drawn = [(np.zeros(width, np.int64), np.zeros(width, np.int64), np.zeros(3, np.int64)) for _ in sets]
    used, cells = 0, np.zeros(width, np.int64)
    for start in range(0, steps, CHUNK):
        stop = min(start + CHUNK, steps)
        cell = np.searchsorted(edges, np.arange(start, stop), side="right") - 1
        some = np.zeros(stop - start, np.bool_)
        for (_, windows), (targets, inputs, counts) in zip(sets, drawn, strict=True):
            as_input = windows.row_counts(start, stop, role="inputs") > 0
            as_target = windows.row_counts(start, stop, role="targets") > 0
            only = as_input & ~as_target
            np.add.at(targets, cell[as_target], 1)
            np.add.at(inputs, cell[only], 1)
            counts += (int(as_input.sum()), int(as_target.sum()), int(only.sum()))
            some |= as_input | as_target
        used += int(some.sum())
        np.add.at(cells, cell[some], 1)
    lines = [_line(name, windows, *found) for (name, windows), found in zip(sets, drawn, strict=True)]
    return tuple(lines), used, cells == np.diff(edges)


def _line(
    name: str, windows: WindowSet, targets: np.ndarray, inputs: np.ndarray, counts: np.ndarray
) -> PartLine:
    first, last = windows.row_range
    marks = [
        TARGETS if there and there >= back else INPUTS if back else NOTHING
        for there, back in zip(targets.tolist(), inputs.tolist(), strict=True)
    ]
    return PartLine(
        name=name,
        windows=len(windows),
        rows=(first, last),
        times=_times(windows.series.clock, np.array([first, last - 1])) if last else (),
        input_rows=int(counts[0]),
        target_rows=int(counts[1]),
        only_inputs=int(counts[2]),
        line="".join(marks),
    )


def draw_window(window: WindowRows, width: int = WIDTH) -> str:
    """Draw a window from its first to its last row: ``░`` inputs, ``█`` targets, ``·`` rows not read.

    Examples
    --------
    >>> draw_window(WindowRows(which="first", position=0, start=5, inputs=(5, 6, 7), targets=(9, 10)))
    '░░░·██'
    """
    rows = (*window.inputs, *window.targets)
    low, span = min(rows), max(rows) - min(rows) + 1
    width = min(width, span)
    marks = [NOTHING] * width
    for row in window.inputs:
        marks[(row - low) * width // span] = INPUTS
    for row in window.targets:
        marks[(row - low) * width // span] = TARGETS
    return "".join(marks)
