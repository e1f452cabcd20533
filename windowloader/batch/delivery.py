"""How batches are delivered: dtype, layout, fill, scaler; the arguments that a recipe shares with a loader.

In: what a caller asked for. Out: `Options`, each checked by itself. Never sees a series.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import AxesError, LoaderError, ScalerError
from windowloader.util.axes import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .batch import Batch

__all__ = ["FLOATS", "Options", "as_bfloat16", "delivered_dtype"]

FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Options:
    """How batches should be: the arguments of ``Recipe.compile``, checked.

    Parameters
    ----------
    scaler : object or None
        ``affine(name)`` gives its `Affine` for a column, or None.
    scale_targets : bool
    fill : float or None
    dtype : str
        Of `FLOATS`, or an integer or bool dtype's name for values that are only copied.
    layouts : tuple of Layout
        Of inputs and future, and of targets.
    broadcast : bool
    """

    scaler: Any
    scale_targets: bool
    fill: float | None
    dtype: str
    layouts: tuple[Layout, Layout]
    broadcast: bool

    @classmethod
    def check(
        cls,
        *,
        scaler: Any,
        scale_targets: bool,
        fill: float | None,
        dtype: Any,
        layout: str | Sequence[str],
        broadcast: bool,
    ) -> Options:
        """Check each by itself."""
        if inspect.isclass(scaler) or (scaler is not None and not callable(getattr(scaler, "affine", None))):
            raise ScalerError(
                f"scaler={scaler!r} is no fitted scaler. Pass what StandardScaler.fit(train) returns, or "
                "StandardScaler(mean, std) for known numbers."
            )
        name = _dtype_name(dtype)
        if fill is not None:
            fill = _number(fill)
            if name not in FLOATS:
                raise LoaderError(
                    f"fill={fill} goes with a floating dtype, and dtype={name!r} only copies values."
                )
        pair = (layout, layout) if isinstance(layout, str) else tuple(layout)
        if len(pair) != 2:
            raise AxesError(f"layout={layout!r} is neither a string nor a pair (inputs, targets).")
        return cls(
            scaler=scaler,
            scale_targets=bool(scale_targets),
            fill=fill,
            dtype=name,
            layouts=(Layout(pair[0]), Layout(pair[1])),
            broadcast=bool(broadcast),
        )


def _number(fill: Any) -> float:
    try:
        return float(fill)
    except (TypeError, ValueError):
        raise LoaderError(
            f"fill={fill!r} is no number. It is what a missing cell holds after scaling: 0.0 is the mean of a "
            "StandardScaler."
        ) from None


def _dtype_name(dtype: Any) -> str:
    if str(dtype).removeprefix("torch.") == "bfloat16":
        return "bfloat16"
    try:
        found = np.dtype(
            str(dtype).removeprefix("torch.") if not isinstance(dtype, (type, np.dtype)) else dtype
        )
    except TypeError:
        found = None
    if found is None or (found.name not in FLOATS and found.kind not in "iub"):
        raise LoaderError(
            f"dtype={dtype!r} is none that batches can have: {', '.join(FLOATS)}, or an integer's name."
        )
    return found.name


def delivered_dtype(dtype: str) -> np.dtype:
    """NumPy's dtype of a gathered array; bfloat16 is gathered as its bits."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def as_bfloat16(batch: Batch) -> Batch:
    """Show gathered bits as the numbers they are: views of ml_dtypes' bfloat16, which NumPy and JAX reckon with.

    Examples
    --------
    >>> from windowloader.batch.batch import Batch
    >>> as_bfloat16(Batch(inputs=np.array([0x3F80, 0x4049], np.uint16))).inputs
    array([1, 3.14062], dtype=bfloat16)
    """
    import ml_dtypes  # tensorstore brings it along

    return batch.map(lambda array: array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array)
