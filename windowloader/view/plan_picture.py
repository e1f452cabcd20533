"""A picture of a plan: what is read when, memory over the epoch, mixing.

In: a `Plan`. Out: a `Picture`. Computes nothing that the plan does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.units import format_bytes

from .pictures import BLUE, FAINT, GREY, ORANGE, OTHERS, RED, new, tidy

if TYPE_CHECKING:
    from windowloader.plan.plan import Plan
    from windowloader.plan.trace import Trace

    from .pictures import Picture

__all__ = ["plot_plan"]

THIN = 24  # blocks of a lane


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
    figure = new(9, 6.4)
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
    tidy(ax, title="what is read when", x="share of the epoch", y="row of the series")
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
    tidy(ax, title="memory over the epoch", x="share of the epoch", y=name)
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
        tidy(ax, title="mixing")
        ax.set_axis_off()
        ax.text(
            0, 0.6, "in the order of time:\nnothing is mixed", color=GREY, fontsize=9, transform=ax.transAxes
        )
        return
    tidy(ax, title="mixing, beside a full permutation")
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
