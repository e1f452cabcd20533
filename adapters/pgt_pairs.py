"""Windows by number as pairs (x, y) of arrays, in the layouts that PyTorch Geometric Temporal's users write.

In: a window set, how to scale it, layouts. Out: `WindowPairs`. Gathers by the core; only PGT's own step-by-step
arithmetic and the folding of two axes into one are done here, on the gathered batch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.adapters.pgt_arithmetic import Published
from windowloader.batch.window_reader import WindowReader
from windowloader.errors import AxesError

if TYPE_CHECKING:
    from windowloader.scaling.scaler import Scaler
    from windowloader.series.series import Series
    from windowloader.windows.window_set import WindowSet

__all__ = ["Fold", "PairOptions", "WindowPairs"]

CACHED_BYTES = 1 << 18  # of windows that take both steps of PGT's arithmetic before the next do


@dataclass(frozen=True, slots=True)
class Fold:
    """Axes of one window as letters, some of them folded into one.

    Parameters
    ----------
    text : str
        ``t``, ``n``, ``f`` in the order of the axes, one left out where its size is 1; what stands in brackets
        becomes one axis: ``"n(tf)"``.

    Examples
    --------
    >>> Fold("n(tf)").apply(np.zeros((64, 207, 12, 2))).shape
    (64, 207, 24)
    """

    text: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([tnf]|\([tnf]{2,3}\))*", self.text) or len(set(self.letters)) != len(
            self.letters
        ):
            raise AxesError(
                f"layout={self.text!r} is no order of t (time), n (space), f (feature), each at most once, with "
                "brackets around axes that become one, e.g. 'tnf', 'nft', 'nt' or 'n(tf)'."
            )

    @property
    def letters(self) -> str:
        """Letters with the batch axis before them, brackets left out."""
        return "b" + re.sub(r"[()]", "", self.text)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Fold axes of an array whose axes are `letters`."""
        if "(" not in self.text:
            return array
        shape, at = [array.shape[0]], 1
        for group in re.findall(r"\([tnf]+\)|[tnf]", self.text):
            width = len(group.strip("()"))
            shape.append(math.prod(array.shape[at : at + width]))
            at += width
        return array.reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOptions:
    """How pairs look.

    Parameters
    ----------
    scaling : Scaler, Published or None
        A scaler of the core works in the gather; PGT's arithmetic after it.
    scale_targets : bool
    fill : float, optional
        What a missing cell holds after scaling.
    dtype : {"float32", "float64"}
    layouts : tuple of Fold
        Of x and of y.
    """

    scaling: Scaler | Published | None = None
    scale_targets: bool = True
    fill: float | None = None
    dtype: str = "float32"
    layouts: tuple[Fold, Fold] = (Fold("tnf"), Fold("tnf"))


class WindowPairs:
    """Pairs of inputs and targets by window number.

    Integer targets that nothing scales stay integers (int64), as PGT's containers keep labels.

    Parameters
    ----------
    windows : WindowSet
    options : PairOptions
    """

    __slots__ = ("_arithmetic", "_integers", "_picker", "options", "windows")

    def __init__(self, windows: WindowSet, options: PairOptions) -> None:
        self.windows = windows
        self.options = options
        scaling = options.scaling
        self._integers = self._integer_targets()
        computed = (
            str(scaling.mean.dtype)
            if isinstance(scaling, Published)
            else "float64"
            if self._integers
            else options.dtype
        )
        letters = tuple(fold.letters for fold in options.layouts)
        self._picker = WindowReader(
            windows,
            scaler=None if isinstance(scaling, Published) else scaling,
            scale_targets=options.scale_targets,
            fill=options.fill,
            dtype=computed,
            layout=(letters[0], letters[1]),
        )
        self._arithmetic = [self._steps(role) for role in (0, 1)]

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Gather some windows: new arrays x and y, the batch axis first; y is None without targets."""
        batch = self._picker.read(positions, graph=False)
        x = self._finished(0, batch.inputs, batch.input_mask, self.options.dtype)
        if batch.targets is None:
            return x, None
        dtype = "int64" if self._integers else self.options.dtype
        return x, self._finished(1, batch.targets, batch.target_mask, dtype)

    def observed(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether windows have any value that is not missing: among inputs, among targets; shape (batch,), bool."""
        seen = np.ones((2, len(positions)), np.bool_)
        if any(field.name.endswith("_mask") for field in self._picker.recipe.fields(1)):
            batch = self._picker.read(positions, graph=False)
            for place, mask in enumerate((batch.input_mask, batch.target_mask)):
                if mask is not None:
                    seen[place] = mask.reshape(len(positions), -1).any(axis=1)
        return seen[0], seen[1]

    def close(self) -> None:
        """Let go of the rows."""
        self._picker.close()

    def _finished(self, role: int, array: np.ndarray, mask: np.ndarray | None, dtype: str) -> np.ndarray:
        steps = self._arithmetic[role]
        if steps is not None:
            together = max(1, CACHED_BYTES * len(array) // max(1, array.nbytes))
            for begin in range(0, len(array), together):
                part = array[begin : begin + together]
                np.subtract(part, steps[0], out=part)
                np.divide(part, steps[1], out=part)
            if mask is not None and self.options.fill is not None:
                np.copyto(array, self.options.fill, where=~mask)
        return self.options.layouts[role].apply(array.astype(dtype, copy=False))

    def _steps(self, role: int) -> tuple[np.ndarray, np.ndarray] | None:
        scaling, spec, series = self.options.scaling, self.windows.spec, self.windows.series
        if not isinstance(scaling, Published) or (
            role and not (self.options.scale_targets and spec.num_targets)
        ):
            return None
        if role and spec.targets == ():
            return None
        names = [column.name for column in series.columns(spec.targets if role else spec.inputs)]
        letters = self.options.layouts[role].letters
        space = series.space_shape if "n" in letters else ()
        steps = spec.num_targets if role else spec.num_inputs
        return scaling.choose(names).arranged(letters, space, steps)

    def _integer_targets(self) -> bool:
        """Whether the targets are whole numbers as stored, and stay so."""
        spec, series = self.windows.spec, self.windows.series
        if not spec.num_targets or spec.targets == ():
            return False
        columns = series.columns(spec.targets)
        scaled = self.options.scale_targets and any(self._scales(column.name) for column in columns)
        return not scaled and all(_is_integer(series, column.variable) for column in columns)

    def _scales(self, name: str) -> bool:
        scaling = self.options.scaling
        if isinstance(scaling, Published):
            return name in scaling.names
        return scaling is not None and scaling.affine(name) is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return WindowPairs, (self.windows, self.options)


def _is_integer(series: Series, variable: int) -> bool:
    return variable >= 0 and series.variables[variable].dtype.kind in "iu"
