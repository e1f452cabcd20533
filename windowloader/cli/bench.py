"""``windowloader bench``: every means a user would pick, side by side on this machine.

In: sizes and names. Out: a table, and with ``--out`` JSON, Markdown and two pictures. Never computes;
`windowloader.bench` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, app, data_folder
from .target import BatchSize

if TYPE_CHECKING:
    from windowloader.bench.rounds import BenchResult

__all__ = ["bench"]


@app.command()
def bench(
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="metr-la, pems-bay, pems-all-la, pems, or a shape like 10000x50; may be given again."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Name of a loader to measure; may be given again. Default: all.")
    ] = None,
    batch_size: BatchSize = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds per loader.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.05, help="Duration of a round.")] = 2.0,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder for generated data.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, Markdown and pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure memcpy, windowloader and other loaders in turns, on generated data of the sizes in the literature."""
    from rich.console import Console

    from windowloader.bench.rounds import measure
    from windowloader.bench.sizes import find, generate
    from windowloader.bench.tables import markdown

    console = Console(stderr=True)
    folder = cache_dir or data_folder("bench")
    results: list[BenchResult] = []
    with console.status("begin") as status:
        for name in size or ["metr-la"]:
            shape = find(name)
            status.update(f"{shape.name}: make {shape.steps:,} × {shape.nodes:,}")
            path = generate(shape, folder)
            results += measure(
                shape,
                path,
                names=only,
                batch=batch_size,
                rounds=rounds,
                seconds=seconds,
                advance=status.update,
            )
    if out is not None:
        _save(results, out, console)
    typer.echo(json.dumps([result.to_dict() for result in results]) if as_json else markdown(results))


def _save(results: list[BenchResult], out: Path, console: object) -> None:
    from windowloader.bench.pictures import bars_of, draw
    from windowloader.bench.tables import markdown, write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(results, out / "bench.json")
    (out / "bench.md").write_text(markdown(results) + "\n", encoding="utf-8")
    draw(bars_of(results), out)
    console.print(f"wrote {out}")  # type: ignore[attr-defined]
