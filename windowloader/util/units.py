"""Amounts of memory as people write them.

In: ``"1GiB"``, ``"512 MB"``, a number of bytes. Out: bytes as an int, and back. Never looks at the machine.
"""

from __future__ import annotations

import re

from windowloader.errors import LoaderError

__all__ = ["format_bytes", "parse_bytes"]

UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


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
            f"{name}={amount!r} is no amount of memory. Write e.g. '512MiB', '4GB' or a number of bytes."
        )
    return size


def format_bytes(size: float) -> str:
    """Bytes for people, in powers of 1000 (as disks and networks count).

    Examples
    --------
    >>> format_bytes(941_000), format_bytes(68_600_000), format_bytes(12)
    ('941 kB', '68.6 MB', '12 B')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while abs(size) >= 999.5 and len(units) > 1:
        size /= 1000
        del units[0]
    unit = units[0]
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 99.95 else f"{size:.3g} {unit}"
