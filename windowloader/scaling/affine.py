"""Affine maps of features, and statistics arranged to broadcast with arrays of any layout.

In: shifts and factors by feature; an array or a tensor, and its axes as letters. Out: constants in the array's own
order of axes, and arrays of the same kind and dtype. Never fits anything, and never imports a framework.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import AxesError, ScalerError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Affine", "arrange"]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """How one feature is scaled: ``(x - shift) * factor``, or ``/ factor`` where `divide`.

    Parameters
    ----------
    shift, factor : ndarray, shape (entity or 1, node or 1), float64
        Broadcast over entities and nodes where the size is 1.
    divide : bool
        Whether ``factor`` divides.
    """

    shift: np.ndarray
    factor: np.ndarray
    divide: bool


def arrange(
    tables: Sequence[np.ndarray],
    shape: Sequence[int],
    layout: str,
    entities: object,
    names: Sequence[str] | None,
) -> np.ndarray:
    """Arrange one statistic of several features to broadcast with an array of ``shape`` and ``layout``.

    Parameters
    ----------
    tables : sequence of ndarray, shape (entity or 1, node or 1)
        One for each index of the feature axis; a single one for an array without that axis, or for all of it
        where ``names`` is None.
    shape : sequence of int
        Of the array.
    layout : str
        Its axes: ``b``, ``t``, ``n``, ``f`` in any order, each at most once, omitted where there is none.
        ``n`` stands for all space axes: as many as the array has beyond the other letters.
    entities : array_like of int, shape (batch,), or int, optional
        Entity of each window, where statistics differ by entity.
    names : sequence of str or None
        The scaler's features; None where it has no names.

    Returns
    -------
    ndarray, float64

    Raises
    ------
    AxesError
        If the letters are no layout, or do not fit the array.
    ScalerError
        If the numbers of features, nodes or entities are not those of the statistics.
    """
    sizes = _sizes(shape, layout)
    features = sizes["f"][0]
    if names is not None and len(names) != features:
        found = f"has {features} features along f" if "f" in layout else "has no feature axis"
        raise ScalerError(
            f"the scaler covers {len(names)} features ({', '.join(map(repr, names))}), but an array of "
            f"layout={layout!r} {found}. Select the features that fit: scaler['name'] or scaler[['name', …]], and the "
            "same slice of the array."
        )
    fields = np.stack(np.broadcast_arrays(*tables), axis=-1)
    fields = fields[_entity_rows(len(fields), sizes["b"][0], entities)]
    nodes = math.prod(sizes["n"])
    if fields.shape[1] not in (1, nodes):
        raise ScalerError(
            f"the scaler has statistics of {fields.shape[1]} nodes, but an array of shape {tuple(shape)} and "
            f"layout={layout!r} has {nodes}. Fit it on the same nodes, or give the layout the array has."
        )
    space = sizes["n"] if fields.shape[1] > 1 else (1,) * len(sizes["n"])
    wide = {"b": fields.shape[:1], "t": (1,), "n": space, "f": fields.shape[2:]}
    order = layout + "".join(letter for letter in "btnf" if letter not in layout)
    moved = fields[:, np.newaxis].transpose(["btnf".index(letter) for letter in order])
    return np.ascontiguousarray(moved).reshape([size for letter in layout for size in wide[letter]])


def _sizes(shape: Sequence[int], layout: str) -> dict[str, tuple[int, ...]]:
    """Sizes of the axes of each letter; (1,) for letters left out."""
    if set(layout) - set("btnf") or len(set(layout)) != len(layout):
        raise AxesError(
            f"layout={layout!r} is not an order of b (batch), t (time), n (space), f (feature), each at most once."
        )
    space = len(shape) - len(layout) + 1  # axes that n stands for
    if space < 1 if "n" in layout else space != 1:
        raise AxesError(
            f"layout={layout!r} names {len(layout)} axes, but the array has shape {tuple(shape)}. One letter per axis; "
            "n stands for all space axes."
        )
    sizes: dict[str, tuple[int, ...]] = dict.fromkeys("btnf", (1,))
    rest = tuple(int(size) for size in shape)
    for letter in layout:
        width = space if letter == "n" else 1
        sizes[letter], rest = rest[:width], rest[width:]
    return sizes


def _entity_rows(known: int, batch: int, entities: object) -> np.ndarray:
    """Row of the statistics for each window of the batch; one row for all where they do not differ."""
    if entities is None:
        if known > 1:
            raise ScalerError(
                f"the scaler has statistics of {known} entities and needs the entity of each window: pass "
                "entities=batch.entities."
            )
        return np.zeros(1, dtype=np.int64)
    rows = np.atleast_1d(np.asarray(entities, dtype=np.int64))
    if rows.ndim != 1 or len(rows) not in (1, batch):
        raise ScalerError(
            f"entities has shape {rows.shape}, but the array has {batch} windows: give one entity per window."
        )
    if known == 1:
        return np.zeros(1, dtype=np.int64)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < known:
        raise ScalerError(f"entities has {rows.min()} … {rows.max()}, but the scaler knows 0 … {known - 1}.")
    return rows


def is_tensor(values: object) -> bool:
    """Whether this is a torch tensor; torch is looked up in sys.modules, never imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def to_float64(values: Any) -> Any:
    """Values as float64, array or tensor (float32 where the tensor's device has no float64)."""
    if is_tensor(values):
        torch = sys.modules["torch"]
        return values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    return np.asarray(values).astype(np.float64, copy=False)


def like(constant: np.ndarray, values: Any) -> Any:
    """Return a constant that computes with ``values``; a Python number for one value, to avoid a device copy."""
    if constant.size == 1:
        return float(constant.reshape(())[()])
    if is_tensor(values):
        torch = sys.modules["torch"]
        return torch.as_tensor(np.array(constant), dtype=values.dtype, device=values.device)
    return constant


def back(values: Any, original: Any) -> Any:
    """Cast to the original dtype; integers become float64 (tensors: torch's default dtype)."""
    if is_tensor(original):
        torch = sys.modules["torch"]
        return values.to(original.dtype if original.dtype.is_floating_point else torch.get_default_dtype())
    dtype = np.asarray(original).dtype
    return values.astype(dtype, copy=False) if dtype.kind == "f" else values


def choose(mask: Any, values: Any, otherwise: np.ndarray) -> Any:
    """``values`` where ``mask``, elsewhere ``otherwise``; gradients flow through the values."""
    constant = like(otherwise, values)
    if is_tensor(values):
        torch = sys.modules["torch"]
        return torch.where(torch.as_tensor(mask, device=values.device), values, constant)
    return np.where(np.asarray(mask), values, constant)
