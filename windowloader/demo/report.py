"""What the demo found, as tables for a terminal.

In: a `Result`. Out: things that rich prints. Never computes an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..units import format_bytes
from .running import MODEL

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .running import Result

__all__ = ["render"]

PARTS = {"val": "validation", "test": "test"}


def render(result: Result) -> RenderableType:
    """Return all tables, one under another."""
    return Group(_errors(result), Text(), _costs(result))


def _errors(result: Result) -> Table:
    ahead = list(next(iter(result.mae["val"].values())))
    table = Table(
        title="Mean absolute error, missing readings left out", title_justify="left", title_style="bold"
    )
    table.add_column("")
    for part in PARTS.values():
        for time in ahead:
            table.add_column(f"{part}\n{time}", justify="right")
    for name in result.mae["val"]:
        cells = []
        for part in PARTS:
            for time in ahead:
                error = result.mae[part][name][time]
                best = error == min(errors[time] for errors in result.mae[part].values())
                cells.append(Text(f"{error:.2f}", style="bold green" if best else ""))
        table.add_row(Text(name, style="bold" if name == MODEL else ""), *cells)
    return table


def _costs(result: Result) -> Table:
    memory = result.memory
    table = Table(title="What it took", title_justify="left", title_style="bold", show_header=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    per_second = "windows a second"
    table.add_row(
        f"{result.loading_windows_per_second:,.0f}",
        f"{per_second} through the loader alone, read and made on the way",
    )
    table.add_row(
        f"{result.training_windows_per_second:,.0f}",
        f"{per_second} with the model in the loop, {result.steps:,} steps",
    )
    table.add_row(format_bytes(memory["loading"]), "private memory an epoch of loading adds at its peak")
    table.add_row(format_bytes(memory["training"]), "with the model, its gradients and activations")
    table.add_row(
        format_bytes(memory["windows_float32"]), "what all windows would take if they were stored, in float32"
    )
    table.add_row(format_bytes(memory["windows_float64"]), "in float64, as the usual scripts store them")
    table.add_row(f"{result.seconds:.0f} s", "in all")
    return table
