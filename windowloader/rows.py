"""The rows that a batch needs, as arrays the gather can index: one way a tier.

In: the window starts of a step. Out: one `Rows` a variable, addressable until let go. Resident variables (in memory
or mapped) are indexed where they lie; others are read straight into scratch (*direct*). Never knows of order or ranks.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .gather import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from .series import Series
    from .shard import Step
    from .variable import Variable

__all__ = ["Direct", "Resident", "RowAccess", "RowStream", "row_access"]


class RowStream(Protocol):
    """Rows for the steps of one iterator, asked for from any thread."""

    def rows(self, index: int, step: Step, starts: np.ndarray) -> AbstractContextManager[Sequence[Rows]]:
        """Rows for step number ``index`` of this iterator, valid inside the ``with``."""

    def close(self) -> None:
        """Let go of everything; reads under way are waited for or abandoned."""


class RowAccess(Protocol):
    """How the rows of a loader are reached; one for the loader, one `RowStream` for each iterator."""

    def stream(self) -> RowStream:
        """Rows for a new iterator."""

    def close(self) -> None:
        """Let go of everything."""


class Resident:
    """Variables that are addressable where they lie: the rows are the arrays themselves."""

    def __init__(self, views: Sequence[np.ndarray]) -> None:
        self._views = tuple(views)

    def stream(self) -> Resident:
        """Return itself: nothing is kept between steps."""
        return self

    def rows(self, index: int, step: Step, starts: np.ndarray) -> AbstractContextManager[Sequence[Rows]]:
        """Whole arrays, each window at its start."""
        return contextlib.nullcontext([Rows(view, starts) for view in self._views])

    def close(self) -> None:
        """Nothing to let go of."""


class Direct:
    """Variables that must be read: the distinct rows of a step's windows go to scratch, each row once.

    Parameters
    ----------
    variables : sequence of Variable
        In the order the recipe asks for; resident ones among them are indexed where they lie.
    span : int
        Rows from a window's first to its last.
    """

    def __init__(self, variables: Sequence[Variable], span: int) -> None:
        self._variables = tuple(variables)
        self._views = tuple(variable.view() for variable in variables)
        self._span = span
        self._local = threading.local()  # scratch of the thread that gathers: reused, never shared

    def stream(self) -> Direct:
        """Return itself: nothing is kept between steps."""
        return self

    @contextlib.contextmanager
    def rows(self, index: int, step: Step, starts: np.ndarray) -> Iterator[Sequence[Rows]]:
        """Read the rows of these windows, all requests at once, and wait for them."""
        begins, ends, first = merge(starts, self._span)
        offsets = np.concatenate(([0], np.cumsum(ends - begins)))
        found, pending = [], []
        for number, (variable, view) in enumerate(zip(self._variables, self._views, strict=True)):
            if view is not None:
                found.append(Rows(view, starts))
                continue
            scratch = self._scratch(number, variable, int(offsets[-1]))
            pending += [
                variable.submit(int(begin), int(end), scratch[offset : offset + end - begin])
                for begin, end, offset in zip(begins, ends, offsets, strict=False)
            ]
            found.append(Rows(scratch, first))
        errors = [error for read in pending if (error := _outcome(read)) is not None]
        if errors:
            raise errors[0]
        yield found

    def _scratch(self, number: int, variable: Variable, rows: int) -> np.ndarray:
        kept: dict[int, np.ndarray] = self._local.__dict__.setdefault("arrays", {})
        if number not in kept or len(kept[number]) < rows:
            kept[number] = np.empty((rows, variable.num_nodes, variable.num_features), variable.dtype)
        return kept[number]

    def close(self) -> None:
        """Drop the scratch of the calling thread; that of ended threads went with them."""
        self._local.__dict__.clear()


def _outcome(read: object) -> BaseException | None:
    """Wait for one read; its error instead of raising, so that no read still writes when the first one failed."""
    try:
        read.result()  # type: ignore[attr-defined]
    except Exception as error:
        return error
    return None


def merge(starts: np.ndarray, span: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unite the row ranges ``[s, s + span)`` of windows into runs that do not touch.

    Parameters
    ----------
    starts : ndarray, shape (batch,), int64
        In any order, repeats allowed.
    span : int
        Rows a window.

    Returns
    -------
    begins, ends : ndarray, shape (run,), int64
        The runs of rows, rising.
    first : ndarray, shape (batch,), int64
        Where each window's first row lies when the runs stand one after another.

    Examples
    --------
    >>> merge(np.array([9, 2, 3]), 3)
    (array([2, 9]), array([ 6, 12]), array([4, 0, 1]))
    """
    order = np.unique(starts)
    opens = np.concatenate(([True], order[1:] > order[:-1] + span))
    begins = order[opens]
    ends = order[np.concatenate((opens[1:], [True]))] + span
    offsets = np.concatenate(([0], np.cumsum(ends - begins)[:-1]))
    run = np.searchsorted(begins, starts, side="right") - 1
    return begins, ends, starts - begins[run] + offsets[run]


def row_access(series: Series, variables: Sequence[int], span: int) -> RowAccess:
    """Row access for a series without blocks: resident where every variable is, else direct."""
    chosen = [series.variables[i] for i in variables]
    views = [view for variable in chosen if (view := variable.view()) is not None]
    return Resident(views) if len(views) == len(chosen) else Direct(chosen, span)
