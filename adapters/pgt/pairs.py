"""Windows as pairs (x, y) of tensors, in the layouts and the arithmetic of PyTorch Geometric Temporal.

In: a window set, a scaler, layouts such as ``"n(tf)"``. Out: `WindowPairs`, gathered by the core; `Published`, the rows
of a series in memory, scaled as PGT scales them: all rows once, ``(x - mean) / std`` one operation at a time.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from windowloader.adapters.torch.batch import as_tensor, shared_arrays
from windowloader.batch.window_reader import WindowReader
from windowloader.errors import AxesError, ScalerError
from windowloader.scaling.scaler import ScalerWarning
from windowloader.series.series import Series
from windowloader.windows.index import Runs
from windowloader.windows.spec import WindowSpec
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.scaling.scaler import Scaler

__all__ = ["Published", "WindowPairs", "reported", "rows_in_memory"]

READ_BYTES = 32 << 20  # of rows that are read at a time


def rows_in_memory(
    series: Series, names: Sequence[str], *, dtype: str, device: torch.device | None = None, **options: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read all rows of some columns, a few at a time, into memory or to a device.

    Parameters
    ----------
    series : Series
    names : sequence of str
    dtype : {"float32", "float64"}
    device : torch.device, optional
    **options
        ``scaler`` and ``fill`` of `WindowReader`.

    Returns
    -------
    values : Tensor, shape (row, node, column)
    observed : Tensor of bool, in that shape, or None
        None where nothing can be missing.
    """
    spec = WindowSpec(lookback=1, horizon=0, inputs=names)
    rows = WindowSet(series, spec, index=Runs.of_segments(series.borders, span=1, stride=1))
    shape = (series.num_steps, series.num_nodes, len(names))
    values = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
    observed = None
    together = max(1, READ_BYTES // max(1, values[:1].nbytes))
    with WindowReader(rows, dtype=dtype, **options) as reader:
        for begin in range(0, len(values), together):
            own = slice(begin, min(begin + together, len(values)))
            batch = reader.read(np.arange(own.start, own.stop), graph=False)
            values[own] = torch.from_numpy(batch.inputs.reshape(-1, *shape[1:]))
            if batch.input_mask is not None:
                if observed is None:
                    observed = torch.empty(shape, dtype=torch.bool, device=device)
                observed[own] = torch.from_numpy(batch.input_mask.reshape(-1, *shape[1:]))
    return values, observed


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """Rows of a series in memory, scaled as for PGT's published results.

    PGT computes its statistics over all rows of a series, those of the test part included, and scales all rows before
    it cuts windows. The core's scalers round once and are fitted on train rows, so this class exists only to reproduce
    published numbers.

    Parameters
    ----------
    columns : tuple of str
        Names, and whether "scaled" or "raw".
    values : Tensor, shape (row, node, column)
        The rows, in memory or on a device.
    mean, std : ndarray, shape (1 | node, scaled column)
        In the dtype of the arithmetic. ``std`` is the divisor.
    """

    columns: tuple[str, ...]
    values: torch.Tensor
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(
        cls,
        series: Series,
        names: Sequence[str],
        raw: Sequence[str] = (),
        *,
        dtype: str,
        raw_dtype: str,
        known: tuple[Any, Any] | None = None,
        per: str = "feature",
        epsilon: float = 0.0,
        fill: float | None = None,
        device: torch.device | None = None,
    ) -> Published:
        """Read and scale all rows.

        ``known`` are mean and deviation; otherwise they are those of all rows, for each feature or (``per``) each
        node, ``epsilon`` added to the deviation. ``fill`` is the value of missing cells after scaling.
        """
        values, observed = rows_in_memory(
            series, names, dtype=dtype, device=device, fill=None if known is None else fill
        )
        mean, std = known or _fitted(values, per, epsilon, on_device=device is not None)
        tables = _tables(names, mean, std, dtype=dtype, num_nodes=series.num_nodes)
        # written out for all nodes: an operation with two columns at a time is ten times slower
        shift, divisor = (
            torch.from_numpy(table).expand(values.shape[1:]).contiguous().to(values.device)
            for table in tables
        )
        values.sub_(shift).div_(divisor)
        if observed is not None and fill is not None:
            values.masked_fill_(~observed, fill)
        if raw:
            others, _ = rows_in_memory(series, raw, dtype=raw_dtype, device=device, fill=fill)
            values = torch.cat([values.to(others.dtype), others], dim=-1)
        columns = [f"{name} scaled" for name in names] + [f"{name} raw" for name in raw]
        return cls(tuple(columns), values, *tables)

    def windows(self, windows: WindowSet, *, scale_targets: bool, missing: float | None = None) -> WindowSet:
        """Return the same windows, of these rows, in which ``missing`` marks missing cells."""

        def columns(names: Sequence[str] | None, scaled: bool) -> list[str]:
            known = [] if names == () else [column.name for column in windows.series.columns(names)]
            wanted = [f"{name} scaled" for name in known]
            return [
                one if scaled and one in self.columns else f"{name} raw"
                for one, name in zip(wanted, known, strict=True)
            ]

        spec = windows.spec
        spec = replace(
            spec,
            inputs=columns(spec.inputs, True),
            targets=columns(spec.targets, scale_targets) if spec.num_targets else None,
            future=(),
            on_missing="mask",
            max_missing=None,
        )
        series = Series(self.values.numpy(), axes="tnf", features=self.columns, missing=missing)
        return WindowSet(series, spec, index=windows.index)


def _fitted(values: torch.Tensor, per: str, epsilon: float, *, on_device: bool) -> tuple[Any, Any]:
    """Compute mean and deviation in PGT's order of operations.

    As in PGT, a float32 deviation is that of the centred values, and on a device torch computes both, with ``n - 1``.
    NumPy's sums depend on the order of memory: PGT's float64 values come from ``pandas.read_hdf``, whose columns are
    contiguous, so nodes come first there.
    """
    axes: Any = (0, 1) if per == "feature" else 0
    if on_device:
        mean = values.mean(dim=axes)
        return mean, (values - mean).std(dim=axes) + epsilon
    array = values.numpy()
    if per == "feature" and array.dtype == np.float64:
        array = np.ascontiguousarray(array.transpose(1, 0, 2)).transpose(1, 0, 2)
    mean = np.mean(array, axis=axes)
    if array.dtype == np.float32:
        array = array - mean
    return mean, np.std(array, axis=axes) + array.dtype.type(epsilon)


def _tables(
    names: Sequence[str], mean: Any, std: Any, *, dtype: str, num_nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Check statistics: a number, one per column, one per node (one column), or shape (node, column)."""
    width, tables = len(names), []
    for what, given in (("means", mean), ("stds", std)):
        table = np.asarray(torch.as_tensor(given).cpu().numpy(), dtype=dtype)
        if table.ndim == 1 and len(table) != width:
            table = table[:, np.newaxis]
        rows = table.shape[0] if table.ndim == 2 else 1
        if table.ndim > 2 or table.shape[-1:] not in ((), (1,), (width,)) or rows not in (1, num_nodes):
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


def _folding(layout: str, sizes: Mapping[str, int]) -> tuple[str, list[int]]:
    """Return the letters of a layout and the shape that folds them; AxesError where it does not fit."""
    letters = re.sub(r"[()]", "", layout)
    if not re.fullmatch(r"([tnf]|\([tnf]{2,3}\))*", layout) or len(set(letters)) != len(letters):
        raise AxesError(
            f"layout={layout!r} is not an order of t (time), n (space), f (feature), each at most once, with brackets "
            "around axes that are folded into one, e.g. 'tnf', 'nft', 'nt' or 'n(tf)'."
        )
    for letter in "tnf":
        if letter not in letters and sizes[letter] != 1:
            raise AxesError(f"layout={layout!r} leaves out {letter!r}, whose size is {sizes[letter]}, not 1.")
    groups = re.findall(r"\([tnf]+\)|[tnf]", layout)
    return letters, [math.prod(sizes[letter] for letter in group.strip("()")) for group in groups]


class WindowPairs:
    """Pairs of inputs and targets by window number.

    Parameters
    ----------
    windows : WindowSet
    published : Published, optional
        Rows that are read in place of the series'.
    scaler : Scaler, optional
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
        published: Published | None = None,
        scaler: Scaler | None = None,
        scale_targets: bool = True,
        fill: float | None = None,
        dtype: str = "float32",
        layout: tuple[str, str] = ("tnf", "tnf"),
        integer_targets: bool = False,
    ) -> None:
        spec, series, kind = windows.spec, windows.series, getattr(torch, dtype)
        self.windows = windows
        self._sides: list[tuple[list[int], bool, torch.dtype]] = []
        unscaled = not scale_targets or (published is None and scaler is None)
        letters, labels = [], False
        sides = (spec.inputs, spec.num_inputs), (spec.targets, spec.num_targets)
        for (names, steps), one in zip(sides, layout, strict=True):
            columns = series.columns(names) if steps and names != () else ()
            if not columns:
                continue
            variables = [series.variables[column.variable] for column in columns if column.variable >= 0]
            nodes = series.num_nodes if any(variable.has_nodes for variable in variables) else 1
            order, shape = _folding(one, {"t": steps, "n": nodes, "f": len(columns)})
            alike = "n" not in order  # for all nodes, so that the first is delivered
            letters.append("b" + order + "n" * alike)
            integers = [variable.dtype.kind for variable in variables if variable.dtype.kind in "iu"]
            labels = bool(self._sides) and integer_targets and unscaled and len(integers) == len(columns)
            shape += [series.num_nodes] * alike
            self._sides.append((shape, alike, torch.int64 if labels else kind))
        if published is not None:
            scaler, fill = None, fill if fill is not None and math.isnan(fill) else None
            windows = published.windows(windows, scale_targets=scale_targets, missing=fill)
        self._reader = WindowReader(
            windows,
            scaler=scaler,
            scale_targets=scale_targets,
            fill=fill,
            dtype="float64" if labels else dtype,
            layout=(letters[0], letters[-1]),
        )

    def read(self, positions: np.ndarray) -> tuple[torch.Tensor, Any]:
        """Gather windows into new tensors x and y, batch axis first; y is None without targets."""
        # in a worker into memory that the main process can map, as torch's own collation does
        out = None if get_worker_info() is None else shared_arrays(self._reader.recipe, len(positions))
        batch = self._reader.read(positions, graph=False, out=out)
        found: list[Any] = [None, None]
        arrays = batch.inputs, batch.targets
        for side, (array, (shape, alike, dtype)) in enumerate(zip(arrays, self._sides, strict=False)):
            tensor = as_tensor(array).reshape(len(positions), *shape)  # a grid's axes become one
            found[side] = (tensor[..., 0].contiguous() if alike else tensor).to(dtype)
        return found[0], found[1]
