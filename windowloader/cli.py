"""The command line: ``windowloader COMMAND``. Each module of `windowloader.commands` brings its own.

In: arguments. Out: an exit code; errors of the package and warnings are printed as their messages, without a traceback.
Never holds a command itself.
"""

from __future__ import annotations

import re
import sys
import warnings
from importlib import import_module
from typing import TextIO

import typer

from .errors import WindowLoaderError

__all__ = ["app", "main"]

# Modules of windowloader.commands, each with register(app).
COMMANDS = ("bench", "cache", "convert", "demo", "inspect", "plan", "preview", "stats", "warmup")

# What messages call an argument, and how it is typed.
TYPED = {
    "axes": "--axes",
    "variables": "--variable",
    "features": "--feature",
    "timestamps": "--start 2012-03-01 --freq 5min",
    "missing": "--missing",
    "time": "--time",
    "entity": "--entity",
    "by": "--by",
    "fill_missing": "--fill-missing",
    "storage_options": "--option KEY=VALUE",
    "memory": "--memory",
}

app = typer.Typer(
    name="windowloader",
    help="Training batches of sliding windows over spatiotemporal arrays, built at run time.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    """Training batches of sliding windows over spatiotemporal arrays, built at run time."""
    if version:
        from . import __version__

        typer.echo(__version__)
        raise typer.Exit


for _name in COMMANDS:
    import_module(f".commands.{_name}", __package__).register(app)


def main() -> None:
    """Run the command line; 2 is returned for wrong use, and where the package refuses what was asked."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say
            app()
    except WindowLoaderError as error:
        typer.secho(f"{type(error).__name__}: {error}{_as_typed(str(error))}", err=True, fg="red")
        sys.exit(2)


def _as_typed(message: str) -> str:
    """Say how to type what a message advises, as far as the command takes it."""
    from typer.main import get_command

    commands = getattr(get_command(app), "commands", {})
    command = next((commands[word] for word in sys.argv[1:] if word in commands), None)
    known = {name for one in getattr(command, "params", ()) for name in one.opts}
    words = re.findall(r"(?<![\w.])([a-z_]+)=", message)
    typed = [TYPED[word] for word in dict.fromkeys(words) if word in TYPED]
    typed = [option for option in typed if option.partition(" ")[0] in known]
    return f"\nHere: {', '.join(typed)}" if typed else ""


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as its message, without the line of code it came from."""
    del filename, lineno, file, line
    typer.secho(f"{category.__name__}: {message}", err=True, fg="yellow")
