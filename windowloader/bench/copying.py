"""The limit's own loop, compiled: one memcpy for each window's inputs, one for its targets.

In: flat arrays and starts. Out: the copies. Never scales or casts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from windowloader.util.jit import kernel
from windowloader.util.machine import move

if TYPE_CHECKING:
    import numpy as np

__all__ = ["copy_windows"]


@kernel
def copy_windows(
    source: np.ndarray,
    starts: np.ndarray,
    row: int,
    half: int,
    first: int,
    inputs: np.ndarray,
    targets: np.ndarray,
) -> None:
    """Copy windows of two times ``half`` elements to places ``first``, ``first + 1``, … of two arrays."""
    for place in range(len(starts)):
        at, to = starts[place] * row, (first + place) * half
        move(inputs, to, source, at, half)
        move(targets, to, source, at + half, half)
