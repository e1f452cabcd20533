"""The files of PGT's data sets, as series.

In: a path, parsed JSON, or one of PGT's loader objects, which holds either. Out: a `Series` of the values in the file.
Scales nothing, downloads nothing, and leaves mapped what can be mapped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from windowloader.errors import SourceFormatError, SourceNotFoundError
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.series.graph import Graph
from windowloader.series.opening import open as open_series
from windowloader.series.series import Series

__all__ = [
    "chickenpox",
    "england_covid",
    "metr_la",
    "montevideo",
    "mtm",
    "pedalme",
    "pems",
    "pems_all_la",
    "pems_bay",
    "simulated",
    "twitter_tennis",
    "wikimaths",
    "windmill",
]


def metr_la(target: Any) -> Series:
    """``node_values.npy`` and ``adj_mat.npy``: speed, and time of day as PGT's file has it."""
    return _arrays(target, "node_values.npy", "adj_mat.npy")


def pems_bay(target: Any) -> Series:
    """``pems_node_values.npy`` and ``pems_adj_mat.npy``."""
    return _arrays(target, "pems_node_values.npy", "pems_adj_mat.npy")


def pems_all_la(target: Any) -> Series:
    """``pems_AllLA_speed.h5`` and ``pems_AllLA_adj_mat.pkl``: speed, with timestamps."""
    return _frame(target, "pems_AllLA_speed.h5", "pems_AllLA_adj_mat.pkl")


def pems(target: Any) -> Series:
    """``pems_cali_speed.h5`` and ``pems_cali_adj_mat.pkl``."""
    return _frame(target, "pems_cali_speed.h5", "pems_cali_adj_mat.pkl")


def windmill(target: Any) -> Series:
    """Energy output of windmills: ``block``, ``edges``, ``weights``."""
    file = _parsed(target, "windmill_output.json")
    return _single(file, np.stack(file["block"]), "output", file["weights"])


def chickenpox(target: Any) -> Series:
    """Cases by county, standardised by the publisher; every edge weighs 1."""
    file = _parsed(target)
    return _single(file, np.array(file["FX"]), "cases", np.ones(len(file["edges"]), np.float32))


def pedalme(target: Any) -> Series:
    """Deliveries by locality."""
    file = _parsed(target)
    return _single(file, np.array(file["X"]), "deliveries", file["weights"])


def wikimaths(target: Any) -> Series:
    """Visits of Wikipedia's mathematics articles."""
    file = _parsed(target)
    visits = np.stack([file[str(day)]["y"] for day in range(file["time_periods"])])
    return _single(file, visits, "visits", file["weights"])


def montevideo(target: Any) -> Series:
    """Inflow at bus stops, ``y``, and whatever else the file has of a stop."""
    file = _parsed(target)
    stops = [node["bus_stop"] for node in file["nodes"]]
    place = {stop: number for number, stop in enumerate(stops)}
    ends = [(place[link["source"]], place[link["target"]]) for link in file["links"]]
    values = {"y": np.stack([node["y"] for node in file["nodes"]], axis=1)}
    for name in file["nodes"][0]["X"]:
        if name != "y":
            values[name] = np.stack([node["X"][name] for node in file["nodes"]], axis=1)
    graph = Graph(np.transpose(ends), [link["weight"] for link in file["links"]], num_nodes=len(stops))
    return Series(values, graph=graph, name="montevideo bus")


def england_covid(target: Any) -> Series:
    """Cases by region, and another mobility graph every day."""
    file = _parsed(target)
    cases = np.array(file["y"])
    maps = file["edge_mapping"]
    steps = [
        (np.transpose(maps["edge_index"][str(day)]), np.array(maps["edge_weight"][str(day)], np.float64))
        for day in range(file["time_periods"])
    ]
    graph = DynamicGraph.from_steps(steps, num_nodes=cases.shape[1])
    return Series(cases, features=["cases"], graph=graph, name="england covid")


def twitter_tennis(target: Any) -> Series:
    """Hourly mention graphs; ``x`` of each account, and as ``y`` the logarithm of its mentions some hours later.

    A PGT loader object says which accounts, how features are encoded and how much later; without one: all, one-hot,
    one hour. The last hours have the mentions of the last.
    """
    file = _parsed(target)
    most, later = getattr(target, "N", None), getattr(target, "target_offset", 1)
    encoding = getattr(target, "feature_mode", "encoded")
    hours = range(file["time_periods"])
    mentions = [np.array(file[str(min(hour + later, hours[-1]))]["y"])[:most] for hour in hours]
    nodes = len(mentions[0])
    raw = np.stack([np.array(file[str(hour)]["X"], np.float64)[:most] for hour in hours])
    steps = []
    for hour in hours:
        edges, weights = np.array(file[str(hour)]["edges"]), np.array(file[str(hour)]["weights"], np.float64)
        kept = (edges < nodes).all(axis=1)
        steps.append((edges[kept].T, weights[kept]))
    own: dict[str, Any] = {"y": np.log(1.0 + np.stack(mentions))}
    covariates = {"x": (np.identity(nodes), "nf")} if encoding == "diagonal" else {}
    if not covariates:
        own["x"] = raw if encoding is None else _one_hot(raw)
    graph = DynamicGraph.from_steps(steps, num_nodes=nodes)
    return Series(own, covariates=covariates, graph=graph, name="twitter tennis")


def mtm(target: Any) -> Series:
    """Hand joints in space, ``x``, and the motion of each video frame, one-hot, ``label``."""
    file = _parsed(target)
    joints = [[_numbers(frame) for frame in file[str(joint)].values()] for joint in range(21)]
    classes = np.array(list(file["LABEL"].values()))
    if not 0 <= classes.min() <= classes.max() < len(classes):
        raise SourceFormatError(
            f"LABEL has classes {classes.min()} to {classes.max()} in {len(classes)} frames; they count from 0."
        )
    edges = np.transpose(file["edges"])
    return Series(
        {"x": np.stack(joints, axis=1)},
        covariates={"label": (np.eye(classes.max() + 1)[classes], "tf")},
        graph=Graph(edges, np.ones(edges.shape[1], np.float32), num_nodes=21),
        name="mtm",
    )


def simulated(target: Any) -> Series:
    """One of the three sets of simulated equations: a ``.npy`` of shape (time, node, feature), a ``.pt`` of edges.

    A folder of both, a PGT loader object, or a mapping of ``values``, ``edges``, ``weights``.
    """
    if isinstance(target, Mapping):
        values, edges, weights = target["values"], target["edges"], target["weights"]
    elif hasattr(target, "_edges"):
        values, edges, weights = target._dataset, target._edges, target._edge_weights
    else:
        import torch

        folder = Path(target)
        table = torch.load(_only(folder, "*.pt"), map_location="cpu", weights_only=True).numpy()
        return open_series(
            _only(folder, "*.npy"), axes="tnf", graph=Graph(table[:, :2].T.astype(np.int64), table[:, 2])
        )
    return Series(values, axes="tnf", graph=Graph(np.asarray(edges).astype(np.int64), weights))


# -- what files have in common ----------------------------------------------------------------------------------------


def _folder(target: Any) -> Path:
    return Path(target.raw_data_dir if hasattr(target, "raw_data_dir") else target)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SourceNotFoundError(f"{folder} has {len(found)} files {pattern}; one is asked for.")
    return found[0]


def _arrays(target: Any, values: str, matrix: str) -> Series:
    folder = _folder(target)
    return open_series(folder / values, axes="tnf", features=["speed", "time"], graph=folder / matrix)


def _frame(target: Any, values: str, matrix: str) -> Series:
    folder = _folder(target)
    graph = Graph.load(folder / matrix)
    unlabelled = Graph(graph.edge_index, graph.edge_weight, num_nodes=graph.num_nodes)  # PGT goes by position
    return open_series(folder / values, features=["speed"], graph=unlabelled)


def _parsed(target: Any, name: str | None = None) -> Mapping[str, Any]:
    """Return parsed JSON: as it was handed in, of a loader object, or of a file."""
    given = getattr(target, "_dataset", target)
    if isinstance(given, Mapping):
        return given
    path = _folder(given)
    if path.is_dir() and name is not None:
        path /= name
    if not path.is_file():
        raise SourceNotFoundError(f"{path} is no file{'' if name is None else f'; {name} is asked for'}.")
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise SourceFormatError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise SourceFormatError(
            f"{path} holds a {type(found).__name__}; the JSON of PGT's data sets is a mapping."
        )
    return found


def _single(file: Mapping[str, Any], values: np.ndarray, feature: str, weights: Any) -> Series:
    graph = Graph(np.transpose(file["edges"]), np.asarray(weights), num_nodes=values.shape[1])
    return Series(values, features=[feature], graph=graph, name=feature)


def _one_hot(raw: np.ndarray) -> np.ndarray:
    """Degree as its logarithm, rounded up, to 4; transitivity in tenths: 5 and 11 classes."""
    degree = np.minimum(np.ceil(np.log(raw[..., 0] + 1.0)), 4).astype(np.int64)
    tenths = np.floor(raw[..., 1] * 10).astype(np.int64)
    return np.concatenate([np.eye(5)[degree], np.eye(11)[tenths]], axis=-1)


def _numbers(text: str) -> list[float]:
    """Coordinates written as ``(x, y, z)``."""
    return [float(part) for part in text.strip("()").split(",")]
