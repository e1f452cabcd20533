"""PGT's dataset families: how its loaders read their files, cut their windows and scale them, as options.

In: a family's file, its parsed JSON, or PGT's own loader object. Out: `SignalFamily`, which opens a series and sees its
windows as the family's loader delivers them. Downloads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from windowloader.adapters import pgt_files as files
from windowloader.adapters.pgt_signals_out import to_signal
from windowloader.errors import SeriesError
from windowloader.windows.spec import WindowSpec
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.adapters.pgt_snapshots import WindowSignal
    from windowloader.series.series import Series

__all__ = ["FAMILIES", "SignalFamily", "family_of"]

Spec = Callable[[int, int], WindowSpec]
Options = Mapping[str, Any]


def _next_steps(**roles: Any) -> Spec:
    """Windows of ``lags`` steps and the steps that follow."""
    return lambda lags, horizon: WindowSpec(lookback=lags, horizon=horizon, **roles)


def _one_row(lags: int, horizon: int) -> WindowSpec:
    """Everything of one row: targets that were shifted in the file."""
    return WindowSpec(lookback=1, target_offsets=(0,), inputs=["x"], targets=["y"])


def _same_rows(lags: int, horizon: int) -> WindowSpec:
    """Labels of the input rows."""
    return WindowSpec(lookback=lags, target_offsets=range(1 - lags, 1), inputs=["x"], targets=["label"])


def _far_step(lags: int, horizon: int) -> WindowSpec:
    """One row, and the one ``lags`` later."""
    return WindowSpec(lookback=1, delay=lags - 1, horizon=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalFamily:
    """One of PGT's data sets.

    Parameters
    ----------
    loader : str
        PGT's class.
    read : callable
        From a path, parsed JSON or PGT's loader object to a series.
    spec : callable
        ``spec(lags, horizon)``: what a window reads.
    lags, horizon : int
        PGT's defaults.
    signal_options : mapping
        Of `to_signal`: layout and PGT's scaling.
    index_options : mapping
        Of `get_index_dataset`: what is not its default; ``statistics`` and ``batch_size`` among them.
    left_out : int
        Windows at the end that PGT's loader does not deliver.
    """

    loader: str
    read: Callable[[Any], Series]
    spec: Spec = field(default_factory=_next_steps)
    lags: int
    horizon: int = 1
    signal_options: Options = field(default_factory=dict)
    index_options: Options = field(default_factory=dict)
    left_out: int = 0

    def open(self, target: Any) -> Series:
        """Open the family's data.

        Parameters
        ----------
        target : path, mapping or PGT loader
            The JSON file or what was parsed of it; for the families of several files the folder that PGT downloads
            into; or PGT's loader object, whose folder or parsed file is taken.

        Returns
        -------
        Series
            Values as in the file, unscaled.
        """
        return self.read(target)

    def windows(
        self,
        series: Series,
        *,
        lags: int | None = None,
        horizon: int | None = None,
        inputs: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
    ) -> WindowSet:
        """Cut windows as the family's loader does; arguments as of `signal`."""
        spec = self.spec(lags or self.lags, horizon or self.horizon)
        if inputs is not None or targets is not None:
            spec = replace(spec, inputs=inputs or spec.inputs, targets=targets or spec.targets)
        windows = WindowSet(series, spec)
        return windows.take(slice(0, len(windows) - self.left_out)) if self.left_out else windows

    def signal(
        self,
        series: Series,
        *,
        lags: int | None = None,
        horizon: int | None = None,
        inputs: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
    ) -> WindowSignal:
        """See the windows as the loader's ``get_dataset(lags)`` delivers them, to the bit.

        Parameters
        ----------
        series : Series
            From `open`.
        lags, horizon : int, optional
            Default: PGT's.
        inputs, targets : sequence of str, optional
            Names of features, for the families where PGT lets choose (Montevideo); default: PGT's.

        Returns
        -------
        WindowSignal
            Scaled by PGT's published arithmetic, which looks at the whole series. Without that leak:
            ``to_signal(part, scaler=StandardScaler.fit(train), layout=…)``.
        """
        windows = self.windows(series, lags=lags, horizon=horizon, inputs=inputs, targets=targets)
        return to_signal(windows, **self.signal_options)


def _scaled(**options: Any) -> Options:
    return MappingProxyType({"statistics": "series", **options})


def _windmill(loader: str) -> SignalFamily:
    by_node = {"per": "node", "epsilon": 1e-10}
    return SignalFamily(
        loader=loader,
        read=files.windmill,
        lags=8,
        signal_options=_scaled(**by_node),
        index_options={**by_node, "dtype": "float64"},
    )


def _simulated(loader: str) -> SignalFamily:
    return SignalFamily(
        loader=loader,
        read=files.simulated,
        spec=_far_step,
        lags=4,
        signal_options={"layout": ("nf", "nf")},
        index_options={"statistics": None},
    )


FAMILIES: Mapping[str, SignalFamily] = MappingProxyType(
    {
        "metr-la": SignalFamily(
            loader="METRLADatasetLoader", read=files.metr_la, lags=12, horizon=12,
            spec=_next_steps(targets=["speed"]),
            signal_options=_scaled(per="feature", precision="float32", layout=("nft", "nt")),
        ),
        "pems-bay": SignalFamily(
            loader="PemsBayDatasetLoader", read=files.pems_bay, lags=12, horizon=12,
            signal_options=_scaled(per="feature", precision="float32", layout=("nft", "nft")),
        ),
        "pems-all-la": SignalFamily(
            loader="PemsAllLADatasetLoader", read=files.pems_all_la, lags=12, horizon=12,
            spec=_next_steps(inputs=["speed", "time_of_day"], targets=["speed", "time_of_day"]),
            signal_options=_scaled(per="feature", layout=("nft", "nft")),
            index_options={"features": ["speed", "time_of_day"], "dtype": "float64"},
        ),
        "pems": SignalFamily(
            loader="PemsDatasetLoader", read=files.pems, lags=12, horizon=12,
            spec=_next_steps(inputs=["speed", "time_of_day"], targets=["speed", "time_of_day"]),
            signal_options=_scaled(per="feature", layout=("nft", "nft")),
            index_options={"features": ["speed", "time_of_day"], "dtype": "float64"},
        ),
        "windmill-large": _windmill("WindmillOutputLargeDatasetLoader"),
        "windmill-medium": _windmill("WindmillOutputMediumDatasetLoader"),
        "windmill-small": _windmill("WindmillOutputSmallDatasetLoader"),
        "chickenpox": SignalFamily(
            loader="ChickenpoxDatasetLoader", read=files.chickenpox, lags=4,
            index_options={"statistics": None, "dtype": "float64", "batch_size": 4},
        ),
        "pedalme": SignalFamily(
            loader="PedalMeDatasetLoader", read=files.pedalme, lags=4,
            index_options={"statistics": None, "dtype": "float64"},
        ),
        "montevideo-bus": SignalFamily(
            loader="MontevideoBusDatasetLoader", read=files.montevideo, lags=4,
            spec=_next_steps(inputs=["y"], targets=["y"]),
            signal_options=_scaled(per="node", layout=("(nf)t", "n")),
            index_options={"per": "node", "dtype": "float64", "features": ["y"]},
        ),
        "wikimaths": SignalFamily(
            loader="WikiMathsDatasetLoader", read=files.wikimaths, lags=8, signal_options=_scaled(per="node"),
            index_options={"per": "node", "dtype": "float64"},
        ),
        "england-covid": SignalFamily(
            loader="EnglandCovidDatasetLoader", read=files.england_covid, lags=8,
            spec=_next_steps(graph="first"),
            signal_options=_scaled(per="node", epsilon=1e-10),
            index_options={"per": "node", "epsilon": 1e-10, "dtype": "float64"},
        ),
        "twitter-tennis": SignalFamily(
            loader="TwitterTennisDatasetLoader", read=files.twitter_tennis, spec=_one_row, lags=1,
            signal_options={"layout": ("nf", "n")},
        ),
        "mtm": SignalFamily(
            loader="MTMDatasetLoader", read=files.mtm, spec=_same_rows, lags=16, left_out=1,
            signal_options={"layout": ("fnt", "tf")},
        ),
        "advection-diffusion": _simulated("AdvectionDiffusionDatasetLoader"),
        "si-diffusion": _simulated("SIDiffusionDatasetLoader"),
        "wave-equation": _simulated("WaveEquationDatasetLoader"),
    }
)  # fmt: skip


def family_of(loader: Any) -> SignalFamily:
    """Find the family of one of PGT's loader objects, by the name of its class or of one it is derived from.

    Raises
    ------
    SeriesError
        For a loader of no family.
    """
    names = [kind.__name__ for kind in type(loader).__mro__]
    for family in FAMILIES.values():
        if family.loader in names:
            return family
    raise SeriesError(
        f"{type(loader).__name__} is none of PGT's dataset loaders ({', '.join(f.loader for f in FAMILIES.values())}). "
        "Make a series of its arrays, wl.Series(values, graph=…), or from_signal(loader.get_dataset())."
    )
