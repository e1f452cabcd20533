"""A picture of a split: its parts on a time line.

In: a `Split`. Out: a `Picture`. Says what `preview` says, in colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.calendars import own

from .pictures import BLUE, FAINT, GREEN, GREY, ORANGE, OTHERS, RED, new, tidy

if TYPE_CHECKING:
    from windowloader.windows.split import Split

    from .pictures import Picture

__all__ = ["plot_split"]


def plot_split(split: Split) -> Picture:
    """Draw the parts on a time line: rows to predict, rows looked back at, rows in no window.

    Parameters
    ----------
    split : Split

    Returns
    -------
    Picture
    """
    from matplotlib.patches import Patch

    from .preview import INPUTS, NOTHING, TARGETS, part_lines

    sets = list(zip(split.names, split.sets, strict=True))
    series = split.sets[0].series
    lines, used, whole = part_lines(sets, 1000)
    figure = new(9, 0.9 + 0.42 * (len(lines) + 1))
    ax = figure.add_subplot()
    edges = np.linspace(0, series.num_steps, len(lines[0].line) + 1)
    dated = (
        series.clock is not None
        and not own(series.clock.calendar)
        and (series.entity_borders is None or len(series.entity_borders) <= 2)
    )
    x = series.clock.timestamps(np.minimum(edges.astype(np.int64), series.num_steps - 1)) if dated else edges  # type: ignore[union-attr]
    colours = (BLUE, ORANGE, GREEN, RED, *OTHERS)
    for place, part in enumerate(lines):
        marks = np.array(list(part.line))
        colour = colours[place % len(colours)]
        _runs(ax, x, marks == TARGETS, place, colour, 0.9)
        _runs(ax, x, marks == INPUTS, place, colour, 0.35)
    labels = [f"{part.name}\n{part.windows:,} windows" for part in lines]
    if used < series.num_steps:
        _runs(ax, x, ~whole, len(lines), GREY, 0.9)
        labels.append(f"in no window\n{series.num_steps - used:,} rows")
    tidy(ax, title=f"split by {split.by}: {series.name}", x="" if dated else "row")
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlim(x[0], x[-1])
    ax.grid(axis="x", color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    if dated:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator: Any = AutoDateLocator()  # type: ignore[no-untyped-call]
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    shown = [
        Patch(facecolor=GREY, alpha=0.9, label="to predict"),
        Patch(facecolor=GREY, alpha=0.35, label="looked back at"),
    ]
    if any(mark != NOTHING for part in lines for mark in part.line):
        ax.legend(
            handles=shown,
            fontsize=7,
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1.0, 1),
            borderaxespad=0,
        )
    return figure


def _runs(ax: Any, x: np.ndarray, marks: np.ndarray, place: int, colour: str, alpha: float) -> None:
    """Draw runs of marked cells as bars."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    for begin, end in ends.reshape(-1, 2).tolist():
        ax.barh(place, x[end] - x[begin], left=x[begin], height=0.62, color=colour, alpha=alpha, linewidth=0)
