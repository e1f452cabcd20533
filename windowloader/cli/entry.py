"""The command line: ``windowloader COMMAND``. Each module of `windowloader.cli.commands` brings its own.

In: arguments. Out: an exit code; errors and warnings are printed as one message each, without a traceback. Never holds
a command itself. Importing it needs neither typer nor rich.
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

from windowloader.errors import WindowLoaderError
from windowloader.hiding import hide_secrets

app: Any  # a typer.Typer; None where that is not installed
try:
    import rich  # noqa: F401

    from .commands import app
except ModuleNotFoundError as error:
    if error.name not in ("typer", "rich"):
        raise
    app = None

__all__ = ["app", "main"]

TRACEBACK = "WINDOWLOADER_TRACEBACK"

# What messages call an argument, where the command line has another name for it.
TYPED = {
    "variables": "--variable",
    "features": "--feature",
    "timestamps": "--start 2012-03-01 --freq 5min",
    "storage_options": "--option KEY=VALUE",
}


def main() -> Any:
    """Run the command line and exit.

    The exit code is 0; 2 for wrong use and where the package refuses what was asked; 1 for any other error and where
    nobody reads the output any more; 130 after an interrupt. With the environment variable WINDOWLOADER_TRACEBACK,
    errors have their traceback and warnings their place.
    """
    if app is None:
        print(
            "MissingExtraError: the command line needs typer and rich: pip install 'windowloader[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    if os.environ.get(TRACEBACK):
        return app()
    threading.excepthook = lambda failed: _unexpected(failed.exc_value)
    sys.unraisablehook = lambda _failed: None  # what a library's own clean-up raises, which nobody can act on
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *_place: _warn(
            f"{category.__name__}: {message}", said
        )
        code = _run()
    sys.exit(code)


def _run() -> Any:
    """Run the command line, print its error if it has one, and return the exit code."""
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
    except BrokenPipeError:
        _forget_output()
    except OSError as error:
        _forget_output()
        _say(f"{type(error).__name__}: {_line(str(error))}", "red")
    except Exception as error:
        _unexpected(error)
    return 1


def _unexpected(error: BaseException | None) -> None:
    """Print what went wrong in the package itself, in one line."""
    places = traceback.extract_tb(error.__traceback__ if error else None)
    place = f" at {os.path.basename(places[-1].filename)}:{places[-1].lineno}" if places else ""
    what = f"{type(error).__name__}: {_line(str(error))}" if str(error) else type(error).__name__
    _say(
        f"windowloader failed{place}, {what}. This is a fault of windowloader: please report it to its maintainers "
        f"with the traceback, which {TRACEBACK}=1 shows.",
        "red",
    )


def _warn(text: str, said: set[str]) -> None:
    """Print a warning as one line, once."""
    line = _line(text)
    if line not in said:
        said.add(line)
        _say(line, "yellow")


def _line(text: str) -> str:
    return " ".join(hide_secrets(text).split())


def _say(text: str, colour: str) -> None:
    """Print to standard error, if there still is one."""
    with contextlib.suppress(OSError, ValueError):
        import typer

        typer.secho(text, err=True, fg=colour)


def _forget_output() -> None:
    """Let what was not written go, as the interpreter would try again when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_typed(message: str) -> str:
    """Say how to type what a message advises, as far as the command takes it."""
    from typer.main import get_command

    commands = getattr(get_command(app), "commands", {})
    command = next((commands[word] for word in sys.argv[1:] if word in commands), None)
    known = {name for one in getattr(command, "params", ()) for name in one.opts}
    words = dict.fromkeys(re.findall(r"(?<![\w.])([a-z_]+)=", message))
    typed = [TYPED.get(word, f"--{word.replace('_', '-')}") for word in words]
    typed = [option for option in typed if option.partition(" ")[0] in known]
    return f"\nHere: {', '.join(typed)}" if typed else ""
