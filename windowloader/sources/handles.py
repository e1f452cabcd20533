"""Files as they were when opened.

In: paths. Out: `Stamp`; `nearby`, a hint for a path that does not exist. Never reads values.
"""

from __future__ import annotations

import difflib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from windowloader.errors import SourceChangedError, SourceError, SourceFormatError, SourceNotFoundError

__all__ = ["Stamp", "bytes_on_disk", "nearby"]


def nearby(path: str | os.PathLike[str]) -> str:
    """Suggest what a path that does not exist may mean: a sentence for a message.

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
    names = sorted(os.listdir(folder)) if os.access(folder, os.R_OK) else []
    same = [other for other in names if other.partition(".")[0] == name.partition(".")[0] != ""]
    near = list(dict.fromkeys([*same, *difflib.get_close_matches(name, names)]))
    found = (
        f"{', '.join(map(repr, near[:3]))}; was that meant?"
        if near
        else f"{len(names)} other names, none like it; check the path."
    )
    return f"Its folder has {found}"


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
            raise SourceNotFoundError(f"{absolute!r} does not exist. {nearby(absolute)}") from None
        except (OSError, ValueError) as error:
            raise SourceError(f"{os.fspath(path)!r} cannot be read: {error}.") from error
        kind = stat.S_IFMT(found.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):  # opening a pipe would wait for a writer
            raise SourceFormatError(
                f"{os.fspath(path)!r} is a pipe, socket or device, and rows are read in any order: write it to a file."
            )
        return cls(absolute, found.st_size, found.st_mtime_ns)

    @property
    def name(self) -> str:
        """Path, for messages."""
        return self.path

    def identity(self) -> str:
        """Text that changes when the file does."""
        return f"{self.size} {self.mtime_ns}"

    def check(self) -> None:
        """Raise where the file has changed since it was opened: values would be wrong, or a map would fault."""
        try:
            now = Stamp.of(self.path)
        except SourceNotFoundError:
            raise SourceNotFoundError(f"{self.path!r} is gone since it was opened. Was it moved?") from None
        if now != self:
            raise SourceChangedError(
                f"{self.path!r} changed since it was opened: {self.size} bytes then and {now.size} now, last "
                f"changed at {self.mtime_ns} ns then and {now.mtime_ns} now. Open it again."
            )


def bytes_on_disk(place: str) -> int | None:
    """Bytes of a file, or of a folder's files; None where there is neither."""
    if os.path.isfile(place):
        return os.path.getsize(place)
    if os.path.isdir(place):
        return sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    return None
