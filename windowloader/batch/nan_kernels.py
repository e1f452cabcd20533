"""The compiled half of ``nan_guard``: looks for NaN in the rows that windows read, each row once.

In: flat rows, the windows of a batch, which rows are known to hold none. Out: the first row that holds one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from windowloader.util.jit import kernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["first_nan"]


@kernel
def first_nan(
    values: NDArray[Any],
    half: bool | None,
    origin: int,
    row_step: int,
    runs: NDArray[np.int64],
    width: int,
    step: int,
    first: NDArray[np.int64],
    starts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    begin: int,
    end: int,
    known: NDArray[np.uint8],
    left: NDArray[np.int64],
) -> int:
    """Return ``window * len(offsets) + step`` of the first row with NaN, or -1; rows without become known.

    A row is what lies at ``runs[k] + i * step``, i < width, from its first element. ``left[0]`` is how
    many rows are not known yet. Two threads may look at the same row: both write the same, and ``left`` is too low.
    """
    low, high = offsets[0], offsets[-1] + 1
    touching = high - low == len(offsets)
    for b in range(begin, end):
        if touching:
            span = known[starts[b] + low : starts[b] + high]
            unknown = False
            for i in range(len(span)):
                unknown |= span[i] == 0
            if not unknown:
                continue
        for i in range(len(offsets)):
            row = starts[b] + offsets[i]
            if known[row]:
                continue
            at = origin + (first[b] + offsets[i]) * row_step
            for k in range(len(runs)):
                if _any_nan(values, half, at + runs[k], width, step):
                    return int(b * len(offsets) + i)
            known[row] = 1
            left[0] -= 1
    return -1


@kernel
def _any_nan(values: NDArray[Any], half: bool | None, at: int, width: int, step: int) -> bool:
    found = False
    if step == 1:
        run = values[at : at + width]  # a loop over a view is vectorised
        for i in range(width):
            found |= _is_nan(run[i], half)
    else:
        for i in range(width):
            found |= _is_nan(values[at + i * step], half)
    return found


@kernel
def _is_nan(word: Any, half: bool | None) -> bool:
    if half is None:
        return bool(word != word)
    return bool((word & 0x7FFF) > 0x7C00)
