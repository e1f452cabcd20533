"""The choice of chunks and shards by a model of access cost.

In: shape, window span, memory and storage of a run. Out: `ArrayLayout`. Pure arithmetic.

The model is that of block order: an epoch reads each chunk once, several at a time, and mixes the windows of the chunks
in memory. For chunks of r rows and b bytes three things cost, each beside 1 for the bytes:

- waiting: a request takes ``latency + b / bandwidth`` where the bytes alone take ``b / bandwidth``;
- halo: a window across a border needs the rows of both sides, ``2·(span − 1)`` of r, kept until it has been delivered;
- likeness: with m blocks in memory, 1 of m pairs in a batch are from one block; 8/m, so that 8 blocks cost as much as
  the bytes. m is a quarter of the blocks, at most 64, and what half the memory holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from windowloader.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Access", "AccessCost", "ArrayLayout", "choose_layout"]

CHUNK_BYTES = 16 << 20  # larger ones are cut along space: memory in flight counts whole chunks
SHARD_BYTES = 64 << 20  # written, and held in memory, at once
OBJECTS = 4096  # of one array, beyond which they are put together in shards
ACTIVE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the store will be read.

    Parameters
    ----------
    span : int
        Rows from the first to the last of a window.
    memory : int
        Bytes that a process may use for rows.
    latency : float
        Seconds per request.
    bandwidth : float
        Bytes per second of one request.
    """

    span: int = 24
    memory: int = 1 << 30
    latency: float = 0.020
    bandwidth: float = 20e6


class AccessCost(NamedTuple):
    """Cost of chunks, relative to 1 for transferring their bytes."""

    waiting: float
    halo: float
    likeness: float

    @property
    def total(self) -> float:
        """All terms and the bytes."""
        return 1.0 + self.waiting + self.halo + self.likeness

    @classmethod
    def of(cls, rows: int, *, num_rows: int, row_bytes: int, access: Access) -> AccessCost:
        """Cost of chunks of so many rows.

        Examples
        --------
        >>> AccessCost.of(256, num_rows=52_105, row_bytes=10_400, access=Access()).total.__round__(2)
        1.49
        """
        block = rows * row_bytes
        request = block / -(-block // CHUNK_BYTES)
        blocks = -(-num_rows // rows)
        active = max(1.0, min(ACTIVE, blocks / 4, access.memory / 2 / block))
        return cls(
            waiting=access.latency * access.bandwidth / request,
            halo=2 * (access.span - 1) / rows,
            likeness=8 / active,
        )


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """Chunks of an array, and shards where several chunks are one object.

    Parameters
    ----------
    chunks : tuple of int
        Rows first.
    shards : tuple of int or None
    cost : AccessCost or None
        By the model, where it chose the chunks.
    """

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    cost: AccessCost | None = None

    @property
    def unit_rows(self) -> int:
        """Rows of an object, which are written at once."""
        return (self.shards or self.chunks)[0]


def choose_layout(
    shape: Sequence[int],
    itemsize: int,
    *,
    chunks: int | Sequence[int] | None = None,
    shards: int | Sequence[int] | bool | None = None,
    access: Access | None = None,
) -> ArrayLayout:
    """Choose chunks and shards, or take those given.

    Parameters
    ----------
    shape : sequence of int
        Rows first.
    itemsize : int
        Bytes of a number as stored, before compression.
    chunks : int or sequence of int, optional
        Rows of a chunk, or all its sizes. None: what costs least.
    shards : int, sequence of int or bool, optional
        Rows of a shard, or all its sizes, multiples of the chunk's. False: none. True: about 64 MiB. None: where there
        would be more than 4,096 objects.
    access : Access, optional
        How the store will be read.

    Returns
    -------
    ArrayLayout

    Raises
    ------
    ConversionError
        For sizes that do not fit the array, or shards that are no multiple of the chunks.

    Examples
    --------
    >>> choose_layout((52_105, 2_600), 4).chunks, choose_layout((105_120, 11_160), 4).chunks
    ((384, 2600), (256, 11160))
    >>> choose_layout((1_000_000, 20), 4, chunks=64).shards
    (838848, 20)
    """
    shape = tuple(int(size) for size in shape)
    access = access or Access()
    row_bytes = max(1, math.prod(shape[1:]) * itemsize)
    cost = None
    if chunks is None:
        rows, cost = _best_rows(max(shape[0], 1), row_bytes, access)
        chunks = rows
    if isinstance(chunks, int):
        sizes = _cut_space((*_checked([chunks], shape[:1]), *shape[1:]), itemsize)
    else:
        sizes = _checked(chunks, shape)
    return ArrayLayout(sizes, _shards(shape, sizes, itemsize, shards), cost)


def _best_rows(num_rows: int, row_bytes: int, access: Access) -> tuple[int, AccessCost]:
    """Rows of the chunks that cost least, among powers of two and one and a half times those."""
    powers = [1 << exponent for exponent in range(num_rows.bit_length() + 1)]
    tried = sorted({min(rows, num_rows) for power in powers for rows in (power, power * 3 // 2) if rows})
    costs = {
        rows: AccessCost.of(rows, num_rows=num_rows, row_bytes=row_bytes, access=access) for rows in tried
    }
    best = min(tried, key=lambda rows: (costs[rows].total, rows))
    return best, costs[best]


def _cut_space(sizes: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Cut the other axes, the first of them first, until a chunk is no larger than it should be."""
    cut = list(sizes)
    for axis in range(1, len(cut)):
        while cut[axis] > 1 and math.prod(cut) * itemsize > CHUNK_BYTES:
            cut[axis] = -(-cut[axis] // 2)
    return tuple(max(size, 1) for size in cut)


def _shards(
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    itemsize: int,
    asked: int | Sequence[int] | bool | None,
) -> tuple[int, ...] | None:
    objects = math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
    if asked is False or (asked is None and objects <= OBJECTS):
        return None
    whole = [-(-size // chunk) * chunk for size, chunk in zip(shape, chunks, strict=True)]
    if asked is None or asked is True:
        row_of_chunks = math.prod(whole[1:]) * chunks[0] * itemsize
        count = max(1, SHARD_BYTES // max(row_of_chunks, 1))
        return (min(count * chunks[0], whole[0]), *whole[1:])
    found = (asked, *whole[1:]) if isinstance(asked, int) else tuple(int(size) for size in asked)
    if len(found) != len(chunks) or any(s < 1 or s % c for s, c in zip(found, chunks, strict=True)):
        raise ConversionError(
            f"shards={asked!r} must be multiples of the chunks {chunks}, e.g. {chunks[0] * 16} rows."
        )
    return found


def _checked(given: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of a chunk, no larger than the array."""
    sizes = tuple(given)
    if len(sizes) != len(shape):
        raise ConversionError(
            f"chunks={sizes} has {len(sizes)} sizes for an array of shape {shape}. Give rows alone, or a size an axis."
        )
    if any(isinstance(size, bool) or size < 1 for size in sizes):
        raise ConversionError(f"chunks={given!r}: a chunk has 1 row or more.")
    return tuple(min(int(size), max(whole, 1)) for size, whole in zip(sizes, shape, strict=True))
