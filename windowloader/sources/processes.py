"""Values that belong to one process, and the one place that loads TensorStore.

In: a way to make a value. Out: that value, made again in every process that asks. Never carries a TensorStore
handle over a fork: its threads do not survive one, and it aborts the process that tries.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from windowloader.ending import end_all
from windowloader.errors import ClosedError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PerProcess", "forked_after_use", "tensorstore"]

T = TypeVar("T")

# Without these a server that accepts and never answers, or answers at a trickle, is waited for without end; read at
# TensorStore's first request. 32 requests that share a slow line stay above 1 KiB a second each.
STALLS = {
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "5",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1024",
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "5",
}


class _Process:
    """How many forks lie behind this process, and whether TensorStore was loaded before the last of them."""

    generation = 0
    inherited = False
    noted = False
    module: Any = None

    @classmethod
    def note_import(cls) -> None:
        if not cls.noted:  # from here on TensorStore's own handler comes after ours
            cls.noted = True
            atexit.register(end_all)

    @classmethod
    def forked(cls) -> None:
        cls.generation += 1
        cls.inherited = cls.inherited or "tensorstore" in sys.modules


os.register_at_fork(after_in_child=_Process.forked)


def tensorstore() -> Any:
    """Return the tensorstore module, with its stall limits set.

    Raises
    ------
    SourceError
        In a process that was forked after TensorStore was loaded: TensorStore would abort it.

    Examples
    --------
    >>> tensorstore().__name__
    'tensorstore'
    """
    if _Process.inherited:
        raise SourceError(
            "this process was forked from one that had used TensorStore, which cannot be used in both. Open URLs and "
            "chunked stores before the fork and use what was opened, or start processes by 'spawn' or 'forkserver': "
            "multiprocessing.get_context('forkserver'), DataLoader(..., multiprocessing_context='forkserver')."
        )
    if _Process.module is None:
        if threading.current_thread() is threading.main_thread():
            _load()
        else:
            _load_before_the_end()
    return _Process.module


def _load() -> None:
    for name, value in STALLS.items():
        os.environ.setdefault(name, value)
    import tensorstore

    _Process.note_import()
    _Process.module = tensorstore


def _load_before_the_end() -> None:
    """Load it on a thread that lives as long as the process, while another one keeps the interpreter from ending.

    TensorStore takes the thread that loads it for the main thread, which may ask for the interpreter even at its end.
    Once that thread had ended, one of TensorStore's own could get its id, ask too late, and abort the process. And what
    makes its other threads safe is registered as it is loaded, which must be over before the interpreter ends.
    """
    errors: list[BaseException] = []
    loaded = threading.Event()

    def load() -> None:
        try:
            _load()
        except BaseException as error:
            errors.append(error)
        loaded.set()
        threading.Event().wait()

    def hold() -> None:
        if threading.main_thread().is_alive():  # and so has yet to wait for this thread
            threading.Thread(target=load, name="tensorstore-loader", daemon=True).start()
            loaded.wait()
        else:
            errors.append(
                ClosedError("the interpreter is ending, and TensorStore cannot be loaded any more.")
            )

    holder = threading.Thread(target=hold, name="windowloader-load", daemon=False)
    holder.start()
    holder.join()
    if errors:
        raise errors[0]


def forked_after_use() -> bool:
    """Whether this process was forked from one that had TensorStore loaded, so that it must not use it.

    Loaded is taken for used: nobody can tell from outside, and a wrong guess ends the process.

    Examples
    --------
    >>> forked_after_use()
    False
    """
    return _Process.inherited


class PerProcess(Generic[T]):
    """A cell whose value is made once in each process: after fork and after unpickling it is empty.

    Examples
    --------
    >>> cell = PerProcess()
    >>> cell.get(lambda: [1]) is cell.get(lambda: [2])
    True
    >>> cell.drop()
    [1]
    """

    __slots__ = ("_locks", "_values")

    def __init__(self) -> None:
        # By generation: a value of the parent stays referenced in the child, so that nothing there finalises it,
        # and a lock that another thread held at the fork is never waited for.
        self._values: dict[int, T] = {}
        self._locks: dict[int, threading.Lock] = {}

    def get(self, make: Callable[[], T]) -> T:
        """Return this process's value, made by ``make`` at the first call."""
        generation = _Process.generation
        found = self._values.get(generation)
        if found is None:
            with self._locks.setdefault(generation, threading.Lock()):
                found = self._values.get(generation)
                if found is None:
                    found = self._values[generation] = make()
        return found

    def drop(self, only: T | None = None) -> T | None:
        """Forget this process's value and return it, or None; with ``only``, where it is that one."""
        if only is not None and self._values.get(_Process.generation) is not only:
            return None
        return self._values.pop(_Process.generation, None)

    def __reduce__(self) -> tuple[type[PerProcess[T]], tuple[()]]:
        return (PerProcess, ())
