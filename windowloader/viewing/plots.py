"""Pictures of plans, splits and waits, by matplotlib (extra ``plot``).

In: a `Plan`, a `Split`, `LoaderStats`. Out: a figure that saves itself and shows in notebooks. Computes nothing that
its object does not have, and touches no global state of matplotlib.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import MissingExtraError
from windowloader.units import format_bytes

try:
    from matplotlib.figure import Figure
except ImportError as error:  # pragma: no cover - the extra is absent
    raise MissingExtraError("pictures need matplotlib: pip install 'windowloader[plot]'") from error

if TYPE_CHECKING:
    from windowloader.plan import Plan
    from windowloader.planning.tracing import Trace
    from windowloader.split import Split
    from windowloader.stats import LoaderStats

__all__ = ["Picture", "plot_plan", "plot_split", "plot_stats"]

# Told apart without colour vision (Okabe and Ito), and in print by order.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8a8a"
OTHERS = ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#7F7F7F", "#332288")
FAINT = "#dcdcdc"
THIN = 24  # blocks of a lane


class Picture(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def _new(width: float, height: float) -> Picture:
    return Picture(figsize=(width, height), layout="constrained")


def _tidy(ax: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.set_title(title, fontsize=10, loc="left")


# -- plans -----------------------------------------------------------------------------------------------------------


def plot_plan(plan: Plan) -> Picture:
    """Draw order of access, rows resident over the epoch, and mixing.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    Picture
        A matplotlib figure: ``save`` it by ``savefig``.
    """
    figure = _new(9, 6.4)
    grid = figure.add_gridspec(2, 5, height_ratios=(3, 2))
    where = "" if plan.world_size == 1 else f", rank {plan.rank} of {plan.world_size}"
    figure.suptitle(
        f"epoch {plan.epoch}: {plan.steps:,} steps, {plan.tier}, {plan.order}{where}",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    _order(figure.add_subplot(grid[0, :]), plan)
    _memory(figure.add_subplot(grid[1, :3]), plan)
    _mixing(figure.add_subplot(grid[1, 3:]), plan)
    return figure


def _order(ax: Any, plan: Plan) -> None:
    trace = plan.trace
    _tidy(ax, title="what is read when", x="share of the epoch", y="row of the series")
    ax.set_xlim(0, 1)
    if trace is None:
        return
    ax.set_ylim(0, max(trace.num_rows, 1))
    if trace.lanes:
        low = min(int(lane.begin.min(initial=trace.num_rows)) for lane in trace.lanes)
        high = max(int(lane.end.max(initial=1)) for lane in trace.lanes)
        ax.set_ylim(min(low, high - 1), high)
        _blocks(ax, trace)
    else:
        ax.scatter(trace.shares, trace.starts, s=5, color=BLUE, alpha=0.45, linewidths=0)
        ax.set_title("what is read when: first rows of some windows", fontsize=10, loc="left")


def _blocks(ax: Any, trace: Trace) -> None:
    """Blocks as boxes: from when their windows begin to come to when they end, over their rows."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    others, handles = 0, []
    for lane in sorted(trace.lanes, key=lambda lane: lane.own):
        corners = [
            (lane.enter, lane.begin),
            (lane.leave, lane.begin),
            (lane.leave, lane.end),
            (lane.enter, lane.end),
        ]
        boxes = np.stack([np.stack(corner, -1) for corner in corners], 1)
        colour = BLUE if lane.own else OTHERS[others % len(OTHERS)]
        thin = len(lane.begin) > THIN  # lines between boxes would hide them
        ax.add_collection(
            PolyCollection(
                list(boxes),
                facecolor=colour,
                edgecolor=colour if thin else "white",
                linewidth=0.8 if thin and lane.own else 0.4,
                alpha=0.8 if lane.own else 0.35,
            )
        )
        if not lane.own:
            others += 1
            handles.append(Patch(facecolor=colour, alpha=0.35, label=f"lane {lane.lane}"))
    own = [lane.lane for lane in trace.lanes if lane.own]
    named = f"lane{'s' * (len(own) > 1)} {', '.join(map(str, own))}" if others else "blocks"
    handles.insert(0, Patch(facecolor=BLUE, alpha=0.8, label=f"{named}: this rank" if others else named))
    ax.legend(
        handles=handles,
        fontsize=7,
        loc="upper left",
        bbox_to_anchor=(1.005, 1),
        frameon=False,
        borderaxespad=0,
    )


def _memory(ax: Any, plan: Plan) -> None:
    ahead = plan.batch_bytes * max(plan.batches_ahead, 1)
    if plan.memory is None:
        shares, rows, fixed = np.array([0.0, 1.0]), np.zeros(2), 0
        note = (
            "rows are in the page cache, which all processes share"
            if plan.tier == "mapped"
            else "rows are there already"
        )
        ax.text(0.02, 0.9, note, transform=ax.transAxes, color=GREY, fontsize=8)
    else:
        points = plan.resident or ((0.0, 0),)
        shares = np.array([*(share for share, _ in points), 1.0])
        rows = np.array([value for _, value in points] + [points[-1][1]], np.float64)
        fixed = plan.memory.in_flight + plan.memory.reserve + plan.held
    most = float(rows.max()) + fixed + ahead
    near = plan.budget < 4 * most  # else what is used would not be seen beside it
    unit, name = _unit(max(most, plan.budget if near else 0))
    _tidy(ax, title="memory over the epoch", x="share of the epoch", y=name)
    layers = [(np.full(len(rows), ahead), ORANGE, "batches ahead")]
    if plan.memory is not None:
        layers = [
            (rows, BLUE, "rows resident"),
            (np.full(len(rows), fixed), FAINT, "being read, the store's own"),
            *layers,
        ]
    values, colours, labels = zip(*layers, strict=True)
    ax.stackplot(shares, *(value / unit for value in values), step="post", colors=colours, labels=labels)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.5 * max(most, plan.budget if near else 0) / unit)
    if near:
        ax.axhline(plan.budget / unit, color=RED, linewidth=1, linestyle="--", label="budget")
    handles, names = ax.get_legend_handles_labels()
    title = None if near else f"of a budget of {format_bytes(plan.budget)}"
    ax.legend(
        handles, names, fontsize=7, frameon=False, loc="upper right", ncols=2, title=title, title_fontsize=7
    )


def _unit(size: float) -> tuple[float, str]:
    return (1e9, "GB") if size >= 2e9 else (1e6, "MB") if size >= 2e6 else (1e3, "kB")


def _mixing(ax: Any, plan: Plan) -> None:
    if plan.mixing is None or plan.permutation is None:
        _tidy(ax, title="mixing")
        ax.set_axis_off()
        ax.text(
            0, 0.6, "in the order of time:\nnothing is mixed", color=GREY, fontsize=9, transform=ax.transAxes
        )
        return
    _tidy(ax, title="mixing, beside a full permutation")
    names = ("pairs of\none block", "variance of\nbatch means", "their\ncorrelation")
    ours, theirs = np.array(plan.mixing), np.array(plan.permutation)
    place = np.arange(3)
    bars = [ax.bar(place - 0.2, ours, 0.38, color=BLUE, label="this order"),
            ax.bar(place + 0.2, theirs, 0.38, color=FAINT, label="permutation")]  # fmt: skip
    for group in bars:
        ax.bar_label(group, fmt="%.2g", fontsize=6, padding=2)
    low, high = (
        min(0.0, float(ours.min()), float(theirs.min())),
        max(float(ours.max()), float(theirs.max()), 0.1),
    )
    ax.set_ylim(low - 0.13 * high if low else 0.0, high * 1.45)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set_xticks(place, names)
    ax.legend(fontsize=7, frameon=False, loc="upper center", ncols=2)


# -- splits ----------------------------------------------------------------------------------------------------------


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
    figure = _new(9, 0.9 + 0.42 * (len(lines) + 1))
    ax = figure.add_subplot()
    edges = np.linspace(0, series.num_steps, len(lines[0].line) + 1)
    dated = series.clock is not None and (series.entity_borders is None or len(series.entity_borders) <= 2)
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
    _tidy(ax, title=f"split by {split.by}: {series.name}", x="" if dated else "row")
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


# -- what happened ---------------------------------------------------------------------------------------------------


def plot_stats(stats: LoaderStats) -> Picture:
    """Draw the wait for each step, and what each epoch waited for.

    Parameters
    ----------
    stats : LoaderStats

    Returns
    -------
    Picture
    """
    figure = _new(9, 3.4)
    steps, epochs = figure.subplots(1, 2, width_ratios=(3, 2))
    _waits(steps, stats)
    _epochs(epochs, stats)
    return figure


def _waits(ax: Any, stats: LoaderStats) -> None:
    _tidy(ax, title="wait for each step", x="step, epoch after epoch", y="ms")
    begin, most = 0, 0.0
    left = None  # of epochs long past the waits are gone
    for number, epoch in enumerate(stats.epochs):
        waits = 1000 * np.array(epoch.waits)
        end = begin + epoch.batches
        at = np.arange(end - len(waits), end)  # of long epochs the last waits are kept
        ax.plot(at, waits, ".", markersize=3, color=(BLUE, ORANGE)[number % 2], alpha=0.7)
        if len(waits):
            left = at[0] if left is None else left
            most = max(most, float(waits.max()))
            ax.hlines(float(np.median(waits)), at[0], at[-1] + 1, color="black", linewidth=1)
        begin = end
    if begin == 0:
        ax.text(0.5, 0.5, "no step was taken yet", transform=ax.transAxes, ha="center", color=GREY)
        return
    ax.set_yscale("symlog", linthresh=0.1, linscale=0.4)
    ax.set_ylim(0, max(most * 2, 1.0))
    left = left or 0
    ax.set_xlim(left - 0.015 * (begin - left), begin)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_title("wait for each step (line: median of the epoch)", fontsize=10, loc="left")


def _epochs(ax: Any, stats: LoaderStats) -> None:
    _tidy(ax, title="share of an epoch's time spent waiting", x="epoch", y="%")
    epochs = [epoch for epoch in stats.epochs if epoch.seconds > 0]
    if not epochs:
        ax.set_axis_off()
        return
    place, bottom = np.arange(len(epochs)), np.zeros(len(epochs))
    for name, word, colour in (
        ("waited_read", "for storage", BLUE), ("waited_assemble", "for assembly", ORANGE),
        ("waited_hand_over", "for a thread's turn", FAINT),
    ):  # fmt: skip
        share = np.array([100 * getattr(epoch, name) / epoch.seconds for epoch in epochs])
        ax.bar(place, share, 0.7, bottom=bottom, color=colour, label=word)
        bottom += share
    high = max(float(bottom.max()) * 1.45, 1.0)
    if len(epochs) <= 12:
        for at, top, epoch in zip(place, bottom, epochs, strict=True):
            ax.text(
                at,
                top + high * 0.015,
                f"{epoch.windows_per_second:,.0f}\nwindows/s",
                ha="center",
                fontsize=6.5,
                color=GREY,
            )
    ax.set_ylim(0, high)
    ax.set_xticks(
        place[:: -(-len(place) // 12)], [str(epoch.epoch) for epoch in epochs][:: -(-len(place) // 12)]
    )
    ax.legend(fontsize=7, frameon=False, loc="upper right")
