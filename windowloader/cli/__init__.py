"""The command line: ``windowloader COMMAND``.

In: arguments. Out: text and an exit code. Only parses, calls the package and prints.
"""

from .entry import app, main

__all__ = ["app", "main"]
