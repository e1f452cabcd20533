"""Snapshots of a signal, read when they are looked at.

In: pairs of arrays by window number, and where the edges are. Out: `WindowSignal`, which PGT's loops, its
``temporal_signal_split`` and its own containers take for one of theirs. Never materialises: a slice is the same signal
of fewer windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from windowloader.adapters.pgt_objects import pyg_data
from windowloader.series.dynamic_graph import DynamicGraph

if TYPE_CHECKING:
    from windowloader.adapters.pgt_pairs import WindowPairs
    from windowloader.windows.window_set import WindowSet

__all__ = ["SignalPart", "Snapshots", "WindowSignal"]

AHEAD_BYTES = 1 << 20  # an iterator gathers snapshots together up to this size


@dataclass(frozen=True, slots=True, eq=False)
class SignalPart:
    """One attribute of a snapshot.

    Parameters
    ----------
    pairs : WindowPairs
    side : {0, 1}
        Its inputs or its targets.
    shape : tuple of int, optional
        Of one snapshot, where it is not as gathered.
    integer : bool
        Delivered as int64.
    """

    pairs: WindowPairs
    side: int
    shape: tuple[int, ...] | None = None
    integer: bool = False

    def read(self, positions: np.ndarray) -> list[Any]:
        """Arrays of some snapshots, views of one gather; None where nothing of one is there."""
        return self.finish(self.pairs.read(positions)[self.side], positions)

    def finish(self, array: Any, positions: np.ndarray) -> list[Any]:
        """Shape what was gathered, snapshot by snapshot."""
        if array is None:
            return [None] * len(positions)
        if self.shape is not None:
            array = array.reshape(len(positions), *self.shape)
        if self.integer:
            array = array.astype(np.int64)
        seen = self.pairs.observed(positions)[self.side]
        return [part if there else None for part, there in zip(array, seen, strict=True)]


class Snapshots(Sequence[Any]):
    """One attribute of all snapshots, as PGT's containers hold them: arrays by number, read when asked for.

    Parameters
    ----------
    part : SignalPart
    windows : WindowSet
    """

    __slots__ = ("_numbers", "_part")

    def __init__(self, part: SignalPart, numbers: range) -> None:
        self._part = part
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Snapshots(self._part, self._numbers[index])
        return self._part.read(np.array([self._numbers[index]]))[0]

    def __repr__(self) -> str:
        return f"<{len(self)} snapshots, read when indexed>"


class SnapshotEdges(Sequence[Any]):
    """Edges or weights of all snapshots of a dynamic graph."""

    __slots__ = ("_numbers", "_weights", "_windows")

    def __init__(self, windows: WindowSet, numbers: range, *, weights: bool) -> None:
        self._windows = windows
        self._numbers = numbers
        self._weights = weights

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return SnapshotEdges(self._windows, self._numbers[index], weights=self._weights)
        edges = self._windows.graph_at(self._windows.starts([self._numbers[index]]))
        return edges.edge_weight if self._weights else edges.edge_index


class WindowSignal:
    """A window set as PGT's ``StaticGraphTemporalSignal`` or ``DynamicGraphTemporalSignal``.

    Made by `to_signal`. An int gives a PyG ``Data`` (a ``Batch`` where nodes have batch numbers), a slice a signal;
    each iterator runs by itself.

    Attributes
    ----------
    windows : WindowSet
    features, targets : Snapshots
        Arrays by number.
    edge_index, edge_weight : ndarray or None
        With a static graph.
    edge_indices, edge_weights : sequence of ndarray
        With a dynamic graph.
    snapshot_count : int
    additional_feature_keys : list of str
        Further attributes, each a `Snapshots` under its name.
    """

    def __init__(self, windows: WindowSet, parts: Mapping[str, SignalPart], numbers: range) -> None:
        self.windows = windows
        self._parts = dict(parts)
        self._numbers = numbers
        self.snapshot_count = len(numbers)
        self.features = Snapshots(parts["x"], numbers)
        self.targets = Snapshots(parts["y"], numbers)
        self.additional_feature_keys = [name for name in parts if name not in ("x", "y", "batch")]
        for name in self.additional_feature_keys:
            setattr(self, name, Snapshots(parts[name], numbers))
        graph = windows.series.graph
        if "batch" in parts:
            batches = Snapshots(parts["batch"], numbers)
            self.batches = batches if isinstance(graph, DynamicGraph) or not len(self) else batches[0]
        self._static: tuple[Any, Any] = (None, None)
        if isinstance(graph, DynamicGraph):
            self.edge_indices = SnapshotEdges(windows, numbers, weights=False)
            self.edge_weights = SnapshotEdges(windows, numbers, weights=True)
        else:
            self.edge_index = None if graph is None else graph.edge_index
            self.edge_weight = None if graph is None else graph.edge_weight
            self._static = _tensors(self.edge_index, self.edge_weight)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return WindowSignal(self.windows, self._parts, self._numbers[index])
        return self._snapshots(np.array([self._numbers[index]]))[0]

    def __iter__(self) -> Iterator[Any]:
        first = self.features[0] if len(self) else None
        size = max(1, 0 if first is None else first.nbytes)
        together = max(1, AHEAD_BYTES // size)
        for begin in range(0, len(self), together):
            yield from self._snapshots(np.asarray(self._numbers[begin : begin + together], np.int64))

    def __repr__(self) -> str:
        kind = "dynamic" if isinstance(self.windows.series.graph, DynamicGraph) else "static"
        return f"WindowSignal({len(self):,} snapshots, {kind} graph; {self.windows!r})"

    def _snapshots(self, positions: np.ndarray) -> list[Any]:
        """Snapshots of some windows, gathered together."""
        gathered: dict[int, Any] = {}
        columns: dict[str, list[Any]] = {}
        for name, part in self._parts.items():
            key = id(part.pairs)
            if key not in gathered:
                gathered[key] = part.pairs.read(positions)
            columns[name] = part.finish(gathered[key][part.side], positions)
        data = pyg_data()
        kind = data.Batch if "batch" in columns else data.Data
        found = []
        for place, position in enumerate(positions.tolist()):
            given = {
                name: None if values[place] is None else torch.from_numpy(values[place])
                for name, values in columns.items()
            }
            edge_index, edge_attr = self._edges(position)
            found.append(
                kind(x=given.pop("x"), edge_index=edge_index, edge_attr=edge_attr, y=given.pop("y"), **given)
            )
        return found

    def _edges(self, position: int) -> tuple[Any, Any]:
        if not isinstance(self.windows.series.graph, DynamicGraph):
            return self._static
        edges = self.windows.graph_at(self.windows.starts([position]))
        return _tensors(edges.edge_index, edges.edge_weight)


def _tensors(index: Any, weight: Any) -> tuple[Any, Any]:
    """Edges as PGT's snapshots hold them: int64, and float32."""
    return (
        None if index is None else torch.as_tensor(index),
        None if weight is None else torch.as_tensor(weight, dtype=torch.float32),
    )
