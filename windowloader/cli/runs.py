"""Commands about runs: ``plan``, ``warmup``, ``bench`` and ``demo``.

In: options. Out: a page, tables, JSON, a picture. The package does the work.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from windowloader.errors import MissingExtraError

from . import options

if TYPE_CHECKING:
    from windowloader.demo.training import DemoTask
    from windowloader.windows.window_set import WindowSet

METR_LA = (34_272, 207)

__all__ = ["bench", "demo", "plan", "warmup"]


@options.app.command()
@options.on_target()
def plan(
    target: options.Target,
    lookback: options.Lookback = 12,
    horizon: options.Horizon = 12,
    stride: options.Stride = 1,
    batch_size: options.BatchSize = 64,
    ranks: Annotated[int, typer.Option(min=1, help="Number of ranks.")] = 1,
    rank: Annotated[int, typer.Option(min=0, help="Rank to report.")] = 0,
    memory: options.Memory = "1GiB",
    shuffle: Annotated[bool, typer.Option(help="Shuffle, or keep the order of time.")] = True,
    seed: options.Seed = 0,
    active_blocks: Annotated[
        int | None, typer.Option(min=1, help="Blocks mixed at a time. Default: by memory.")
    ] = None,
    lanes: Annotated[
        int | None, typer.Option(min=1, help="Lanes of the shuffled order. Default: as ranks.")
    ] = None,
    split: options.Split = None,
    step_time: Annotated[
        str | None, typer.Option(help="Duration of a training step: 80ms; adds its waits.")
    ] = None,
    latency: Annotated[str, typer.Option(help="Latency of a storage request.")] = "20ms",
    bandwidth: Annotated[str, typer.Option(help="Bandwidth per process.")] = "2Gbit",
    as_json: options.AsJson = False,
) -> None:
    """Show what an epoch will take: bytes, requests, memory, mixing, time to the first batch. Reads no values."""
    from windowloader.loader.loader import WindowLoader
    from windowloader.plan.outlook import outlook

    delay, speed = options.duration(latency), options.rate(bandwidth)
    step = None if step_time is None else options.duration(step_time)
    windows = options.windows_of(target.open(), lookback, horizon, stride=stride, split=split)
    with WindowLoader(
        windows,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        fill=0.0,  # missing values do not change what is read
        rank=rank,
        world_size=ranks,
        lanes=lanes,
        memory=memory,
        active_blocks=active_blocks,
    ) as loader:
        found = loader.plan()
    expected = outlook(found, step_seconds=step or 0.0, latency=delay, bandwidth=speed)
    first = found.first_seconds(latency=delay, rate=speed / max(found.at_a_time, 1))
    if as_json:
        later = None if step is None else expected.to_dict()
        options.emit({**found.to_dict(), "first_seconds": first, "outlook": later}, as_json=True)
    else:
        typer.echo(f"{found}\n")
        options.emit({"outlook": expected.to_dict()}, as_json=False)


@options.app.command()
def warmup(
    source: Annotated[
        list[str] | None, typer.Option(help="Type of the stored values. Default: float32.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Type of the batches. Default: float32.")] = None,
    missing: Annotated[bool, typer.Option(help="Compile kernels for masks and fills too.")] = True,
    as_json: options.AsJson = False,
) -> None:
    """Compile the kernels now, so that no first batch waits for it. NUMBA_CACHE_DIR says where they are kept."""
    from windowloader.warmup import cache_folder, warm_up

    done = [asdict(kind) for kind in warm_up(source or ["float32"], dtype or ["float32"], missing=missing)]
    folder = cache_folder()
    options.emit({"compiled": done, "folder": folder}, as_json=as_json)
    if folder is None:
        typer.echo(
            "not kept: set NUMBA_CACHE_DIR to a writable folder, here and where training runs", err=True
        )


@options.app.command()
@options.on_target(
    typer.Argument(help="Your data; default: generated data of --size."), list[str] | None, None
)
def bench(
    target: options.Target,
    size: Annotated[
        list[str] | None, typer.Option(help="metr-la, pems-bay, pems-all-la, pems, or 10000x50.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Row to measure; may be given again. Default: all.")
    ] = None,
    lookback: options.Lookback = 12,
    horizon: options.Horizon = 12,
    batch_size: options.BatchSize = 64,
    memory: options.Memory = "1GiB",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.05, help="Seconds per turn.")] = 2.0,
    cache_dir: options.CacheDir = None,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.md.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure the loader beside memcpy of the same bytes, and its plan beside what it read."""
    from windowloader.bench import measure

    def opened(name: str) -> tuple[WindowSet, dict[str, Any]]:
        if name == "your data":
            return options.windows_of(target.open(), lookback, horizon), {"fill": 0.0}
        return measure.open_size(
            measure.generate(measure.find(name), cache_dir or options.cache_folder("bench"))
        )

    rows, plans = [], {}
    turns: dict[str, Any] = {"only": only, "rounds": rounds, "seconds": seconds}
    with Console(stderr=True).status("setting up") as status:
        for name in (["your data"] if target.names else []) + (size or ([] if target.names else ["metr-la"])):
            windows, fixed = opened(name)
            asked = {**fixed, "batch_size": batch_size, "memory": memory}
            rows += measure.measure(windows, name=name, options=asked, advance=status.update, **turns)
            status.update(f"{name}: plan beside measurement")
            plans[name] = measure.check_plan(windows, options=asked)
    found = {"machine": measure.machine(), "results": rows, "plans": plans}
    table = measure.markdown(rows)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (out / "bench.md").write_text(table + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(rows))
        return
    typer.echo(f"{table}\n\nplanned and measured, over up to 200 steps:")
    options.emit(plans, as_json=False)


@options.app.command()
@options.on_target(
    typer.Option("--data", help="Your own data: a file or URL. Default: generated data of METR-LA's size."),
    list[str] | None,
    None,
)
def demo(
    target: options.Target,
    adjacency: options.GraphFile = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: 2, more for short data.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Default: 64, less for large graphs or short data.")
    ] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(min=1, help="Default: all windows once.")] = None,
    seed: options.Seed = 0,
    ranks: Annotated[int, typer.Option(min=1, help="Number of processes to train on, by DDP over gloo.")] = 1,
    save: Annotated[
        Path | None, typer.Option(help="Draw forecasts, errors and memory: plot.png, .svg, .pdf.")
    ] = None,
    as_json: options.AsJson = False,
    cache_dir: options.CacheDir = None,
    size: Annotated[tuple[int, int], typer.Option(help="Steps and nodes of the generated data.")] = METR_LA,
) -> None:
    """Train a small graph network on windows that are never stored, and show its errors and costs."""
    from windowloader.series.opening import open as open_series

    began = time.perf_counter()
    if not target.names and (adjacency is not None or target.given):
        raise typer.BadParameter("--adjacency and options that open data describe --data; give --data too")
    options.check_folder_of("--save", save)
    console = Console(quiet=as_json, highlight=False)
    # OpenMP threads that sleep at barriers are much faster on shared cores. Set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from windowloader.demo import generated, report, training
    except ImportError as error:
        raise MissingExtraError("the demo needs PyTorch: pip install 'windowloader[demo]'") from error
    if target.names:
        series = target.open(graph=adjacency, missing=float("nan"))
    else:
        made = generated.generate(
            cache_dir or options.cache_folder("demo"), steps=size[0], nodes=size[1], seed=seed
        )
        times = (generated.START, generated.STEP)
        series = open_series(made.speeds, features=["speed"], timestamps=times, missing=0.0, graph=made.graph)
    task = training.open_task(
        series, epochs=epochs, batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=seed
    )
    options.show(_introduction(task, generated=not target.names), console)
    steps = steps_per_epoch or -(-len(task.train) // task.batch_size)
    with options.progress_bar("rows", quiet=as_json) as bar:
        figures, forecasts = training.run(
            task,
            ranks=ranks,
            advance=lambda epoch, step, _: bar(f"epoch {epoch + 1} of {task.epochs}", step, steps),
        )
    figures.update(generated=not target.names, seconds=time.perf_counter() - began)
    console.print("", report.errors_table(figures))
    options.show(report.costs(figures), console)
    if save is not None:
        report.picture(figures, forecasts, task, save)
        console.print(f"saved {save}")
    if as_json:
        options.emit(figures, as_json=True)


def _introduction(task: DemoTask, *, generated: bool) -> dict[str, Any]:
    """Describe what is known before training."""
    parts = f"{len(task.train):,} windows to train, {len(task.val):,} to validate, {len(task.test):,} to test"
    steps = f"{task.steps_per_epoch} steps" if task.steps_per_epoch else "all windows"
    no_graph = task.graph is None
    return {
        "data": "generated, like METR-LA; nothing was measured on a road" if generated else "",
        "opened": repr(task.train.series),
        "split": f"{parts}; no part reads targets of a later one",
        "scaled": f"{task.scaler!r}, fitted on the rows to train",
        "graph": "none; with --adjacency nodes would learn from their neighbours" if no_graph else "",
        "clock": "" if task.step_seconds else "none; with --start and --freq the model would know the time",
        "train": f"{task.epochs} epochs of {steps}, {task.batch_size} windows a step, seed {task.seed}",
    }
