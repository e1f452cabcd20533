"""The compiled half of ``missing``: counts of missing values, row by row.

In: raw values as stored, and the mark. Out: counts, added to an array that is handed in. Never casts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from windowloader.util.jit import kernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@kernel
def count_missing(values: NDArray[Any], mark: NDArray[Any], out: NDArray[np.int64], first: int) -> None:
    """Add to ``out[feature, first + row]`` the nodes of ``values[row, feature, node]`` that are missing.

    Missing is what equals ``mark[0]``, in the dtype of ``values``, and NaN.
    """
    rows, features, nodes = values.shape
    for row in range(rows):
        for feature in range(features):
            found = 0
            for node in range(nodes):
                value = values[row, feature, node]
                found += (value == mark[0]) | (value != value)
            out[feature, first + row] += found
