"""Windows as pairs (x, y) of arrays, in the layouts and the arithmetic of PyTorch Geometric Temporal.

In: a window set, a scaler, layouts such as ``"n(tf)"``. Out: `WindowPairs`. Windows are gathered by the core; only
PGT's published scaling, ``(x - mean) / std`` one operation at a time, and the folding of axes happen here.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from windowloader.batch.window_reader import WindowReader
from windowloader.errors import AxesError, ScalerError
from windowloader.scaling.scaler import ScalerWarning
from windowloader.windows.index import Runs
from windowloader.windows.spec import WindowSpec
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.scaling.scaler import Scaler
    from windowloader.series.series import Series

__all__ = ["Published", "WindowPairs", "reported", "single_rows"]

CACHED_BYTES = 1 << 18  # windows of this size are subtracted from and divided while they are in the cache
UPLOAD_BYTES = 32 << 20  # rows per copy to a device


def single_rows(series: Series, names: Sequence[str] | None) -> WindowSet:
    """Return every row of a series as a window of one step."""
    spec = WindowSpec(lookback=1, horizon=0, inputs=names)
    return WindowSet(series, spec, index=Runs.of_segments(series.borders, span=1, stride=1))


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """Mean and standard deviation by column, as PGT's published results use them.

    PGT computes its statistics over all rows of a series, those of the test part included. The core's scalers round
    once and are fitted on train rows, so this class exists only to reproduce published numbers.

    Parameters
    ----------
    names : tuple of str
    mean, std : ndarray, shape (1 | node, column)
        In the dtype of the arithmetic. ``std`` is the divisor.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(
        cls,
        series: Series,
        names: Sequence[str],
        *,
        per: Literal["feature", "node"] = "feature",
        epsilon: float = 0.0,
        dtype: str = "float32",
        device: torch.device | None = None,
    ) -> Published:
        """Compute statistics over all rows, which are read into memory once.

        ``epsilon`` is added to the deviation. As in PGT, a float32 deviation is that of the centred values, and on a
        device torch computes the statistics, with ``n - 1``. NumPy's sums depend on the order of memory: PGT's float64
        values come from ``pandas.read_hdf``, whose columns are contiguous, so nodes come first there.
        """
        axes: Any = (0, 1) if per == "feature" else 0
        if device is not None:
            held = WindowPairs(single_rows(series, names), dtype=dtype).upload(device)
            mean = held.mean(dim=axes)
            return cls.of(names, mean, (held - mean).std(dim=axes) + epsilon, dtype=dtype)
        with WindowReader(single_rows(series, names), dtype=dtype) as reader:
            values = reader.read(np.arange(series.num_steps), graph=False).inputs
        values = values.reshape(series.num_steps, series.num_nodes, len(names))
        if per == "feature" and dtype == "float64":
            values = np.ascontiguousarray(values.transpose(1, 0, 2)).transpose(1, 0, 2)
        mean = np.mean(values, axis=axes)
        if dtype == "float32":
            values -= mean
        return cls.of(names, mean, np.std(values, axis=axes) + np.dtype(dtype).type(epsilon), dtype=dtype)

    @classmethod
    def of(
        cls, names: Sequence[str], mean: Any, std: Any, *, dtype: str, num_nodes: int | None = None
    ) -> Published:
        """Take known statistics: a number, one per column, one per node (one column), or shape (node, column)."""
        width, tables = len(names), []
        for what, given in (("means", mean), ("stds", std)):
            table = np.asarray(torch.as_tensor(given).cpu().numpy(), dtype=dtype)
            if table.ndim == 1 and len(table) != width:
                table = table[:, np.newaxis]
            rows = table.shape[0] if table.ndim == 2 else 1
            if (
                table.ndim > 2
                or table.shape[-1:] not in ((), (1,), (width,))
                or rows not in (1, num_nodes or rows)
            ):
                raise ScalerError(
                    f"{what} has shape {table.shape}, and the columns are {list(names)}. Pass one number per column, "
                    "one per node where there is one column, or shape (node, column)."
                )
            tables.append(np.broadcast_to(table, np.broadcast_shapes(table.shape, (1, width))).copy())
        mean, std = tables
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
            raise ScalerError(
                "a mean or standard deviation is negative, infinite or NaN. PGT's arithmetic does not handle missing "
                "values: repair the data, or pass statistics='train', which skips values declared missing."
            )
        if (std == 0).any():
            warnings.warn(
                f"{int((std == 0).sum())} of {std.size} standard deviations are 0, where PGT divides by 0. 1 is used "
                "instead. Pass epsilon=1e-10 for the arithmetic of PGT's windmill and Covid loaders.",
                ScalerWarning,
                stacklevel=4,
            )
            std[std == 0] = 1
        return cls(tuple(names), mean, std)

    def of_columns(self, names: Sequence[str], num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std of some columns, shape (node, column); 0 and 1 for columns without statistics.

        They are written out for all nodes, as NumPy's broadcast over two features at a time is ten times slower.
        """
        shape = (num_nodes, len(names))
        mean, std = np.zeros(shape, self.mean.dtype), np.ones(shape, self.std.dtype)
        for place, name in enumerate(names):
            if name in self.names:
                mean[:, place] = self.mean[:, self.names.index(name)]
                std[:, place] = self.std[:, self.names.index(name)]
        return mean, std


def reported(scaling: Scaler | Published | None, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation as PGT returns them: float32, shape (column,), (node,) or (node, column).

    They are 0 and 1 for a column that is not scaled.
    """
    mean, std = np.zeros((1, len(names))), np.ones((1, len(names)))
    if isinstance(scaling, Published):
        mean, std = scaling.mean, scaling.std
    elif scaling is not None:
        affines = [scaling.affine(name) for name in names]
        shifts = [np.zeros(1) if affine is None else affine.shift[0] for affine in affines]
        spreads = [np.ones(1) if affine is None else 1 / affine.factor[0] for affine in affines]
        mean, std = (np.stack(np.broadcast_arrays(*part), axis=-1) for part in (shifts, spreads))
    rows, columns = mean.shape
    shape = (columns,) if rows == 1 else (rows,) if columns == 1 else (rows, columns)
    return mean.astype(np.float32).reshape(shape), std.astype(np.float32).reshape(shape)


def check_layout(layout: str, sizes: Mapping[str, int]) -> None:
    """Raise AxesError for a layout of windows that is none, or leaves out an axis whose size is not 1."""
    letters = re.sub(r"[()]", "", layout)
    if not re.fullmatch(r"([tnf]|\([tnf]{2,3}\))*", layout) or len(set(letters)) != len(letters):
        raise AxesError(
            f"layout={layout!r} is not an order of t (time), n (space), f (feature), each at most once, with brackets "
            "around axes that are folded into one, e.g. 'tnf', 'nft', 'nt' or 'n(tf)'."
        )
    for letter in "tnf":
        if letter not in letters and sizes[letter] != 1:
            raise AxesError(f"layout={layout!r} leaves out {letter!r}, whose size is {sizes[letter]}, not 1.")


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """Bring (batch, time, node, feature) into a layout of windows.

    Examples
    --------
    >>> laid_out(np.zeros((64, 12, 207, 2)), "n(tf)").shape
    (64, 207, 24)
    """
    if layout == "tnf":
        return array
    sizes = dict(zip("tnf", array.shape[1:], strict=True))
    letters = re.sub(r"[()]", "", layout)
    order = [" tnf".index(letter) for letter in letters + "".join(set("tnf") - set(letters))]
    groups = re.findall(r"\([tnf]+\)|[tnf]", layout)
    shape = [math.prod(sizes[letter] for letter in group.strip("()")) for group in groups]
    return np.ascontiguousarray(array.transpose([0, *order])).reshape(len(array), *shape)


class WindowPairs:
    """Pairs of inputs and targets by window number.

    Parameters
    ----------
    windows : WindowSet
    scaling : Scaler, Published or None
        A scaler of the core is applied in the gather, PGT's arithmetic to the gathered batch.
    scale_targets : bool
    fill : float, optional
        Value of missing cells after scaling.
    dtype : {"float32", "float64"}
    layout : pair of str
        Of x and of y.
    integer_targets : bool
        Deliver targets that are stored as integers and not scaled as int64.
    """

    def __init__(
        self,
        windows: WindowSet,
        *,
        scaling: Scaler | Published | None = None,
        scale_targets: bool = True,
        fill: float | None = None,
        dtype: str = "float32",
        layout: tuple[str, str] = ("tnf", "tnf"),
        integer_targets: bool = False,
    ) -> None:
        spec, series = windows.spec, windows.series
        self.windows, self._fill, self._layout = windows, fill, layout
        sides = [(spec.inputs, spec.num_inputs), (spec.targets, spec.num_targets)]
        columns = [series.columns(names) for names, steps in sides if steps and names != ()]
        variables = [[series.variables[c.variable] for c in side if c.variable >= 0] for side in columns]
        for side, of_side in enumerate(columns):
            nodes = series.num_nodes if any(variable.has_nodes for variable in variables[side]) else 1
            check_layout(layout[side], {"t": sides[side][1], "n": nodes, "f": len(of_side)})
        unscaled = scaling is None or not scale_targets
        integers = integer_targets and all(variable.dtype.kind in "iu" for variable in variables[-1])
        labels = integers and unscaled and len(columns) == 2 and len(variables[1]) == len(columns[1])
        self._dtypes = (dtype, "int64" if labels else dtype)
        computed = "float64" if labels else dtype
        self._steps: list[tuple[np.ndarray, np.ndarray]] = []
        if isinstance(scaling, Published):
            computed = str(scaling.mean.dtype)
            names = [[column.name for column in side] for side in columns[: 1 + scale_targets]]
            self._steps = [scaling.of_columns(side, series.num_nodes) for side in names]
            scaling = None
        self._reader = WindowReader(
            windows, scaler=scaling, scale_targets=scale_targets, fill=fill, dtype=computed
        )

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Gather windows into new arrays x and y, batch axis first; y is None without targets."""
        batch = self._reader.read(positions, graph=False)
        x = self._finished(0, batch.inputs, batch.input_mask)
        return x, None if batch.targets is None else self._finished(1, batch.targets, batch.target_mask)

    def tensors(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather windows as tensors; the spec must have targets."""
        x, y = self.read(positions)
        assert y is not None
        return torch.from_numpy(x), torch.from_numpy(y)

    def upload(self, device: torch.device) -> torch.Tensor:
        """Copy x of all windows of one row to a device, shape (row, node, column), a few rows at a time."""
        count, series = len(self.windows), self.windows.series
        shape = (series.num_nodes, len(series.columns(self.windows.spec.inputs)))
        kind = torch.from_numpy(np.empty(0, self._dtypes[0])).dtype
        values = torch.empty((count, *shape), dtype=kind, device=device)
        rows = max(1, UPLOAD_BYTES // max(1, values[:1].nbytes))
        for begin in range(0, count, rows):
            x, _ = self.read(np.arange(begin, min(begin + rows, count)))
            values[begin : begin + len(x)] = torch.from_numpy(x.reshape(-1, *shape))
        self._reader.close()
        return values

    def _finished(self, side: int, array: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        array = array.reshape(*array.shape[:2], -1, array.shape[-1])  # a grid's axes as one
        if side < len(self._steps):
            mean, std = self._steps[side]
            together = max(1, CACHED_BYTES * len(array) // max(1, array.nbytes))
            for begin in range(0, len(array), together):
                part = array[begin : begin + together]
                np.subtract(part, mean, out=part)
                np.divide(part, std, out=part)
            if mask is not None and self._fill is not None:
                np.copyto(array, self._fill, where=~mask.reshape(array.shape))
        layout = self._layout[side]
        if "n" not in layout:
            array = array[:, :, :1]  # the same for all nodes
        return laid_out(array.astype(self._dtypes[side], copy=False), layout)
