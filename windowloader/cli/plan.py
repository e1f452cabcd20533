"""``windowloader plan``: what an epoch will take, before anything is read.

In: options. Out: the plan that the loader executes, as a page or JSON. Never computes:
`windowloader.plan.planner` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, app, duration, emit, fields, rate, windows_of
from .target import BatchSize, Horizon, Lookback, Stride, Target, on_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windowloader.plan.outlook import Outlook
    from windowloader.plan.plan import Plan

__all__ = ["plan"]


@app.command()
@on_target
def plan(
    target: Target,
    lookback: Lookback = 12,
    horizon: Horizon = 12,
    stride: Stride = 1,
    batch_size: BatchSize = 64,
    ranks: Annotated[int, typer.Option(min=1, help="Number of ranks.")] = 1,
    rank: Annotated[int, typer.Option(min=0, help="Rank to report.")] = 0,
    memory: Annotated[str, typer.Option(help="Memory per process, e.g. 4GiB.")] = "1GiB",
    shuffle: Annotated[bool, typer.Option(help="Shuffle, or keep the order of time.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order.")] = 0,
    active_blocks: Annotated[
        int | None, typer.Option(min=1, help="Blocks that are mixed at a time.", show_default="by memory")
    ] = None,
    lanes: Annotated[
        int | None, typer.Option(min=1, help="Lanes of the shuffled order.", show_default="as ranks")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Plan the first part of this split: 0.7,0.1,0.2.", show_default="all windows"),
    ] = None,
    step_time: Annotated[
        str | None,
        typer.Option(help="Duration of a training step, 80ms: adds how long it waits.", show_default=False),
    ] = None,
    latency: Annotated[str, typer.Option(help="Latency of a storage request.")] = "20ms",
    bandwidth: Annotated[str, typer.Option(help="Bandwidth per process.")] = "2Gbit",
    as_json: AsJson = False,
) -> None:
    """Show what an epoch will take: bytes, requests, memory, mixing, time to the first batch. Reads no values."""
    from windowloader.loader.loader import WindowLoader
    from windowloader.plan.outlook import outlook

    waits = duration(latency), rate(bandwidth)
    step = None if step_time is None else duration(step_time)
    windows = windows_of(target.open(), lookback, horizon, stride=stride, split=split)
    with WindowLoader(
        windows,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        fill=0.0,  # what is missing does not change what is read
        rank=rank,
        world_size=ranks,
        lanes=lanes,
        memory=memory,
        active_blocks=active_blocks,
    ) as loader:
        found = loader.plan()
    told = outlook(found, step_seconds=step or 0.0, latency=waits[0], bandwidth=waits[1])
    data = found.to_dict()
    data["first_seconds"] = found.first_seconds(latency=waits[0], rate=waits[1] / max(found.at_a_time, 1))
    data["outlook"] = None if step is None else told.to_dict()
    emit(data, as_json=as_json, show=lambda: _show(found, told))


def _show(found: Plan, told: Outlook) -> None:
    typer.echo(str(found))
    typer.echo()
    fields(list(_rows(found, told)))


def _rows(found: Plan, told: Outlook) -> Iterator[tuple[str, str]]:
    from windowloader.util.units import format_bytes

    network = f"{told.latency * 1000:g} ms and {format_bytes(told.bandwidth)}/s a process"
    steps = f"{found.steps:,} steps of {told.step_seconds * 1000:g} ms"
    if told.step_seconds:
        yield "training", f"{steps}: {_time(told.training_seconds)}"
    if found.at_a_time:
        while_training = ", while the steps train" if told.step_seconds else ""
        yield "reading", f"{_time(told.reading_seconds)} at {network}{while_training}"
        yield "first", f"after {_time(told.first_seconds)}"
    else:
        yield "reading", "rows are indexed where they lie: no requests"
    if not told.step_seconds:
        return
    waits = {
        "training": "the training step is the limit",
        "bandwidth": "bandwidth is the limit",
        "latency": "latency is the limit: larger chunks would help",
    }
    yield "stall", f"{told.stall_share:.1%} of the epoch, {_time(told.stall_seconds)}; {waits[told.limit]}"


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.2f} s"
