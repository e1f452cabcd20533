"""Samples as the traffic literature's scripts expect them: arrays, a scaler of two numbers, loaders of NumPy batches.

In: pairs by number. Out: `Samples`, views that are indexed as arrays, and `LoopLoader`. Never reads a window before it
is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.errors import LoaderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FeatureScaler", "LoopLoader", "Pairs", "Samples", "Tail", "check_epoch"]

Tail = Literal["pad", "keep", "drop"]


@dataclass(frozen=True, slots=True)
class FeatureScaler:
    """The literature's scaler: two numbers for the first feature, applied to any array or tensor.

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


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Samples by number.

    Parameters
    ----------
    read : callable
        ``read(numbers)`` returns new arrays x and y, shape (sample, step, node, feature).
    count : int
    shapes : tuple
        Shape of one x and of one y.
    dtype : numpy.dtype
    """

    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    count: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Samples:
    """One side of many samples, used as an array of shape (sample, step, node, feature); read when indexed.

    Parameters
    ----------
    pairs : Pairs
    side : {0, 1}
        Inputs or targets.
    order : ndarray, shape (sample,), int64
        Number of the sample at each position.
    """

    pairs: Pairs
    side: int
    order: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return (len(self.order), *self.pairs.shapes[self.side])

    @property
    def ndim(self) -> int:
        """Number of axes of the array."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """Of the array."""
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
                "choose the samples first, samples[numbers], and index the array that is returned."
            )
        values = self.pairs.read(np.atleast_1d(chosen).ravel())[self.side]
        values = values.reshape(np.shape(chosen) + values.shape[1:])
        kept = (slice(None),) * np.ndim(chosen)
        return np.asarray(values[(*kept, *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all samples: as large as what the literature materialises."""
        if copy is False:
            raise ValueError("the samples are not materialised: an array of them is always a copy.")
        return np.asarray(self[:], dtype=dtype)

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Read all samples, for ``torch.Tensor(data["y_test"])`` of the evaluation scripts."""
        return self[:].__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __repr__(self) -> str:
        side = ("inputs", "targets")[self.side]
        return f"<{side} of {len(self)} windows, shape {self.shape}, read when indexed>"


@dataclass(slots=True, eq=False)
class LoopLoader:
    """The batches of an epoch as the literature's scripts iterate over them.

    Parameters
    ----------
    pairs : Pairs
        The samples, in order of time.
    batch_size : int
    tail : {"pad", "keep", "drop"}
        How an epoch ends: the last sample repeated up to a full batch, a short batch, or none.
    shuffle_now : bool
        Shuffle once at construction, as DCRNN does.
    rng : numpy.random.Generator or RandomState, optional
        Used by `shuffle`. None: NumPy's global generator, which the scripts seed with ``np.random.seed``, so that the
        order is theirs.

    Attributes
    ----------
    current_ind : int
        Number of the batch that the newest iterator yields next.

    Raises
    ------
    LoaderError
        If batch_size is below 1, tail is unknown, or an epoch would be empty.

    Examples
    --------
    >>> values = np.arange(124.0)
    >>> pairs = Pairs(lambda numbers: (values[numbers], -values[numbers]), 124, ((), ()), values.dtype)
    >>> [len(x) for x, y in LoopLoader(pairs, 50, tail="keep").get_iterator()]
    [50, 50, 24]
    """

    pairs: Pairs
    batch_size: int
    tail: Tail = "pad"
    shuffle_now: bool = False
    rng: Any = None
    current_ind: int = field(init=False, default=0)
    _order: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.pairs)
        check_epoch(count, self.batch_size, self.tail)
        padding = -count % self.batch_size if self.tail == "pad" else 0
        self._order = np.concatenate([np.arange(count), np.full(padding, count - 1)]).astype(np.int64)
        if self.shuffle_now:
            self.shuffle()

    @property
    def size(self) -> int:
        """Samples of an epoch, repeated ones included."""
        return len(self._order)

    @property
    def num_batch(self) -> int:
        """Batches of an epoch."""
        return -(-self.size // self.batch_size) if self.tail == "keep" else self.size // self.batch_size

    @property
    def xs(self) -> Samples:
        """Inputs in the present order, as an array."""
        return Samples(self.pairs, 0, self._order)

    @property
    def ys(self) -> Samples:
        """Targets in the present order, as an array."""
        return Samples(self.pairs, 1, self._order)

    def __len__(self) -> int:
        return self.num_batch

    def shuffle(self) -> None:
        """Permute the present order, for the epochs to come."""
        rng = np.random if self.rng is None else self.rng
        self._order = self._order[rng.permutation(self.size)]

    def get_iterator(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of one epoch, pairs (x, y) of new arrays."""
        self.current_ind = 0
        return self._batches(self._order)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.get_iterator()

    def _batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(self.num_batch):
            self.current_ind = index
            yield self.pairs.read(order[index * self.batch_size : (index + 1) * self.batch_size])
        self.current_ind = self.num_batch


def check_epoch(count: int, batch_size: int, tail: Tail) -> None:
    """Refuse arguments that give no batch."""
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise LoaderError(f"batch_size must be an integer >= 1, got {batch_size!r}.")
    if tail not in ("pad", "keep", "drop"):
        raise LoaderError(f"tail must be 'pad', 'keep' or 'drop', got {tail!r}.")
    if not count or (tail == "drop" and count < batch_size):
        raise LoaderError(
            f"{count} windows give no batch of {batch_size} with tail={tail!r}. Pass a smaller batch_size, or "
            "tail='pad' or 'keep'."
        )
