"""`Batch`: what a loop receives. It unpacks as the pair (inputs, targets) and has everything else by name.

In: arrays by role, and which windows they are. Out: the same, for loops of any style. Never copies, and imports no
framework: an adapter maps its own function over the arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from windowloader.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

__all__ = ["Batch", "bfloat16_batch"]

ARRAYS = (
    "inputs", "targets", "future", "input_mask", "target_mask", "future_mask", "shared_inputs", "shared_future",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """A batch of windows. Unpacks as ``inputs, targets = batch``.

    It stays valid as long as the batch, one of its arrays or a view of one is referenced.

    Parameters
    ----------
    inputs : ndarray, shape (batch, lookback, node, feature) in the loader's layout and dtype, or None
        None where ``broadcast=False`` delivers all of it in ``shared_inputs``.
    targets : ndarray, shape (batch, horizon, node, feature), or None
        None at ``horizon=0``.
    future : ndarray, shape (batch, horizon, node, feature), or None
        Known when the forecast is made; None where the spec names nothing.
    input_mask, target_mask, future_mask : ndarray of bool, or None
        True where a value was observed, in the shape of what it masks; None where nothing can be missing.
    shared_inputs, shared_future : ndarray, shape (batch, step, feature), or None
        Columns that do not depend on the node, with ``broadcast=False``.
    starts : ndarray, shape (batch,), int64
        Row of the series where each window begins.
    entities : ndarray, shape (batch,), int64, or None
        Entity of each window.
    weights : ndarray, shape (batch,), float32, or None
        0 where a window only fills up the batch.
    step_weight : float, optional
        Sum of the weights of this step's batches over all ranks.
    graph : Graph or object, optional
        The series' static graph, or the windows' own edges.
    epoch, step : int, optional
        Position in the run.
    exact : bool
        Weights must be used: taking the batch as a pair, which would lose them, is an error.

    Raises
    ------
    WeightsError
        When an ``exact`` batch is unpacked or indexed: take ``batch.inputs``, ``batch.targets``, ``batch.weights``.

    Examples
    --------
    >>> import numpy as np
    >>> batch = Batch(inputs=np.zeros((4, 12, 207, 2)), targets=np.zeros((4, 3, 207, 1)), starts=np.arange(4))
    >>> inputs, targets = batch
    >>> len(batch), batch.num_windows, batch[1].shape
    (2, 4, (4, 3, 207, 1))
    >>> batch
    Batch(inputs: float64 (4, 12, 207, 2), targets: float64 (4, 3, 207, 1))
    """

    inputs: Any = None
    targets: Any = None
    future: Any = None
    input_mask: Any = None
    target_mask: Any = None
    future_mask: Any = None
    shared_inputs: Any = None
    shared_future: Any = None
    starts: np.ndarray | None = None
    entities: np.ndarray | None = None
    weights: Any = None
    graph: Any = None
    epoch: int | None = None
    step: int | None = None
    exact: bool = False
    step_weight: float | None = None

    def _pair(self) -> tuple[Any, Any]:
        if self.exact:
            raise WeightsError(
                "with uneven='exact' (or 'drop', where the ranks do not divide a step) some windows only fill up a "
                "batch and have weight 0 in batch.weights. Unpacked as a pair they would count. Use batch.inputs, "
                "batch.targets and batch.weights; or uneven='pad' if counting windows twice does no harm; or "
                "drop_last=True with 'drop'."
            )
        return self.inputs, self.targets

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pair())

    def __getitem__(self, index: int) -> Any:
        return self._pair()[index]

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        shown = [
            f"{name}: {str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"
            for name, array in self.arrays().items()
        ]
        shown += [
            f"{name}={value}" for name in ("epoch", "step") if (value := getattr(self, name)) is not None
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def num_windows(self) -> int:
        """Windows in the batch, those of weight 0 included."""
        return 0 if self.starts is None else len(self.starts)

    @property
    def nbytes(self) -> int:
        """Bytes of inputs, targets, future, their masks and the shared arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, Any]:
        """Those of inputs, targets, future, masks and shared arrays that are not None, by name."""
        return {name: array for name in ARRAYS if (array := getattr(self, name)) is not None}

    def map(self, function: Callable[[Any], Any]) -> Batch:
        """Apply a function to each array, weights included; starts and entities stay as they are.

        Parameters
        ----------
        function : callable
            Takes an array, returns what takes its place.

        Returns
        -------
        Batch

        Examples
        --------
        >>> import numpy as np
        >>> Batch(inputs=np.zeros(3), weights=np.ones(3)).map(lambda array: array.astype("float32")).inputs.dtype
        dtype('float32')
        """
        found = {name: function(array) for name, array in self.arrays().items()}
        if self.weights is not None:
            found["weights"] = function(self.weights)
        return replace(self, **found)


def bfloat16_batch(**fields: Any) -> Batch:
    """Make a batch, gathered bits viewed as ml_dtypes' bfloat16, which NumPy and JAX compute with.

    Examples
    --------
    >>> import numpy as np
    >>> bfloat16_batch(inputs=np.array([0x3F80, 0x4049], np.uint16)).inputs
    array([1, 3.14062], dtype=bfloat16)
    """
    import ml_dtypes  # a dependency of tensorstore

    return Batch(**fields).map(
        lambda array: array.view(ml_dtypes.bfloat16) if array.dtype == "uint16" else array
    )
