"""``windowloader preview``: which timestamps go where.

In: options. Out: a page or JSON. Never looks itself; `windowloader.view.preview` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, app, emit, fields, parts_of
from .target import By, Horizon, Lookback, Stride, Target, on_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windowloader.view.preview import Preview, WindowRows

__all__ = ["preview"]


@app.command()
@on_target
def preview(
    target: Target,
    lookback: Lookback = 12,
    horizon: Horizon = 12,
    delay: Annotated[int, typer.Option(min=0, help="Rows between inputs and targets.")] = 0,
    stride: Stride = 1,
    dilation: Annotated[int, typer.Option(min=1, help="Rows between the steps of a window.")] = 1,
    split: Annotated[
        str, typer.Option(help="Parts, as ratios, rows or dates: 0.7,0.1,0.2 or 2012-05-01,2012-06-01.")
    ] = "0.7,0.1,0.2",
    by: By = "targets",
    purge: Annotated[int, typer.Option(min=0, help="Rows left out between the parts.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random window.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show which rows are inputs and targets, the parts of a split on a time line, and what they share."""
    from windowloader.view.preview import preview as look
    from windowloader.windows.split import split as split_series
    from windowloader.windows.window_set import WindowSpec

    series = target.open()
    spec = WindowSpec(lookback=lookback, horizon=horizon, delay=delay, stride=stride, dilation=dilation)
    found = look(split_series(series, spec, parts_of(split), by=by, purge=purge), seed=seed)
    emit(found.to_dict(), as_json=as_json, show=lambda: fields(list(_page(found))))


def _page(found: Preview) -> Iterator[tuple[str, str]]:
    from windowloader.view.preview import draw_window

    yield "series", f"{found.name}: {found.steps:,} rows"
    yield (
        "window",
        f"{found.lookback} rows in, {found.horizon} to predict; {found.span} rows from first to last",
    )
    for window in found.windows:
        yield f"{window.which}", f"number {window.position:,}, rows {window.start:,} …"
        yield "", draw_window(window)
        yield "", f"░ inputs   {_ends(window, 'input')}"
        if window.targets:
            yield "", f"█ targets  {_ends(window, 'target')}"
    yield "split", f"by {found.by}; █ targets, ░ inputs only, · not in this part"
    for part in found.parts:
        times = f", {part.times[0]} … {part.times[1]}" if part.times else ""
        yield part.name, part.line
        yield "", f"{part.windows:,} windows of rows {part.rows[0]:,} … {part.rows[1] - 1:,}{times}"
        if part.only_inputs:
            yield "", f"{part.target_rows:,} rows to predict, {part.only_inputs:,} looked back at"
    if found.unused:
        yield "unused", found.unused_line
        yield "", f"{found.unused:,} rows are in no window (purged, or left over)"
    if found.audit is not None:
        for number, line in enumerate(found.audit.splitlines()):
            yield "audit" if not number else "", line


def _ends(window: WindowRows, role: str) -> str:
    rows = window.inputs if role == "input" else window.targets
    times = window.input_times if role == "input" else window.target_times
    if not times:
        return f"rows {rows[0]:,} … {rows[-1]:,}"
    return f"{times[0]} … {times[-1]}  (rows {rows[0]:,} … {rows[-1]:,})"
