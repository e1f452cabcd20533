"""A conversion's work, piece by piece: find ranges, write, read back; in bounded memory, by several threads.

In: targets, a store, a journal. Out: everything written and compared with what was written. Never has more pieces in
memory than were counted, and never does again what the journal says is done.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import ConversionError, CorruptDataError

from .values import Loss, Range, encoding_from

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .journal import Records
    from .sizing import Sizing
    from .stores import Store
    from .targets import ArrayTarget
    from .values import Encoding

    Progress = Callable[[str, int, int], object]
    Piece = tuple[int, int, int]

__all__ = ["Work"]


@dataclass(slots=True, eq=False)
class Work:
    """What is done and what is left.

    Parameters
    ----------
    targets : sequence of ArrayTarget
    store : Store
    journal : Records
    sizing : Sizing
    progress : callable or None
        Called with a phase ("scan", "write", "check"), bytes done and bytes in all, as stored before compression.
    """

    targets: Sequence[ArrayTarget]
    store: Store
    journal: Records
    sizing: Sizing
    progress: Progress | None = None
    encodings: list[Encoding] = field(default_factory=list)
    sums: list[list[str | None]] = field(default_factory=list)
    losses: dict[tuple[int, int], tuple[int, Loss]] = field(default_factory=dict)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    resumed: int = 0
    """Bytes that an earlier process wrote."""
    _done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, *, verify: bool) -> None:
        """Do all that is left."""
        self.encodings = [target.encoding for target in self.targets]
        self.sums = [[None] * target.num_units for target in self.targets]
        scaled = [number for number, encoding in enumerate(self.encodings) if encoding.scale is not None]
        if scaled:
            self._find_ranges(scaled)
        self.store.create(self.encodings)
        self._recall()
        self._write_missing(resumed=True)
        if verify:
            self.check()

    def checksum(self, head: str) -> str:
        """Digest of what the store is and of all its values in order, however it was pieced together."""
        digest = hashlib.blake2b(head.encode(), digest_size=16)
        for sums in self.sums:
            for one in sums:
                digest.update(str(one).encode())
        return digest.hexdigest()

    def loss(self, target: int) -> Loss:
        """How exact an array is."""
        total = Loss()
        for (number, _), (_, loss) in sorted(self.losses.items(), key=lambda item: item[0]):
            if number == target:
                total += loss
        return total

    def stored_bytes(self, target: int) -> int:
        """Bytes of an array's values where they are stored."""
        return sum(size for (number, _), size in self.sizes.items() if number == target)

    # -- phases --------------------------------------------------------------------------------------------------------

    def _find_ranges(self, scaled: list[int]) -> None:
        """Find smallest and largest values; a range that was written down is not looked for again."""
        known = {record["scaled"]: record for record in self.journal.records if "scaled" in record}
        ranges: dict[int, list[Range]] = {number: [] for number in scaled}
        seen: set[tuple[int, int]] = set()
        for record in self.journal.records:
            if "range" in record:
                number, first, last, low, high = record["range"]
                ranges[number].append(Range(low, high))
                seen |= {(number, unit) for unit in range(first, last)}
        left = [number for number in scaled if number not in known]
        pieces = self._pieces(left, lambda number, unit: (number, unit) not in seen)

        def look(piece: Piece) -> None:
            number, first, last = piece
            target = self.targets[number]
            values = target.read(*target.rows(first, last))
            found = Range.of(values, target.encoding.mark, target.name)
            ranges[number].append(found)
            self.journal.write({"range": [number, first, last, found.low, found.high]})

        self._each("scan", pieces, look, left)
        for number in scaled:
            if number in known:
                self.encodings[number] = encoding_from(known[number], self.encodings[number])
                continue
            total = Range()
            for found in ranges[number]:
                total |= found
            fitted = self.encodings[number] = self.encodings[number].fitted(total)
            self.journal.write({"scaled": number, "scale": fitted.scale, "offset": fitted.offset})

    def _recall(self) -> None:
        for record in self.journal.records:
            if "piece" in record:
                number, first, last = record["piece"]
                self.sums[number][first:last] = record["sums"]
                self.losses[number, first] = (last, Loss(*record["loss"]))
                self.sizes[number, first] = record["bytes"]

    def _write_missing(self, *, resumed: bool) -> None:
        pieces = self._pieces(range(len(self.targets)), lambda number, unit: self.sums[number][unit] is None)
        if resumed:
            total = sum(target.shape[0] * target.row_bytes for target in self.targets)
            self.resumed = total - sum(self._size(piece) for piece in pieces)
        self._each("write", pieces, self._convert, range(len(self.targets)))

    def _convert(self, piece: Piece) -> None:
        number, first, last = piece
        target, encoding = self.targets[number], self.encodings[number]
        start, stop = target.rows(first, last)
        values = target.read(start, stop)
        stored = values if encoding.plain else np.empty(values.shape, encoding.dtype)
        loss = encoding.encode(values, stored)
        del values
        sums = self._sums(target, first, last, stored)
        size = self.store.write(number, start, stored)
        self.journal.write(
            {
                "piece": [number, first, last],
                "sums": sums,
                "loss": [loss.values, loss.missing, loss.largest, loss.square],
                "bytes": size,
            }
        )
        with self._lock:
            self.sums[number][first:last] = sums
            self.losses[number, first] = (last, loss)
            self.sizes[number, first] = size

    def check(self) -> None:
        """Read everything back; what is not what was written is written again, once."""
        for attempt in range(2):
            wrong: list[Piece] = []

            def compare(piece: Piece, wrong: list[Piece] = wrong) -> None:
                number, first, last = piece
                target = self.targets[number]
                start, stop = target.rows(first, last)
                try:
                    found = self._sums(target, first, last, self.store.read(number, start, stop))
                except (ValueError, CorruptDataError):  # a chunk that is gone, or does not decode
                    found = []
                if found != self.sums[number][first:last]:
                    wrong.append(piece)

            everything = range(len(self.targets))
            self._each("check", self._pieces(everything, lambda *_: True), compare, everything)
            if not wrong:
                return
            if attempt:
                number, first, last = wrong[0]
                start, stop = self.targets[number].rows(first, last)
                raise ConversionError(
                    f"rows {start} … {stop - 1} of {self.targets[number].name!r} read back other than they were "
                    f"written, twice. Is the storage under {self.store.name!r} in order?"
                )
            for number, first, last in wrong:
                self.sums[number][first:last] = [None] * (last - first)
            self._write_missing(resumed=False)

    def _sums(self, target: ArrayTarget, first: int, last: int, stored: np.ndarray) -> list[str]:
        origin = target.rows(first, last)[0]
        sums = []
        for unit in range(first, last):
            start, stop = target.rows(unit, unit + 1)
            data = np.ascontiguousarray(stored[start - origin : stop - origin])
            sums.append(hashlib.blake2b(memoryview(data).cast("B"), digest_size=16).hexdigest())
        return sums

    # -- pieces --------------------------------------------------------------------------------------------------------

    def _pieces(self, targets: Sequence[int], wanted: Callable[[int, int], bool]) -> list[Piece]:
        """List runs of wanted units, none longer than a piece, in order of rows; always begun at the same units."""
        found = []
        for number in targets:
            size = self.sizing.units[number]
            for start in range(0, self.targets[number].num_units, size):
                units = [
                    unit
                    for unit in range(start, min(start + size, self.targets[number].num_units))
                    if wanted(number, unit)
                ]
                while units:
                    count = next(
                        (place for place, unit in enumerate(units) if unit != units[0] + place), len(units)
                    )
                    found.append((number, units[0], units[0] + count))
                    units = units[count:]
        return found

    def _size(self, piece: Piece) -> int:
        start, stop = self.targets[piece[0]].rows(*piece[1:])
        return (stop - start) * self.targets[piece[0]].row_bytes

    def _each(
        self, phase: str, pieces: list[Piece], work: Callable[[Piece], None], targets: Sequence[int]
    ) -> None:
        """Work on pieces by threads; the first error ends all."""
        total = sum(self.targets[number].shape[0] * self.targets[number].row_bytes for number in targets)
        self._done = total - sum(self._size(piece) for piece in pieces)
        waiting = iter(pieces)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                with self._lock:
                    piece = next(waiting, None)
                if piece is None:
                    return
                work(piece)
                with self._lock:
                    self._done += self._size(piece)
                    if self.progress is not None:
                        self.progress(phase, self._done, total)

        if self.progress is not None:
            self.progress(phase, self._done, total)
        with ThreadPoolExecutor(
            min(self.sizing.threads, max(len(pieces), 1)), "windowloader-convert"
        ) as pool:
            futures = [pool.submit(serve) for _ in range(self.sizing.threads)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
            for future in futures:
                future.result()
