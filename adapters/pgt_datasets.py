"""Windows as torch data sets: gathered where the series lies, or on a device that holds all of it.

In: window sets and how pairs look. Out: map-style data sets whose batches are one gather each, and `collate`, which
hands that gather out. Never stacks window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from windowloader.adapters.pgt_arithmetic import Published, all_rows
from windowloader.adapters.pgt_pairs import PairOptions, WindowPairs
from windowloader.errors import LoaderError

if TYPE_CHECKING:
    from windowloader.series.series import Series
    from windowloader.windows.window_set import WindowSet

__all__ = ["DeviceWindows", "Gathered", "IndexWindows", "collate", "fit_on_device", "on_device"]

CHUNK_BYTES = 32 << 20  # of rows on their way to a device


class Gathered(Sequence[tuple[Any, Any]]):
    """Windows of one gather: pairs when indexed, the whole when collated."""

    __slots__ = ("pair",)

    def __init__(self, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.pair = pair

    def __len__(self) -> int:
        return len(self.pair[0])

    def __getitem__(self, index: Any) -> Any:
        return self.pair[0][index], self.pair[1][index]


def collate(windows: Sequence[Any]) -> tuple[Any, Any]:
    """Hand a gather out as it is; stack pairs that came one by one."""
    if isinstance(windows, Gathered):
        return windows.pair
    x, y = zip(*windows, strict=True)
    return torch.stack(x), torch.stack(y)


class Numbered(Dataset[Any]):
    """Windows by number: what PGT's ``IndexDataset`` shows beside its items.

    Parameters
    ----------
    windows : WindowSet

    Attributes
    ----------
    indices : ndarray, int64
        First rows of the windows.
    horizon : int
    lazy, gpu : bool
        As PGT's datasets have them.
    """

    gpu = False
    lazy = False

    def __init__(self, windows: WindowSet) -> None:
        self.windows = windows
        self.horizon = windows.spec.num_targets

    @property
    def indices(self) -> np.ndarray:
        """First rows of the windows."""
        return self.windows.starts()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> Gathered:
        raise NotImplementedError


class IndexWindows(Numbered):
    """Windows of a series, gathered where it lies.

    Parameters
    ----------
    windows : WindowSet
    options : PairOptions
    """

    def __init__(self, windows: WindowSet, options: PairOptions) -> None:
        super().__init__(windows)
        self._pairs = WindowPairs(windows, options)

    def __getitems__(self, indices: Sequence[int]) -> Gathered:
        x, y = self._pairs.read(np.asarray(indices, np.int64))
        assert y is not None  # the spec has a horizon
        return Gathered((torch.from_numpy(x), torch.from_numpy(y)))


class DeviceWindows(Numbered):
    """Windows of a scaled series that a device holds whole (PGT's ``allGPU``).

    Parameters
    ----------
    windows : WindowSet
    values : Tensor, shape (row, node, column)
        On the device, scaled.
    inputs, targets : sequence of int
        Which of its columns are inputs and targets.
    """

    gpu = True

    def __init__(
        self, windows: WindowSet, values: torch.Tensor, inputs: Sequence[int], targets: Sequence[int]
    ) -> None:
        super().__init__(windows)
        self.values = values
        every = list(range(values.shape[-1]))
        self._columns = [None if list(part) == every else list(part) for part in (inputs, targets)]
        spec = windows.spec
        self._rows = [
            torch.as_tensor(rows, device=values.device) for rows in (spec.input_rows, spec.target_rows)
        ]

    def __getitems__(self, indices: Sequence[int]) -> Gathered:
        starts = torch.from_numpy(self.windows.starts(np.asarray(indices, np.int64)))
        starts = starts.to(self.values.device)[:, None]
        x, y = (
            self.values[starts + rows] if columns is None else self.values[starts + rows][..., columns]
            for rows, columns in zip(self._rows, self._columns, strict=True)
        )
        return Gathered((x, y))


def on_device(parts: Sequence[WindowSet], options: PairOptions, device: torch.device) -> list[DeviceWindows]:
    """Put the scaled series on a device once, for all parts."""
    if any(fold.text != "tnf" for fold in options.layouts):
        raise LoaderError(
            "allGPU holds the series as [time, node, feature] and gathers windows in that order: leave layout='tnf', "
            "and permute on the device."
        )
    series, spec = parts[0].series, parts[0].spec
    roles = [[column.name for column in series.columns(names)] for names in (spec.inputs, spec.targets)]
    columns = list(dict.fromkeys(roles[0] + roles[1]))
    values = _upload(series, columns, options, device)
    places = [[columns.index(name) for name in role] for role in roles]
    return [DeviceWindows(part, values, *places) for part in parts]


def fit_on_device(
    series: Series,
    names: Sequence[str],
    device: torch.device,
    *,
    per: Literal["feature", "node"],
    epsilon: float,
    dtype: str,
) -> Published:
    """Take statistics of a whole series as PGT does on a GPU: torch's, the deviation with n - 1."""
    values = _upload(series, names, PairOptions(dtype=dtype), device)
    axes = (0, 1) if per == "feature" else 0
    mean = values.mean(dim=axes)
    std = (values - mean).std(dim=axes) + epsilon
    return Published.of(names, mean, std, dtype=dtype)


def _upload(series: Series, names: Sequence[str], options: PairOptions, device: torch.device) -> torch.Tensor:
    """All rows of some columns on a device, scaled; a few at a time through host memory."""
    pairs = WindowPairs(all_rows(series, names), options)
    shape = (series.num_steps, series.num_nodes, len(names))
    values = torch.empty(shape, dtype=getattr(torch, options.dtype), device=device)
    chunk = max(1, CHUNK_BYTES // max(1, shape[1] * shape[2] * values.element_size()))
    for begin in range(0, len(values), chunk):
        rows, _ = pairs.read(np.arange(begin, min(begin + chunk, len(values))))
        values[begin : begin + len(rows)] = torch.from_numpy(rows.reshape(len(rows), *shape[1:]))
    pairs.close()
    return values
