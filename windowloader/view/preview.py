"""Previews which rows windows and the parts of a split contain, before one trusts the split.

In: a window set or a split. Out: some windows row by row, the parts on a time line, the audit. Never reads values.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.series.clock import Clock
    from windowloader.windows.split import Split

__all__ = ["INPUTS", "NOTHING", "TARGETS", "draw_window", "part_lines", "preview"]

WIDTH = 64
TARGETS, INPUTS, NOTHING = "█", "░", "·"


def preview(parts: Split | WindowSet, *, seed: int = 0, width: int = WIDTH) -> dict[str, Any]:
    """Describe windows and parts.

    Parameters
    ----------
    parts : Split or WindowSet
    seed : int
        Of the random window.
    width : int
        Characters of the time line.

    Returns
    -------
    dict
        ``name``, ``steps``, ``lookback``, ``horizon``, ``span`` and ``by`` (how the parts were split).

        ``windows``: the first, a random and the last one of the first part, each with ``which``, ``position``,
        ``start``, the rows ``inputs`` and ``targets``, their timestamps ``input_times`` and ``target_times``, and
        a ``line`` as `draw_window` draws it.

        ``parts``: see `part_lines`. ``unused``: number of rows in no window, with their ``unused_line``.

        ``audit``: its text, and ``leaks``: target rows of later parts that earlier ones read.

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.arange(40.0).reshape(40, 1))
    >>> found = preview(wl.split(series, wl.WindowSpec(lookback=4, horizon=2), (0.5, 0.5)), width=20)
    >>> for part in found["parts"]:
    ...     print(part["line"])
    ░░████████··········
    ········░░██████████
    >>> found["windows"][0]["inputs"], found["windows"][0]["targets"], found["leaks"]
    ((0, 1, 2, 3), (4, 5), 0)
    """
    split = None if isinstance(parts, WindowSet) else parts
    sets = (
        [("all", parts)] if isinstance(parts, WindowSet) else list(zip(parts.names, parts.sets, strict=True))
    )
    first = sets[0][1]
    lines, used, whole = part_lines(sets, width)
    audit = None if split is None else split.audit()
    return {
        "name": first.series.name,
        "steps": first.series.num_steps,
        "lookback": first.spec.num_inputs,
        "horizon": first.spec.num_targets,
        "span": first.spec.span,
        "by": None if split is None else split.by,
        "windows": _some_windows(first, seed),
        "parts": lines,
        "unused": first.series.num_steps - used,
        "unused_line": "".join(NOTHING if cell else TARGETS for cell in whole),
        "audit": None if audit is None else repr(audit),
        "leaks": 0 if audit is None else sum(shared.rows for shared in audit.leaks),
    }


def _some_windows(windows: WindowSet, seed: int) -> list[dict[str, Any]]:
    random = int(np.random.default_rng(seed).integers(len(windows)))
    found = []
    for which, position in (("first", 0), ("random", random), ("last", len(windows) - 1)):
        start = int(windows.starts([position])[0])
        inputs, targets = start + windows.spec.input_rows, start + windows.spec.target_rows
        found.append(
            {
                "which": which,
                "position": position,
                "start": start,
                "inputs": tuple(inputs.tolist()),
                "targets": tuple(targets.tolist()),
                "input_times": _times(windows.series.clock, inputs),
                "target_times": _times(windows.series.clock, targets),
                "line": draw_window(inputs.tolist(), targets.tolist()),
            }
        )
    return found


def _times(clock: Clock | None, rows: np.ndarray) -> tuple[str, ...]:
    return () if clock is None or not len(rows) else tuple(clock.texts(rows))


def part_lines(
    sets: Sequence[tuple[str, WindowSet]], width: int = WIDTH
) -> tuple[list[dict[str, Any]], int, np.ndarray]:
    """Draw each part along the series.

    Parameters
    ----------
    sets : sequence of (str, WindowSet)
    width : int

    Returns
    -------
    lines : list of dict
        ``name``, ``windows`` (their number), ``rows`` (first, and one past the last), ``times`` (of the first and last
        row), ``input_rows``, ``target_rows``, ``only_inputs`` (rows that are inputs alone), and ``line``: the series
        from its first to its last row, ``█`` targets, ``░`` inputs alone, ``·`` neither.
    used : int
        Rows in any window.
    whole : ndarray of bool, shape (width,)
        Whether all rows of a cell are in a window.
    """
    steps = sets[0][1].series.num_steps
    edges = np.linspace(0, steps, max(1, min(width, steps)) + 1).astype(np.int64)
    counts = np.zeros((len(sets), 3, len(edges) - 1), np.int64)
    used = np.zeros(len(edges) - 1, np.int64)
    for cell, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
        some = np.zeros(stop - start, np.bool_)
        for (_, windows), count in zip(sets, counts, strict=True):
            inputs = windows.row_counts(start, stop, role="inputs") > 0
            targets = windows.row_counts(start, stop, role="targets") > 0
            count[:, cell] = inputs.sum(), targets.sum(), (inputs & ~targets).sum()
            some |= inputs | targets
        used[cell] = some.sum()
    lines = []
    for (name, windows), (inputs, targets, alone) in zip(sets, counts, strict=True):
        first, last = windows.row_range
        marks = np.where((targets > 0) & (targets >= alone), TARGETS, np.where(alone > 0, INPUTS, NOTHING))
        lines.append(
            {
                "name": name,
                "windows": len(windows),
                "rows": (first, last),
                "times": _times(windows.series.clock, np.array([first, last - 1])) if last else (),
                "input_rows": int(inputs.sum()),
                "target_rows": int(targets.sum()),
                "only_inputs": int(alone.sum()),
                "line": "".join(marks.tolist()),
            }
        )
    return lines, int(used.sum()), used == np.diff(edges)


def draw_window(inputs: Sequence[int], targets: Sequence[int], width: int = WIDTH) -> str:
    """Draw a window from its first to its last row: ``░`` inputs, ``█`` targets, ``·`` rows not read.

    Examples
    --------
    >>> draw_window((5, 6, 7), (9, 10))
    '░░░·██'
    """
    rows = (*inputs, *targets)
    low, span = min(rows), max(rows) - min(rows) + 1
    width = min(width, span)
    marks = [NOTHING] * width
    for mark, some in ((INPUTS, inputs), (TARGETS, targets)):
        for row in some:
            marks[(row - low) * width // span] = mark
    return "".join(marks)
