"""``windowloader convert``: any source to Zarr or ``.npy``, laid out for windows.

In: options. Out: a store, and what it cost. Never converts; `windowloader.convert.conversion` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, app, emit, fields, progress_bar
from .target import Target, on_target, options_of

if TYPE_CHECKING:
    from windowloader.convert.report import ArrayReport, Conversion

__all__ = ["convert"]

PHASES = {"scan": "looking for the range", "write": "writing", "check": "reading back"}


@app.command()
@on_target
def convert(
    source: Target,
    destination: Annotated[
        str,
        typer.Argument(help="Result: NAME.zarr (local, s3:// or gs://) or NAME.npy.", show_default=False),
    ],
    chunks: Annotated[
        str | None,
        typer.Option(
            help="Rows per chunk, or its size along each axis: 288 or 288,100.", show_default="by cost"
        ),
    ] = None,
    shards: Annotated[
        str | None, typer.Option(help="Rows per shard, or yes, or no.", show_default="over 4,096 objects")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the result: float64, float32, float16, int16 (scaled).", show_default="as it is"
        ),
    ] = None,
    compression: Annotated[
        str, typer.Option(help="Of the result: lz4, zstd, gzip, none; with a level: zstd:9.")
    ] = "lz4",
    span: Annotated[int, typer.Option(min=1, help="Rows that a window spans when the result is read.")] = 24,
    memory: Annotated[str, typer.Option(help="Memory of the whole process, approximately.")] = "1GiB",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and write.", show_default="up to 4")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Read everything back and compare.")] = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start again instead of resuming an interrupted conversion.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing result once the new one is complete.")
    ] = False,
    to_option: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE for the bucket of the destination, where --option is for another.",
            show_default="--option",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert data to chunks made for windows. Resumes after an interruption; an unfinished result is not shown."""
    from windowloader.convert.conversion import convert as convert_series

    series = source.open()
    with progress_bar("bytes", quiet=as_json) as advance:
        made = convert_series(
            series,
            destination,
            chunks=_sizes("--chunks", chunks),
            shards=_shards(shards),
            dtype=dtype,
            compression=compression,
            span=span,
            memory=memory,
            threads=threads,
            verify=verify,
            restart=restart,
            overwrite=overwrite,
            storage_options=options_of("--to-option", to_option) or source.storage_options(),
            progress=lambda phase, done, total: advance(PHASES[phase], done, total),
        )
    emit(made.to_dict(), as_json=as_json, show=lambda: _show(made, verified=verify))


def _sizes(name: str, text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    parts = text.replace(" ", "").split(",")
    if not all(part.isdigit() for part in parts):
        raise typer.BadParameter(f"{name} {text}: whole numbers with commas between, 288 or 288,100.")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def _shards(text: str | None) -> int | list[int] | bool | None:
    if text in ("yes", "no"):
        return text == "yes"
    return _sizes("--shards", text)


def _show(made: Conversion, *, verified: bool) -> None:
    from windowloader.util.units import format_bytes

    rows = []
    for one in made.arrays:
        shape = " × ".join(f"{size:,} {dim}" for size, dim in zip(one.shape, one.dims, strict=True))
        rows.append((one.name, f"{shape}, {one.dtype}"))
        rows.append(("", _form(one)))
        if one.raw_bytes:
            share = one.stored_bytes / one.raw_bytes
            rows.append(
                ("", f"{format_bytes(one.stored_bytes)} stored, {share:.0%} of {format_bytes(one.raw_bytes)}")
            )
        if one.largest_error:
            rows.append(("", f"off by {one.largest_error:.3g} at most, {one.rms_error:.3g} rms"))
        if one.missing:
            rows.append(("", f"{one.missing:,} values missing"))
    total = sum(one.raw_bytes for one in made.arrays) - made.resumed_bytes
    resumed = f", {format_bytes(made.resumed_bytes)} were there" if made.resumed_bytes else ""
    rows.append(("took", f"{made.seconds:.1f} s, {format_bytes(total / max(made.seconds, 1e-9))}/s{resumed}"))
    rows.append(("checksum", f"{made.checksum}{', read back and compared' if verified else ''}"))
    rows += [("note" if not number else "", note) for number, note in enumerate(made.notes)]
    rows.append(("made", made.path))
    fields(rows)


def _form(one: ArrayReport) -> str:
    if (
        one.dims
        and one.stored_bytes
        and one.name == "array"
        and one.shards is None
        and one.access_cost is None
    ):
        return "one array in a file, which can be mapped"
    chunks = f"chunks {' × '.join(map(str, one.chunks))}"
    if one.shards is not None:
        chunks += f" in shards {' × '.join(map(str, one.shards))}"
    if one.access_cost is None:
        return chunks
    cost = one.access_cost
    return (
        f"{chunks}; by the model {cost['total']:.2f} × the bytes: waiting {cost['waiting']:.2f}, "
        f"halo {cost['halo']:.2f}, likeness {cost['likeness']:.2f}"
    )
