"""One subtraction and one product: what every scaler comes down to, applied to arrays of any layout.

In: shifts and factors by feature, an array or a tensor, and its axes as letters. Out: the scaled array, of
the same kind and dtype. Never fits anything, and never imports a framework: a tensor is known by its own
module.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import AxesError, ScalerError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Affine", "spread"]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """How one feature is scaled: ``(x - shift) * factor``, or ``/ factor`` where `divide`.

    Parameters
    ----------
    shift, factor : ndarray, shape (entity or 1, node or 1), float64
        Broadcast over entities and nodes where the size is 1.
    divide : bool
        Whether ``factor`` divides.

    Examples
    --------
    >>> affine = Affine(np.array([[58.0]]), np.array([[12.0]]), divide=True)
    >>> affine.forward(np.array([70.0, 46.0]))
    array([[ 1., -1.]])
    """

    shift: np.ndarray
    factor: np.ndarray
    divide: bool

    def __post_init__(self) -> None:
        for name in ("shift", "factor"):
            value = np.array(getattr(self, name), dtype=np.float64, order="C")
            if value.ndim != 2:
                raise ScalerError(f"{name} has shape {value.shape}; (entity or 1, node or 1) is asked for.")
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Scale float64 values that broadcast with (entity, node)."""
        moved = values - self.shift
        return np.asarray(moved / self.factor if self.divide else moved * self.factor)


def spread(
    affines: Sequence[Affine], shape: Sequence[int], layout: str, entities: object, whose: str
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts and factors of several features, shaped to broadcast with an array of ``shape`` and ``layout``.

    Parameters
    ----------
    affines : sequence of Affine
        One for each index of the feature axis; a single one for an array without that axis, or for all of it
        where ``whose`` is empty.
    shape : sequence of int
        Of the array.
    layout : str
        Its axes: ``b``, ``t``, ``n``, ``f`` in any order, each at most once, left out where there is none.
        ``n`` stands for all space axes: as many as the array has beyond the other letters.
    entities : array_like of int, shape (batch,), or int, optional
        Whose each window is, where statistics differ by entity.
    whose : str
        What the scaler calls its features, for messages; empty where it has no names.

    Returns
    -------
    shift, factor : ndarray, float64

    Raises
    ------
    AxesError
        If the letters are no layout, or do not fit the array.
    ScalerError
        If the numbers of features, nodes or entities are not those of the statistics.
    """
    space = _space(shape, layout)
    sizes = _sizes(shape, layout, space)
    _check_features(affines, sizes.get("f", (1,))[0], layout, whose)
    nodes = int(np.prod(sizes.get("n", (1,)), dtype=np.int64))
    rows = _entity_rows(affines, sizes, entities)
    stacked = []
    for table in ([affine.shift for affine in affines], [affine.factor for affine in affines]):
        fields = np.stack(np.broadcast_arrays(*table), axis=-1)[rows]  # [b, n, f]
        if fields.shape[1] not in (1, nodes):
            raise ScalerError(
                f"the scaler has statistics of {fields.shape[1]} nodes, but an array of shape "
                f"{tuple(shape)} and "
                f"layout={layout!r} has {nodes}. Fit it on the same nodes, or give the layout the array has."
            )
        stacked.append(_arrange(fields, layout, sizes))
    return stacked[0], stacked[1]


def _space(shape: Sequence[int], layout: str) -> int:
    """How many axes of the array the letter ``n`` stands for."""
    if set(layout) - set("btnf") or len(set(layout)) != len(layout):
        raise AxesError(
            f"layout={layout!r} is no order of b (batch), t (time), n (space), f (feature), each at most "
            f"once."
        )
    axes = len(shape) - len(layout) + 1
    if ("n" in layout and axes < 1) or ("n" not in layout and axes != 1):
        raise AxesError(
            f"layout={layout!r} names {len(layout)} axes, but the array has shape {tuple(shape)}. One "
            f"letter an axis; n stands for all space axes."
        )
    return axes


def _sizes(shape: Sequence[int], layout: str, space: int) -> dict[str, tuple[int, ...]]:
    sizes, at = {}, 0
    for letter in layout:
        width = space if letter == "n" else 1
        sizes[letter] = tuple(int(size) for size in shape[at : at + width])
        at += width
    return sizes


def _check_features(affines: Sequence[Affine], features: int, layout: str, whose: str) -> None:
    if len(affines) == features or not whose:
        return
    found = f"has {features} features along f" if "f" in layout else "has no feature axis"
    raise ScalerError(
        f"the scaler covers {len(affines)} features ({whose}), but an array of layout={layout!r} {found}. "
        f"Take the part "
        f"that fits: scaler['name'] or scaler[['name', …]], and the slice of the array that goes with it."
    )


def _entity_rows(
    affines: Sequence[Affine], sizes: dict[str, tuple[int, ...]], entities: object
) -> np.ndarray:
    """Row of the statistics for each window of the batch; one row for all where they do not differ."""
    known = max(len(affine.shift) for affine in affines)
    if known == 1 and entities is None:
        return np.zeros(1, dtype=np.int64)
    if entities is None:
        raise ScalerError(
            f"the scaler has statistics of {known} entities, so it has to know whose each window is: "
            "pass entities=batch.entities."
        )
    rows = np.atleast_1d(np.asarray(entities, dtype=np.int64))
    batch = sizes.get("b", (1,))[0]
    if rows.ndim != 1 or len(rows) not in (1, batch):
        raise ScalerError(
            f"entities has shape {rows.shape}, but the array holds {batch} windows: one entity a window."
        )
    if known == 1:
        return np.zeros(1, dtype=np.int64)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < known:
        raise ScalerError(f"entities has {rows.min()} … {rows.max()}, but the scaler knows 0 … {known - 1}.")
    return rows


def _arrange(fields: np.ndarray, layout: str, sizes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Turn ``[b, n, f]`` into the array's own order of axes, with size 1 where nothing differs."""
    by_letter = {"b": fields.shape[0], "t": 1, "n": fields.shape[1], "f": fields.shape[2]}
    ordered = fields[:, np.newaxis].transpose(["btnf".index(letter) for letter in _all(layout)])
    shape: list[int] = []
    for letter in layout:
        width = len(sizes[letter])
        apart = sizes[letter] if letter == "n" and by_letter["n"] > 1 else (1,) * width
        shape += list(apart) if letter == "n" else [by_letter[letter]]
    return np.ascontiguousarray(ordered).reshape(shape)


def _all(layout: str) -> str:
    return layout + "".join(letter for letter in "btnf" if letter not in layout)


def is_tensor(values: object) -> bool:
    """Whether this is a torch tensor; torch is looked up, never imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def to_float64(values: Any) -> Any:
    """Values as float64, array or tensor (float32 where the tensor's device has no float64)."""
    if is_tensor(values):
        torch = sys.modules["torch"]
        return values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    return np.asarray(values).astype(np.float64, copy=False)


def like(constant: np.ndarray, values: Any) -> Any:
    """Return a constant that computes with ``values``: a number where it is one, so that no device waits."""
    if constant.size == 1:
        return float(constant.reshape(())[()])
    if is_tensor(values):
        torch = sys.modules["torch"]
        return torch.as_tensor(np.array(constant), dtype=values.dtype, device=values.device)
    return constant


def back(values: Any, original: Any) -> Any:
    """Cast to the dtype that came in; integers become float64 (tensors: torch's default dtype)."""
    if is_tensor(original):
        torch = sys.modules["torch"]
        return values.to(original.dtype if original.dtype.is_floating_point else torch.get_default_dtype())
    dtype = np.asarray(original).dtype
    return values.astype(dtype, copy=False) if dtype.kind == "f" else values


def choose(mask: Any, values: Any, otherwise: np.ndarray) -> Any:
    """``values`` where ``mask``, elsewhere ``otherwise``; gradients flow through what was kept."""
    constant = like(otherwise, values)
    if is_tensor(values):
        torch = sys.modules["torch"]
        return torch.where(torch.as_tensor(mask, device=values.device), values, constant)
    return np.where(np.asarray(mask), values, constant)
