"""Runs the command line; errors and warnings are printed as one message each, without a traceback.

In: arguments. Out: an exit code. Importing it needs neither typer nor rich.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import traceback
import warnings
from typing import Any

from windowloader.errors import WindowLoaderError, hide_secrets

app: Any = None  # a typer.Typer, if typer and rich are installed
try:
    from . import data, runs
    from .options import app
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("typer", "rich"):
        raise

__all__ = ["app", "data", "main", "runs"]

TRACEBACK = "WINDOWLOADER_TRACEBACK"
TYPED = {  # arguments whose option has another name
    "variables": "--variable",
    "features": "--feature",
    "timestamps": "--start 2012-03-01 --freq 5min",
    "storage_options": "--option KEY=VALUE",
}


def main() -> Any:
    """Run the command line and exit.

    The exit code is 0; 2 for wrong use and errors of the package; 1 for any other error and if nobody reads the output;
    130 after an interrupt. With the environment variable WINDOWLOADER_TRACEBACK, errors have their traceback.
    """
    if app is None:
        message = "MissingExtraError: the command line needs typer and rich: pip install 'windowloader[cli]'"
        print(message, file=sys.stderr)
        sys.exit(2)
    if os.environ.get(TRACEBACK):
        return app()
    threading.excepthook = lambda failed: _unexpected(failed.exc_value)
    sys.unraisablehook = lambda _failed: None  # errors of a library's clean-up, which nobody can act on
    said: set[str] = set()

    def warn(message: Warning | str, category: type[Warning], *_place: Any, **_options: Any) -> None:
        line = _line(f"{category.__name__}: {message}")
        if line not in said:
            said.add(line)
            _say(line, "yellow")

    with warnings.catch_warnings():
        warnings.showwarning = warn
        code = _run()
    sys.exit(code)


def _run() -> Any:
    """Run the command, print its error if it has one, and return the exit code."""
    try:
        try:
            app()
        except SystemExit as ended:
            if sys.stdout is not None:
                sys.stdout.flush()
            return ended.code
    except KeyboardInterrupt:
        return 130
    except WindowLoaderError as error:
        _say(f"{type(error).__name__}: {error}{_as_typed(str(error))}", "red")
        return 2
    except OSError as error:
        with contextlib.suppress(
            OSError, ValueError, AttributeError
        ):  # else the interpreter would write at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _say(f"{type(error).__name__}: {_line(str(error))}", "red")
    except Exception as error:
        _unexpected(error)
    return 1


def _unexpected(error: BaseException | None) -> None:
    """Print an error of the package itself in one line."""
    places = traceback.extract_tb(error.__traceback__ if error else None)
    place = f" at {os.path.basename(places[-1].filename)}:{places[-1].lineno}" if places else ""
    what = _line(f"{type(error).__name__}: {error}").removesuffix(": ")
    _say(
        f"windowloader failed{place}, {what}. This is a fault of windowloader: please report it to its maintainers "
        f"with the traceback, which {TRACEBACK}=1 shows.",
        "red",
    )


def _line(text: str) -> str:
    return " ".join(hide_secrets(text).split())


def _say(text: str, colour: str) -> None:
    """Print to standard error, if it is open."""
    with contextlib.suppress(OSError, ValueError):
        import typer

        typer.secho(text, err=True, fg=colour)


def _as_typed(message: str) -> str:
    """Return how to type the arguments that a message names, if the command has them as options."""
    from typer.main import get_command

    commands: Any = get_command(app)
    command = next((commands.commands[word] for word in sys.argv[1:] if word in commands.commands), commands)
    known = {name for one in command.params for name in one.opts}
    words = dict.fromkeys(re.findall(r"(?<![\w.])([a-z_]+)=", message))
    typed = [TYPED.get(word, f"--{word.replace('_', '-')}") for word in words]
    typed = [option for option in typed if option.partition(" ")[0] in known]
    return f"\nHere: {', '.join(typed)}" if typed else ""
