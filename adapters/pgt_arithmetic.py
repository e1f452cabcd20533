"""The arithmetic of PyTorch Geometric Temporal's published results: ``(x - mean) / std``, step by step in x's dtype.

In: a series and names, or known numbers. Out: `Published`, which scales arrays of any layout in place. Used only where
its digits are asked for: the core's scalers round once, and see no row outside the train part.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.batch.window_reader import WindowReader
from windowloader.errors import ScalerError
from windowloader.scaling.scaler import ScalerWarning
from windowloader.windows.index import Runs
from windowloader.windows.spec import WindowSpec
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.scaling.scaler import Scaler
    from windowloader.series.series import Series

__all__ = ["Published", "all_rows", "numbers"]


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """Mean and standard deviation by column, applied one operation at a time.

    Parameters
    ----------
    names : tuple of str
        The columns they belong to.
    mean, std : ndarray, shape (1 | node, column)
        In the dtype of the arithmetic; std is what divides.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(
        cls,
        series: Series,
        names: Sequence[str] | None,
        *,
        per: Literal["feature", "node"] = "feature",
        epsilon: float = 0.0,
        dtype: str = "float32",
    ) -> Published:
        """Take statistics over all rows of a series, those of later test parts among them.

        Parameters
        ----------
        series : Series
            Read into memory once, for the moment.
        names : sequence of str, optional
            Features or clocks; None: the series' own.
        per : {"feature", "node"}
        epsilon : float
            Added to the standard deviation.
        dtype : {"float32", "float64"}
            Of every step. In float32 the deviation is that of the centred values, in float64 of the values
            themselves, as PGT's loaders have it.

        Notes
        -----
        NumPy adds in the order of memory. PGT's float64 sets of one statistic a feature are frames from
        ``pandas.read_hdf``, whose columns lie one after the other: nodes come first there, and here.
        """
        columns = tuple(column.name for column in series.columns(names))
        nodes_first = per == "feature" and dtype == "float64"
        letters = "nbtf" if nodes_first else "btnf"
        with WindowReader(all_rows(series, columns), dtype=dtype, layout=letters) as picker:
            values = picker.read(np.arange(series.num_steps), graph=False).inputs
        if nodes_first:
            values = values.reshape(series.num_nodes, series.num_steps, len(columns)).transpose(1, 0, 2)
        else:
            values = values.reshape(series.num_steps, series.num_nodes, len(columns))
        axes: Any = (0, 1) if per == "feature" else 0
        mean = np.mean(values, axis=axes)
        if dtype == "float32":
            values -= mean
        std = np.std(values, axis=axes) + np.dtype(dtype).type(epsilon)
        return cls.of(columns, mean, std, dtype=dtype)

    @classmethod
    def of(
        cls, names: Sequence[str], mean: Any, std: Any, *, dtype: str, num_nodes: int | None = None
    ) -> Published:
        """Take known numbers: one for all, one a column, one a node (of one column), or shape (node, column)."""
        tables = [np.asarray(_host(given), dtype=dtype) for given in (mean, std)]
        width = len(names)
        for place, table in enumerate(tables):
            if table.ndim == 1 and len(table) != width:
                tables[place] = table[:, np.newaxis]
            rows = tables[place].shape[0] if tables[place].ndim == 2 else 1
            fits = tables[place].shape[-1:] in ((), (1,), (width,)) and rows in (1, num_nodes or rows)
            if table.ndim > 2 or not fits:
                raise ScalerError(
                    f"{('means', 'stds')[place]} has shape {table.shape}, and the columns are {list(names)}: one "
                    "number each, one a node where there is one column, or shape (node, column)."
                )
        mean, std = (np.broadcast_to(t, np.broadcast_shapes(t.shape, (1, width))).copy() for t in tables)
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
            raise ScalerError(
                "a mean or standard deviation is negative, infinite or NaN. PGT's arithmetic knows no missing "
                "values: repair the data, or take statistics='train', which leaves out what is declared missing."
            )
        if (std == 0).any():
            warnings.warn(
                f"{int((std == 0).sum())} of {std.size} standard deviations are 0, where PGT divides by 0; 1 is "
                "taken instead. Say epsilon=1e-10 for the arithmetic of its windmill and Covid loaders.",
                ScalerWarning,
                stacklevel=4,
            )
            std[std == 0] = 1
        return cls(tuple(names), mean, std)

    def choose(self, names: Sequence[str]) -> Published:
        """Return the numbers of some columns, in this order; 0 and 1 for those it does not have."""
        mean = np.zeros((len(self.mean), len(names)), self.mean.dtype)
        std = np.ones((len(self.std), len(names)), self.std.dtype)
        for place, name in enumerate(names):
            if name in self.names:
                mean[:, place] = self.mean[:, self.names.index(name)]
                std[:, place] = self.std[:, self.names.index(name)]
        return Published(tuple(names), mean, std)

    def arranged(self, letters: str, space: tuple[int, ...], steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std in the shape of a window, its space axes apart; without steps where those come first.

        Written out rather than broadcast: a loop over two features at a time takes ten times as long.
        """
        order = ["btnf".index(letter) for letter in letters]
        count = max(1, int(np.prod(space)))
        sizes = [(1,), (1 if letters.startswith("bt") else steps,), space, (len(self.names),)]
        found = []
        for table in (self.mean, self.std):
            full = np.broadcast_to(table, (1, sizes[1][0], count, len(self.names)))
            moved = full.transpose([*order, *(place for place in range(4) if place not in order)])
            shape = [size for place in order for size in sizes[place]]
            found.append(np.ascontiguousarray(moved).reshape(shape))
        return found[0], found[1]


def all_rows(series: Series, names: Sequence[str] | None) -> WindowSet:
    """Every row of a series as a window of one step."""
    spec = WindowSpec(lookback=1, horizon=0, inputs=names)
    return WindowSet(series, spec, index=Runs.of_segments(series.borders, span=1, stride=1))


def numbers(scaling: Scaler | Published | None, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation as PGT hands them out: float32, shape (column,), or (node,) of one column, or (node, column).

    A column that is not scaled has 0 and 1.
    """
    if scaling is None:
        tables = [np.zeros((1, len(names))), np.ones((1, len(names)))]
    elif isinstance(scaling, Published):
        tables = [scaling.mean, scaling.std]
    else:
        affines = [scaling.affine(name) for name in names]
        shifts = [np.zeros(1) if affine is None else affine.shift[0] for affine in affines]
        spreads = [np.ones(1) if affine is None else 1 / affine.factor[0] for affine in affines]
        tables = [np.stack(np.broadcast_arrays(*part), axis=-1) for part in (shifts, spreads)]
    mean, std = (_squeezed(table) for table in tables)
    return mean, std


def _squeezed(table: np.ndarray) -> np.ndarray:
    """Leave out the node axis where there is one statistic for all, else the column axis where there is one column."""
    shape = table.shape[1:] if len(table) == 1 else table.shape[:1] if table.shape[1] == 1 else table.shape
    return table.astype(np.float32).reshape(shape)


def _host(given: Any) -> Any:
    """Take an array, list or tensor of any device as something NumPy reads."""
    return given.detach().cpu().numpy() if hasattr(given, "detach") else given
