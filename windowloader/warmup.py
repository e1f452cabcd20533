"""Compiles the kernels before they are needed: in an image, once for all ranks, for a read-only install.

In: dtypes of sources and of batches. Out: kernels in numba's cache, and the time each kind took. Never changes what a
loader does: kernels that are not in the cache are compiled with the first batch that needs them.

The cache is beside the modules, or in ``NUMBA_CACHE_DIR``, which must then be set for training too. Its files belong to
one kind of processor and one version of numba and of this package: warm up on the machines that train. Processes that
warm up at the same time do the same work and overwrite each other's files with equal ones.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .batch.roles import FLOATS
from .errors import LoaderError
from .series.clock import CLOCK_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Warmed", "cache_folder", "warm_up"]

STEPS = 6000  # more windows than the shuffle keeps in a table
# Nodes and windows: fewer nodes than fill a vector register, more, and a batch that is written around the cache.
SIZES = ((3, 4), (20, 4), (128, STEPS - 10))
SOURCES = ("bool", *FLOATS[:3], *(f"{kind}{8 << k}" for kind in ("int", "uint") for k in range(4)))


@dataclass(frozen=True, slots=True)
class Warmed:
    """One kind of data whose kernels were compiled.

    Parameters
    ----------
    source, dtype : str
        Of the stored values, and of the batches.
    missing : bool
        With masks, with a fill and without.
    seconds : float
        Close to 0 where all kernels were cached.
    """

    source: str
    dtype: str
    missing: bool
    seconds: float


def warm_up(
    sources: Sequence[str] = ("float32",), dtypes: Sequence[str] = ("float32",), *, missing: bool = True
) -> Iterator[Warmed]:
    """Compile the kernels that loaders need for these dtypes, and yield each kind when it is done.

    Parameters
    ----------
    sources : sequence of str
        Dtypes of stored values.
    dtypes : sequence of str
        Of batches: "float32", "float64", "float16", "bfloat16".
    missing : bool
        Also compile for masks and fills.

    Yields
    ------
    Warmed

    Raises
    ------
    LoaderError
        For an unknown dtype.

    Examples
    --------
    >>> [kind.source for kind in warm_up(missing=False)]
    ['float32']
    """
    for given, known, what in ((sources, SOURCES, "sources"), (dtypes, FLOATS, "dtypes")):
        if unknown := sorted(set(given) - set(known)):
            raise LoaderError(f"{what}={unknown} is unknown. Known are {', '.join(known)}.")
    for source, dtype in itertools.product(sources, dtypes):
        for masked in (False, True) if missing else (False,):
            begun = time.perf_counter()
            _warm(source, dtype, masked)
            yield Warmed(source, dtype, masked, time.perf_counter() - begun)


def cache_folder() -> str | None:
    """Folder of this process's compiled kernels; None where no folder can be written."""
    from .batch.kernels import copy_runs

    return getattr(getattr(copy_runs, "stats", None), "cache_path", None)


def _warm(source: str, dtype: str, masked: bool) -> None:
    """Read a batch of each common shape: one or several features, with and without clocks, few and many nodes."""
    import windowloader as wl

    day, week = CLOCK_NAMES[0], CLOCK_NAMES[3]
    fills: tuple[float | None, ...] = (None, 0.0) if masked else (None,)
    shapes: tuple[tuple[list[str], list[str]], ...] = (
        (["a"], []),
        (["a"], [day]),
        (["a"], [day, week]),
        (["a", "b"], []),
        (["a", "b"], [day]),
    )
    for (nodes, batch), (names, clocks) in itertools.product(SIZES, shapes):
        values = np.arange(STEPS * nodes * len(names)) % 7 + 1
        series = wl.Series(
            values.reshape(STEPS, nodes, len(names)).astype(source),
            axes="tnf",
            features=names,
            timestamps=("2024-01-01", "5min"),
            missing=0.0 if masked else None,
        )
        spec = wl.WindowSpec(lookback=3, horizon=2, inputs=[*names, *clocks], targets=names)
        windows = wl.WindowSet(series, spec)
        fitted = wl.StandardScaler.fit(windows)
        for fill, scaler in itertools.product(fills, (fitted, None)):
            with wl.WindowLoader(
                windows,
                batch_size=batch,
                shuffle=True,
                scaler=scaler,
                fill=fill,
                dtype=dtype,
                threads=0,
                rank=0,
                world_size=1,
            ) as loader:
                next(iter(loader))
