"""Commands about data: ``inspect``, ``preview``, ``stats``, ``convert``, ``cache list`` and ``cache clear``.

In: options. Out: a page or JSON. The package does the work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import options

__all__ = ["clear_cache", "convert", "inspect", "list_cache", "preview", "stats"]


@options.app.command()
@options.on_target()
def inspect(
    target: options.Target,
    lookback: options.Lookback = 12,
    horizon: options.Horizon = 12,
    batch_size: options.BatchSize = 64,
    graph: options.GraphFile = None,
    full: Annotated[bool, typer.Option("--full", help="Read all values instead of a sample.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show shape, storage, time range, gaps, missing values, and the batch they give."""
    from windowloader.view import inspection

    series = target.open(graph=graph)
    with options.progress_bar("bytes", quiet=as_json) as advance:
        found = inspection.inspect(
            series,
            lookback=lookback,
            horizon=horizon,
            batch_size=batch_size,
            full=full,
            progress=lambda done, total: advance("reading", done, total),
        )
    options.emit(found, as_json=as_json)


@options.app.command()
@options.on_target()
def preview(
    target: options.Target,
    lookback: options.Lookback = 12,
    horizon: options.Horizon = 12,
    delay: Annotated[int, typer.Option(min=0, help="Rows between inputs and targets.")] = 0,
    stride: options.Stride = 1,
    dilation: Annotated[int, typer.Option(min=1, help="Rows between the steps of a window.")] = 1,
    split: Annotated[
        str, typer.Option(help="Parts, as ratios, rows or dates: 2012-05-01,2012-06-01.")
    ] = "0.7,0.1,0.2",
    by: options.By = "targets",
    purge: Annotated[int, typer.Option(min=0, help="Rows left out between the parts.")] = 0,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Show the rows of some windows, the parts of a split on a time line, and the rows that parts share."""
    from windowloader.view.preview import preview as look
    from windowloader.windows.split import split as split_series
    from windowloader.windows.window_set import WindowSpec

    spec = WindowSpec(lookback=lookback, horizon=horizon, delay=delay, stride=stride, dilation=dilation)
    found = look(split_series(target.open(), spec, options.parts_of(split), by=by, purge=purge), seed=seed)
    options.emit(found, as_json=as_json)


@options.app.command()
@options.on_target()
def stats(
    target: options.Target,
    kind: Annotated[
        Literal["standard", "minmax", "robust"], typer.Option(help="Kind of scaler.")
    ] = "standard",
    per: Annotated[
        Literal["feature", "node", "entity"], typer.Option(help="What has its own numbers.")
    ] = "feature",
    weighting: Annotated[
        Literal["rows", "windows"], typer.Option(help="Count each row once, or per window.")
    ] = "rows",
    unseen: Annotated[Literal["raise", "pooled"], typer.Option(help="For entities without rows.")] = "raise",
    lookback: options.Lookback = 12,
    horizon: options.Horizon = 12,
    split: options.Split = None,
    by: options.By = "targets",
    out: Annotated[Path | None, typer.Option(help="File for the scaler, for StandardScaler.load.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Fit a scaler in one pass, in bounded memory."""
    from windowloader.scaling.scalers import MinMaxScaler, RobustScaler, StandardScaler

    kinds: Any = {"standard": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}
    options.check_folder_of("--out", out)
    windows = options.windows_of(target.open(), lookback, horizon, split=split, by=by)
    with options.progress_bar("rows", quiet=as_json) as advance:
        scaler = kinds[kind].fit(
            windows,
            per=per,
            weighting=weighting,
            unseen=unseen,
            progress=lambda done, total: advance("fitting", done, total),
        )
    if out is not None:
        scaler.save(out)
    options.emit({"windows": len(windows), "scaler": json.loads(scaler.to_json())}, as_json=as_json)


@options.app.command()
@options.on_target()
def convert(
    source: options.Target,
    destination: Annotated[
        str,
        typer.Argument(help="Result: NAME.zarr (local, s3:// or gs://) or NAME.npy.", show_default=False),
    ],
    chunks: Annotated[
        str | None, typer.Option(help="Rows per chunk, or all sizes: 288,100. Default: by cost.")
    ] = None,
    shards: Annotated[
        str | None, typer.Option(help="Rows per shard, or yes, or no. Default: by size.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float64, float32, float16 or int16. Default: as it is.")
    ] = None,
    compression: Annotated[str, typer.Option(help="lz4, zstd, gzip, none; with a level: zstd:9.")] = "lz4",
    span: Annotated[int, typer.Option(min=1, help="Rows that a window spans when the result is read.")] = 24,
    memory: options.Memory = "1GiB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and write. Default: up to 4.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Read everything back and compare.")] = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Do not resume an interrupted conversion.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing result when done.")
    ] = False,
    to_option: Annotated[list[str] | None, typer.Option(help="--option of the destination.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Convert data to chunks made for windows. Resumes after an interruption; shows only complete results."""
    from windowloader.convert.conversion import convert as convert_series

    phases = {"scan": "finding the range", "write": "writing", "check": "reading back"}
    series = source.open()
    with options.progress_bar("bytes", quiet=as_json) as advance:
        made = convert_series(
            series,
            destination,
            chunks=_sizes("--chunks", chunks),
            shards=shards == "yes" if shards in ("yes", "no") else _sizes("--shards", shards),
            dtype=dtype,
            compression=compression,
            span=span,
            memory=memory,
            threads=threads,
            verify=verify,
            restart=restart,
            overwrite=overwrite,
            storage_options=options.pairs(to_option, "--to-option")
            or options.pairs(source.given.get("storage_options")),
            progress=lambda phase, done, total: advance(phases[phase], done, total),
        )
    options.emit(made.to_dict(), as_json=as_json)


def _sizes(name: str, text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    parts = text.replace(" ", "").split(",")
    if not all(part.isdigit() for part in parts):
        raise typer.BadParameter(f"{name} {text}: expected whole numbers, 288 or 288,100.")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


cache = typer.Typer(help="List or clear what is cached on this node's disk.", no_args_is_help=True)
options.app.add_typer(cache, name="cache")
Folder = Annotated[str, typer.Argument(help="The folder that was given as cache_dir=.", show_default=False)]


@cache.command("list")
def list_cache(folder: Folder, as_json: options.AsJson = False) -> None:
    """List the arrays in a cache folder."""
    from windowloader.sources.disk_cache import DiskCache, check_folder

    found = [entry.to_dict() for entry in DiskCache(check_folder(folder)).arrays()]
    if found or as_json:
        options.emit(found if as_json else {"arrays": found}, as_json=as_json)
    else:
        typer.echo(f"{folder} holds nothing.")


@cache.command("clear")
def clear_cache(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Only arrays whose path or URL contains this text.")] = "",
    as_json: options.AsJson = False,
) -> None:
    """Remove arrays from a cache folder, except those that a process has open."""
    from windowloader.sources.disk_cache import DiskCache, check_folder
    from windowloader.util.units import format_bytes

    removed, kept = DiskCache(check_folder(folder)).clear(name=name)
    if as_json:
        found = {
            "removed": [entry.to_dict() for entry in removed],
            "kept": [entry.to_dict() for entry in kept],
        }
        options.emit(found, as_json=True)
        return
    count = "1 array" if len(removed) == 1 else f"{len(removed)} arrays"
    typer.echo(f"removed {count}, {format_bytes(sum(entry.bytes_held for entry in removed))}")
    for entry in kept:
        typer.echo(f"kept {entry.name}: a process has it open")
