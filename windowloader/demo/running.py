"""The demo from end to end: open, load once without a model, train, score.

In: a task and settings. Out: a `DemoResult` of plain numbers. Never prints: who runs it is told what happens.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from windowloader.util.units import MemoryWatch, private_bytes

from .baselines import HistoricalAverage, Persistence
from .scoring import score
from .task import label

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from .baselines import Forecaster
    from .scoring import Kept
    from .task import DemoTask
    from .training import Settings

__all__ = ["MODEL", "DemoResult", "run"]

MODEL, AVERAGE, LAST = "graph network", "historical average", "persistence"
SHOWN = (3, 6, 12)  # steps ahead: 15, 30 and 60 minutes of METR-LA
PICTURED = 432  # windows of the test part, a day and a half of METR-LA


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo found. Bytes are bytes, seconds seconds, errors in the units of the data.

    Parameters
    ----------
    data : str
        The series in words.
    generated : bool
    windows : dict of part to int
    epochs, batch_size, steps : int
        That it was trained for: passes over the train windows, or over ``steps_per_epoch`` steps; steps in all.
    mae : dict of part to dict of forecaster to dict of time ahead to float
    curves : dict of forecaster to list of float
        Errors of the test part at every step ahead.
    loading_windows_per_second, training_windows_per_second : float
        Through the loader alone, and with the model.
    training_seconds, seconds : float
        Of the training, and of everything.
    memory : dict of str to int
        ``data``: the array itself. ``imports``: private memory before the loader began, torch and
        compiled kernels included.
        ``loading``, ``training``: how far private memory grew at most above that, through the loader alone and with
        the model, its gradients and activations. ``windows_float32``, ``windows_float64``: all windows stored.
    """

    data: str
    generated: bool
    windows: dict[str, int]
    epochs: int
    batch_size: int
    steps: int
    mae: dict[str, dict[str, dict[str, float]]]
    curves: dict[str, list[float]]
    loading_windows_per_second: float
    training_windows_per_second: float
    training_seconds: float
    seconds: float
    memory: dict[str, int]
    kept: Kept | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the forecasts that were kept for the picture, for JSON."""
        fields = asdict(self)
        del fields["kept"]
        return fields


def run(
    task: DemoTask,
    settings: Settings,
    *,
    began: float | None = None,
    ranks: int = 1,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    advance: Callable[[int, int, float], object] = lambda epoch, step, loss: None,
) -> DemoResult:
    """Load, train and score.

    Parameters
    ----------
    task : DemoTask
    settings : Settings
    began : float, optional
        ``time.perf_counter()`` when everything began. None: now.
    ranks : int
        How many train, this process being the first; windows a second are those of all.
    wrap : callable
        See `windowloader.demo.training.fit`.
    advance : callable
        Called after each training step with (epoch, step, mean loss of the epoch so far).

    Returns
    -------
    Result
    """
    from . import training

    began = time.perf_counter() if began is None else began
    task.train.read([0], **task.loading())  # kernels that were never compiled on this machine are now
    imports = private_bytes()
    with MemoryWatch() as loading:
        alone = training.load_once(task, settings)
    with MemoryWatch() as watch:
        fitted = training.fit(task, settings, wrap=wrap, advance=advance)
    forecasters: dict[str, Forecaster] = {
        LAST: Persistence(task.train.spec.num_targets),
        AVERAGE: HistoricalAverage.fit(task),
        MODEL: fitted,
    }
    val = score(task, task.val, forecasters, batch_size=settings.batch_size)
    test = score(task, task.test, forecasters, batch_size=settings.batch_size, keep=PICTURED)
    return DemoResult(
        data=repr(task.series),
        generated=task.made_up,
        windows={"train": len(task.train), "val": len(task.val), "test": len(task.test)},
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        steps=fitted.steps,
        mae={
            part: {
                name: {label(ahead, task.step_seconds): float(scores.mae(name)[ahead - 1]) for ahead in SHOWN}
                for name in forecasters
            }
            for part, scores in (("val", val), ("test", test))
        },
        curves={name: [float(error) for error in test.mae(name)] for name in forecasters},
        loading_windows_per_second=alone * ranks,
        training_windows_per_second=fitted.windows * ranks / fitted.seconds,
        training_seconds=fitted.seconds,
        seconds=time.perf_counter() - began,
        memory={
            "data": task.data_bytes,
            "imports": imports,
            "loading": max(0, loading.peak - imports),
            "training": max(0, watch.peak - imports),
            "windows_float32": task.materialised_bytes(4),
            "windows_float64": task.materialised_bytes(8),
        },
        kept=test.kept,
    )
