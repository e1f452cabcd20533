"""``python -m windowloader``: the command line, where no scripts are on the path."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
