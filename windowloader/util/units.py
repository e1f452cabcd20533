"""Amounts of memory: as text, and as this process uses them.

In: ``"1GiB"``, ``"512 MB"``, a number of bytes; /proc. Out: bytes as an int, and back; private memory at the beginning
and at the peak of a block. Private is what no other process shares: pages of mapped files do not count.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Self

from windowloader.errors import LoaderError

__all__ = ["MemoryWatch", "format_bytes", "parse_bytes", "private_bytes"]

UNITS = {"": 1}
UNITS |= {prefix: 1000**power for power, prefix in enumerate("kmgt", 1)}
UNITS |= {f"{prefix}i": 1024**power for power, prefix in enumerate("kmgt", 1)}


def parse_bytes(amount: str | int | float, *, name: str = "memory") -> int:
    """Bytes of ``amount``: a number, or text with a unit (kB, MB, GB, TB, KiB, MiB, GiB, TiB).

    Parameters
    ----------
    amount : str, int or float
        More than 0.
    name : str
        The argument's name, for the error.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    LoaderError
        If it is no amount, or not above 0.

    Examples
    --------
    >>> parse_bytes("1GiB"), parse_bytes("1.5 MB"), parse_bytes(4096)
    (1073741824, 1500000, 4096)
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)\s*", str(amount))
    unit = found[2].lower().removesuffix("b") if found else ""
    if found is None or unit not in UNITS or not (size := int(float(found[1]) * UNITS[unit])) > 0:
        raise LoaderError(
            f"{name}={amount!r} is not an amount of memory, such as '512MiB', '4GB' or a number of bytes."
        )
    return size


def format_bytes(size: float) -> str:
    """Bytes for people, in powers of 1000 (as disks and networks count).

    Examples
    --------
    >>> format_bytes(941_000), format_bytes(68_600_000), format_bytes(12)
    ('941 kB', '68.6 MB', '12 B')
    """
    power = 0
    while abs(size) >= 999.5 and power < 4:
        size, power = size / 1000, power + 1
    number = f"{size:.0f}" if power == 0 or abs(size) >= 99.95 else f"{size:.3g}"
    return f"{number} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def private_bytes() -> int:
    """Return the anonymous memory of this process, RssAnon of /proc/self/status; 0 where that is not known."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


class MemoryWatch:
    """Samples private memory every few milliseconds while its block runs.

    Parameters
    ----------
    every : float
        Seconds between samples.

    Attributes
    ----------
    begun, peak : int
        Bytes when the block began, and at the peak.

    Examples
    --------
    >>> with MemoryWatch() as watch:
    ...     array = bytearray(1 << 24)
    >>> watch.grown >= 0
    True
    """

    def __init__(self, every: float = 0.01) -> None:
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="windowloader-memory-watch", daemon=True)
        self.begun = self.peak = 0

    @property
    def grown(self) -> int:
        """Bytes between the beginning and the peak."""
        return self.peak - self.begun

    def _sample(self) -> None:
        while not self._done.wait(self._every):
            self.peak = max(self.peak, private_bytes())

    def __enter__(self) -> Self:
        self.begun = self.peak = private_bytes()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = max(self.peak, private_bytes())
        self._done.set()
        self._thread.join()
