"""A conversion's work, piece by piece: find ranges, write, read back; in bounded memory, on any executor.

In: targets, a store, a memory. Out: everything written and compared with what was written. Chunks that exist are not
written again: those with checksums that hold unchanged values are read back, others are compared with the source.
Workers read and write by themselves; only digests and counts come back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import numpy as np

from windowloader.errors import ConversionError, CorruptDataError, MemoryBudgetError
from windowloader.sources.executors import run
from windowloader.util.units import format_bytes

from .stores import NpyStore, ZarrStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from .targets import ArrayTarget
    from .values import Loss

    Progress = Callable[[str, int, int], object]

__all__ = ["Work"]

R = TypeVar("R")

BASE = 256 << 20  # the process itself: interpreter, libraries, compiled code
PIECE = 32 << 20  # bytes of a piece, where neither memory nor chunks ask for another size


class ConvertPiece(NamedTuple):
    """Rows of one target that are read and written together, and the digests they must have, if known."""

    target: int
    start: int
    stop: int
    sums: tuple[bytes, ...] = ()


class Written(NamedTuple):
    """What a worker says of a piece: digests by unit, errors, bytes stored and read, and whether it was there."""

    sums: tuple[bytes, ...]
    loss: Loss
    stored: int
    read: int
    resumed: bool


Store: TypeAlias = NpyStore | ZarrStore


def _span(targets: Sequence[ArrayTarget], piece: ConvertPiece) -> tuple[float, float]:
    target = targets[piece.target]
    return target.encoding.span(target.read(piece.start, piece.stop)[0])


def _write(targets: Sequence[ArrayTarget], store: Store, resumes: bool, piece: ConvertPiece) -> Written:
    """Write a piece, unless it was written before."""
    target, encoding = targets[piece.target], targets[piece.target].encoding
    stored, size, read = None, 0, 0
    if resumes and (found := _stored(target, store, piece)) is not None:
        stored, size = found
    if stored is not None and encoding.plain and store.checked:
        loss, sums = encoding.encode(stored, stored), _sums(target, stored)
    else:
        values, read = target.read(piece.start, piece.stop)
        encoded = values if encoding.plain else np.empty(values.shape, encoding.dtype)
        loss = encoding.encode(values, encoded)
        del values
        sums = _sums(target, encoded)
        if stored is None or _sums(target, stored) != sums:
            stored, size = None, store.write(target, piece.start, encoded)
    return Written(sums, loss, size, read, stored is not None)


def _matches(targets: Sequence[ArrayTarget], store: Store, piece: ConvertPiece) -> bool:
    """Whether a piece reads back as it was written."""
    target = targets[piece.target]
    found = _stored(target, store, piece)
    return found is not None and _sums(target, found[0]) == piece.sums


def _stored(target: ArrayTarget, store: Store, piece: ConvertPiece) -> tuple[np.ndarray, int] | None:
    """Read a piece back, and the bytes it takes; None where a chunk is absent or damaged."""
    try:
        return store.read(target, piece.start, piece.stop)
    except CorruptDataError:
        return None


def _sums(target: ArrayTarget, rows: np.ndarray) -> tuple[bytes, ...]:
    """Digests of the units of a piece."""
    units = range(0, len(rows), target.layout.unit_rows)
    parts = [np.ascontiguousarray(rows[start : start + target.layout.unit_rows]) for start in units]
    return tuple(hashlib.blake2b(memoryview(part).cast("B"), digest_size=16).digest() for part in parts)


@dataclass(slots=True, eq=False)
class Work:
    """What is done and what is left.

    Parameters
    ----------
    targets : sequence of ArrayTarget
    memory, at_once, copies : int
        Bytes for everything; pieces under way at a time at most; copies of what is stored that are held meanwhile.
    executor : Executor, optional
    progress : callable, optional
        Called with a phase ("scan", "write", "check"), bytes done and bytes in all, as stored before compression.
    """

    targets: Sequence[ArrayTarget]
    memory: int
    at_once: int
    copies: int
    executor: Executor | None = None
    progress: Progress | None = None
    pieces: list[ConvertPiece] = field(init=False)
    written: dict[ConvertPiece, Written] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.at_once, rows = size_pieces(self.targets, self.memory, self.at_once, self.copies)
        self.pieces = [
            ConvertPiece(number, start, min(start + rows[number], target.shape[0]))
            for number, target in enumerate(self.targets)
            for start in range(0, target.shape[0], rows[number])
        ]

    def run(self, store: Store, *, resumes: bool) -> None:
        """Write all that is left."""
        self._fit()
        if isinstance(store, NpyStore):
            store.create(self.targets[0])
        self._write(store, self.pieces, resumes=resumes)

    def check(self, store: Store) -> None:
        """Read everything back; what is not what was written is written again, once."""
        for last in (False, True):
            asked = [piece._replace(sums=self.written[piece].sums) for piece in self.pieces]
            found = self._each("check", partial(_matches, self.targets, store), asked)
            wrong = [piece._replace(sums=()) for piece, same in found if not same]
            if not wrong:
                return
            if last:
                number, start, stop, _ = min(wrong)
                raise ConversionError(
                    f"rows {start} … {stop - 1} of {self.targets[number].name!r} read back other than they were "
                    f"written, twice. Is the storage under {store.name!r} in order?"
                )
            self._write(store, wrong, resumes=False)

    def checksum(self, head: str) -> str:
        """Digest of what the store is and of all its values in order, however it was pieced together."""
        digest = hashlib.blake2b(head.encode(), digest_size=16)
        for piece in self.pieces:
            for found in self.written[piece].sums:
                digest.update(found.hex().encode())
        return digest.hexdigest()

    def of(self, target: int) -> list[Written]:
        """Return what was written of one array, in order."""
        return [self.written[piece] for piece in self.pieces if piece.target == target]

    @property
    def resumed(self) -> int:
        """Bytes that an earlier process wrote."""
        return sum(self._bytes(piece) for piece, done in self.written.items() if done.resumed)

    @property
    def amplification(self) -> float:
        """Bytes read from the source in this process over the bytes of what was read."""
        fresh = [piece for piece, done in self.written.items() if done.read]
        there = sum((one.stop - one.start) * self.targets[one.target].source_row_bytes for one in fresh)
        return sum(self.written[piece].read for piece in fresh) / max(there, 1)

    def _fit(self) -> None:
        """Find the smallest and largest values of arrays that are scaled."""
        scaled = [piece for piece in self.pieces if self.targets[piece.target].encoding.scale is not None]
        spans: dict[int, tuple[float, float]] = {}
        for piece, (low, high) in self._each("scan", partial(_span, self.targets), scaled) if scaled else ():
            least, most = spans.get(piece.target, (low, high))
            spans[piece.target] = min(low, least), max(high, most)
        self.targets = [
            replace(target, encoding=target.encoding.fitted(*spans[number])) if number in spans else target
            for number, target in enumerate(self.targets)
        ]

    def _write(self, store: Store, pieces: list[ConvertPiece], *, resumes: bool) -> None:
        work = partial(_write, self.targets, store, resumes)
        self.written |= dict(self._each("write", work, pieces))

    def _bytes(self, piece: ConvertPiece) -> int:
        return (piece.stop - piece.start) * self.targets[piece.target].row_bytes

    def _each(
        self, phase: str, work: Callable[[ConvertPiece], R], pieces: list[ConvertPiece]
    ) -> Iterator[tuple[ConvertPiece, R]]:
        """Work on pieces, by the executor; the first error ends all."""
        progress = self.progress or (lambda *_: None)
        done, total = 0, sum(map(self._bytes, pieces))
        progress(phase, 0, total)
        for piece, result in run(work, pieces, executor=self.executor, at_once=self.at_once):
            done += self._bytes(piece)
            progress(phase, done, total)
            yield piece, result


def size_pieces(
    targets: Sequence[ArrayTarget], memory: int, at_once: int, copies: int
) -> tuple[int, list[int]]:
    """Return how many pieces are worked on at once, and the rows of a piece of each target: all fit in memory.

    ``copies`` of what is stored are held while it is written.

    Raises
    ------
    MemoryBudgetError
        Where not even one does; the message names what would do.
    """
    room = memory - BASE if memory >= 2 * BASE else memory // 2
    least = max(_bytes(target, target.layout.unit_rows, copies) for target in targets)
    if least > room:
        needed = least + BASE if least > BASE else 2 * least
        raise MemoryBudgetError(
            f"memory={format_bytes(memory)} leaves {format_bytes(room)} for data, and rows are written at least "
            f"{max(target.layout.unit_rows for target in targets)} at a time, which takes {format_bytes(least)} with "
            f"what reading and encoding add. Give memory='{-(-needed // 2**20)}MiB', or smaller chunks= (or shards=)."
        )
    # A chunk of the source is best read once, even by fewer threads.
    wanted = max(_bytes(target, _wanted(target), copies) for target in targets)
    at_once = max(1, min(at_once, room // max(least, min(wanted, room))))
    rows = []
    for target in targets:
        units = -(-_wanted(target) // target.layout.unit_rows)
        while units > 1 and _bytes(target, units * target.layout.unit_rows, copies) > room // at_once:
            units = -(-units // 2)
        rows.append(units * target.layout.unit_rows)
    return at_once, rows


def _bytes(target: ArrayTarget, rows: int, copies: int) -> int:
    """Memory that a piece takes: as read, as stored and written, and the source's chunk while it is decoded."""
    read = 0 if target.encoding.plain else target.source_row_bytes
    storages = [(variable.source.storage(), variable.row_bytes) for variable in target.variables]
    chunk = sum(storage.largest * size for storage, size in storages if storage.edges is not None)
    return min(rows, target.shape[0]) * (read + copies * target.row_bytes) + chunk


def _wanted(target: ArrayTarget) -> int:
    """Rows that make a good piece, whole units: a chunk of the source, or some megabytes."""
    rows = max(variable.source.storage().largest for variable in target.variables)
    rows = max(rows, PIECE // max(target.row_bytes, target.source_row_bytes, 1))
    unit = target.layout.unit_rows
    return min(-(-rows // unit), -(-target.shape[0] // unit)) * unit
