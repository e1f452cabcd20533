"""PGT's dataset loaders as a table: how each reads its files, cuts windows and scales them.

In: a family's file, its parsed JSON or PGT's loader object. Out: a `Series` of the unscaled values, mapped where the
file can be, and `SignalFamily`, which cuts and scales windows as the family's loader does. Downloads nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.adapters.pgt.signals import to_signal
from windowloader.errors import SourceFormatError, SourceNotFoundError
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.series.graph import Graph
from windowloader.series.opening import open as open_series
from windowloader.series.series import Series
from windowloader.windows.spec import WindowSpec
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from windowloader.adapters.pgt.signals import WindowSignal

__all__ = ["FAMILIES", "SignalFamily", "family_of"]


# -- files ------------------------------------------------------------------------------------------------------------


def _files(values: str, matrix: str) -> Callable[[Any], Series]:
    """Read speeds (``.npy`` with the time of day, or an HDF5 frame with timestamps) and an adjacency matrix.

    The matrix is joined by position, as PGT does.
    """

    def read(target: Any) -> Series:
        folder = Path(target if isinstance(target, str | os.PathLike) else target.raw_data_dir)
        labelled = Graph.load(folder / matrix)
        graph = Graph(labelled.edge_index, labelled.edge_weight, num_nodes=labelled.num_nodes)
        if values.endswith(".npy"):
            return open_series(folder / values, axes="tnf", features=["speed", "time"], graph=graph)
        return open_series(folder / values, features=["speed"], graph=graph)

    return read


def _table(
    name: str, values: Callable[[Mapping[str, Any]], Any], *, weighted: bool = True, file: str | None = None
) -> Callable[[Any], Series]:
    """Read JSON of one feature by time and node, with ``edges`` and ``weights`` (1 where there are none)."""

    def read(target: Any) -> Series:
        parsed = _parsed(target, file)
        array = np.asarray(values(parsed))
        weights = np.asarray(parsed["weights"]) if weighted else np.ones(len(parsed["edges"]), np.float32)
        graph = Graph(np.transpose(parsed["edges"]), weights, num_nodes=array.shape[1])
        return Series(array, features=[name], graph=graph, name=name)

    return read


def _montevideo(target: Any) -> Series:
    """Read inflow at bus stops, ``y``, and whatever else the file has of a stop."""
    file = _parsed(target)
    place = {node["bus_stop"]: number for number, node in enumerate(file["nodes"])}
    ends = [(place[link["source"]], place[link["target"]]) for link in file["links"]]
    values = {"y": np.stack([node["y"] for node in file["nodes"]], axis=1)}
    for name in file["nodes"][0]["X"]:
        if name != "y":
            values[name] = np.stack([node["X"][name] for node in file["nodes"]], axis=1)
    graph = Graph(np.transpose(ends), [link["weight"] for link in file["links"]], num_nodes=len(place))
    return Series(values, graph=graph, name="montevideo bus")


def _england_covid(target: Any) -> Series:
    """Read cases by region, and a mobility graph for each day."""
    file = _parsed(target)
    cases, maps = np.array(file["y"]), file["edge_mapping"]
    steps = [
        (np.transpose(maps["edge_index"][str(day)]), np.array(maps["edge_weight"][str(day)], np.float64))
        for day in range(file["time_periods"])
    ]
    graph = DynamicGraph.from_steps(steps, num_nodes=cases.shape[1])
    return Series(cases, features=["cases"], graph=graph, name="england covid")


def _parsed(target: Any, name: str | None = None) -> Mapping[str, Any]:
    """Return parsed JSON: as given, of a PGT loader object, or of a file."""
    if not isinstance(target, Mapping | str | os.PathLike):
        target = target._dataset
    if isinstance(target, Mapping):
        return target
    path = Path(target)
    if path.is_dir() and name is not None:
        path /= name
    if not path.is_file():
        raise SourceNotFoundError(f"{path} is not a file. Pass the JSON file of the data set.")
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise SourceFormatError(f"{path} cannot be read as JSON: {error}") from error
    return found


# -- families ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalFamily:
    """One of PGT's data sets.

    Parameters
    ----------
    loader : str
        PGT's class.
    open : callable
        ``open(target)`` makes a `Series` of the unscaled values. The target is the JSON file or its parsed content;
        for data sets of several files the folder that PGT downloads into; or PGT's loader object.
    roles : mapping
        Further arguments of the family's `WindowSpec`.
    lags, horizon : int
        PGT's defaults.
    per : {"feature", "node"}, optional
        What PGT's scaling has statistics of, over the whole series; None: it does not scale.
    epsilon : float
        Added to the deviation.
    dtype : {"float32", "float64"}
        Of PGT's arithmetic, and of its index dataset.
    layout : pair of str, optional
        Of x and y of a snapshot.
    features : tuple of str, optional
        Of PGT's index dataset.
    batch_size : int
        Default of PGT's index dataset.
    """

    loader: str
    open: Callable[[Any], Series]
    lags: int
    horizon: int = 1
    roles: Mapping[str, Any] = field(default_factory=dict)
    per: Literal["feature", "node"] | None = None
    epsilon: float = 0.0
    dtype: Literal["float32", "float64"] = "float64"
    layout: tuple[str, str] | None = None
    features: tuple[str, ...] | None = None
    batch_size: int = 64

    def windows(
        self, series: Series, *, lags: int | None = None, horizon: int | None = None, **roles: Any
    ) -> WindowSet:
        """Cut windows as the family's loader does; arguments as of `signal`."""
        roles = {**self.roles, **roles}
        return WindowSet(
            series, WindowSpec(lookback=lags or self.lags, horizon=horizon or self.horizon, **roles)
        )

    def signal(self, series: Series, **options: Any) -> WindowSignal:
        """View the windows as the loader's ``get_dataset(lags)`` delivers them, to the bit.

        Parameters
        ----------
        series : Series
            From ``open``.
        **options
            ``lags``, ``horizon``, and ``inputs``, ``targets`` (names of features) for the families where PGT lets
            choose; default: PGT's.

        Returns
        -------
        WindowSignal
            Scaled by PGT's published arithmetic, which uses the whole series. Without that leak:
            ``to_signal(part, scaler=StandardScaler.fit(train), layout=…)``.
        """
        return to_signal(
            self.windows(series, **options),
            statistics=None if self.per is None else "series",
            per=self.per or "feature",
            epsilon=self.epsilon,
            precision=self.dtype,
            layout=self.layout,
        )


SPEED = ("speed", "time_of_day")
LARGE: dict[str, Any] = {
    "lags": 12,
    "horizon": 12,
    "roles": {"inputs": SPEED, "targets": SPEED},
    "per": "feature",
    "layout": ("nft", "nft"),
    "features": SPEED,
}
WINDMILL: dict[str, Any] = {
    "open": _table("output", lambda file: np.stack(file["block"]), file="windmill_output.json"),
    "lags": 8,
    "per": "node",
    "epsilon": 1e-10,
}
FAMILIES: Mapping[str, SignalFamily] = MappingProxyType(
    {
        "metr-la": SignalFamily(
            loader="METRLADatasetLoader",
            open=_files("node_values.npy", "adj_mat.npy"),
            lags=12,
            horizon=12,
            roles={"targets": ["speed"]},
            per="feature",
            dtype="float32",
            layout=("nft", "nt"),
        ),
        "pems-bay": SignalFamily(
            loader="PemsBayDatasetLoader",
            open=_files("pems_node_values.npy", "pems_adj_mat.npy"),
            lags=12,
            horizon=12,
            per="feature",
            dtype="float32",
            layout=("nft", "nft"),
        ),
        "pems-all-la": SignalFamily(
            loader="PemsAllLADatasetLoader",
            open=_files("pems_AllLA_speed.h5", "pems_AllLA_adj_mat.pkl"),
            **LARGE,
        ),
        "pems": SignalFamily(
            loader="PemsDatasetLoader", open=_files("pems_cali_speed.h5", "pems_cali_adj_mat.pkl"), **LARGE
        ),
        "windmill-large": SignalFamily(loader="WindmillOutputLargeDatasetLoader", **WINDMILL),
        "windmill-medium": SignalFamily(loader="WindmillOutputMediumDatasetLoader", **WINDMILL),
        "windmill-small": SignalFamily(loader="WindmillOutputSmallDatasetLoader", **WINDMILL),
        "chickenpox": SignalFamily(
            loader="ChickenpoxDatasetLoader",
            open=_table("cases", lambda file: file["FX"], weighted=False),
            lags=4,
            batch_size=4,
        ),
        "pedalme": SignalFamily(
            loader="PedalMeDatasetLoader", open=_table("deliveries", lambda file: file["X"]), lags=4
        ),
        "montevideo-bus": SignalFamily(
            loader="MontevideoBusDatasetLoader",
            open=_montevideo,
            lags=4,
            roles={"inputs": ["y"], "targets": ["y"]},
            per="node",
            layout=("(nf)t", "n"),
            features=("y",),
        ),
        "wikimaths": SignalFamily(
            loader="WikiMathsDatasetLoader",
            open=_table(
                "visits", lambda file: np.stack([file[str(t)]["y"] for t in range(file["time_periods"])])
            ),
            lags=8,
            per="node",
        ),
        "england-covid": SignalFamily(
            loader="EnglandCovidDatasetLoader",
            open=_england_covid,
            lags=8,
            roles={"graph": "first"},
            per="node",
            epsilon=1e-10,
        ),
    }
)


def family_of(loader: Any) -> SignalFamily | None:
    """Find the family of one of PGT's loader objects, by the name of its class or of a base class."""
    names = [kind.__name__ for kind in type(loader).__mro__]
    return next((family for family in FAMILIES.values() if family.loader in names), None)
