"""Which rows a rank touches where rows are indexed where they lie.

In: a `Case` and a rank. Out: a number of rows. Of very long epochs a part is looked at, or chance does the counting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .case import LOOK

if TYPE_CHECKING:
    from .case import Case

__all__ = ["touched"]


def touched(case: Case, rank: int, union: int) -> int:
    """Count the rows that a rank touches in the rest of an epoch.

    Parameters
    ----------
    case : Case
    rank : int
    union : int
        Rows that all windows together touch.

    Returns
    -------
    int
    """
    left, share = case.steps.left(case.position), -(-case.steps.global_batch // case.world_size)
    offsets = case.reads.offsets
    if left * share >= len(case.windows):  # all of them, or as good as
        return union
    if left * share * len(offsets) > LOOK and not case.reading.order.name.startswith("sequential"):
        return _by_chance(case, left * share / len(case.windows), union)
    rows, looked, position = [np.empty(0, np.int64)], 0, case.position
    while looked < left and looked * share * len(offsets) < LOOK:
        step = case.steps.rank_at(position, rank=rank, world_size=case.world_size)
        assert step is not None
        rows.append(np.unique(case.windows.index(np.unique(step.positions))[:, np.newaxis] + offsets))
        looked += 1
        position = case.steps.advance(position)
    return min(union, round(len(np.unique(np.concatenate(rows))) * left / max(looked, 1)))


def _by_chance(case: Case, share: float, union: int) -> int:
    """Count rows, each touched if one of the windows that hold it is among a random share of them."""
    span = case.windows.spec.span
    return min(union, round(union * (1.0 - (1.0 - share) ** span)))
