"""A conversion's work, piece by piece: find ranges, write, read back; in bounded memory, by several threads.

In: targets, a store, a memory. Out: everything written and compared with what was written. Chunks that exist are not
written again: those with checksums that hold unchanged values are read back, others are compared with the source.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from windowloader.errors import ConversionError, CorruptDataError, MemoryBudgetError
from windowloader.sources.storage import total_cost
from windowloader.util.units import format_bytes

from .values import Loss, Range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .stores import Store
    from .targets import ArrayTarget
    from .values import Encoding

__all__ = ["Sizing", "Work", "size_pieces"]

BASE = 256 << 20  # the process itself: interpreter, libraries, compiled code
PIECE = 32 << 20  # bytes of a piece, where neither memory nor chunks ask for another size

Piece: TypeAlias = "tuple[int, int, int]"
"""Number of a target, its first unit and the end."""


@dataclass(slots=True, eq=False)
class Work:
    """What is done and what is left.

    Parameters
    ----------
    targets : sequence of ArrayTarget
    store : Store
    sizing : Sizing
    progress : callable or None
        Called with a phase ("scan", "write", "check"), bytes done and bytes in all, as stored before compression.
    resumes : bool
        Whether an earlier process may have written some of it.

    Attributes
    ----------
    resumed : int
        Bytes that an earlier process wrote.
    """

    targets: Sequence[ArrayTarget]
    store: Store
    sizing: Sizing
    progress: Callable[[str, int, int], object] | None = None
    resumes: bool = False
    resumed: int = 0
    encodings: list[Encoding] = field(default_factory=list)
    sums: dict[Piece, list[str]] = field(default_factory=dict)
    losses: dict[Piece, Loss] = field(default_factory=dict)
    sizes: dict[Piece, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, *, verify: bool) -> None:
        """Do all that is left."""
        self.encodings = [target.encoding for target in self.targets]
        scaled = [number for number, encoding in enumerate(self.encodings) if encoding.scale is not None]
        if scaled:
            self._find_ranges(scaled)
        self.store.create(self.encodings)
        self._each("write", self._pieces(), self._convert)
        if verify:
            self.check()

    def checksum(self, head: str) -> str:
        """Digest of what the store is and of all its values in order, however it was pieced together."""
        digest = hashlib.blake2b(head.encode(), digest_size=16)
        for _, sums in sorted(self.sums.items()):
            digest.update("".join(sums).encode())
        return digest.hexdigest()

    def loss(self, target: int) -> Loss:
        """How exact an array is."""
        return sum((loss for piece, loss in sorted(self.losses.items()) if piece[0] == target), start=Loss())

    def stored_bytes(self, target: int) -> int:
        """Bytes of an array's values where they are stored."""
        return sum(size for piece, size in self.sizes.items() if piece[0] == target)

    # -- phases --------------------------------------------------------------------------------------------------------

    def _find_ranges(self, scaled: list[int]) -> None:
        """Find the smallest and largest values of arrays that are scaled."""
        ranges = dict.fromkeys(scaled, Range())

        def look(piece: Piece) -> None:
            target = self.targets[piece[0]]
            found = Range.of(target.read(*target.rows(*piece[1:])), target.encoding.mark, target.name)
            with self._lock:
                ranges[piece[0]] |= found

        self._each("scan", [piece for piece in self._pieces() if piece[0] in ranges], look)
        for number, found in ranges.items():
            self.encodings[number] = self.encodings[number].fitted(found)

    def _convert(self, piece: Piece) -> None:
        """Write a piece, unless it was written before."""
        number, first, last = piece
        target, encoding = self.targets[number], self.encodings[number]
        start, stop = target.rows(first, last)
        stored, size = self._stored(piece) if self.resumes else (None, 0)
        if stored is not None and encoding.plain and self.store.checked:
            loss, sums = encoding.encode(stored, stored), self._sums(piece, stored)
        else:
            values = target.read(start, stop)
            encoded = values if encoding.plain else np.empty(values.shape, encoding.dtype)
            loss = encoding.encode(values, encoded)
            del values
            sums = self._sums(piece, encoded)
            if stored is None or self._sums(piece, stored) != sums:
                stored = None
                size = self.store.write(number, start, encoded)
        with self._lock:
            self.sums[piece], self.losses[piece], self.sizes[piece] = sums, loss, size
            self.resumed += 0 if stored is None else self._size(piece)

    def _stored(self, piece: Piece) -> tuple[np.ndarray | None, int]:
        """Read a piece back, and the bytes it takes; None where a chunk is absent or damaged."""
        try:
            return self.store.read(piece[0], *self.targets[piece[0]].rows(*piece[1:]))
        except CorruptDataError:
            return None, 0

    def check(self) -> None:
        """Read everything back; what is not what was written is written again, once."""
        for attempt in range(2):
            wrong: list[Piece] = []

            def compare(piece: Piece, wrong: list[Piece] = wrong) -> None:
                stored, _ = self._stored(piece)
                if stored is None or self._sums(piece, stored) != self.sums[piece]:
                    wrong.append(piece)

            self._each("check", self._pieces(), compare)
            if not wrong:
                return
            if attempt:
                target = self.targets[wrong[0][0]]
                start, stop = target.rows(*wrong[0][1:])
                raise ConversionError(
                    f"rows {start} … {stop - 1} of {target.name!r} read back other than they were written, twice. Is "
                    f"the storage under {self.store.name!r} in order?"
                )
            self.resumes = False
            self._each("write", wrong, self._convert)

    def _sums(self, piece: Piece, stored: np.ndarray) -> list[str]:
        """Digests of the units of a piece."""
        target = self.targets[piece[0]]
        origin, sums = target.rows(*piece[1:])[0], []
        for unit in range(*piece[1:]):
            start, stop = target.rows(unit, unit + 1)
            data = np.ascontiguousarray(stored[start - origin : stop - origin])
            sums.append(hashlib.blake2b(memoryview(data).cast("B"), digest_size=16).hexdigest())
        return sums

    # -- pieces --------------------------------------------------------------------------------------------------------

    def _pieces(self) -> list[Piece]:
        return [
            (number, first, min(first + units, target.num_units))
            for number, (target, units) in enumerate(zip(self.targets, self.sizing.units, strict=True))
            for first in range(0, target.num_units, units)
        ]

    def _size(self, piece: Piece) -> int:
        start, stop = self.targets[piece[0]].rows(*piece[1:])
        return (stop - start) * self.targets[piece[0]].row_bytes

    def _each(self, phase: str, pieces: list[Piece], work: Callable[[Piece], None]) -> None:
        """Work on pieces by threads; the first error ends all."""
        progress = self.progress or (lambda *_: None)
        done, total = 0, sum(map(self._size, pieces))
        progress(phase, 0, total)
        with ThreadPoolExecutor(self.sizing.threads, "windowloader-convert") as pool:
            futures = {pool.submit(work, piece): piece for piece in pieces}
            try:
                for future in as_completed(futures):
                    future.result()
                    done += self._size(futures[future])
                    progress(phase, done, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


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
