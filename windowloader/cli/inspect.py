"""``windowloader inspect``: what is in a file.

In: options. Out: a page or JSON. Never looks itself; `windowloader.view.inspection` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, app, emit, fields, progress_bar
from .target import BatchSize, GraphFile, Horizon, Lookback, Target, on_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windowloader.view.inspection import Inspection, VariableReport

__all__ = ["inspect"]

SHOWN = 12


@app.command()
@on_target
def inspect(
    target: Target,
    lookback: Lookback = 12,
    horizon: Horizon = 12,
    batch_size: BatchSize = 64,
    graph: GraphFile = None,
    full: Annotated[bool, typer.Option("--full", help="Read all values instead of a sample.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show form, storage, time range, gaps, missing values, and what a batch would be."""
    from windowloader.view.inspection import inspect as look

    series = target.open(graph=graph)
    with progress_bar("bytes", quiet=as_json) as advance:
        found = look(
            series, lookback=lookback, horizon=horizon, batch_size=batch_size, full=full,
            progress=lambda done, total: advance("looking", done, total),
        )  # fmt: skip
    emit(found.to_dict(), as_json=as_json, show=lambda: fields(list(_page(found))))


def _page(found: Inspection) -> Iterator[tuple[str, str]]:
    space = " × ".join(map(str, found.space)) or "1"
    labels = " with labels" if found.labelled else ""
    yield "series", found.name
    yield "shape", f"{found.steps:,} steps × {space} nodes{labels} × {len(found.features)} features"
    names = ", ".join(found.features[:SHOWN]) + (", …" if len(found.features) > SHOWN else "")
    yield "features", names
    yield "tier", found.tier
    if found.time is None:
        yield "time", "no timestamps"
    else:
        yield "time", f"{found.time.first} … {found.time.last}, every {_span(found.time.step_seconds)}"
        if found.time.calendar:
            yield "calendar", found.time.calendar
        yield "gaps", f"{found.time.gaps:,}" if found.time.gaps else "none"
        for low, high in found.time.longest:
            yield "", f"from {low} to {high}"
    if found.entities:
        yield "entities", f"{found.entities:,}"
    if found.segments > 1:
        yield "segments", f"{found.segments:,}, which windows do not cross"
    yield "graph", "none" if found.edges is None else f"{found.edges:,} edges"
    for variable in found.variables:
        yield from _variable(variable, full=found.full)
    shapes = f"inputs {found.inputs}, targets {found.targets}"
    yield "windows", f"{found.windows:,} of {found.lookback} + {found.horizon} rows"
    yield "batch", f"{shapes}: {_bytes(found.batch_bytes)} in float32"
    for number, advice in enumerate(found.advice):
        yield "advice" if not number else "", f"· {advice}"


def _variable(found: VariableReport, *, full: bool) -> Iterator[tuple[str, str]]:
    sizes = " × ".join(f"{size:,}" for size in found.shape)
    yield found.name, f"[{', '.join(found.axes)}] {sizes}, {found.dtype}, {_bytes(found.raw_bytes)}"
    form = "not in chunks" if found.chunks is None else f"chunks {' × '.join(map(str, found.chunks))}"
    if found.shards is not None:
        form += f" in shards {' × '.join(map(str, found.shards))}"
    if found.codecs:
        form += f", {' + '.join(found.codecs)}"
    if found.stored_bytes is not None:
        form += f", {_bytes(found.stored_bytes)} stored"
    yield "", form
    for values in found.values[:SHOWN]:
        much = "" if full or values.rows == found.shape[0] else f" (of {values.rows:,} rows looked at)"
        name = "" if values.feature == found.name else f"{values.feature}: "
        yield (
            "",
            (
                f"{name}{values.low:.6g} … {values.high:.6g}, mean {values.mean:.6g}, "
                f"{values.missing:.2%} missing{much}"
            ),
        )
    if len(found.values) > SHOWN:
        yield "", f"and {len(found.values) - SHOWN} more features"


def _bytes(size: int) -> str:
    from windowloader.util.units import format_bytes

    return format_bytes(size)


def _span(seconds: float) -> str:
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:g} {name}"
    return f"{seconds * 1000:g} ms"
