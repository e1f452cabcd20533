"""Loops for outputs in which several words of a node touch: those of one row, or those of all rows.

In: a `LoopContext` and the group of columns that, with the values of the row, is all of it. Out: a loop, or None
where words do not lie so. Never touches a batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import kernels as kernels
from .loop_context import rows_ahead, sentinel_of, statistics
from .shuffles import BESIDE, LANES, MOST, pattern_of
from .weave_kernels import turning, weaving

if TYPE_CHECKING:
    from windowloader.rows.strided import BufferLayout

    from .loop_context import BatchPart, Loop, LoopContext
    from .roles import Group
    from .row_table import Lines

__all__ = ["turned", "woven"]


def woven(frame: LoopContext, group: Group) -> Loop | None:
    """Write all words of a node in one row beside each other; None where they do not lie so."""
    group = _in_order(group)
    kind, rows, role, fill = frame.kinds[group.rows], group.rows, frame.role, group.fill
    row_step, columns, _ = kind.steps
    nodes, count = role.num_nodes, role.num_features
    beside = frame.steps[2:] == (count, 1) and count <= MOST
    if not beside or not _side_by_side(kind) or nodes < LANES:  # fewer are as fast one by one
        return None
    picks = group.features.tolist()
    if columns > max(4, 2 * len(picks)) or max(picks) >= columns:
        return None
    own, patterns = np.zeros(count, np.int64), [BESIDE] * count
    for value, place in enumerate(group.places.tolist()):
        own[place] = patterns[place] = value
    own[role.row_places] = -1 - np.arange(len(role.row_places))
    some = picks != list(range(columns))
    function = weaving(pattern_of(len(picks), patterns), pattern_of(columns, picks) if some else 0)
    tile = min(nodes, max(LANES, kernels.TILE // max(columns, count)))
    shift, factor, known = statistics(group, nodes if group.shift.shape[2] > 1 else tile)
    divide, mark, (half, brain) = True if group.divide.any() else None, sentinel_of(kind, group), frame.words
    out_batch, out_row = frame.steps[:2]
    ahead = rows_ahead(kind, nodes * columns)

    def loop(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        function(
            part.values[rows], kind.half, kind.origin, row_step, columns, nodes, group.features, part.first[rows],
            role.offsets, part.entity, begin, end, shift, factor, known, divide, mark, fill, out, half, brain,
            out_batch, out_row, own, *lines, tile, ahead,
        )  # fmt: skip

    return loop


def _in_order(group: Group) -> Group:
    """Name the columns in the order of the source: all of them are then as they lie there."""
    order = np.argsort(group.features, kind="stable")
    return replace(
        group,
        features=group.features[order],
        places=group.places[order],
        shift=group.shift[order],
        factor=group.factor[order],
    )


def _side_by_side(kind: BufferLayout) -> bool:
    """Whether nodes lie beside each other with all their features, so that none reads what is not the array's."""
    _, columns, feature_step = kind.steps
    return columns == 1 or (1 < columns <= MOST and feature_step == 1 and kind.features == columns)


def turned(frame: LoopContext, group: Group) -> Loop | None:
    """Write all rows of a node beside each other; None where they do not lie so."""
    kind, rows, role, fill = frame.kinds[group.rows], group.rows, frame.role, group.fill
    row_step, columns, _ = kind.steps
    out_batch, out_row, out_node, out_feature = frame.steps
    nodes, steps, count = role.num_nodes, len(role.offsets), role.num_features
    inside = out_feature < out_node or count == 1  # a node's features, too, lie beside each other
    depth = steps * count if inside else steps
    if out_node != depth or out_row >= depth or out_batch < nodes * depth or nodes < LANES:
        return None
    if not _side_by_side(kind) or int(group.features.max()) >= columns:
        return None
    function = turning(columns)
    apart = np.arange(steps)[:, np.newaxis] * out_row
    own, others = group.places, role.row_places
    if inside:  # all columns of all steps: one panel
        panels, row_panels = np.zeros(1, np.int64), others[:0]
        value_rows, row_rows = apart + own * out_feature, apart + others * out_feature
    else:
        panels, row_panels = own * out_feature, others * out_feature
        value_rows, row_rows = apart + np.arange(len(own)) * depth, np.zeros((steps, 0), np.int64)
    most = kernels.TILE * 4 // (len(panels) * depth)  # nodes whose rows stay in the first-level cache
    pieces = -(-nodes // max(LANES, most))
    tile = -(-nodes // pieces // LANES) * LANES if pieces > 1 else nodes
    shift, factor, known = statistics(group, nodes if group.shift.shape[2] > 1 else tile, dense=False)
    picks = group.features
    divide, mark, (half, brain) = True if group.divide.any() else None, sentinel_of(kind, group), frame.words

    def loop(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        function(
            part.values[rows], kind.half, kind.origin, row_step, nodes, picks, part.first[rows], role.offsets,
            part.entity, begin, end, shift, factor, known, divide, mark, fill, out, half, brain, out_batch,
            depth, panels, value_rows, row_rows, row_panels, *lines, tile,
        )  # fmt: skip

    return loop
