"""Files as they were when opened, and handles that outlive forks and pickles.

In: paths, functions that open something. Out: `Stamp`, `Handle`. Never reads values.
"""

from __future__ import annotations

import difflib
import os
import stat
import threading
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from windowloader.errors import SourceChangedError, SourceError, SourceFormatError, SourceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Handle", "Stamp", "nearby"]

T = TypeVar("T")


def nearby(path: str | os.PathLike[str]) -> str:
    """Say what may have been meant by a path that leads nowhere: a sentence for a message.

    Parameters
    ----------
    path : path
        That does not exist.

    Returns
    -------
    str
        Names alike in its folder; or which of its folders is the first that does not exist.

    Examples
    --------
    >>> nearby("/no/such/folder/pems.zarr")
    "The folder '/no' does not exist either; check the path."
    """
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(folder):
        while not os.path.isdir(os.path.dirname(folder)):
            folder = os.path.dirname(folder)
        return f"The folder {folder!r} does not exist either; check the path."
    try:
        names = os.listdir(folder)
    except OSError:
        return "Check the path."
    stem = name.partition(".")[0]
    near = [other for other in sorted(names) if stem and other.partition(".")[0] == stem]
    near += [other for other in difflib.get_close_matches(name, names, n=3) if other not in near]
    if near:
        return f"Its folder has {', '.join(map(repr, near[:3]))}; was that meant?"
    if not names:
        return "Its folder is empty; check the path."
    return f"Its folder has {len(names)} other name{'s' * (len(names) > 1)}, none like it; check the path."


@dataclass(frozen=True, slots=True)
class Stamp:
    """Size and time of change of a file when it was opened.

    Parameters
    ----------
    path : str
        The file, absolute: workers may run elsewhere.
    size : int
        Bytes.
    mtime_ns : int
        Time of the last change, nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Stamp:
        """Stamp of a file or folder as it is now; `SourceNotFoundError` where there is none."""
        absolute = os.path.abspath(path)
        try:
            found = os.stat(absolute)
        except FileNotFoundError:
            raise SourceNotFoundError(
                f"{os.fspath(path)!r} does not exist (looked for {absolute}). {nearby(absolute)}"
            ) from None
        except (OSError, ValueError) as error:
            raise SourceError(f"{os.fspath(path)!r} cannot be read: {error}.") from error
        if not (
            stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
        ):  # opening a pipe waits for who writes
            raise SourceFormatError(
                f"{os.fspath(path)!r} is a pipe, socket or device. Rows are read in any order and more than "
                "once: write what comes out of it to a file."
            )
        return cls(absolute, found.st_size, found.st_mtime_ns)

    def check(self) -> None:
        """Raise where the file is no longer what was opened: values would be wrong, or a map would fault."""
        try:
            now = Stamp.of(self.path)
        except SourceNotFoundError:
            raise SourceNotFoundError(
                f"{self.path!r} was there when it was opened and is gone. Was it moved?"
            ) from None
        if now != self:
            raise SourceChangedError(
                f"{self.path!r} changed since it was opened: {self.size} bytes then and {now.size} now, last "
                f"changed at {self.mtime_ns} ns then and {now.mtime_ns} now. Open it again."
            )


class Handle(Generic[T]):
    """Something opened on first use, once per process: never pickled, and opened anew after a fork.

    Parameters
    ----------
    survives_fork : bool
        The value is plain memory that a child may go on using (a map, a loaded table).
    """

    def __init__(self, *, survives_fork: bool = False) -> None:
        self._survives_fork = survives_fork
        self._lock = threading.RLock()
        self._value: T | None = None
        _handles.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_new_handle, (self._survives_fork,))

    @contextmanager
    def held(self, opener: Callable[[], T]) -> Iterator[T]:
        """Open if need be, and keep anyone from closing meanwhile; readers take turns."""
        with self._lock:
            if self._value is None:
                self._value = opener()
            yield self._value

    def get(self, opener: Callable[[], T]) -> T:
        """Open if need be; for values that stay usable when another thread closes."""
        with self.held(opener) as value:
            return value

    def close(self) -> None:
        """Drop the value, closing it if it can be closed."""
        with self._lock:
            value, self._value = self._value, None
            if not self._survives_fork:
                close: Callable[[], None] = getattr(value, "close", _nothing)
                close()

    def _forked(self) -> None:
        self._lock = threading.RLock()  # a thread that is not in this process may have held the old one
        if not self._survives_fork and self._value is not None:
            # Closing the parent's file here could wait for a lock that nobody holds any more.
            _inherited.append(self._value)
            self._value = None


def _new_handle(survives_fork: bool) -> Handle[Any]:
    return Handle(survives_fork=survives_fork)


def _nothing() -> None:
    pass


def _after_fork() -> None:
    for handle in list(_handles):
        handle._forked()


_handles: weakref.WeakSet[Handle[Any]] = weakref.WeakSet()
_inherited: list[object] = []
os.register_at_fork(after_in_child=_after_fork)
