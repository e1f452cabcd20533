"""How the traffic literature's training scripts cut, scale and hand out windows, one entry a script.

In: a series and a ratio, or window sets. Out: three window sets, the scaler a script fits, and what its loaders do.
Reads rows only to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from windowloader.scaling.scalers import StandardScaler
from windowloader.windows.spec import WindowSpec
from windowloader.windows.split import Split, split
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from windowloader.series.series import Series

__all__ = ["CLIENTS", "PARTS", "Client", "Ratio", "Tail"]

Tail = Literal["pad", "keep", "drop"]
Ratio = tuple[float, float, float]
Parts = Mapping[str, WindowSet]
PARTS = ("train", "val", "test")


# -- which windows are whose ------------------------------------------------------------------------------------------


def _windows_by_share(windows: WindowSet, ratio: Ratio) -> Split:
    """DCRNN: train and test are rounded, val is the rest."""
    return split(windows, None, ratio, by="windows")


def _windows_test_last(windows: WindowSet, ratio: Ratio) -> Split:
    """LargeST: train and val are rounded, test is the rest."""
    train, val = (round(len(windows) * share) for share in ratio[:2])
    return split(windows, None, [train, train + val], by="windows")


def _rows_from_the_end(windows: WindowSet, ratio: Ratio) -> Split:
    """AGCRN: rows are counted from the end, shares rounded down, and no window reaches into another part."""
    rows, (_, val, test) = windows.series.num_steps, ratio
    return split(windows, None, [rows - int(rows * (test + val)), rows - int(rows * test)], by="rows")


# -- what the scaler sees ---------------------------------------------------------------------------------------------


def _train_windows(parts: Parts, feature: str) -> StandardScaler:
    """DCRNN: inputs of train windows, a row counted as often as windows hold it."""
    return StandardScaler.fit(parts["train"], features=feature, weighting="windows", rounding="divide")


def _rows_before_val(parts: Parts, feature: str) -> StandardScaler:
    """LargeST: each row once, to a lookback before the last observed row of the first val window."""
    spec = parts["val"].spec
    stop = int(parts["val"].starts([0])[0]) + spec.anchor - spec.num_inputs
    return StandardScaler.fit(_rows(parts["val"].series, feature, stop), features=feature, rounding="divide")


def _all_rows(parts: Parts, feature: str) -> StandardScaler:
    """AGCRN: each row once, those of the test part too."""
    series = parts["train"].series
    return StandardScaler.fit(_rows(series, feature, series.num_steps), features=feature, rounding="divide")


def _rows(series: Series, feature: str, stop: int) -> WindowSet:
    spec = WindowSpec(lookback=1, horizon=0, inputs=[feature])
    return WindowSet(series, spec).take(slice(0, stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What one script does.

    Parameters
    ----------
    features : {"all", "first"}
        Which of the series' features are inputs.
    clocks : tuple of str
        Inputs after them, where the series has timestamps.
    targets : {"inputs", "first"}
    ratio : tuple of float
        Train, val and test.
    cut : callable
        From windows and a ratio to three parts.
    fit : callable
        From parts and the name of the first feature to a scaler.
    scale_targets : bool
    week : bool
        Whether the day of the week is divided by 7.
    tail : {"pad", "keep", "drop"} or mapping of part to these
        How an epoch ends.
    shuffle_train : bool
        Of NumPy loaders once, when they are made; of tensor loaders each epoch.
    tensors : bool
        Whether loaders are torch's, rather than NumPy's.
    """

    features: Literal["all", "first"] = "all"
    clocks: tuple[str, ...] = ("time_of_day",)
    targets: Literal["inputs", "first"] = "inputs"
    ratio: Ratio = (0.7, 0.1, 0.2)
    cut: Callable[[WindowSet, Ratio], Split] = _windows_by_share
    fit: Callable[[Parts, str], StandardScaler] = _train_windows
    scale_targets: bool = False
    week: bool = False
    tail: Tail | Mapping[str, Tail] = "pad"
    shuffle_train: bool = False
    tensors: bool = False

    @property
    def reads_npz(self) -> bool:
        """Whether the script loads ``train.npz``, ``val.npz`` and ``test.npz``."""
        return self.cut is _windows_by_share

    def spec(self, series: Series) -> WindowSpec:
        """Say what a window of the script holds: 12 steps and the 12 that follow."""
        features = list(series.features)
        inputs = [
            *(features if self.features == "all" else features[:1]),
            *(self.clocks if series.clock is not None else ()),
        ]
        targets = inputs if self.targets == "inputs" else features[:1]
        return WindowSpec(lookback=12, horizon=12, inputs=inputs, targets=targets)


CLIENTS: Mapping[str, Client] = MappingProxyType(
    {
        "dcrnn": Client(scale_targets=True, shuffle_train=True),
        "graph-wavenet": Client(),
        "mtgnn": Client(),
        "largest": Client(
            clocks=("time_of_day", "day_of_week"),
            targets="first",
            ratio=(0.6, 0.2, 0.2),
            cut=_windows_test_last,
            fit=_rows_before_val,
            scale_targets=True,
            week=True,
            tail="drop",
        ),
        "agcrn": Client(
            features="first",
            clocks=(),
            ratio=(0.6, 0.2, 0.2),
            cut=_rows_from_the_end,
            fit=_all_rows,
            scale_targets=True,
            tail={"train": "drop", "val": "drop", "test": "keep"},
            shuffle_train=True,
            tensors=True,
        ),
    }
)
