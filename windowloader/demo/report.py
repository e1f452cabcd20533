"""What the demo found, as tables for a terminal.

In: a `DemoResult`. Out: things that rich prints. Never computes an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from windowloader.util.units import format_bytes

from .running import MODEL

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .running import DemoResult

__all__ = ["render"]

PARTS = ("val", "test")


def render(result: DemoResult) -> RenderableType:
    """Return all tables, one under another."""
    return Group(_errors(result), Text(), _costs(result))


def _table(title: str, *, header: bool) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=header
    )


def _errors(result: DemoResult) -> Table:
    ahead = list(next(iter(result.mae["val"].values())))
    table = _table("Mean absolute error, missing readings left out", header=True)
    table.add_column("", no_wrap=True)
    for part in PARTS:
        for time in ahead:
            table.add_column(f"{part}\n{time}", justify="right", no_wrap=True)
    for name in result.mae["val"]:
        cells = []
        for part in PARTS:
            for time in ahead:
                error = result.mae[part][name][time]
                best = error == min(errors[time] for errors in result.mae[part].values())
                cells.append(Text(f"{error:#.3g}", style="bold green" if best else ""))
        table.add_row(Text(name, style="bold" if name == MODEL else ""), *cells)
    return table


def _costs(result: DemoResult) -> Table:
    memory = result.memory
    table = _table("What it took", header=False)
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column()
    for figure, meaning in (
        (f"{result.loading_windows_per_second:,.0f}", "windows a second through the loader alone"),
        (
            f"{result.training_windows_per_second:,.0f}",
            f"windows a second in training, {result.steps:,} steps",
        ),
        (format_bytes(memory["loading"]), "peak private memory of an epoch of loading, above imports"),
        (format_bytes(memory["training"]), "the same with model, gradients and activations"),
        (format_bytes(memory["windows_float32"]), "all windows, were they stored, in float32"),
        (format_bytes(memory["windows_float64"]), "in float64, as many scripts store them"),
        (f"{result.seconds:.0f} s", "in all"),
    ):
        table.add_row(figure, meaning)
    return table
