"""The command line: ``windowloader COMMAND``, one module a command.

In: arguments. Out: text and an exit code. Never has a calculation of its own.
"""

from .entry import app, main

__all__ = ["app", "main"]
