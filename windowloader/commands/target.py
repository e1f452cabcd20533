"""The target of a command: what to open, and the options that say how, the same for all commands.

In: a command that takes a `Target` first. Out: the command with an option for each field of it. Opens nothing itself
before the command asks.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from windowloader.series import Series

__all__ = ["Target", "on_target", "options_of"]

SUFFIXES = {".npy", ".npz", ".h5", ".hdf5", ".nc", ".nc4", ".csv", ".tsv", ".txt", ".parquet", ".pq", ".zarr"}


@dataclass(frozen=True, slots=True)
class Target:
    """What was typed to describe a series: each field is an option of every command that opens one."""

    target: Annotated[
        list[str],
        typer.Argument(
            help="File, URL or store; several files, a folder or a pattern are joined along time."
        ),
    ]
    variable: Annotated[list[str] | None, typer.Option(help="Arrays of the store; may be given again.")] = (
        None
    )
    axes: Annotated[str | None, typer.Option(help="A letter an axis: t time, n space, f feature.")] = None
    feature: Annotated[list[str] | None, typer.Option(help="Names of the features; may be given again.")] = (
        None
    )
    start: Annotated[
        str | None, typer.Option(help="Time of the first row, where the file has none: 2012-03-01.")
    ] = None
    freq: Annotated[str | None, typer.Option(help="From row to row, with --start: 5min.")] = None
    missing: Annotated[
        float | None, typer.Option(help="What marks a missing value: nan, 0, …", show_default=False)
    ] = None
    time: Annotated[str | None, typer.Option(help="Column of a table that holds the timestamps.")] = None
    entity: Annotated[
        str | None,
        typer.Option(help="Column that says whose a reading is, of a table of one row a reading."),
    ] = None
    fill_missing: Annotated[
        bool, typer.Option("--fill-missing", help="Chunks that a store lacks hold its fill value.")
    ] = False
    option: Annotated[
        list[str] | None,
        typer.Option(help="For the file system or bucket, KEY=VALUE; may be given again."),
    ] = None

    def open(self, *, graph: str | None = None) -> Series:
        """Open it."""
        from windowloader.opening import open as open_any

        if (self.start is None) != (self.freq is None):
            raise typer.BadParameter("--start and --freq go together: --start 2012-03-01 --freq 5min")
        found = [file for target in self.target for file in _expanded(target)]
        options: dict[str, Any] = {"fill_missing": True} if self.fill_missing else {}  # files refuse the word
        return open_any(
            found[0] if len(found) == 1 else found,
            axes=self.axes,
            variables=self.variable or None,
            features=self.feature or None,
            timestamps=None if self.start is None or self.freq is None else (self.start, self.freq),
            missing=self.missing,
            graph=graph,
            storage_options=self.storage_options(),
            entity=self.entity,
            time=self.time,
            **options,
        )

    def storage_options(self) -> dict[str, Any]:
        """Return what was typed for the file system or bucket."""
        return options_of("--option", self.option)


def options_of(name: str, typed: list[str] | None) -> dict[str, Any]:
    """Return ``KEY=VALUE`` pairs, values as JSON has them where they are."""
    pairs = [pair.partition("=") for pair in typed or []]
    if any(not sign for _, sign, _ in pairs):
        raise typer.BadParameter(f"{name} takes KEY=VALUE: {name} anon=true")
    return {key: _value(value) for key, _, value in pairs}


def on_target(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose first parameter is a `Target` the options that describe one."""
    kinds = get_type_hints(Target, include_extras=True)

    @functools.wraps(command)
    def run(**typed: Any) -> None:
        command(Target(**{name: typed.pop(name) for name in kinds}), **typed)

    described = [
        one.replace(annotation=kinds[name]) for name, one in inspect.signature(Target).parameters.items()
    ]
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    shown = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (described[0], *own, *described[1:])]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _expanded(target: str) -> list[str]:
    """Files of a folder that is no store, in natural order of their names."""
    from windowloader.sources.chunked import is_chunked
    from windowloader.sources.patterns import natural

    folder = Path(target)
    if "://" in target or not folder.is_dir() or is_chunked(target):
        return [target]
    files = [str(file) for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    files.sort(key=natural)
    kinds = {Path(file).suffix.lower() for file in files}
    if len(kinds) > 1:
        raise typer.BadParameter(
            f"{target} holds files of several kinds: {', '.join(sorted(kinds))}. Give a pattern."
        )
    return files or [target]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
