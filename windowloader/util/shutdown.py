"""What must be over before the interpreter is, in the order in which it must end.

In: functions and their stage. Out: they are called once, when the interpreter begins to end. Never calls them in
another order than that of the stages, whichever modules were imported first.

A thread of compiled code that asks for the interpreter when it has gone is unwound where it stands, which C++ answers
by aborting the process. So nothing may be under way then: no batch, no read, and nothing of Python's that a store's
threads have yet to give back.
"""

from __future__ import annotations

import atexit
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Stage", "at_end", "end_all"]


class Stage(enum.IntEnum):
    """What is ended after what."""

    CALL_OFF = 0
    """Say that no more is wanted; without waiting."""
    READS = 1
    """Ask storage for no more, and fail what waits for it."""
    BATCHES = 2
    """Wait for threads that write to batches."""
    LENT = 3
    """Wait for what threads of libraries hold."""


_CALLS: list[tuple[Stage, Callable[[], None]]] = []


def at_end(stage: Stage) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Decorate a function that is called when the interpreter ends, after those of earlier stages.

    Parameters
    ----------
    stage : Stage

    Examples
    --------
    >>> @at_end(Stage.CALL_OFF)
    ... def leave():
    ...     pass
    """

    def register(call: Callable[[], None]) -> Callable[[], None]:
        _CALLS.append((stage, call))
        return call

    return register


@atexit.register
def end_all() -> None:
    """Call them, once.

    To be registered with `atexit` again after the import of a library that ends its own threads there: what is
    registered last is called first, and what such a library has ended cannot be waited for.
    """
    calls = sorted(_CALLS, key=lambda entry: entry[0])
    _CALLS.clear()
    for _, call in calls:
        call()
