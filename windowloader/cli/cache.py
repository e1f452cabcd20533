"""``windowloader cache list`` and ``cache clear``: what a disk cache holds, and removing it.

In: a folder given to ``wl.open(…, cache_dir=)``. Out: a table or JSON. Never removes what a process has open.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.sources.disk_cache import CachedArray

__all__ = ["clear", "show"]

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))

Folder = Annotated[str, typer.Argument(help="The folder that was given as cache_dir=.", show_default=False)]

commands = typer.Typer(help="List or clear what is cached on this node's disk.", no_args_is_help=True)
app.add_typer(commands, name="cache")


@commands.command("list")
def show(folder: Folder, as_json: AsJson = False) -> None:
    """List the arrays in a cache folder."""
    from windowloader.sources.disk_cache import DiskCache, check_folder

    found = DiskCache(check_folder(folder)).arrays()
    if as_json:
        typer.echo(json.dumps([entry.to_dict() for entry in found], indent=2))
    else:
        _print(found, folder)


@commands.command("clear")
def clear(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Only arrays whose path or URL contains this text.")] = "",
    as_json: AsJson = False,
) -> None:
    """Remove arrays from a cache folder; those that a process has open stay."""
    from windowloader.sources.disk_cache import DiskCache, check_folder
    from windowloader.util.units import format_bytes

    removed, kept = DiskCache(check_folder(folder)).clear(name=name)
    if as_json:
        found = {"removed": [x.to_dict() for x in removed], "kept": [x.to_dict() for x in kept]}
        typer.echo(json.dumps(found, indent=2))
        return
    what = "1 array" if len(removed) == 1 else f"{len(removed)} arrays"
    typer.echo(f"removed {what}, {format_bytes(sum(x.bytes_held for x in removed))}")
    for entry in kept:
        typer.echo(f"kept {entry.name}: a process has it open")


def _print(found: Sequence[CachedArray], folder: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from windowloader.util.units import format_bytes

    if not found:
        typer.echo(f"{os.path.abspath(folder)} holds nothing.")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("array", "shape", "dtype", "size", "kept", "last used"):
        table.add_column(column, justify="left" if column in ("array", "dtype") else "right", overflow="fold")
    for entry in found:
        share = 100 * entry.blocks_held // max(entry.blocks, 1)
        table.add_row(
            entry.name,
            " × ".join(map(str, entry.shape)),
            entry.dtype,
            format_bytes(entry.bytes),
            f"{format_bytes(entry.bytes_held)}, {share} %",
            "now" if entry.in_use else _ago(time.time() - entry.used),
        )
    Console().print(table)


def _ago(seconds: float) -> str:
    unit, size = next(((unit, size) for unit, size in UNITS if seconds >= size), UNITS[-1])
    return f"{max(seconds, 0) // size:.0f} {unit} ago"
