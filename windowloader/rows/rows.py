"""The rows that a batch needs, as arrays the gather can index: the protocol of all tiers, and the simplest.

In: the window starts of a step. Out: `Piece`s, stretches of a batch with one `Rows` a variable. Variables in memory or
mapped are indexed where they lie; ``blocks`` and ``direct`` read the others. Never knows of orders.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from windowloader.errors import ClosedError

from .counting import ReadCounts
from .strided import Rows, StridedBuffer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from windowloader.order.shard import Position, Step
    from windowloader.series.series import Series
    from windowloader.series.variable import Variable

__all__ = [
    "DirectReader",
    "InTurn",
    "Piece",
    "PreloadedVariable",
    "Resident",
    "ResidentVariables",
    "RowAccess",
    "RowStream",
    "merge",
    "row_access",
]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Windows of a batch whose rows are there at the same time.

    Parameters
    ----------
    rows : sequence of Rows
        One a variable, in the order the recipe asks for; ``first`` is filled at the positions of the piece.
    begin, end : int
        Positions in the batch.
    """

    rows: Sequence[Rows]
    begin: int
    end: int


class RowStream(Protocol):
    """Rows for the steps of one iterator, asked for from any thread.

    Attributes
    ----------
    reads : ReadCounts or None
        What it read; None where rows are addressable and nothing is.
    """

    @property
    def reads(self) -> ReadCounts | None:
        """What it read."""

    def pieces(self, index: int, step: Step, starts: np.ndarray) -> Generator[Piece]:
        """Yield the rows of batch number ``index`` of this iterator, which is made of ``step``.

        Where rows are in memory or mapped it may be several batches, the last of them number ``index``.
        A piece is valid until the next one is asked for, the last until the generator is closed.
        """

    def fail(self, index: int) -> None:
        """Say that a batch will not ask for its rows, so that later ones do not wait for it."""

    def close(self, *, wait: bool = False) -> None:
        """Let go of everything; with ``wait``, until no batch is being made and no read under way."""

    def abandon(self) -> None:
        """Close in the garbage collector, where nothing may be waited for."""


class RowAccess(Protocol):
    """How the rows of a loader are reached; one for the loader, one `RowStream` for each iterator."""

    @abstractmethod
    def stream(self, position: Position) -> RowStream:
        """Rows for a new iterator that begins at a position."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything, once reads under way have ended."""

    def reads_on(self, epoch: int) -> bool:
        """Whether rows of the next epoch are read ahead while this one drains."""
        return False

    def loaded(self) -> NDArray[np.bool_] | None:
        """Of rows that stay once they are read, the blocks that are there already."""
        return None


class Resident(RowAccess):
    """Variables that are all arrays, where they lie or kept whole: the rows are the arrays themselves."""

    reads: ReadCounts | None = None

    def __init__(self, arrays: ResidentVariables) -> None:
        self._arrays = arrays

    def stream(self, position: Position) -> Resident:
        """Return itself: nothing is kept between steps."""
        return self

    def pieces(self, index: int, step: Step, starts: np.ndarray) -> Generator[Piece]:
        """Whole arrays, each window at its start."""
        yield Piece(self._arrays.beside((), starts), 0, len(starts))

    def fail(self, index: int) -> None:
        """Nobody waits."""

    def close(self, *, wait: bool = False) -> None:
        """Nothing to let go of."""

    def abandon(self) -> None:
        """Nothing to let go of."""


@dataclass(slots=True, eq=False)
class PreloadedVariable:
    """A small variable that is read once and kept: all rows that the windows use.

    Parameters
    ----------
    variable : Variable
    begin, end : int
        Those rows.
    """

    variable: Variable
    begin: int
    end: int
    _rows: np.ndarray | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return (self.end - self.begin) * self.variable.row_bytes

    def rows(self, starts: np.ndarray, reads: ReadCounts | None = None) -> Rows:
        """Return its rows, read when first asked for, which ``reads`` counts."""
        with self._lock:
            if self._rows is None:
                variable = self.variable
                shape = (self.end - self.begin, variable.num_nodes, variable.num_features)
                rows = np.empty(shape, variable.dtype)
                size = variable.read(self.begin, self.end, rows)
                self._rows = rows
                if reads is not None:
                    cost = variable.source.storage().cost([self.begin], [self.end])
                    reads.note(size, int(cost.requests[0]))
        return Rows(self._rows, starts - self.begin)

    def close(self) -> None:
        """Let go of the rows."""
        with self._lock:
            self._rows = None


class ResidentVariables:
    """The variables of a recipe that are not read step by step, and where they stand among those that are.

    Parameters
    ----------
    count : int
        Variables of the recipe.
    views : mapping of int to ndarray
        Those in memory or mapped, by their place in the recipe.
    held : mapping of int to PreloadedVariable
        Small ones that are kept whole.
    """

    def __init__(
        self, count: int, views: Mapping[int, np.ndarray], held: Mapping[int, PreloadedVariable]
    ) -> None:
        self._count, self._views, self._held = count, dict(views), dict(held)
        self._flats = {place: StridedBuffer.kept(view) for place, view in views.items()}

    @property
    def views(self) -> tuple[np.ndarray, ...]:
        """Those in memory or mapped, in their order in the recipe."""
        return tuple(self._views[place] for place in sorted(self._views))

    @property
    def missing(self) -> list[int]:
        """Places of the variables that are read step by step."""
        return [place for place in range(self._count) if place not in self._views | self._held]

    def joined(self, views: Mapping[int, np.ndarray]) -> ResidentVariables:
        """Return these variables and more views."""
        return ResidentVariables(self._count, self._views | dict(views), self._held)

    def beside(
        self, streamed: Sequence[Rows], starts: np.ndarray, reads: ReadCounts | None = None
    ) -> list[Rows]:
        """Return the rows of all variables: those given, in the places that are left, and its own."""
        given = iter(streamed)
        found = []
        for place in range(self._count):
            if place in self._views:
                found.append(Rows(self._views[place], starts, self._flats[place]))
            elif place in self._held:
                found.append(self._held[place].rows(starts, reads))
            else:
                found.append(next(given))
        return found

    def close(self) -> None:
        """Let go of what is held."""
        for held in self._held.values():
            held.close()


class InTurn:
    """Batches that are laid out in their order, whichever threads make them.

    Parameters
    ----------
    lock : Condition
        Notified when the turn passes on, or never comes.

    Attributes
    ----------
    closed : bool
    reads : ReadCounts
        What the iterator's batches took from storage.
    """

    def __init__(self, lock: threading.Condition) -> None:
        self._lock = lock
        self._next = 0
        self._broken: int | None = None
        self.closed = False
        self.reads = ReadCounts()

    def await_turn(self, index: int) -> None:
        """Wait until all batches before this one are laid out; `ClosedError` where that will never be."""
        with self._lock:
            self.check()
            while self._next != index:
                if self._broken is not None and self._broken < index:
                    raise ClosedError(
                        f"batch {self._broken} of this iterator could not be made, nor any after it."
                    )
                self._lock.wait()
                self.check()

    def pass_on(self, index: int) -> None:
        """Say that a batch is laid out."""
        with self._lock:
            self._next = index + 1
            self._lock.notify_all()

    def fail(self, index: int) -> None:
        """Say that a batch cannot be made, so that none waits for it to be laid out."""
        with self._lock:
            if self._next <= index:
                self._broken = index if self._broken is None else min(index, self._broken)
            self._lock.notify_all()

    def check(self) -> None:
        """Raise `ClosedError` where it is closed."""
        if self.closed:
            raise ClosedError("this iterator was closed.")

    def abandon(self) -> None:
        """Close in the garbage collector, where nothing may be waited for, not even the lock."""
        self.closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._lock.notify_all()
            finally:
                self._lock.release()


class DirectReader:
    """Rows of windows asked for by number, all at once: the distinct rows of some windows go to scratch, each row once.

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
        self._flats = [None if view is None else StridedBuffer.kept(view) for view in self._views]
        self._span = span
        self._local = threading.local()  # scratch of the thread that gathers: reused, never shared

    def pieces(self, starts: np.ndarray) -> Iterator[Piece]:
        """Read the rows of these windows, all requests at once, and wait for them: one piece."""
        resident = [
            Rows(view, starts, flat)
            for view, flat in zip(self._views, self._flats, strict=True)
            if view is not None
        ]
        if len(resident) == len(self._views):
            yield Piece(resident, 0, len(starts))
            return
        begins, ends, first = merge(starts, self._span)
        offsets = np.concatenate(([0], np.cumsum(ends - begins)))
        found, pending = [], []
        for number, (variable, view) in enumerate(zip(self._variables, self._views, strict=True)):
            if view is not None:
                found.append(Rows(view, starts, self._flats[number]))
                continue
            scratch = self._scratch(number, variable, int(offsets[-1]))
            pending += [
                variable.submit(int(begin), int(end), scratch[offset : offset + end - begin])
                for begin, end, offset in zip(begins, ends, offsets, strict=False)
            ]
            found.append(Rows(scratch, first))
        errors = [error for read in pending if (error := _outcome(read)) is not None]
        if errors:
            self.close()  # storage may still write the rows of a read that timed out
            raise errors[0]
        yield Piece(found, 0, len(starts))

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


def row_access(series: Series, variables: Sequence[int], span: int) -> DirectReader:
    """Rows of windows that are asked for by number, without an order: indexed where they lie, or read."""
    return DirectReader([series.variables[i] for i in variables], span)
