"""How a stream is held in memory: the choice of ``budget``, as values.

In: sizes. Out: `BlockLayout`, with every term of the memory it takes. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from windowloader.order.grid import Grid

__all__ = ["RESERVE", "BlockLayout", "MemoryTerms", "overlap_slots"]

RESERVE = 32 << 20  # what the store keeps for itself at most, beside chunks in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTerms:
    """What the memory of a streaming process goes to, in bytes.

    Attributes
    ----------
    arena : int
        Places for blocks.
    overlap buffer : int
        Places for overlaps: ``3m + 1`` a lane, of twice ``span − 1`` rows.
    in_flight : int
        Chunks being read, decoded and encoded.
    reserve : int
        The store's own keeping.
    """

    arena: int = 0
    overlap_buffer: int = 0
    in_flight: int = 0
    reserve: int = RESERVE

    @property
    def total(self) -> int:
        """The sum of all terms."""
        return self.arena + self.overlap_buffer + self.in_flight + self.reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLayout:
    """How a stream is read.

    Attributes
    ----------
    mode : {"preloaded", "blocks", "halo", "direct"}
    reason : str
        Why, in a sentence, for the plan.
    terms : MemoryTerms
    requests : int
        Reads handed to the store at a time.
    grid : Grid or None
        None where rows are read directly, unless the order of a resumed run needs it.
    active, slots : int
        Active blocks of a lane, and its places for blocks; of preloaded rows those active and read ahead; 0 where rows
        are read directly.
    amplification : float
        Bytes read over the bytes of all blocks' rows, without their halo; for direct reading the rows of a
        window.
    once : int
        Memory with which each row would be read once; 0 where it is.
    """

    mode: Literal["preloaded", "blocks", "halo", "direct"]
    reason: str
    terms: MemoryTerms
    requests: int
    grid: Grid | None = field(default=None, repr=False)
    active: int = 0
    slots: int = 0
    amplification: float = 1.0
    once: int = 0

    def places(self, blocks: int) -> int:
        """Places that a lane has for blocks, of so many in all."""
        return min(self.slots, blocks)

    @property
    def ahead(self) -> int:
        """Blocks of a lane that are read ahead."""
        return max(1, self.slots - self.active)

    def overlaps(self, blocks: int) -> int:
        """Places that a lane has for overlaps between so many blocks."""
        return 0 if self.mode != "blocks" else overlap_slots(self.active, blocks)


def overlap_slots(active: int, blocks: int) -> int:
    """Places for overlaps between so many blocks."""
    return min(3 * active + 1, max(blocks - 1, 0))
