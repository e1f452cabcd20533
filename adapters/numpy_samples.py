"""Samples as the traffic literature's scripts expect them: arrays to look at, a scaler of two numbers.

In: a window set, or arrays that someone materialised. Out: pairs by number, and lazy views that index like
arrays. Never reads a window before it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from windowloader.windows.window_set import WindowSet

__all__ = ["ArrayPairs", "ArrayWindowPairs", "FeatureScaler", "Pairs", "Samples"]


class Pairs(Protocol):
    """Where samples come from: pairs of inputs and targets by number."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of one input and of one target."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of both."""
        ...

    def __len__(self) -> int: ...

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read inputs and targets of some samples, new arrays, shape (sample, step, node, feature)."""
        ...


@dataclass(frozen=True, slots=True)
class FeatureScaler:
    """The literature's scaler: two numbers for the first feature, applied to any array or tensor.

    Parameters
    ----------
    mean, std : float

    Examples
    --------
    >>> FeatureScaler(mean=60.0, std=10.0).inverse_transform(np.array([0.5, -1.0]))
    array([65., 50.])
    """

    mean: float
    std: float

    def transform(self, data: Any) -> Any:
        """Return ``(data - mean) / std``."""
        return (data - self.mean) / self.std

    def inverse_transform(self, data: Any) -> Any:
        """Return ``data * std + mean``."""
        return (data * self.std) + self.mean


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Samples:
    """One side of many samples, seen as an array; nothing is read before it is indexed.

    Parameters
    ----------
    pairs : Pairs
    side : {0, 1}
        Inputs or targets.
    order : ndarray, shape (sample,), int64
        Which sample stands where.

    Attributes
    ----------
    shape : tuple of int
        (sample, step, node, feature).
    """

    pairs: Pairs
    side: int
    order: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array."""
        return (len(self.order), *self.pairs.shapes[self.side])

    @property
    def ndim(self) -> int:
        """As of the array."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """As of the array."""
        return self.pairs.dtype

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read samples by int, slice, mask or array, and a part of each by further indices."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            first, rest = slice(None), [Ellipsis, *rest]
        chosen = self.order[first]
        if np.ndim(chosen) and not isinstance(first, slice) and any(np.ndim(index) for index in rest):
            raise IndexError(
                "choose the windows first, samples[windows], and index the array that comes back."
            )
        values = self.pairs.read(np.atleast_1d(chosen).ravel())[self.side]
        values = values.reshape(np.shape(chosen) + values.shape[1:])
        kept = (slice(None),) * np.ndim(chosen)
        return np.asarray(values[(*kept, *rest)] if rest else values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all of them: as large as what the literature materialises."""
        if copy is False:
            raise ValueError("the samples are not materialised: an array of them is always a copy.")
        return np.asarray(self[:], dtype=dtype)

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Read all of them, for ``torch.Tensor(data["y_test"])`` as the evaluation scripts have it."""
        return self[:].__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __repr__(self) -> str:
        side = ("inputs", "targets")[self.side]
        return f"<{side} of {len(self)} windows, shape {self.shape}, read when indexed>"


@dataclass(frozen=True, slots=True, eq=False)
class ArrayWindowPairs:
    """Samples that are windows of a series.

    Parameters
    ----------
    windows : WindowSet
    options : mapping
        Of ``WindowSet.read``.
    shapes, dtype
        As of `Pairs`.
    week : tuple of list of int
        Columns of inputs and of targets that are days of the week, to be divided by 7.
    """

    windows: WindowSet
    options: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: np.dtype
    week: tuple[list[int], list[int]]

    @classmethod
    def of(cls, windows: WindowSet, options: Mapping[str, Any], week: bool = False) -> ArrayWindowPairs:
        """Pair up the windows of a set, read with options of ``WindowSet.read``; days of the week in sevenths."""
        batch = windows.read(np.zeros(1, dtype=np.int64), **options)  # refuses what cannot be read, now
        columns = [
            [
                place
                for place, column in enumerate(windows.series.columns(names))
                if week and column.name == "day_of_week"
            ]
            for names in (windows.spec.inputs, windows.spec.targets)
        ]
        shapes = (batch.inputs.shape[1:], batch.targets.shape[1:])
        return cls(windows, options, shapes, batch.inputs.dtype, (columns[0], columns[1]))

    def __len__(self) -> int:
        return len(self.windows)

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gather some windows."""
        batch = self.windows.read(positions, **self.options)
        pair = batch.inputs, batch.targets
        for array, columns in zip(pair, self.week, strict=True):
            if columns:
                array[..., columns] /= 7
        return pair


@dataclass(frozen=True, slots=True, eq=False)
class ArrayPairs:
    """Samples that someone materialised; they stay raw, and are scaled when read."""

    x: np.ndarray
    y: np.ndarray
    scaler: FeatureScaler
    scale_targets: bool
    dtype: np.dtype

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of one input and of one target."""
        return self.x.shape[1:], self.y.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copy and scale some samples."""
        return self._scaled(self.x[positions], True), self._scaled(self.y[positions], self.scale_targets)

    def _scaled(self, values: np.ndarray, scale: bool) -> np.ndarray:
        if not scale:
            return values.astype(self.dtype)
        result = values.astype(np.float64)
        result[..., 0] = self.scaler.transform(result[..., 0])
        return result.astype(self.dtype, copy=False)
