"""How large the pieces of a conversion are, so that all that is in hand fits in memory.

In: targets, a memory, threads. Out: `Sizing`. Plain arithmetic; never reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import MemoryBudgetError
from windowloader.sources.storage import total_cost
from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .targets import ArrayTarget

__all__ = ["Sizing", "size_pieces"]

BASE = 256 << 20  # the process itself: interpreter, libraries, compiled code
PIECE = 32 << 20  # bytes of a piece, where neither memory nor chunks ask for another size


@dataclass(frozen=True, slots=True)
class Sizing:
    """How much is in hand at once.

    Parameters
    ----------
    threads : int
    units : tuple of int
        Units of a piece, by target.
    amplification : float
        Bytes read over bytes there are: chunks of the source that lie across pieces are read again.
    """

    threads: int
    units: tuple[int, ...]
    amplification: float


def size_pieces(targets: Sequence[ArrayTarget], *, memory: int, threads: int, copies: int) -> Sizing:
    """Say how large pieces are and how many are worked on at once, so that all fit in memory.

    ``copies`` of what is stored are held while it is written.

    Raises
    ------
    MemoryBudgetError
        Where not even one does; the message names what would do.
    """
    room = memory - BASE if memory >= 2 * BASE else memory // 2
    least = max(_bytes(target, 1, copies) for target in targets)
    if least > room:
        needed = least + BASE if least > BASE else 2 * least
        raise MemoryBudgetError(
            f"memory={format_bytes(memory)} leaves {format_bytes(room)} for data, and rows are written at least "
            f"{max(target.layout.unit_rows for target in targets)} at a time, which takes {format_bytes(least)} with "
            f"what reading and encoding add. Give memory='{-(-needed // 2**20)}MiB', or smaller chunks= (or shards=)."
        )
    # A chunk of the source is best read once, even by fewer threads.
    wanted = [max(_bytes(target, units, copies), least) for target in targets for units in [_wanted(target)]]
    threads = max(1, min(threads, room // max(least, min(max(wanted), room))))
    units = tuple(_fitting(target, room // threads, copies) for target in targets)
    return Sizing(threads, units, _amplification(targets, units))


def _bytes(target: ArrayTarget, units: int, copies: int) -> int:
    """Memory that a piece takes: as read, as stored and written, and the source's chunk while it is decoded."""
    rows = min(units * target.layout.unit_rows, target.shape[0])
    read = 0 if target.encoding.plain else target.source_row_bytes
    storages = [(variable.source.storage(), variable.row_bytes) for variable in target.variables]
    chunk = sum(storage.largest * size for storage, size in storages if storage.edges is not None)
    return rows * (read + copies * target.row_bytes) + chunk


def _wanted(target: ArrayTarget) -> int:
    """Units that make a good piece: a chunk of the source, or some megabytes."""
    rows = max(variable.source.storage().largest for variable in target.variables)
    rows = max(rows, PIECE // max(target.row_bytes, target.source_row_bytes, 1))
    return min(max(1, -(-rows // target.layout.unit_rows)), target.num_units)


def _fitting(target: ArrayTarget, room: int, copies: int) -> int:
    units = _wanted(target)
    while units > 1 and _bytes(target, units, copies) > room:
        units = -(-units // 2)
    return units


def _amplification(targets: Sequence[ArrayTarget], units: Sequence[int]) -> float:
    read = there = 0
    for target, count in zip(targets, units, strict=True):
        rows = count * target.layout.unit_rows
        begin = np.arange(0, target.shape[0], rows)
        end = np.minimum(begin + rows, target.shape[0])
        for variable in target.variables:
            storage = variable.source.storage()
            read += int(total_cost([storage], begin, end).bytes.sum())
            there += variable.num_rows * variable.row_bytes
    return read / max(there, 1)
