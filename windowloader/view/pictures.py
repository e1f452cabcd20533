"""Draws plans, splits and loader statistics with matplotlib (extra ``plot``).

In: a `Plan`, `Split` or `LoaderStats`. Out: a `Picture`. Only draws what they contain; leaves pyplot's state alone.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import MissingExtraError
from windowloader.util.calendars import own
from windowloader.util.units import format_bytes

from .preview import INPUTS, TARGETS, part_lines

try:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba
    from matplotlib.dates import ConciseDateFormatter, date2num
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
except ImportError as error:  # pragma: no cover - the extra is absent
    raise MissingExtraError("pictures need matplotlib: pip install 'windowloader[plot]'") from error

if TYPE_CHECKING:
    from windowloader.loader.stats import LoaderStats
    from windowloader.plan.plan import Plan
    from windowloader.windows.split import Split

__all__ = ["Picture", "new", "plot_plan", "plot_split", "plot_stats", "tidy"]

# Distinguishable without colour vision (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8a8a"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#8C6D31", "#332288")
FAINT = "#dcdcdc"
LEGEND: dict[str, Any] = {"fontsize": 7, "frameon": False}
BESIDE: dict[str, Any] = LEGEND | {"loc": "upper left", "bbox_to_anchor": (1.0, 1), "borderaxespad": 0}


class Picture(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def new(width: float, height: float) -> Picture:
    """Return an empty picture; sizes in inches."""
    return Picture(figsize=(width, height), layout="constrained")


def tidy(ax: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Label axes in small type and remove their frame."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.set_title(title, fontsize=10, loc="left")


def plot_plan(plan: Plan) -> Picture:
    """Draw the order of access, memory over the epoch, and mixing."""
    figure = new(9, 6.4)
    grid = figure.add_gridspec(2, 5, height_ratios=(3, 2))
    rank = "" if plan.world_size == 1 else f", rank {plan.rank} of {plan.world_size}"
    title = f"epoch {plan.epoch}: {plan.steps:,} steps, {plan.tier}, {plan.order}{rank}"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    _order(figure.add_subplot(grid[0, :]), plan)
    _memory(figure.add_subplot(grid[1, :3]), plan)
    _mixing(figure.add_subplot(grid[1, 3:]), plan)
    return figure


def _order(ax: Any, plan: Plan) -> None:
    """Draw blocks as boxes from their first to their last window, over their rows; or the first rows of windows."""
    tidy(ax, title="rows read over the epoch", x="share of the epoch", y="row of the series")
    ax.set_xlim(0, 1)
    if plan.trace is None:
        return
    handles: list[Patch] = []
    for lane in sorted(plan.trace.lanes, key=lambda lane: lane.own):
        sides = (
            (lane.enter, lane.begin),
            (lane.leave, lane.begin),
            (lane.leave, lane.end),
            (lane.enter, lane.end),
        )
        boxes = np.stack([np.stack(side, -1) for side in sides], 1)
        colour = BLUE if lane.own else COLOURS[1 + lane.lane % (len(COLOURS) - 1)]
        alpha = 0.8 if lane.own else 0.35
        ax.add_collection(
            PolyCollection(list(boxes), facecolor=colour, edgecolor="white", linewidth=0.3, alpha=alpha)
        )
        label = f"lane {lane.lane}{': this rank' if lane.own else ''}"
        handles.insert(0, Patch(facecolor=colour, alpha=alpha, label=label))
    if handles:
        ax.autoscale(axis="y")
        ax.legend(handles=handles, **BESIDE)
    else:
        ax.scatter(plan.trace.shares, plan.trace.starts, s=5, color=BLUE, alpha=0.45, linewidths=0)


def _memory(ax: Any, plan: Plan) -> None:
    points = plan.resident or ((0.0, 0),)
    shares = np.array([*(share for share, _ in points), 1.0])
    rows = np.array([size for _, size in (*points, points[-1])], np.float64)
    batches = plan.batch_bytes * max(plan.batches_ahead, 1)
    layers = [("prefetched batches", np.full(len(rows), batches), ORANGE)]
    if plan.memory is not None:
        fixed = plan.memory.in_flight + plan.memory.reserve + plan.held
        layers.insert(0, ("requests and fixed", np.full(len(rows), fixed), FAINT))
        layers.insert(0, ("rows", rows, BLUE))
    most = float(np.sum([sizes for _, sizes, _ in layers], axis=0).max())
    near = plan.budget < 4 * most
    high = max(most, plan.budget) if near else most
    unit, name = (1e9, "GB") if high >= 2e9 else (1e6, "MB") if high >= 2e6 else (1e3, "kB")
    tidy(ax, title="memory over the epoch", x="share of the epoch", y=name)
    names, sizes, colours = zip(*layers, strict=True)
    ax.stackplot(shares, *(size / unit for size in sizes), step="post", colors=colours, labels=names)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.5 * high / unit)
    if near:
        ax.axhline(plan.budget / unit, color=RED, linewidth=1, linestyle="--", label="budget")
    title = None if near else f"budget: {format_bytes(plan.budget)}"
    ax.legend(loc="upper right", ncols=2, title=title, title_fontsize=7, **LEGEND)


def _mixing(ax: Any, plan: Plan) -> None:
    tidy(ax, title="mixing, beside a full permutation")
    if plan.mixing is None or plan.permutation is None:
        ax.set_axis_off()
        ax.text(0, 0.6, "time order: no mixing", color=GREY, fontsize=9, transform=ax.transAxes)
        return
    place = np.arange(3)
    for shift, figures, colour, label in (
        (-0.2, plan.mixing, BLUE, "this order"),
        (0.2, plan.permutation, FAINT, "permutation"),
    ):
        bars = ax.bar(place + shift, figures, 0.38, color=colour, label=label)
        ax.bar_label(bars, fmt="%.2g", fontsize=6, padding=2)
    ax.margins(y=0.4)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set_xticks(place, ("pairs of\none block", "variance of\nbatch means", "their\ncorrelation"))
    ax.legend(loc="upper center", ncols=2, **LEGEND)


def plot_split(split: Split) -> Picture:
    """Draw the parts on a time line: target rows, rows that are only inputs, and rows in no window."""
    series = split.sets[0].series
    lines, used, whole = part_lines(list(zip(split.names, split.sets, strict=True)), 1000)
    labels = [f"{part['name']}\n{part['windows']:,} windows" for part in lines]
    shown = np.ones((len(lines) + 1, len(whole), 4))
    for place, part in enumerate(lines):
        marks, colour = np.array(list(part["line"])), COLOURS[place % len(COLOURS)]
        shown[place, marks == TARGETS] = to_rgba(colour, 0.9)
        shown[place, marks == INPUTS] = to_rgba(colour, 0.35)
    shown[-1, ~whole] = to_rgba(GREY, 0.9)
    if used < series.num_steps:
        labels.append(f"in no window\n{series.num_steps - used:,} rows")
    figure = new(9, 0.9 + 0.42 * len(labels))
    ax = figure.add_subplot()
    clock, x = series.clock, (0.0, float(series.num_steps))
    dated = clock is not None and not own(clock.calendar) and series.entity_borders is None
    if clock is not None and dated:
        x = tuple(date2num(clock.timestamps([0, series.num_steps - 1])).tolist())  # type: ignore[no-untyped-call]
        ax.xaxis_date()
        ax.xaxis.set_major_formatter(ConciseDateFormatter(ax.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
    tidy(ax, title=f"split by {split.by}: {series.name}", x="" if dated else "row")
    extent = (*x, len(labels) - 0.5, -0.5)
    ax.imshow(shown[: len(labels)], aspect="auto", interpolation="nearest", extent=extent)
    ax.hlines(np.arange(len(labels) - 1) + 0.5, *x, color="white", linewidth=8)
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    patches = [
        Patch(facecolor=GREY, alpha=a, label=label) for a, label in ((0.9, "targets"), (0.35, "inputs only"))
    ]
    ax.legend(handles=patches, **BESIDE)
    return figure


def plot_stats(stats: LoaderStats) -> Picture:
    """Draw the wait for each step, and the share of each epoch spent waiting, by reason."""
    figure = new(9, 3.4)
    steps, epochs = figure.subplots(1, 2, width_ratios=(3, 2))
    _waits(steps, stats)
    _epochs(epochs, stats)
    return figure


def _waits(ax: Any, stats: LoaderStats) -> None:
    tidy(ax, title="wait for each step (line: median of the epoch)", x="step", y="ms")
    begin = 0
    for number, epoch in enumerate(stats.epochs):
        waits, begin = 1000 * np.array(epoch.waits), begin + epoch.batches
        if len(waits):  # long epochs keep only their last waits, early epochs none
            at = np.arange(begin - len(waits), begin)
            ax.plot(at, waits, ".", markersize=3, color=(BLUE, ORANGE)[number % 2], alpha=0.7)
            ax.hlines(float(np.median(waits)), at[0], begin, color="black", linewidth=1)
    if begin == 0:
        ax.text(0.5, 0.5, "no step was taken yet", transform=ax.transAxes, ha="center", color=GREY)
        return
    ax.set_yscale("symlog", linthresh=0.1, linscale=0.4)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter("{x:g}")


def _epochs(ax: Any, stats: LoaderStats) -> None:
    tidy(ax, title="share of an epoch spent waiting", x="epoch", y="%")
    epochs = [epoch for epoch in stats.epochs if epoch.seconds > 0]
    if not epochs:
        ax.set_axis_off()
        return
    place, bottom = np.arange(len(epochs)), np.zeros(len(epochs))
    for word, colour, waits in (
        ("for storage", BLUE, [epoch.waited_read for epoch in epochs]),
        ("for assembly", ORANGE, [epoch.waited_assemble for epoch in epochs]),
        ("for another thread", FAINT, [epoch.waited_hand_over for epoch in epochs]),
    ):
        share = 100 * np.array(waits) / [epoch.seconds for epoch in epochs]
        ax.bar(place, share, 0.7, bottom=bottom, color=colour, label=word)
        bottom += share
    ax.set_ylim(0, max(1.45 * float(bottom.max()), 1.0))
    every = slice(None, None, -(-len(epochs) // 12))
    ax.set_xticks(place[every], [str(epoch.epoch) for epoch in epochs][every])
    ax.legend(loc="upper right", **LEGEND)
