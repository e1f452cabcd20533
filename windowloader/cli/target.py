"""The target of a command: what to open, and the options that say how, the same for all commands.

In: a command that takes a `Target` first. Out: the command with all options that describe one. Opens nothing itself
before the command asks.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from windowloader.series.series import Series

__all__ = [
    "BatchSize",
    "By",
    "GraphFile",
    "Horizon",
    "Lookback",
    "Stride",
    "Target",
    "on_target",
    "options_of",
]

SUFFIXES = {".npy", ".npz", ".h5", ".hdf5", ".nc", ".nc4", ".csv", ".tsv", ".txt", ".parquet", ".pq", ".zarr"}

Lookback = Annotated[int, typer.Option(min=1, help="Input rows of a window.")]
Horizon = Annotated[int, typer.Option(min=0, help="Target rows of a window.")]
Stride = Annotated[int, typer.Option(min=1, help="Rows between the starts of windows.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Windows per batch.")]
GraphFile = Annotated[str | None, typer.Option(help="File of the graph: .pkl, .npz, .npy or .csv.")]
By = Annotated[
    Literal["targets", "rows", "windows", "entities"],
    typer.Option(help="How the parts of a split are told apart."),
]

# What `windowloader.open` calls it (but start and freq: its timestamps), its type, how it is typed, what it is.
DATA: tuple[tuple[str, Any, str, str], ...] = (
    ("variables", list[str], "--variable --variables", "Arrays of the store; may be given again."),
    ("axes", str, "--axes", "One letter an axis: t time, n space, f feature."),
    ("features", list[str], "--feature --features", "Names of the features; may be given again."),
    ("start", str, "--start", "Time of the first row, where the file has none: 2012-03-01."),
    ("freq", str, "--freq", "Time from row to row, with --start: 5min."),
    ("missing", float, "--missing", "Value that marks missing values: nan, 0, …"),
    ("fill_missing", bool, "--fill-missing", "Absent chunks of a store hold its fill value."),
    ("storage_options", list[str], "--option --storage-option",
     "KEY=VALUE for the file system or bucket; may be given again."),
)  # fmt: skip
TABLE: tuple[tuple[str, Any, str, str], ...] = (
    ("time", list[str], "--time", "Column of the timestamps; given again: columns that hold them together."),
    ("time_format", str, "--time-format", "How the timestamps are written: '%d/%m/%Y %H:%M'."),
    ("time_unit", str, "--time-unit", "Unit of timestamps that are numbers since 1970: s, ms, us, ns."),
    ("entity", str, "--entity", "Column that says whose a reading is, in a table of one row a reading."),
    ("columns", list[str], "--columns", "Columns to keep; may be given again."),
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
    target : list of str
        Files, URLs, stores, folders, patterns.
    given : mapping of str to object
        What was given of `DATA` and `TABLE`.
    """

    target: list[str]
    given: Mapping[str, Any]

    def open(self, *, graph: str | None = None) -> Series:
        """Open it."""
        from windowloader.series.opening import open as open_any

        options = {name: READ[name](value) if name in READ else value for name, value in self.given.items()}
        if ("start" in options) != ("freq" in options):
            raise typer.BadParameter("--start and --freq go together: --start 2012-03-01 --freq 5min")
        if "start" in options:
            options["timestamps"] = options.pop("start"), options.pop("freq")
        found = [file for target in self.target for file in _expanded(target)]
        return open_any(found[0] if len(found) == 1 else found, graph=graph, **options)

    def storage_options(self) -> dict[str, Any]:
        """Return what was typed for the file system or bucket."""
        return options_of("--option", self.given.get("storage_options"))


def options_of(name: str, typed: list[str] | None) -> dict[str, Any]:
    """Return ``KEY=VALUE`` pairs, values as JSON has them where they are."""
    pairs = [pair.partition("=") for pair in typed or []]
    if any(not sign for _, sign, _ in pairs):
        raise typer.BadParameter(f"{name} takes KEY=VALUE: {name} anon=true")
    return {key: _value(value) for key, _, value in pairs}


def on_target(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose first parameter is a `Target` the options that describe one.

    An option that the command has itself is called ``--source-…`` for what it opens.
    """
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    what = "File, URL or store; several files, a folder or a pattern are joined along time."
    shown = [_parameter("target", list[str], ..., typer.Argument(help=what)), *own]
    for panel, options in (("Data", DATA), ("Tables (CSV, Parquet), in the words of pandas", TABLE)):
        for name, kind, flags, text in options:
            taken = any(one.name == name for one in own)
            names = [flags.replace("--", "--source-")] if taken else flags.split()
            option = typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)
            shown.append(_parameter(f"open_{name}", kind | None, None, option))

    @functools.wraps(command)
    def run(target: list[str], **typed: Any) -> None:
        given = {name.removeprefix("open_"): typed.pop(name) for name in list(typed) if name[:5] == "open_"}
        command(
            Target(target, {name: value for name, value in given.items() if value not in (None, [])}), **typed
        )

    shown = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _parameter(name: str, kind: Any, default: Any, described: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, described]
    )


def _expanded(target: str) -> list[str]:
    """Files of a folder that is no store, in natural order of their names."""
    from windowloader.sources.chunked import is_chunked
    from windowloader.sources.failures import Asked, Guard
    from windowloader.sources.formats import natural

    with Guard(Asked(target, doing="opened")):
        folder = Path(target)
        if "://" in target or not folder.is_dir() or is_chunked(target):
            return [target]
        files = [str(file) for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    kinds = {Path(file).suffix.lower() for file in files}
    if len(kinds) > 1:
        raise typer.BadParameter(
            f"{target} holds files of several kinds: {', '.join(sorted(kinds))}. Give a pattern."
        )
    return sorted(files, key=natural) or [target]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _dtype(typed: list[str]) -> Any:
    by_column = {column: kind for column, sign, kind in (text.partition("=") for text in typed) if sign}
    return by_column or typed[-1]


READ: dict[str, Callable[[Any], Any]] = {
    "storage_options": functools.partial(options_of, "--option"),
    "time": lambda typed: typed[0] if len(typed) == 1 else typed,
    "header": lambda typed: _value(f"[{typed}]" if "," in typed else typed),
    "sep": lambda typed: typed.replace("\\t", "\t"),
    "dtype": _dtype,
}
