"""``windowloader demo``: from a file to a trained model, and what that cost.

In: options. Out: tables, JSON, a picture. Never computes; `windowloader.demo` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windowloader.errors import MissingExtraError

from .common import AsJson, app, data_folder
from .target import GraphFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from torch import nn

    from windowloader.demo.running import DemoResult
    from windowloader.demo.task import DemoTask
    from windowloader.demo.training import Settings

__all__ = ["demo"]


@app.command()
def demo(
    data: Annotated[
        str | None,
        typer.Option(help="Your own data: a file or URL. Default: generated data of METR-LA's size."),
    ] = None,
    adjacency: GraphFile = None,
    variable: Annotated[
        list[str] | None, typer.Option(help="Arrays of the store; may be given again.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Time of the first row, where the file has none: 2012-03-01.")
    ] = None,
    freq: Annotated[str | None, typer.Option(help="Time from row to row, with --start: 5min.")] = None,
    missing: Annotated[float, typer.Option(help="Value that marks missing values in your data.")] = float(
        "nan"
    ),
    fill_missing: Annotated[
        bool, typer.Option("--fill-missing", help="Absent chunks of a store hold its fill value.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: 2, more where the data are short.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Default: 64, less for large graphs or short data.", show_default=False),
    ] = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="Default: all windows once.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order and the model.")] = 0,
    ranks: Annotated[int, typer.Option(min=1, help="Number of processes to train on, by DDP over gloo.")] = 1,
    save: Annotated[
        Path | None, typer.Option(help="Draw forecasts, errors and memory: plot.png, .svg or .pdf.")
    ] = None,
    as_json: AsJson = False,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Folder for the generated data set.", show_default=False)
    ] = None,
    size: Annotated[tuple[int, int], typer.Option(help="Steps and nodes of the generated data set.")] = (
        34_272,
        207,
    ),
) -> None:
    """Train a small graph network on windows that are never stored, and say what it cost."""
    from rich.console import Console

    began = time.perf_counter()
    if (start is None) != (freq is None):
        raise typer.BadParameter("--start and --freq go together: --start 2012-03-01 --freq 5min")
    if data is None and any(value is not None for value in (adjacency, variable, start)):
        raise typer.BadParameter(
            "--adjacency, --variable, --start and --freq describe --data; give --data too"
        )
    if save is not None and not save.resolve().parent.is_dir():
        raise typer.BadParameter(f"--save {save}: there is no folder {save.resolve().parent}")
    console = Console(quiet=as_json, highlight=False)
    _import_torch()
    from windowloader.demo.running import run
    from windowloader.demo.task import open_task
    from windowloader.demo.training import settle

    task = open_task(
        data,
        adjacency=adjacency,
        variables=variable,
        timestamps=None if start is None or freq is None else (start, freq),
        missing=missing,
        fill_missing=fill_missing,
        cache_dir=cache_dir or data_folder("demo"),
        size=size,
        seed=seed,
    )
    settings = settle(task, epochs=epochs, batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=seed)
    _introduce(console, task, settings)
    with _joined(ranks, task, settings) as wrap:
        result = _with_progress(
            console,
            task,
            settings,
            lambda advance: run(task, settings, began=began, ranks=ranks, wrap=wrap, advance=advance),
        )
    _conclude(console, result, task, save, as_json=as_json)


def _import_torch() -> None:
    """Import torch so that its threads sleep while they wait.

    Threads that spin at a barrier are a little quicker on idle cores, and more than ten times slower where other
    processes want the same cores, as on laptops and shared machines. It has to be said before OpenMP starts.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the demo trains with PyTorch: pip install 'windowloader[demo]'") from error


def _joined(
    ranks: int, task: DemoTask, settings: Settings
) -> contextlib.AbstractContextManager[Callable[[nn.Module], nn.Module]]:
    """Be the first of some ranks, which for one is nothing."""
    if ranks == 1:
        return contextlib.nullcontext(lambda model: model)
    from windowloader.demo.ranks import joined

    return joined(ranks, task, settings)


def _introduce(console: Console, task: DemoTask, settings: Settings) -> None:
    from rich.table import Table
    from rich.text import Text

    told = Table.grid(padding=(0, 2))
    for word, meaning in _told(task, settings):
        told.add_row(Text(word, style="bold"), Text(meaning))
    console.print(told)
    console.print()


def _told(task: DemoTask, settings: Settings) -> Iterator[tuple[str, str]]:
    """Say what is known before the training begins, a line each."""
    from windowloader.util.units import format_bytes

    if task.made_up:
        yield "data", "generated, of METR-LA's kind: nothing here was measured on a road"
    yield "opened", repr(task.series)
    parts = f"{len(task.train):,} windows to train, {len(task.val):,} to validate, {len(task.test):,} to test"
    yield "split", f"{parts}; no part reads targets of a later one"
    yield "scaled", f"{task.scaler!r}, fitted on the rows to train"
    yield "stored", f"no window; all would take {format_bytes(task.materialised_bytes())} in float32"
    if task.series.graph is None:
        yield "graph", "none; with --adjacency nodes would learn from their neighbours"
    if task.series.clock is None:
        yield "clock", "none; with --start and --freq the model would know the time of day and week"
    steps = settings.steps_per_epoch
    passes = f"{settings.epochs} epoch{'s' * (settings.epochs != 1)} of {f'{steps} steps' if steps else 'all windows'}"
    yield "train", f"a graph network; {passes}, {settings.batch_size} windows a step, seed {settings.seed}"


def _with_progress(
    console: Console,
    task: DemoTask,
    settings: Settings,
    work: Callable[[Callable[[int, int, float], object]], DemoResult],
) -> DemoResult:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    steps = settings.steps_per_epoch or -(-len(task.train) // settings.batch_size)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        bar = progress.add_task("loading", total=settings.epochs * steps, loss="")

        def advance(epoch: int, step: int, loss: float) -> None:
            progress.update(
                bar,
                completed=epoch * steps + step,
                description=f"epoch {epoch + 1} of {settings.epochs}",
                loss=f"scaled error {loss:.3f}",
            )

        return work(advance)


def _conclude(
    console: Console, result: DemoResult, task: DemoTask, save: Path | None, *, as_json: bool
) -> None:
    from windowloader.demo.report import render

    console.print()
    console.print(render(result))
    if save is not None:
        from windowloader.demo import picture

        picture.save(result, task, save)
        console.print(f"saved {save}")
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=1))
