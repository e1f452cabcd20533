"""How a loop goes through rows and outputs: what touches, what is one run, what has to be transposed.

In: columns of a role, how their rows lie, the strides of the output. Out: a `Pass`, and a `Tiling` where words of
neighbouring nodes do not touch. Pure arithmetic, done once per batch size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .vectors import LANES

if TYPE_CHECKING:
    from windowloader.rows.strided import BufferLayout

    from .roles import Group, Role

__all__ = ["Pass", "Tiling"]

PERIOD = 1024  # elements that statistics of columns are repeated to, so that a run needs no other index
SHORT = 64  # elements of a row up to which statistics of nodes are repeated to those of a window
MOST = 8  # words per node that shuffles handle, on either side
SCRATCH = 24 << 10  # bytes of planes before they are transposed: they stay in the first-level cache
WIDE = 64  # nodes per tile at least, so that rows are read in pieces of some cache lines


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """Columns that one loop writes; distances are counted in stored values and in words of the output.

    Parameters
    ----------
    nodes : int
    offsets : ndarray, shape (step,), int64
        Rows from a window's start.
    origin, row_step, node_step : int
        Of the source.
    columns : int
        Values of a node that touch, as `KernelOptions` has it.
    picks : ndarray, shape (pick,), int64
        Distances of the columns from a node's first value.
    places, row_places : ndarray of int64
        Where the words of the columns, and of values of the row, lie from a node's first word.
    out_row, out_node : int
    shift, factor : ndarray, shape (pick, 1 | entity, 1 | node), float64
    each : bool
        Whether statistics differ by node.
    tile : int
        Nodes after which statistics repeat; 0: they do not.
    """

    nodes: int
    offsets: np.ndarray
    origin: int
    row_step: int
    node_step: int
    columns: int
    picks: np.ndarray
    places: np.ndarray
    row_places: np.ndarray
    out_row: int
    out_node: int
    shift: np.ndarray
    factor: np.ndarray
    each: bool
    tile: int = 0

    @classmethod
    def of(
        cls, role: Role, group: Group, layout: BufferLayout, row_places: np.ndarray, strides: tuple[int, ...]
    ) -> Pass:
        """Describe columns of a role, simplified to as few and long runs as there are."""
        row_step, node_step, feature_step = layout.steps
        _, out_row, out_node, out_feature = strides
        # shuffles read all values of a node: none may lie beyond the array
        packed = 1 < node_step <= MOST and feature_step == 1 and layout.features == node_step
        found = cls(
            nodes=role.num_nodes,
            offsets=role.offsets,
            origin=layout.origin,
            row_step=row_step,
            node_step=node_step,
            columns=1 if node_step == 1 else node_step if packed else 0,
            picks=group.features * feature_step,
            places=group.places * out_feature,
            row_places=row_places * out_feature,
            out_row=out_row,
            out_node=out_node,
            shift=group.shift,
            factor=group.factor,
            each=group.shift.shape[2] > 1,
        )
        return found._as_elements()._as_columns(layout.features)._as_run()

    @property
    def words(self) -> np.ndarray:
        """Places of all words of a node."""
        return np.concatenate([self.places, self.row_places])

    @property
    def touches(self) -> bool:
        """Whether all words of a node touch, and the next node's follow."""
        words = np.sort(self.words)
        return len(words) == self.out_node <= MOST and int(words[-1] - words[0]) == len(words) - 1

    @property
    def tiled(self) -> bool:
        """Whether words of neighbouring nodes do not touch, so that they have to be transposed."""
        return not self.touches and not (self.out_node == 1 and len(self.words) <= MOST)

    @property
    def is_copy(self) -> bool:
        """Whether runs of the source are runs of the output."""
        return len(self.picks) == 1 == len(self.words) and self.node_step == 1 == self.out_node

    @property
    def _consecutive(self) -> bool:
        """Whether a window is one stretch of the source whose values alone are wanted."""
        rising = int(self.offsets[-1] - self.offsets[0]) == len(self.offsets) - 1 > 0
        return rising and not len(self.row_places) and self.row_step == self.nodes * self.node_step

    def _as_elements(self) -> Pass:
        """Count all columns of nodes as more nodes, where their words lie as they do."""
        count = len(self.picks)
        every = np.arange(count)
        alike = count == self.node_step == self.out_node and not len(self.row_places)
        if count < 2 or not alike or (self.picks != every).any() or (self.places != every).any():
            return self
        wide = self.nodes if self.each else max(LANES, PERIOD // count // LANES * LANES)
        shift, factor = (
            np.broadcast_to(part, (*part.shape[:2], wide)).transpose(1, 2, 0).reshape(1, part.shape[1], -1)
            for part in (self.shift, self.factor)
        )
        return replace(
            self, nodes=self.nodes * count, node_step=1, columns=1, picks=every[:1], places=every[:1], out_node=1,
            shift=shift, factor=factor, tile=wide * count,
        )  # fmt: skip

    def _as_columns(self, features: int) -> Pass:
        """Count few nodes as columns, and steps as nodes, where the steps of a node touch in the output."""
        nodes, columns = self.nodes, self.nodes * self.node_step
        packed = self.columns > 0 and features == self.node_step and columns <= MOST
        if self.out_node == 1 or self.out_row != 1 or not packed or not self._consecutive:
            return self
        each = np.arange(nodes)[:, np.newaxis]
        shift, factor = (
            np.broadcast_to(part, (*part.shape[:2], nodes)).transpose(2, 0, 1).reshape(-1, part.shape[1], 1)
            for part in (self.shift, self.factor)
        )
        return replace(
            self, nodes=len(self.offsets), offsets=self.offsets[:1], node_step=columns, columns=columns,
            picks=(each * self.node_step + self.picks).reshape(-1),
            places=(each * self.out_node + self.places).reshape(-1),
            out_row=0, out_node=1, shift=shift, factor=factor, each=False,
        )  # fmt: skip

    def _as_run(self) -> Pass:
        """Count all rows of a window as one, where they touch on both sides."""
        touch = self.out_row == self.nodes * self.out_node and not self.tiled
        if not touch or not self._consecutive or (self.each and self.nodes > SHORT):
            return self
        steps, shift, factor = len(self.offsets), self.shift, self.factor
        if self.each:
            shift, factor = (np.tile(part, (1, 1, steps)) for part in (shift, factor))
        return replace(
            self, nodes=self.nodes * steps, offsets=self.offsets[:1], shift=shift, factor=factor,
            tile=0 if self.each else self.tile,
        )  # fmt: skip


class Tiling(NamedTuple):
    """How planes of a tile reach the output.

    Parameters
    ----------
    to : ndarray of int64
        Places of planes in the scratch buffer by step and word: of a whole group of steps, then of the last group.
    group, tile : int
        Steps whose planes are in the scratch buffer together, and nodes of each plane.
    planes, depths, places : ndarray, shape (chunk,), int64
        First plane of each chunk of planes that touch, how many it has, and where it begins in the output.
    cut : int
        Chunks of a whole group; the others are those of the last.
    fixed : int
        As `transpose` takes it.
    """

    to: np.ndarray
    group: int
    tile: int
    planes: np.ndarray
    depths: np.ndarray
    places: np.ndarray
    cut: int
    fixed: int

    @classmethod
    def of(cls, own: Pass, out_batch: int, size: int, *, around: bool) -> Tiling:
        """Cut steps and nodes so that planes stay in the first-level cache, and find which planes touch."""
        words, steps = own.words, len(own.offsets)
        full = -(-own.nodes // LANES) * LANES
        line = len(words) * size
        group = steps
        if line * steps * min(full, WIDE) > SCRATCH:
            group = min(max(LANES, SCRATCH // (line * min(full, WIDE)) // LANES * LANES), steps)
        tile = min(full, max(LANES, SCRATCH // (line * group) // LANES * LANES))
        ranks, chunks, cuts = [], [], []
        for length in dict.fromkeys((group, steps % group or group)):
            at = (np.arange(length)[:, np.newaxis] * own.out_row + words).reshape(-1)
            order = np.argsort(at, kind="stable")
            ranks.append(np.argsort(order, kind="stable"))
            chunks += _chunks(at[order])
            cuts.append(len(chunks))
        planes, depths, places = (np.array(column, np.int64) for column in zip(*chunks, strict=True))
        fixed = LANES if (depths == LANES).all() else 0
        distances = np.array([out_batch, own.out_row * group, own.out_node, *places])
        if around and fixed and size >= 4 and not (distances % LANES).any():
            fixed = -1
        return cls(np.concatenate(ranks) * tile, group, tile, planes, depths, places, cuts[0], fixed)


def _chunks(places: np.ndarray) -> list[tuple[int, int, int]]:
    """Cut rising places into chunks of at most sixteen that touch: first, length, place."""
    chunks, first = [], 0
    for k in range(1, len(places) + 1):
        if k == len(places) or places[k] != places[k - 1] + 1 or k - first == LANES:
            chunks.append((first, k - first, int(places[first])))
            first = k
    return chunks
