"""What of a conversion is done, on disk, so that a killed one goes on.

In: records of finished work. Out: the same records after a kill, without the one that was being written. One process
at a time holds a journal. Never says that something is done before its bytes are.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import zlib
from typing import TYPE_CHECKING, Any, Protocol

from windowloader.errors import ConversionError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["Journal", "Records", "other_conversion"]


class Records(Protocol):
    """What of a conversion was written down before, and where more is."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was written before."""

    def write(self, record: dict[str, Any]) -> None:
        """Add a record, kept when this returns. What it tells of must be kept already."""

    def remove(self) -> None:
        """Delete all: the conversion is over."""

    def close(self) -> None:
        """Let go; another process may take it up."""


class Journal:
    """Records, one a line, each with a checksum; the first says what is being made.

    Parameters
    ----------
    path : Path
        Made where it is not there.
    identity : str
        What is being made from what; a journal of something else is refused.

    Attributes
    ----------
    records : list of dict
        What was written before, without the first.

    Raises
    ------
    ConversionError
        Where another process holds it, or it is of another conversion.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = open(path, "a+b")  # noqa: SIM115 - held until close
        try:
            self._hold()
            self.records = self._read()
            self._begin(identity)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, identity: str) -> None:
        head = self.records.pop(0) if self.records else None
        if head is None:
            self.write({"identity": identity})
        elif head.get("identity") != identity:
            raise other_conversion(self.path.name)

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
        except OSError:
            raise ConversionError(
                f"another process is writing {self.path.name.removesuffix('.partial.journal')!r}. Wait for it, or "
                "choose another name."
            ) from None

    def _read(self) -> list[dict[str, Any]]:
        """Return records up to the first that is torn, which is cut off."""
        self._file.seek(0)
        found, good = [], 0
        for line in self._file:
            text, _, check = line.rstrip(b"\n").rpartition(b"\t")
            if not line.endswith(b"\n") or check != _check(text):
                break
            found.append(json.loads(text))
            good += len(line)
        self._file.truncate(good)
        return found

    def write(self, record: dict[str, Any]) -> None:
        """Add a record, on disk when this returns. What it tells of must be on disk already."""
        text = json.dumps(record).encode()
        with self._lock:
            self._file.write(text + b"\t" + _check(text) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Delete it: the conversion is over."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go; another process may take it up."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def other_conversion(name: str) -> ConversionError:
    """Error for a journal of something else."""
    return ConversionError(
        f"{name!r} is of a conversion with other data or other settings. Give the same again to go on with it, or "
        "restart=True (--restart) to begin anew."
    )


def _check(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()
