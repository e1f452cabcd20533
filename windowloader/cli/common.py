"""What the commands share beside their target: text as numbers, progress, printing for people or programs.

In: options as typed. Out: windows, bars, text. Never a command itself.
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

    from windowloader.series.series import Series
    from windowloader.windows.window_set import WindowSet

__all__ = [
    "AsJson",
    "app",
    "data_folder",
    "duration",
    "emit",
    "fields",
    "parts_of",
    "progress_bar",
    "rate",
    "windows_of",
]

SOON = 2.0  # seconds of work that need no bar

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]

app = typer.Typer(
    name="windowloader",
    help="Training batches of sliding windows over spatiotemporal arrays, built at run time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    """Training batches of sliding windows over spatiotemporal arrays, built at run time."""
    if version:
        from windowloader import __version__

        typer.echo(__version__)
        raise typer.Exit


def data_folder(name: str) -> Path:
    """Where a command keeps data that it generates."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "windowloader" / name


def windows_of(
    series: Series,
    lookback: int,
    horizon: int,
    *,
    stride: int = 1,
    split: str | None = None,
    by: Any = "targets",
) -> WindowSet:
    """All windows of a shape, or those of the first part of a split."""
    from windowloader.windows.split import split as split_series
    from windowloader.windows.window_set import WindowSet, WindowSpec

    windows = WindowSet(series, WindowSpec(lookback=lookback, horizon=horizon, stride=stride))
    return windows if split is None else split_series(windows, None, parts_of(split), by=by).sets[0]


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
    >>> duration("80ms"), duration("1.5 s")
    (0.08, 1.5)
    """
    sizes = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in sizes or not _is_number(found[1]):
        raise typer.BadParameter(f"{text!r} is no duration with its unit. Write 80ms, 1.5s or 2min.")
    return float(found[1]) * sizes[found[2]]


def rate(text: str) -> float:
    """Bytes a second of "2Gbit" or "250MB".

    Examples
    --------
    >>> rate("2Gbit"), rate("250MB"), rate("1GiB/s")
    (250000000.0, 250000000.0, 1073741824.0)
    """
    from windowloader.util.units import parse_bytes

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
    if quiet or sys.stderr is None or not sys.stderr.isatty():
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
