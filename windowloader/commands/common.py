"""What the commands share: options that open a series, progress, printing for people or programs.

In: options as typed. Out: a `Series`, bars, text. Never a command itself.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from windowloader.series import Series
    from windowloader.windows import WindowSet

__all__ = [
    "AsJson",
    "Axes",
    "Features",
    "Freq",
    "Graph",
    "Missing",
    "Options",
    "Start",
    "Targets",
    "Variables",
    "data_folder",
    "duration",
    "emit",
    "fields",
    "open_series",
    "parts_of",
    "progress_bar",
    "rate",
    "windows_of",
]

SOON = 2.0  # seconds of work that need no bar
SUFFIXES = {".npy", ".npz", ".h5", ".hdf5", ".nc", ".nc4", ".csv", ".tsv", ".txt", ".parquet", ".pq", ".zarr"}

Targets = Annotated[
    list[str],
    typer.Argument(help="File, URL or store; several files, a folder or a pattern are joined along time."),
]
Variables = Annotated[
    list[str] | None, typer.Option("--variable", help="Arrays of the store; may be given again.")
]
Axes = Annotated[str | None, typer.Option(help="A letter an axis: t time, n space, f feature.")]
Features = Annotated[
    list[str] | None, typer.Option("--feature", help="Names of the features; may be given again.")
]
Start = Annotated[
    str | None, typer.Option(help="Time of the first row, where the file has none: 2012-03-01.")
]
Freq = Annotated[str | None, typer.Option(help="From row to row, with --start: 5min.")]
Missing = Annotated[
    float | None, typer.Option(help="What marks a missing value: nan, 0, …", show_default=False)
]
Graph = Annotated[str | None, typer.Option(help="Its graph: pkl, npz, npy or CSV.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="For the file system or bucket, KEY=VALUE; may be given again."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


def data_folder(name: str) -> Path:
    """Where a command keeps data that it generates."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "windowloader" / name


def open_series(
    targets: list[str],
    *,
    variables: list[str] | None = None,
    axes: str | None = None,
    features: list[str] | None = None,
    start: str | None = None,
    freq: str | None = None,
    missing: float | None = None,
    graph: str | None = None,
    options: list[str] | None = None,
) -> Series:
    """Open what the options describe."""
    from windowloader.opening import open as open_any

    if (start is None) != (freq is None):
        raise typer.BadParameter("--start and --freq go together: --start 2012-03-01 --freq 5min")
    pairs = [pair.partition("=") for pair in options or []]
    if any(not sign for _, sign, _ in pairs):
        raise typer.BadParameter("--option takes KEY=VALUE: --option anon=true")
    found = [file for target in targets for file in _expanded(target)]
    return open_any(
        found[0] if len(found) == 1 else found,
        axes=axes,
        variables=variables or None,
        features=features or None,
        timestamps=None if start is None or freq is None else (start, freq),
        missing=missing,
        graph=graph,
        storage_options={key: _value(value) for key, _, value in pairs},
    )


def _expanded(target: str) -> list[str]:
    """Files of a folder that is no store, in the order of their names."""
    folder = Path(target)
    if "://" in target or not folder.is_dir() or _is_store(target):
        return [target]
    files = sorted(str(file) for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    kinds = {Path(file).suffix.lower() for file in files}
    if len(kinds) > 1:
        raise typer.BadParameter(
            f"{target} holds files of several kinds: {', '.join(sorted(kinds))}. Give a pattern."
        )
    return files or [target]


def _is_store(target: str) -> bool:
    from windowloader.sources.chunked import is_chunked

    return is_chunked(target)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def windows_of(series: Series, lookback: int, horizon: int, *, stride: int = 1) -> WindowSet:
    """All windows of a shape."""
    from windowloader.windows import WindowSet, WindowSpec

    return WindowSet(series, WindowSpec(lookback=lookback, horizon=horizon, stride=stride))


def parts_of(text: str) -> list[Any]:
    """Ratios, rows or dates from text.

    Examples
    --------
    >>> parts_of("0.7,0.1,0.2"), parts_of("2012-05-01,2012-06-01")
    ([0.7, 0.1, 0.2], ['2012-05-01', '2012-06-01'])
    """
    return [
        int(part) if part.isdigit() else float(part) if re.fullmatch(r"[0-9]*\.[0-9]+", part) else part
        for part in (piece.strip() for piece in text.split(","))
    ]


def duration(text: str) -> float:
    """Seconds of "80ms", "1.5s", "2min".

    Examples
    --------
    >>> duration("80ms"), duration("1.5 s"), duration("0.2")
    (0.08, 1.5, 0.2)
    """
    sizes = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0}
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in sizes or not _is_number(found[1]):
        raise typer.BadParameter(f"{text!r} is no duration. Write 80ms, 1.5s or 2min.")
    return float(found[1]) * sizes[found[2]]


def rate(text: str) -> float:
    """Bytes a second of "2Gbit" or "250MB".

    Examples
    --------
    >>> rate("2Gbit"), rate("250MB"), rate("1GiB/s")
    (250000000.0, 250000000.0, 1073741824.0)
    """
    from windowloader.units import parse_bytes

    plain = text.strip().removesuffix("/s").removesuffix("ps")
    bits = re.fullmatch(r"(.*[0-9])\s*([kMGT]?)bit", plain)
    if bits:
        return parse_bytes(f"{bits[1]}{bits[2]}B", name="--bandwidth") / 8
    return float(parse_bytes(plain, name="--bandwidth"))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def emit(found: dict[str, Any], *, as_json: bool, show: Callable[[], object]) -> None:
    """Print for programs or for people."""
    if as_json:
        typer.echo(json.dumps(_strict(found), indent=2, allow_nan=False))
    else:
        show()


def _strict(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fields(rows: list[tuple[str, str]], *, file: Any = None) -> None:
    """Print names and what they are, in two columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    Console(file=file, highlight=False, soft_wrap=False).print(table)


@contextlib.contextmanager
def progress_bar(unit: str, *, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function ``(what, done, total)`` that draws a bar once the work has taken two seconds.

    Parameters
    ----------
    unit : {"bytes", "rows"}
    quiet : bool
        Draw nothing; so it is where standard error is no terminal.

    Examples
    --------
    >>> with progress_bar("rows") as advance:
    ...     advance("reading", 1, 2)
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    sized = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *sized, TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    began, tasks = time.monotonic(), {}

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total, completed=done)
        if not bar.live.is_started and time.monotonic() - began > SOON:
            bar.start()
        bar.update(tasks[what], completed=done, total=total)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
