"""What the demo found, as a picture: forecasts over truth, errors by time ahead, memory.

In: a `DemoResult` and its task. Out: an image file. Imports matplotlib, never a display.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from windowloader.util.units import format_bytes

from .running import AVERAGE, LAST, MODEL
from .task import label

if TYPE_CHECKING:
    import os

    from .running import DemoResult
    from .scoring import Kept
    from .task import DemoTask

__all__ = ["save"]

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = {MODEL: "#d9480f", LAST: "#4c6ef5", AVERAGE: "#2b8a3e"}
STYLE: dict[str, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


def save(result: DemoResult, task: DemoTask, path: str | os.PathLike[str]) -> None:
    """Draw and save; the file's ending says the format.

    Parameters
    ----------
    result : DemoResult
    task : DemoTask
    path : path-like
        ``.png``, ``.svg`` or ``.pdf``.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert result.kept is not None
    with mpl.rc_context(cast("Any", STYLE)):
        figure = Figure(figsize=(12, 8.6), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(3, 2, height_ratios=[1, 1, 1.05], width_ratios=[1, 1.1])
        nodes = _telling(result.kept)
        for place, node in enumerate(nodes):
            axes = figure.add_subplot(grid[place, :])
            _forecasts(axes, result.kept, task, node, first=place == 0, last=place == len(nodes) - 1)
        _errors(figure.add_subplot(grid[2, 0]), result, task)
        _memory(figure.add_subplot(grid[2, 1]), result)
        figure.suptitle(_headline(result, task), x=0.01, ha="left", fontsize=13, fontweight="bold")
        figure.savefig(path, dpi=150)


def _headline(result: DemoResult, task: DemoTask) -> str:
    series = task.series
    nodes = " × ".join(map(str, series.space_shape)) or "1"
    kind = "Generated data" if result.generated else str(series.name)
    windows = f"{result.windows['train']:,} training windows, none stored"
    return f"{kind}: {series.num_steps:,} steps × {nodes} nodes, {windows}"


def _telling(kept: Kept) -> list[int]:
    """Two nodes worth looking at: much happens, little is missing, and they are not neighbours in rank."""
    seen = np.isfinite(kept.truth)
    spread = np.array(
        [
            np.std(truth[ok]) if ok.mean() > 0.9 else 0.0
            for truth, ok in zip(kept.truth.T, seen.T, strict=True)
        ]
    )
    ranked = np.argsort(-spread, kind="stable")
    return [int(ranked[0]), int(ranked[min(len(ranked) - 1, len(ranked) // 8 + 1)])]


def _forecasts(axes: Any, kept: Kept, task: DemoTask, node: int, *, first: bool, last: bool) -> None:
    clock = task.series.clock
    times = kept.rows if clock is None else clock.timestamps(kept.rows).astype("datetime64[s]").tolist()
    axes.plot(times, kept.truth[:, node], color=INK, linewidth=2.4, alpha=0.3, label="observed")
    for name in (LAST, AVERAGE, MODEL):
        model = name == MODEL
        axes.plot(
            times,
            kept.forecasts[name][:, node],
            color=COLOURS[name],
            linewidth=1.6 if model else 0.9,
            alpha=1 if model else 0.6,
            label=name,
            zorder=3 if model else 2,
        )
    labels = task.series.nodes
    who = f"node {node}" if labels is None else f"node {labels[node]}"
    ahead = label(int(task.train.spec.target_rows[-1]) - task.train.spec.anchor, task.step_seconds)
    axes.set_title(f"{who}: test data as forecast {ahead} ahead")
    axes.set_ylabel(task.series.features[0])
    axes.margins(x=0)
    if first:
        axes.legend(loc="lower left", bbox_to_anchor=(0.45, 1.0), ncols=4, fontsize=9, borderaxespad=0.1)
    if clock is not None:
        from matplotlib import dates

        locator = cast("Any", dates.AutoDateLocator)(minticks=5, maxticks=10)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(cast("Any", dates.ConciseDateFormatter)(locator))
    elif last:
        axes.set_xlabel("row")


def _errors(axes: Any, result: DemoResult, task: DemoTask) -> None:
    seconds = task.step_seconds
    unit, scale = ("minutes", 60) if seconds is not None and seconds < 3600 else ("hours", 3600)
    places = _apart([errors[-1] for errors in result.curves.values()])
    for (name, errors), place in zip(result.curves.items(), places, strict=True):
        ahead = np.arange(1, len(errors) + 1) * (1 if seconds is None else seconds / scale)
        axes.plot(ahead, errors, color=COLOURS[name], linewidth=2, marker="o", markersize=4)
        axes.text(ahead[-1] * 1.03, place, name, color=COLOURS[name], fontsize=9, va="center")
    axes.set_title("Mean absolute error on the test data")
    axes.set_xlabel("steps ahead" if seconds is None else f"{unit} ahead")
    axes.set_xlim(0, None)
    axes.set_ylim(0, 1.1 * max(max(errors) for errors in result.curves.values()))


def _apart(heights: list[float]) -> list[float]:
    """Move labels apart that would lie on one another: each at least a fourteenth of the axis above the last."""
    gap, placed = max(heights) / 14, list(heights)
    for here, before in itertools.pairwise(sorted(range(len(heights)), key=heights.__getitem__)[::-1]):
        placed[before] = min(placed[before], placed[here] - gap)
    return placed


def _memory(axes: Any, result: DemoResult) -> None:
    memory = result.memory
    bars = [
        ("all windows stored, float64", memory["windows_float64"], GRID),
        ("all windows stored, float32", memory["windows_float32"], GRID),
        ("training: model and loader", memory["training"], COLOURS[MODEL]),
        ("loading alone", memory["loading"], COLOURS[MODEL]),
        ("the data on disk", memory["data"], "#9fb3c8"),
    ]
    sizes = np.array([size for _, size, _ in bars]) / 1e6
    places = np.arange(len(bars))[::-1]
    axes.barh(places, sizes, color=[colour for *_, colour in bars], height=0.62)
    for place, size, (_, exact, _) in zip(places, sizes, bars, strict=True):
        axes.text(size + sizes.max() * 0.01, place, format_bytes(exact), va="center", fontsize=9)
    axes.set_yticks(places, [name for name, *_ in bars])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, sizes.max() * 1.16)
    axes.set_title("Private memory at its peak, above imports")
    axes.set_xlabel("MB")
