"""Shows the demo's figures: a table of errors, costs, and a picture.

In: the result of `windowloader.demo.training.run`. Out: a rich table, values to print, an image file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from windowloader.util.units import format_bytes

from .training import AVERAGE, LAST, MODEL, label

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from windowloader.demo.training import DemoTask

__all__ = ["costs", "errors_table", "picture"]

LINES = {
    "observed": ("#1f2933", 2.4, 0.3),
    LAST: ("#4c6ef5", 0.9, 0.6),
    AVERAGE: ("#2b8a3e", 0.9, 0.6),
    MODEL: ("#d9480f", 1.6, 1.0),
}


def errors_table(figures: Mapping[str, Any]) -> Table:
    """Return the table of errors by part and time ahead; the best ones stand out."""
    table = Table(title="Mean absolute error, missing readings left out", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    cells: dict[str, list[Text]] = {}
    for part, by_name in figures["mae"].items():
        for time in by_name[MODEL]:
            table.add_column(f"{part}\n{time}", justify="right", no_wrap=True)
            best = min(error[time] for error in by_name.values())
            for name, error in by_name.items():
                style = "bold green" if error[time] == best else ""
                cells.setdefault(name, []).append(Text(f"{error[time]:#.3g}", style=style))
    for name, row in cells.items():
        table.add_row(name, *row)
    return table


def costs(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the costs for people."""
    memory = {name: format_bytes(size) for name, size in figures["memory"].items()}
    return {
        "windows per second": {
            "the loader alone": round(figures["loading_windows_per_second"]),
            f"in training, {figures['steps']:,} steps": round(figures["training_windows_per_second"]),
        },
        "peak of private memory, above imports": {name: memory[name] for name in ("loading", "training")},
        "all windows, if they were stored": {
            name[8:]: memory[name] for name in ("windows_float32", "windows_float64")
        },
        "seconds in total": round(figures["seconds"]),
    }


def picture(
    figures: Mapping[str, Any],
    forecasts: Mapping[str, np.ndarray],
    task: DemoTask,
    path: str | os.PathLike[str],
) -> None:
    """Draw forecasts of the node that varies most, errors by time ahead, and memory.

    Parameters
    ----------
    figures, forecasts
        From `windowloader.demo.training.run`.
    task : DemoTask
    path : path-like
        ``.png``, ``.svg`` or ``.pdf``.
    """
    from windowloader.view.pictures import new, tidy

    figure = new(12, 7)
    grid = figure.add_gridspec(2, 2)
    seconds = task.step_seconds
    observed = forecasts["observed"]
    seen = np.isfinite(observed)
    spread = [np.std(observed[ok, node]) if ok.mean() > 0.9 else 0.0 for node, ok in enumerate(seen.T)]
    node = int(np.argmax(spread))
    rows = task.test.starts(np.arange(len(observed))) + int(task.test.spec.target_rows[-1])
    clock = task.test.series.clock
    above = figure.add_subplot(grid[0, :])
    furthest = label(task.test.spec.num_targets, seconds)
    tidy(
        above,
        title=f"node {node} of the test data, forecast {furthest} ahead",
        y=task.test.series.features[0],
    )
    errors = figure.add_subplot(grid[1, 0])
    tidy(
        errors, title="mean absolute error on the test data", x="minutes ahead" if seconds else "steps ahead"
    )
    for name, (colour, width, alpha) in LINES.items():
        style: dict[str, Any] = {"color": colour, "linewidth": width, "alpha": alpha, "label": name}
        above.plot(rows if clock is None else clock.timestamps(rows), forecasts[name][:, node], **style)
        if name in figures["curves"]:
            curve = figures["curves"][name]
            errors.plot(
                np.arange(1, len(curve) + 1) * (seconds or 60) / 60, curve, marker="o", markersize=4, **style
            )
    above.legend(fontsize=8, frameon=False, ncols=4)
    errors.set_ylim(0)
    errors.legend(fontsize=8, frameon=False)
    memory = figure.add_subplot(grid[1, 1])
    tidy(memory, title="private memory at its peak, above imports", x="MB")
    names = ("data", "loading", "training", "windows_float32", "windows_float64")
    labels = ("data on disk", "loading", "training", "all windows, float32", "all windows, float64")
    bars = memory.barh(labels, [figures["memory"][name] / 1e6 for name in names], color=LINES[MODEL][0])
    memory.bar_label(bars, [format_bytes(figures["memory"][name]) for name in names], fontsize=8, padding=2)
    memory.margins(x=0.2)
    figure.savefig(path, dpi=150)
