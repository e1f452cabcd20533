"""Options that commands share, each declared once, and how commands read numbers and print.

In: options as typed. Out: an opened series, numbers, progress bars, tables.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from windowloader.series.series import Series
    from windowloader.windows.window_set import WindowSet

app = typer.Typer(
    name="windowloader",
    help="Training batches of sliding windows over spatiotemporal arrays, built at run time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from windowloader import __version__

        typer.echo(__version__)
        raise typer.Exit


SUFFIXES = {".npy", ".npz", ".h5", ".hdf5", ".nc", ".nc4", ".csv", ".tsv", ".txt", ".parquet", ".pq", ".zarr"}
SOON = 2.0  # seconds of work before a progress bar appears

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Windows per batch.")]
By = Annotated[
    Literal["targets", "rows", "windows", "entities"], typer.Option(help="What the parts of a split divide.")
]
CacheDir = Annotated[Path | None, typer.Option(help="Folder for generated data.", show_default=False)]
GraphFile = Annotated[str | None, typer.Option(help="File of the graph: .pkl, .npz, .npy or .csv.")]
Horizon = Annotated[int, typer.Option(min=0, help="Target rows of a window.")]
Lookback = Annotated[int, typer.Option(min=1, help="Input rows of a window.")]
Memory = Annotated[str, typer.Option(help="Memory per process, e.g. 4GiB.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Split = Annotated[
    str | None,
    typer.Option(help="Take the first part of this split: 0.7,0.1,0.2.", show_default="all windows"),
]
Stride = Annotated[int, typer.Option(min=1, help="Rows between the starts of windows.")]

# Arguments of `windowloader.open` (start and freq: its timestamps), their types, options and help.
DATA: tuple[tuple[str, Any, str, str], ...] = (
    ("variables", list[str], "--variable --variables", "Array of the store; may be given again."),
    ("axes", str, "--axes", "One letter per axis: t time, n space, f feature."),
    ("features", list[str], "--feature --features", "Name of a feature; may be given again."),
    ("start", str, "--start", "Time of the first row, if the file has none: 2012-03-01."),
    ("freq", str, "--freq", "Time from row to row, with --start: 5min."),
    ("missing", float, "--missing", "Value that marks missing values: nan, 0, …"),
    ("fill_missing", bool, "--fill-missing", "Absent chunks of a store hold its fill value."),
    ("storage_options", list[str], "--option --storage-option",
     "KEY=VALUE for the file system or bucket; may be given again."),
)  # fmt: skip
TABLE: tuple[tuple[str, Any, str, str], ...] = (
    ("time", list[str], "--time", "Column of the timestamps; given again: columns that hold them together."),
    ("time_format", str, "--time-format", "Format of the timestamps: '%d/%m/%Y %H:%M'."),
    ("time_unit", str, "--time-unit", "Unit of timestamps that are numbers since 1970: s, ms, us, ns."),
    ("entity", str, "--entity", "Column of the entity, in a table of one row per reading."),
    ("columns", list[str], "--columns", "Column to keep; may be given again."),
    ("header", str, "--header", "Lines that name the columns: 0, or 0,1, or true, or false."),
    ("sep", str, "--sep", "Separator of the columns: ';', or '\\t'."),
    ("decimal", str, "--decimal", "Decimal mark: ','."),
    ("thousands", str, "--thousands", "Mark between thousands: '.'."),
    ("encoding", str, "--encoding", "Encoding of the text: latin-1, utf-16."),
    ("na_values", list[str], "--na-values", "Text of missing cells: '?'; may be given again."),
    ("dtype", list[str], "--dtype", "Type of the columns: float32; or of one: id=str; may be given again."),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What was typed to describe a series.

    Parameters
    ----------
    names : list of str
        Files, URLs, stores, folders, patterns.
    given : mapping of str to object
        The options of `DATA` and `TABLE` that were given.
    """

    names: list[str]
    given: Mapping[str, Any]

    def open(self, *, graph: str | None = None, **defaults: Any) -> Series:
        """Open it."""
        from windowloader.series.opening import open as open_any

        options = {**defaults, **{name: READ.get(name, _same)(value) for name, value in self.given.items()}}
        if ("start" in options) != ("freq" in options):
            raise typer.BadParameter("--start and --freq go together: --start 2012-03-01 --freq 5min")
        if "start" in options:
            options["timestamps"] = options.pop("start"), options.pop("freq")
        found = [file for name in self.names for file in _expanded(name)]
        return open_any(found[0] if len(found) == 1 else found, graph=graph, **options)


def on_target(
    argument: Any = None, kind: Any = list[str], default: Any = inspect.Parameter.empty
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command whose first parameter is a `Target` the options that describe one.

    An option that the command has itself is called ``--source-…`` for the target.

    Parameters
    ----------
    argument : typer argument or option, optional
        How the target itself is typed.
    kind, default
        Its type and default; by default it must be given.
    """
    what = "File, URL or store; several files, a folder or a pattern are joined along time."
    argument = argument or typer.Argument(help=what)

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        shown = [_parameter("target", kind, argument, default), *own]
        for panel, options in (("Data", DATA), ("Tables (CSV, Parquet), named as in pandas", TABLE)):
            for name, kind_of, flags, text in options:
                taken = any(one.name == name for one in own)
                names = [flags.replace("--", "--source-")] if taken else flags.split()
                option = typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)
                shown.append(_parameter(f"open_{name}", kind_of | None, option, None))

        @functools.wraps(command)
        def run(target: list[str] | None, **typed: Any) -> None:
            given = {
                name.removeprefix("open_"): typed.pop(name) for name in list(typed) if name[:5] == "open_"
            }
            given = {name: value for name, value in given.items() if value not in (None, [])}
            command(Target(target or [], given), **typed)

        shown = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {one.name: one.annotation for one in shown}
        return run

    return wrap


def _parameter(name: str, kind: Any, described: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[kind, described]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _expanded(name: str) -> list[str]:
    """Return the files of a folder that is not a store, in natural order."""
    from windowloader.sources.chunked import is_chunked
    from windowloader.sources.failures import Asked, Guard
    from windowloader.sources.formats import natural

    with Guard(Asked(name, doing="opened")):
        folder = Path(name)
        if "://" in name or not folder.is_dir() or is_chunked(name):
            return [name]
        files = [str(file) for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    kinds = sorted({Path(file).suffix.lower() for file in files})
    if len(kinds) > 1:
        raise typer.BadParameter(f"{name} holds files of several kinds: {', '.join(kinds)}. Give a pattern.")
    return sorted(files, key=natural) or [name]


# -- values ----------------------------------------------------------------------------------------------------------


def pairs(typed: list[str] | None, option: str = "--option") -> dict[str, Any]:
    """Parse ``KEY=VALUE``; values as JSON if they are, else as text."""
    found = [pair.partition("=") for pair in typed or []]
    if any(not sign for _, sign, _ in found):
        raise typer.BadParameter(f"{option} takes KEY=VALUE: {option} anon=true")
    return {key: _value(value) for key, _, value in found}


def _same(value: Any) -> Any:
    return value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _dtype(typed: list[str]) -> Any:
    by_column = {column: kind for column, sign, kind in (text.partition("=") for text in typed) if sign}
    return by_column or typed[-1]


READ: dict[str, Callable[[Any], Any]] = {
    "storage_options": pairs,
    "time": lambda typed: typed[0] if len(typed) == 1 else typed,
    "header": lambda typed: _value(f"[{typed}]" if "," in typed else typed),
    "sep": lambda typed: typed.replace("\\t", "\t"),
    "dtype": _dtype,
}


def parts_of(text: str) -> list[Any]:
    """Parse ratios, rows or dates.

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
    """Parse seconds.

    Examples
    --------
    >>> duration("80ms"), duration("1.5 s")
    (0.08, 1.5)
    """
    sizes = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in sizes:
        raise typer.BadParameter(f"{text!r} must be a duration with its unit: 80ms, 1.5s or 2min.")
    return float(found[1]) * sizes[found[2]]


def rate(text: str) -> float:
    """Parse bytes per second.

    Examples
    --------
    >>> rate("2Gbit"), rate("250MB"), rate("1GiB/s")
    (250000000.0, 250000000.0, 1073741824.0)
    """
    from windowloader.util.units import parse_bytes

    plain = text.strip().removesuffix("/s").removesuffix("ps")
    bits = re.fullmatch(r"(.*[0-9])\s*([kMGT]?)bit", plain)
    size = parse_bytes(f"{bits[1]}{bits[2]}B" if bits else plain, name="--bandwidth")
    return size / 8 if bits else float(size)


def windows_of(
    series: Series,
    lookback: int,
    horizon: int,
    *,
    stride: int = 1,
    split: str | None = None,
    by: Any = "targets",
) -> WindowSet:
    """Return all windows of a series, or those of the first part of a split."""
    from windowloader.windows.split import split as split_series
    from windowloader.windows.window_set import WindowSet, WindowSpec

    spec = WindowSpec(lookback=lookback, horizon=horizon, stride=stride)
    if split is None:
        return WindowSet(series, spec)
    return split_series(series, spec, parts_of(split), by=by).sets[0]


def cache_folder(name: str) -> Path:
    """Return the folder for data that a command generates."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "windowloader" / name


def check_folder_of(option: str, file: Path | None) -> None:
    """Refuse an output file whose folder does not exist, before any work."""
    if file is not None and not file.resolve().parent.is_dir():
        raise typer.BadParameter(f"{option} {file}: there is no folder {file.resolve().parent}")


# -- printing --------------------------------------------------------------------------------------------------------


def emit(found: Any, *, as_json: bool) -> None:
    """Print plain values: as JSON, or for people."""
    if as_json:
        typer.echo(json.dumps(_strict(found), indent=2, allow_nan=False))
    else:
        show(found, Console(highlight=False))


def _strict(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(found: Any, console: Console) -> None:
    """Print nested values as names and values in two columns; empty ones are left out."""
    table = Table.grid(padding=(0, 2))
    for name, text in _rows(found, ""):
        table.add_row(Text(name, style="bold"), Text(text))
    console.print(table)


def _rows(found: Any, indent: str) -> Iterator[tuple[str, str]]:
    for key, value in found.items():
        name = indent + key.replace("_", " ")
        if isinstance(value, Mapping) and value:
            yield name, ""
            yield from _rows(value, f"{indent}  ")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for item in value:
                yield from _rows({key: item}, indent)
        elif isinstance(value, list | tuple) and key in ("advice", "notes", "longest"):
            yield from ((name, _text(key, line)) for line in value)
        elif isinstance(value, str) and "\n" in value:
            yield from ((name, line) for line in value.splitlines())
        elif isinstance(value, bool | float | int) or value:
            yield name, _text(key, value)


def _text(key: str, value: Any) -> str:
    from windowloader.util.units import format_bytes

    if isinstance(value, list | tuple):
        texts = [_text("", item) for item in value]
        return f"{texts[0]} … {texts[-1]} ({len(texts)})" if len(texts) > 6 else ", ".join(texts)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        return (
            format_bytes(value)
            if key.endswith("bytes")
            else f"{value:,}"
            if isinstance(value, int)
            else f"{value:.6g}"
        )
    return str(value)


@contextlib.contextmanager
def progress_bar(unit: Literal["bytes", "rows"], *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Yield a function ``(what, done, total)`` that draws a bar on a terminal once the work takes a while.

    Examples
    --------
    >>> with progress_bar("rows") as advance:
    ...     advance("reading", 1, 2)
    """
    console = Console(stderr=True)
    size = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
    columns = ("{task.description}", bars.BarColumn(), size, bars.TimeRemainingColumn())
    bar = bars.Progress(*columns, console=console, transient=True)
    began, tasks, shown = time.monotonic(), {}, console.is_terminal and not quiet

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)
        if shown and time.monotonic() - began > SOON:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
