"""Values that belong to one process or one call, and the only place that loads TensorStore.

In: a function that opens something. Out: `PerProcess`, which calls it once per process; `opened`, once per call;
`tensorstore`. TensorStore is never used in a process forked from one that had loaded it: its threads do not survive a
fork, and it aborts the child.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from windowloader.errors import ClosedError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PerProcess", "opened", "sharing", "tensorstore"]

T = TypeVar("T")

# Without these TensorStore waits forever for a server that accepts and never answers, or answers very slowly; read at
# its first request. 32 requests that share a slow line stay above 1 KiB a second each.
STALLS = {
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "5",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1024",
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "5",
}


def tensorstore(name: str = "") -> Any:
    """Return the tensorstore module, with its stall limits set.

    Parameters
    ----------
    name : str
        What will be read, for the message.

    Raises
    ------
    SourceError
        In a process that was forked after TensorStore was loaded: it would abort the process if it had been used.

    Examples
    --------
    >>> tensorstore().__name__
    'tensorstore'
    """
    if _forked_after_use:
        raise SourceError(
            f"{repr(name) if name else 'a store'} cannot be read in this process, which was forked from one that "
            "had used TensorStore: its threads do not survive a fork. Start the workers of a DataLoader with "
            'multiprocessing_context="forkserver" (or "spawn"), other processes with '
            'multiprocessing.get_context("forkserver").'
        )
    if not _loaded:
        if threading.current_thread() is threading.main_thread():
            _load()
        else:
            _load_before_the_end()
    return _loaded[0]


def _load() -> None:
    for name, value in STALLS.items():
        os.environ.setdefault(name, value)
    import tensorstore

    from windowloader.util.threads import end_all

    atexit.register(end_all)  # TensorStore has just registered its own handler: ours must run before it
    _loaded.append(tensorstore)


def _load_before_the_end() -> None:
    """Load it on a thread that never ends, while a second one keeps the interpreter alive.

    TensorStore takes the thread that loads it for the main thread, which may acquire the GIL even at shutdown. If that
    thread ended, one of TensorStore's own could get its id, acquire too late, and abort the process. The exit handler
    that protects the other threads is registered while it is loaded, which must finish before the interpreter ends.
    """
    loading: Future[None] = Future()

    def load() -> None:
        try:
            _load()
            loading.set_result(None)
        except BaseException as error:
            loading.set_exception(error)
        threading.Event().wait()

    def hold() -> None:
        if threading.main_thread().is_alive():  # it will wait for this thread
            threading.Thread(target=load, name="tensorstore-loader", daemon=True).start()
            loading.exception()
        else:
            loading.set_exception(
                ClosedError("the interpreter is shutting down; TensorStore cannot be loaded.")
            )

    holder = threading.Thread(target=hold, name="windowloader-load", daemon=False)
    holder.start()
    holder.join()
    loading.result()


class PerProcess(Generic[T]):
    """A value opened on first use, once in each process: never pickled, and opened again after a fork.

    Parameters
    ----------
    survives_fork : bool
        The value is plain memory, which a child may go on using (a map, a loaded table).

    Examples
    --------
    >>> cell = PerProcess()
    >>> cell.get(lambda: [1]) is cell.get(lambda: [2])
    True
    >>> cell.drop()
    [1]
    """

    __slots__ = ("__weakref__", "_lock", "_survives_fork", "_value")

    def __init__(self, survives_fork: bool = False) -> None:
        self._survives_fork = survives_fork
        self._lock = threading.RLock()
        self._value: list[T] = []  # at most one; a list, since its pop() needs no lock
        _CELLS.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._survives_fork,))

    def get(self, make: Callable[[], T]) -> T:
        """Return this process's value, made by ``make`` at the first call."""
        if not (found := self._value[:]):
            with self._lock:
                if not (found := self._value[:]):
                    found = [make()]
                    self._value = found[:]
        return found[0]

    @contextmanager
    def held(self, make: Callable[[], T]) -> Iterator[T]:
        """Return the value as `get` does, locked: no other thread uses or closes it meanwhile."""
        with self._lock:
            yield self.get(make)

    def drop(self, only: T | None = None) -> T | None:
        """Remove and return the value, or None; with ``only``, if it is that one. Never waits for `get`."""
        try:
            return self._value.pop() if only is None or self._value[0] is only else None
        except IndexError:
            return None

    def close(self) -> None:
        """Remove the value and close it if it has a ``close``; waits for threads that have it locked."""
        with self._lock:
            getattr(self.drop(), "close", lambda: None)()

    def _forked(self) -> None:
        self._lock = threading.RLock()  # a thread of the parent may hold the old one
        if not self._survives_fork:
            _INHERITED.extend(self._value)
            self._value = []


_SHARED: ContextVar[dict[Any, Any] | None] = ContextVar("shared", default=None)
MOST_SHARED = 8  # open stores: not all files of a long list


@contextmanager
def sharing() -> Iterator[None]:
    """Within this context a store whose variables are opened one by one is opened and described once."""
    if _SHARED.get() is not None:
        yield
        return
    token = _SHARED.set({})
    try:
        yield
    finally:
        for contents in (_SHARED.get() or {}).values():
            contents.close()
        _SHARED.reset(token)


@contextmanager
def opened(opener: Callable[[], T]) -> Iterator[T]:
    """Open a store and close it; within `sharing` reuse what an equal opener opened, and leave it open."""
    stores = _SHARED.get()
    contents: Any = opener() if stores is None or opener not in stores else stores[opener]
    try:
        yield contents
    finally:
        if stores is None:
            contents.close()
        else:
            stores.setdefault(opener, contents)
            while len(stores) > MOST_SHARED:
                stores.pop(next(iter(stores))).close()


_loaded: list[Any] = []  # the tensorstore module, once it is
_forked_after_use = False  # whether it was loaded before this process was forked
_CELLS: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()
_INHERITED: list[Any] = []  # of the parent: closing it here could wait forever for a lock


def _after_fork() -> None:
    global _forked_after_use
    _forked_after_use = _forked_after_use or "tensorstore" in sys.modules
    for cell in list(_CELLS):
        cell._forked()


os.register_at_fork(after_in_child=_after_fork)
