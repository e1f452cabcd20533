"""Rows on their way through a mirror: copied from it, fetched into it, or waited for while another process does.

In: a mirror, the source behind it, rows and an array for them. Out: `MirrorRead`. Never waits on a thread that others
need: what another process fetches is looked for by a thread of the mirror's own.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceTimeoutError

from .mirror_form import runs
from .reads import Pending, begun, taken

if TYPE_CHECKING:
    from collections.abc import Callable

    from .base import Source
    from .box import Box
    from .mirror import Mirror
    from .mirror_folder import MirrorFolder

__all__ = ["MirrorRead"]

PATIENCE = 60.0  # seconds without news of a block that another process fetches, after which it is read past the mirror

Range = tuple[int, int]


class MirrorRead(Pending):
    """A read of rows.

    Parameters
    ----------
    source : Source
        Where blocks are fetched that are nowhere on this node.
    box : tuple
        Of a box of the source that is read; empty: all of it.
    folder : MirrorFolder
        Sees to it that there is room.
    mirror : Mirror
        Where they are kept.
    rows : tuple of int
        First row and end.
    out : ndarray
        Where they go.
    """

    def __init__(
        self,
        source: Source,
        box: tuple[Box, ...],
        folder: MirrorFolder,
        mirror: Mirror,
        rows: Range,
        out: np.ndarray,
    ) -> None:
        self._source, self._box, self._folder, self._mirror = source, box, folder, mirror
        self._start, self._stop, self._out = *rows, out
        self._future: Future[int] = Future()
        self._taken = 0
        self._lock = threading.Lock()
        self.fetched: list[Range] = []
        """Rows that storage was asked for, from the first of this read on; others were here, or another process's."""
        self._parts = 1  # under way: this look, each job, and being watched
        self._waiting: list[Range] = []  # blocks that another process fetches
        self._watched = False
        self._error: BaseException | None = None
        self._news = time.monotonic()
        self._end(self._look_at([mirror.span(*rows)]))

    # -- the protocol --------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether `result` would return at once."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> int:
        """Wait until the rows stand in ``out``; raise what a read raised, once nothing writes there any more."""
        try:
            return self._future.result(timeout)
        except FutureTimeoutError:
            if self._future.done():
                raise
            raise SourceTimeoutError(
                f"rows {self._start}–{self._stop - 1} of {self._source.name!r} did not arrive within {timeout:g} s."
            ) from None

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call ``call(self)`` once it is over, from any thread."""
        calls = [call]  # a future keeps its callbacks, and this one may know of memory
        self._future.add_done_callback(lambda _: calls.pop()(self))

    # -- looking -------------------------------------------------------------------------------------------------------

    def advance(self) -> bool:
        """Look again at what another process had; on the mirror's watching thread.

        Returns
        -------
        bool
            Whether there is still something to wait for.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, []
        error = None
        if self._error is None:
            if time.monotonic() - self._news < PATIENCE:
                error = self._look_at(waiting)
            else:  # rather read twice than wait without end
                error = self._each(self._past, waiting)
        with self._lock:
            self._error = self._error or error
            if self._waiting != waiting:
                self._news = time.monotonic()
            self._watched = bool(self._waiting)
            if self._watched:
                return True
        self._end(None)
        return False

    def fail(self, error: BaseException) -> None:
        """Give up waiting."""
        self._end(error)

    def _look_at(self, blocks: list[Range]) -> BaseException | None:
        """Begin what can be begun; what another process has is watched from then on."""
        error = self._each(self._look, blocks)
        with self._lock:
            if not self._waiting or self._watched:
                return error
            self._watched = True
            self._parts += 1
        self._mirror.watch(self)
        return error

    def _each(self, what: Callable[[int, int], None], blocks: list[Range]) -> BaseException | None:
        try:
            for low, high in blocks:
                what(low, high)
        except Exception as error:  # a full device, a source that cannot be opened: told with the result
            return error
        return None

    def _look(self, first: int, last: int) -> None:
        for begin, end, held in runs(self._mirror.held(first, last)):
            low, high = first + begin, first + end
            if held:
                self._copy(low, high)
            elif not (self._mirror.writable and self._mirror.intact()):
                self._past(low, high)
            else:
                self._folder.reserve(self._mirror)
                self._claim(low, high)

    def _claim(self, low: int, high: int, smallest: int = 0) -> None:
        """Fetch blocks that nobody has; what somebody has is looked at again later, in pieces."""
        if not self._mirror.claim(low, high):
            if high - low <= (smallest := smallest or max(1, (high - low) // 8)):
                with self._lock:
                    self._waiting.append((low, high))
                return
            middle = (low + high) // 2
            self._claim(low, middle, smallest)
            self._claim(middle, high, smallest)
            return
        for begin, end, held in runs(
            self._mirror.held(low, high)
        ):  # somebody may have brought them since the look
            if held:
                self._mirror.release(low + begin, low + end)
                self._copy(low + begin, low + end)
            else:
                self._fetch(low + begin, low + end)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _begin(self, part: Callable[[], Range | None]) -> None:
        """Do a part on a thread of the mirror; it returns blocks that must be looked at again."""
        with self._lock:
            self._parts += 1

        def job() -> None:
            error: BaseException | None = None
            try:
                if (again := part()) is not None:
                    error = self._look_at([again])
            except BaseException as raised:
                error = raised
            self._end(error)

        try:
            self._mirror.work(job)
        except BaseException:
            with self._lock:
                self._parts -= 1
            raise

    def _end(self, error: BaseException | None) -> None:
        """Note that a part is over, and with the last one the read."""
        with self._lock:
            self._error = self._error or error
            self._parts -= 1
            if self._parts:
                return
        # The future knows of this read, which must not keep the memory until a garbage collection.
        self._out = self._out[:0].copy()
        if self._error is None:
            self._future.set_result(self._taken)
        else:
            self._future.set_exception(self._error)

    def _count(self, pending: Pending) -> None:
        """Wait for a read of the source, and note what it took."""
        size = taken(pending.result(), self._source.name)
        with self._lock:
            self._taken += size

    def _clip(self, low: int, high: int) -> Range:
        edges = self._mirror.form.edges
        return max(int(edges[low]), self._start), min(int(edges[high]), self._stop)

    def _into(self, begin: int, end: int) -> np.ndarray:
        return self._out[begin - self._start : end - self._start]

    def _copy(self, low: int, high: int) -> None:
        """Take blocks from the mirror; where one is not what was written it is fetched again."""
        mirror = self._mirror
        begin, end = self._clip(low, high)

        def part() -> Range | None:
            return None if mirror.copy(low, high, begin, end, self._into(begin, end)) else (low, high)

        self._begin(part)

    def _past(self, low: int, high: int) -> None:
        """Read blocks without keeping them."""
        begin, end = self._clip(low, high)
        pending = begun(
            self._source.submit(begin, end, self._into(begin, end), *self._box), self._source.name
        )
        self.fetched.append((begin - self._start, end - self._start))

        def part() -> None:
            self._count(pending)

        self._begin(part)

    def _fetch(self, low: int, high: int) -> None:
        """Fetch claimed blocks: those that are asked for in part go by way of an array of their own."""
        edges = self._mirror.form.edges
        inner = range(low + (int(edges[low]) < self._start), high - (int(edges[high]) > self._stop))
        pieces = [(inner.start, inner.stop)] if inner else []
        pieces += [(block, block + 1) for block in {low, high - 1} if block not in inner]
        for place, (first, last) in enumerate(pieces):
            try:
                self._fetch_piece(first, last, whole=bool(inner) and place == 0)
            except BaseException:
                for left in pieces[place:]:
                    self._mirror.release(*left)
                raise

    def _fetch_piece(self, low: int, high: int, *, whole: bool) -> None:
        mirror, edges = self._mirror, self._mirror.form.edges
        first, last = int(edges[low]), int(edges[high])
        begin, end = self._clip(low, high)
        into = self._into(begin, end)
        rows = into if whole else np.empty((last - first, *into.shape[1:]), into.dtype)
        pending = begun(self._source.submit(first, last, rows, *self._box), self._source.name)
        self.fetched.append((first - self._start, last - self._start))

        def part() -> Range | None:
            try:
                self._count(pending)
                mirror.keep(low, high, rows)
            except BaseException:
                mirror.release(low, high)
                raise
            if not whole:
                into[...] = rows[begin - first : end - first]
            return None

        self._begin(part)
