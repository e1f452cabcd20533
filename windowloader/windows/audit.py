"""Rows that the parts of a split share, and as inputs or targets.

In: window sets. Out: `Audit`, which prints them. Inputs of a later part may reach back, as in use: only shared targets
are leaks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .index import true_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from windowloader.series.clock import Clock

    from .window_set import WindowSet

__all__ = ["Audit", "Shared", "audit"]

CHUNK = 1 << 18  # rows compared together
SHOWN = 4  # shared ranges printed
Role = Literal["inputs", "targets"]
ROLES: tuple[Role, ...] = ("inputs", "targets")


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """Rows that two parts share, in one role of each.

    Parameters
    ----------
    first, second : str
        Names of the parts, in their order.
    first_role, second_role : {"inputs", "targets"}
        Role of the rows in each.
    ranges : ndarray, shape (range, 2), int64
        Ranges of shared rows ``[begin, end)``.
    """

    first: str
    first_role: Role
    second: str
    second_role: Role
    ranges: np.ndarray

    @property
    def rows(self) -> int:
        """Number of shared rows."""
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())

    @property
    def leaks(self) -> bool:
        """Whether the first part reads targets of the second, which are then no longer unseen."""
        return self.second_role == "targets"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Audit:
    """Rows that parts share; prints as a list.

    Parameters
    ----------
    shared : tuple of Shared
        Every pair of parts and roles with rows in common, by part and role.
    clock : Clock or None
        For the times of the rows.

    Examples
    --------
    >>> import numpy as np
    >>> import windowloader as wl
    >>> series = wl.Series(np.arange(40.0).reshape(40, 1))
    >>> wl.split(series, wl.WindowSpec(lookback=3, horizon=2), (0.5, 0.5)).audit()
    rows that parts share
      inputs of 'train', inputs of 'test': 1 row, 17
      targets of 'train', inputs of 'test': 3 rows, 17 … 19
    no part reads targets of a later one
    """

    shared: tuple[Shared, ...]
    clock: Clock | None = None

    @property
    def leaks(self) -> tuple[Shared, ...]:
        """Targets of a later part that an earlier one reads; by="targets" has none."""
        return tuple(shared for shared in self.shared if shared.leaks)

    def __repr__(self) -> str:
        if not self.shared:
            return "parts share no rows"
        lines = [
            f"  {one.first_role} of {one.first!r}, {one.second_role} of {one.second!r}: {_rows(one, self.clock)}"
            for one in self.shared
        ]
        bad = sum(one.rows for one in self.leaks)
        verdict = (
            f"earlier parts read {bad:,} target rows of later ones"
            if bad
            else "no part reads targets of a later one"
        )
        return "\n".join(["rows that parts share", *lines, verdict])


def audit(parts: Sequence[tuple[str, WindowSet]]) -> Audit:
    """Compare every pair of parts."""
    shared = []
    for (first, one), (second, other) in itertools.combinations(parts, 2):
        (low, high), (begin, end) = one.row_range, other.row_range
        low, high = max(low, begin), min(high, end)
        for first_role, second_role in itertools.product(ROLES, ROLES):
            ranges = _in_common(one, first_role, other, second_role, low, high)
            if len(ranges):
                shared.append(Shared(first, first_role, second, second_role, ranges))
    return Audit(tuple(shared), parts[0][1].series.clock)


def _in_common(
    one: WindowSet, one_role: Role, other: WindowSet, other_role: Role, low: int, high: int
) -> np.ndarray:
    """Find the ranges of rows in ``[low, high)`` that both sets read."""
    chunks = ((start, min(start + CHUNK, high)) for start in range(low, high, CHUNK))
    both = (
        (one.row_counts(*chunk, role=one_role) > 0) & (other.row_counts(*chunk, role=other_role) > 0)
        for chunk in chunks
    )
    return true_ranges(both, low)


def _rows(shared: Shared, clock: Clock | None) -> str:
    """Count of rows, and the first few ranges with their times."""
    parts = []
    for begin, end in shared.ranges[:SHOWN].tolist():
        text = str(begin) if end == begin + 1 else f"{begin} … {end - 1}"
        if clock is not None:
            text += f" ({' … '.join(clock.texts([begin, end - 1][: 1 + (end > begin + 1)]))})"
        parts.append(text)
    more = f", and {len(shared.ranges) - SHOWN} more ranges" if len(shared.ranges) > SHOWN else ""
    return f"{shared.rows:,} row{'s' * (shared.rows != 1)}, {', '.join(parts)}{more}"
