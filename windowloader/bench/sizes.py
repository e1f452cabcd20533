"""The four sizes of the literature, and data of those shapes.

In: a name and a folder. Out: a mapped ``.npy`` of float32 speeds, made once, in bounded memory. Never claims to be
measured traffic: the values are generated, and speed does not depend on them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import LoaderError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SIZES", "Size", "find", "generate"]

ROWS = 2048  # written at a time


@dataclass(frozen=True, slots=True)
class Size:
    """A data set's shape.

    Parameters
    ----------
    name : str
    steps, nodes : int

    Examples
    --------
    >>> find("metr-la").batch_bytes(64)
    2543616
    """

    name: str
    steps: int
    nodes: int

    def batch_bytes(self, batch: int, *, lookback: int = 12, horizon: int = 12, features: int = 2) -> int:
        """Bytes of a float32 batch."""
        return batch * (lookback + horizon) * self.nodes * features * 4


SIZES = (
    Size("metr-la", 34_272, 207),
    Size("pems-bay", 52_105, 325),
    Size("pems-all-la", 105_120, 2_716),
    Size("pems", 105_120, 11_160),
)


def find(name: str) -> Size:
    """Return a size by its name, or by its shape: ``10000x50``.

    Raises
    ------
    LoaderError
        For a name that is neither.
    """
    for size in SIZES:
        if size.name == name:
            return size
    steps, _, nodes = name.partition("x")
    if steps.isdigit() and nodes.isdigit() and int(steps) * int(nodes):
        return Size(name, int(steps), int(nodes))
    raise LoaderError(
        f"size {name!r} is none of {', '.join(size.name for size in SIZES)}, nor a shape like 10000x50."
    )


def generate(size: Size, folder: Path) -> Path:
    """Make the file if it is not there: whole under its name, or not at all.

    Parameters
    ----------
    size : Size
    folder : Path
        Made where it does not exist.

    Returns
    -------
    Path
    """
    path = folder / f"bench-v1-{size.steps}x{size.nodes}.npy"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    random = np.random.default_rng(0)
    base = random.uniform(50, 68, size.nodes).astype(np.float32)
    noise = random.normal(0, 2, (ROWS, size.nodes)).astype(np.float32)
    values = np.lib.format.open_memmap(part, "w+", np.float32, (size.steps, size.nodes))
    for start in range(0, size.steps, ROWS):
        rows = np.arange(start, min(start + ROWS, size.steps))
        day = np.cos(2 * np.pi * rows / 288).astype(np.float32)
        values[start : start + len(rows)] = base + 8 * day[:, None] + noise[: len(rows)]
    values.flush()
    del values
    part.rename(path)
    return path
