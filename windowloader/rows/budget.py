"""How a stream is held in bounded memory: blocks, blocks with a halo, or rows read straight into the batch.

In: where windows start, how variables are stored, bytes of memory. Out: a `BlockLayout` with every term of the
memory it takes. Never reads, never looks at how much memory is free.

Of the layouts that fit, the one that reads least is taken, then the one with the most active blocks (which mixes best).
What gives way first when memory is short: slots to read ahead (speed), down to a quarter of the active blocks and to
4; active blocks, down to 8 (mixing); the rest of the slots; 1 MiB blocks, down to four spans of rows; active blocks,
down to 2; whole blocks, for blocks that read their halo again. A single active block is used only where all else reads
over twice the array. What then still does not fit is read directly. Active blocks that were asked for are kept or
refused, and a resumed run whose blocks do not fit keeps its order and reads rows directly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from windowloader.errors import MemoryBudgetError
from windowloader.order.grid import SPANS, block_rows, cut, cuts
from windowloader.sources.options import DECODERS
from windowloader.sources.storage import total_cost
from windowloader.util.units import format_bytes

from .layout import RESERVE, BlockLayout, MemoryTerms, overlap_slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from windowloader.order.grid import Grid, SortedStarts
    from windowloader.sources.storage import Storage

__all__ = [
    "RESERVE",
    "BlockLayout",
    "MemoryTerms",
    "amount_of",
    "choose",
    "default_active",
    "memory_for",
    "preload",
]

_SHARE = 32  # of the memory, the part that is reserved: measured with 16 chunks of 3 MB under way, 5 MB
_FEW = 8  # active blocks under which batches are too much alike
_ALIKE = 1.02  # times the least bytes up to which layouts read alike
TWICE = 2.0  # times the array beyond which a single active block is better
_AHEAD = 4  # blocks read ahead under which a stream waits for one request after the other
_SHORTER = 3  # quarters of a block that read its halo, and did not fit, that are tried next
_MOST = 64  # active blocks beyond which mixing gains little
UNIT_BYTES = {"GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}
REQUESTS = 16  # requests at a time a store is assumed to serve well


def default_active(blocks: int, lanes: int = 1) -> int:
    """Return how many blocks of a lane are active where memory is no matter: a quarter, from 8 to 64.

    Parameters
    ----------
    blocks, lanes : int
        Of the whole order.

    Returns
    -------
    int

    Examples
    --------
    >>> default_active(181), default_active(181, lanes=8), default_active(3)
    (46, 8, 3)
    """
    own = -(-blocks // lanes)
    return max(1, min(_MOST, max(_FEW, -(-own // 4)), blocks))


@dataclass(frozen=True, slots=True)
class _Room:
    """The sizes that memory is counted in."""

    memory: int
    span: int
    lanes: int  # lanes held by this process at a time
    variables: Sequence[Storage]

    @property
    def row_bytes(self) -> int:
        return sum(variable.row_bytes for variable in self.variables)

    @property
    def chunk_bytes(self) -> int:
        return max(variable.chunk_bytes for variable in self.variables)

    def per_block(self, grid: Grid) -> int:
        """Return the requests of a block, at most."""
        return max(1, int(total_cost(self.variables, grid.begin, grid.end).requests.max(initial=1)))

    @property
    def reserve(self) -> int:
        # The 64 MiB that a process may take beyond `memory` cover what a small budget leaves out here.
        return min(RESERVE, self.memory // _SHARE)

    def needed(self, terms: MemoryTerms) -> int:
        """Memory that would hold ``terms``, their reserve growing with it."""
        held = terms.total - terms.reserve
        return min(held + RESERVE, -(-_SHARE * held // (_SHARE - 1)))

    def in_flight(self, requests: int, rows: int) -> int:
        """Bytes of so many requests under way, of so many rows: as they come, and chunks being decoded besides."""
        each = max(variable.request_bytes(rows) for variable in self.variables)
        return requests * each + min(requests, DECODERS) * self.chunk_bytes

    def at_a_time(self, wanted: int, memory: int) -> int:
        """Count the requests of a window's rows that ``memory`` holds at a time, of those wanted; at least 1."""
        return next((n for n in range(wanted, 1, -1) if self.in_flight(n, self.span) <= memory), 1)

    def terms(self, grid: Grid, active: int, slots: int, requests: int) -> MemoryTerms:
        blocks = len(grid)
        overlaps = 0 if grid.halo else overlap_slots(active, blocks)
        return MemoryTerms(
            arena=self.lanes * min(slots, blocks) * grid.largest * self.row_bytes,
            overlap_buffer=self.lanes * overlaps * 2 * (self.span - 1) * self.row_bytes,
            in_flight=self.in_flight(requests, grid.largest),
            reserve=self.reserve,
        )


def choose(
    starts: SortedStarts,
    variables: Sequence[Storage],
    *,
    span: int,
    memory: int,
    lanes: int = 1,
    lanes_held: int = 1,
    active: int | None = None,
    ahead: int | None = None,
    rows: int | None = None,
    like: str | tuple[int, int] = "",
    requests: int = REQUESTS,
    direct: bool = False,
) -> BlockLayout:
    """Choose blocks, their number and the places for them, from the data and the memory.

    Parameters
    ----------
    starts : SortedStarts
    variables : sequence of Storage
        Storage of what is streamed.
    span : int
        Rows of a window.
    memory : int
        Bytes this process may take.
    lanes, lanes_held : int
        Lanes of the order, and how many of them this process reads.
    active, ahead : int, optional
        Active blocks a lane, and blocks read ahead of them; None: from data and memory.
    rows, like : optional
        Rows of a block and what its borders follow from, of a run that is resumed; see `cut`. Then ``active`` is kept,
        whatever the memory.
    requests : int
        Requests at a time that the store serves well.
    direct : bool
        Read rows directly, whatever would fit.

    Returns
    -------
    BlockLayout

    Raises
    ------
    MemoryBudgetError
        Where one chunk is larger than the memory, or blocks that were asked for do not fit.
    """
    room = _Room(memory, span, lanes_held, variables)
    _check_chunks(variables, room)
    if direct:
        return _direct(room, requests, "rows are read straight into batches: as asked")
    found: list[BlockLayout] = []
    needed: list[tuple[int, bool]] = []  # memory that would do, and whether each row is then read once
    for grid in _grids(starts, variables, room, rows, like):
        times = _times_read(variables, grid)
        per_block = room.per_block(grid)
        wanted = ahead or -(-2 * requests // per_block)
        for some, places in _places(grid, active, wanted, lanes):
            # Four fifths of what is ahead: the rest has arrived and waits for its turn.
            at_a_time = max(1, min(requests, -(-4 * (places - some) * per_block // 5)))
            terms = room.terms(grid, some, places, at_a_time)
            while terms.total > memory and at_a_time > 1 and some < _FEW:  # slow is better than reading twice
                at_a_time //= 2
                terms = room.terms(grid, some, places, at_a_time)
            if terms.total <= memory:
                found.append(_blocks(grid, some, places, at_a_time, terms, times))
                break
            enough = some > 1 or active is not None or len(grid) < 2
            needed.append((room.needed(terms), enough and times <= _ALIKE))
        if found and found[-1].amplification <= _ALIKE and found[-1].active >= min(_FEW, len(grid)):
            break
    least, once = (
        min(needed, default=(0, True))[0],
        min((size for size, single in needed if single), default=0),
    )
    if found:
        best = _best(found)
        return best if best.amplification <= _ALIKE else replace(best, once=once)
    if rows is not None:  # of a run that goes on: order first, memory second, bytes last
        why = f"rows are read straight into batches: the blocks of this run need {format_bytes(least)}"
        return replace(
            _direct(room, requests, why), grid=grid, active=min(active or 1, max(1, len(grid))), once=once
        )
    if active is not None:
        raise MemoryBudgetError(
            f"memory={format_bytes(memory)} is too little for active_blocks={active}: a row is {room.row_bytes} bytes, "
            f"a window {span} rows, a chunk {room.chunk_bytes} bytes. memory='{amount_of(least)}' would do"
            + (f", and memory='{amount_of(once)}' reads each row once" if once > least else "")
            + "; fewer active blocks need less."
        )
    why = f"rows are read straight into batches: blocks need {format_bytes(least)}"
    return replace(_direct(room, requests, why), once=once)


def _best(found: Sequence[BlockLayout]) -> BlockLayout:
    """Take what reads least, then what mixes best; one active block only where all else reads over twice the array."""
    mixing = [layout for layout in found if layout.mode == "halo" and layout.active >= _FEW]
    if (
        mixing and min(layout.amplification for layout in mixing) <= TWICE
    ):  # shorter blocks, so that 8 are active
        found = [layout for layout in found if layout.mode == "blocks"] + mixing
    several = [layout for layout in found if layout.active > 1 or layout.grid is None or len(layout.grid) < 2]
    if several and min(layout.amplification for layout in several) <= TWICE:
        found = several
    least = min(layout.amplification for layout in found)
    alike = [layout for layout in found if layout.amplification <= _ALIKE * least]
    return max(alike, key=lambda layout: min(layout.active, _FEW))  # of equals the first: larger blocks


def _times_read(variables: Sequence[Storage], grid: Grid) -> float:
    """Bytes that blocks read, over the bytes that must be read at least once."""
    size = int(total_cost(variables, grid.begin, grid.end).bytes.sum())
    return size / max(sum(variable.distinct(grid.begin, grid.end) for variable in variables), 1)


def amount_of(size: int) -> str:
    """Memory of at least ``size`` bytes as an argument: three digits and a unit."""
    unit = next(unit for unit in ("GB", "MB", "kB", "B") if size >= 10 * UNIT_BYTES[unit] or unit == "B")
    return f"{-(-size // UNIT_BYTES[unit])}{unit}"


def preload(
    starts: SortedStarts,
    variables: Sequence[Storage],
    *,
    span: int,
    memory: int,
    held_rows: int,
    lanes: int = 1,
    active: int | None = None,
    ahead: int | None = None,
    rows: int | None = None,
    like: str | tuple[int, int] = "",
    requests: int = REQUESTS,
) -> BlockLayout | None:
    """Lay out a stream whose rows all stay, once read.

    Parameters
    ----------
    held_rows : int
        Rows that a process needs, from its first to its last.
    starts, variables, span, memory, lanes, active, ahead, rows, like, requests
        As for `choose`.

    Returns
    -------
    BlockLayout or None
        None where the memory does not hold them.
    """
    room = _Room(memory, span, 1, variables)
    terms = MemoryTerms(arena=held_rows * room.row_bytes, reserve=room.reserve)
    if terms.total > memory:
        return None
    if rows is not None:
        grid = cut(starts, variables, span=span, rows=rows, like=like)
    else:
        grid = min(
            cuts(starts, variables, span=span, rows=block_rows(span, room.row_bytes)),
            key=lambda grid: _times_read(variables, grid) > _ALIKE,
        )
    terms = replace(terms, in_flight=room.in_flight(requests, grid.largest))
    some = min(active or default_active(len(grid), lanes), max(1, len(grid)))
    if grid.halo or terms.total > memory:
        return None
    return BlockLayout(
        mode="preloaded",
        reason=f"the rows of a process are read once and stay: {len(grid)} blocks of up to {grid.largest} rows, "
        f"{some} active",
        terms=terms,
        requests=requests,
        grid=grid,
        active=some,
        slots=some + (ahead or -(-2 * requests // room.per_block(grid))),
        amplification=_times_read(variables, grid),
    )


def memory_for(
    grid: Grid,
    variables: Sequence[Storage],
    *,
    span: int,
    lanes_held: int,
    active: int,
    slots: int,
    requests: int = REQUESTS,
) -> int:
    """Say what memory holds so many blocks and requests; see `choose` for the parameters."""
    room = _Room(0, span, lanes_held, variables)
    return room.needed(room.terms(grid, active, slots, requests))


def _check_chunks(variables: Sequence[Storage], room: _Room) -> None:
    largest = max((v.chunk_bytes for v in variables if v.edges is not None), default=0)
    if largest > room.memory - room.reserve:
        raise MemoryBudgetError(
            f"one chunk is {largest} bytes decoded, more than memory={room.memory} leaves for it. A chunk must be read "
            f"whole: pass memory='{amount_of(room.needed(MemoryTerms(in_flight=2 * largest)))}' or more, or rewrite "
            "the array in smaller chunks with 'windowloader convert'."
        )


def _grids(
    starts: SortedStarts,
    variables: Sequence[Storage],
    room: _Room,
    rows: int | None,
    like: str | tuple[int, int],
) -> Iterator[Grid]:
    """Yield grids to try, the best first."""
    if rows is not None:
        yield cut(starts, variables, span=room.span, rows=rows, like=like)
        return
    plain = block_rows(room.span, room.row_bytes)
    yield from cuts(starts, variables, span=room.span, rows=plain)
    if plain > SPANS * room.span:
        yield from cuts(starts, variables, span=room.span, rows=SPANS * room.span)
    # Useless where a chunk is longer, since chunks are read whole. The same lengths are tried whatever the memory is,
    # so that more of it never refuses what less of it did.
    few, longest = SPANS * room.span - 1, max(variable.largest for variable in variables)
    while few >= longest:
        yield cut(starts, variables, span=room.span, rows=few)
        few = few * _SHORTER // 4


def _places(grid: Grid, active: int | None, ahead: int, lanes: int) -> Iterator[tuple[int, int]]:
    """Yield active blocks and places to try, the best first."""
    blocks = max(1, len(grid))
    if active is not None:
        kept = min(active, blocks)
        yield from ((kept, kept + more) for more in range(ahead, 0, -1))
        if kept == blocks:
            yield kept, kept
        return
    wanted = default_active(blocks, lanes)
    few = min(_FEW, wanted)
    for some in range(wanted, few - 1, -1):
        yield from ((some, some + more) for more in range(ahead, min(ahead, max(_AHEAD, some // 4)) - 1, -1))
    yield from ((few, few + more) for more in range(min(ahead, _AHEAD) - 1, 0, -1))
    yield from ((some, some + 1) for some in range(few - 1, 0, -1))


def _blocks(
    grid: Grid, active: int, slots: int, requests: int, terms: MemoryTerms, times: float
) -> BlockLayout:
    return BlockLayout(
        mode="halo" if grid.halo else "blocks",
        reason=f"{len(grid)} blocks of up to {grid.largest} rows, {active} active, {slots} places a lane",
        terms=terms,
        requests=requests,
        grid=grid,
        active=active,
        slots=slots,
        amplification=times,
    )


def _direct(room: _Room, requests: int, reason: str) -> BlockLayout:
    free = room.memory - room.reserve
    at_a_time = room.at_a_time(requests, free)
    terms = MemoryTerms(in_flight=room.in_flight(at_a_time, room.span), reserve=room.reserve)
    return BlockLayout(
        mode="direct", reason=reason, terms=terms, requests=at_a_time, amplification=float(room.span)
    )
