"""Which loop writes which columns of a role: settled once for a batch size and a kind of rows.

In: a role, how its rows lie in memory, how many windows a batch has. Out: loops that are called with what changes from
batch to batch: rows, starts, arrays. Imported with the first batch, as it needs numba. Never touches a batch itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import copy_kernels as copies
from . import kernels as kernels
from . import stream_kernels as streams
from .loop_context import LoopContext, rows_ahead, sentinel_of, statistics
from .node_words import turned, woven

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from windowloader.rows.strided import BufferLayout

    from .loop_context import BatchPart, Loop
    from .roles import Group, Role
    from .row_table import Lines

__all__ = ["role_loops"]

RUN = 64  # elements of a row up to which a window is scaled as one run: longer rows are asked for one by one
ANY = 2**62
PERIOD = 1024  # elements that statistics of columns are repeated to, so that a run needs no other index
INSIDE = 24 * 1024  # bytes of output that are written in any order: they stay in the first-level cache
LONG = 512 << 10  # bytes of a row of the output that are worth a call of their own
STREAMED = 8 << 20  # bytes of an array from which on it is written around the cache: a few batches fill any


def role_loops(
    role: Role,
    kinds: Sequence[BufferLayout],
    steps: tuple[int, int, int, int],
    batch: int,
    dtype: str,
    itemsize: int,
) -> tuple[tuple[Loop, ...], tuple[Loop, ...]]:
    """Choose the loops of a role.

    Parameters
    ----------
    role : Role
    kinds : sequence of BufferLayout
        How the rows of each variable lie.
    steps : tuple of int
        Elements between neighbours along batch, step, node and feature of the output.
    batch : int
        Windows.
    dtype : str
        Delivered.
    itemsize : int
        Bytes of a delivered word.

    Returns
    -------
    values, masks : tuple of Loop
        Those that write the role's array, and those that write its mask.
    """
    words = (True if dtype == "float16" else None, True if dtype == "bfloat16" else None)
    frame = LoopContext(role, kinds, steps, words, itemsize, batch)
    groups = [part for group in role.groups for part in _by_division(group)]
    together = len(groups) == 1 and not role.statics and _together(frame, groups[0])
    if together:
        values = [_run(frame, groups[0])]
    elif len(groups) == 1 and not role.statics and not groups[0].copies:
        found = woven(frame, groups[0]) or turned(frame, groups[0])
        values = list(_apart(frame, groups)) if found is None else [found]
    else:
        values = list(_apart(frame, groups))
    if not role.has_mask:
        return tuple(values), ()
    simple = together and all(column.sentinel is None for column in role.row_columns)
    return tuple(values), tuple([_seen(frame, groups[0])] if simple else _masks(frame))


def _by_division(group: Group) -> Iterator[Group]:
    """Split a group whose columns are partly multiplied, partly divided."""
    if group.divide.any() == group.divide.all():
        yield group
        return
    for divide in (False, True):
        some = np.flatnonzero(group.divide == divide)
        yield replace(
            group,
            features=group.features[some],
            places=group.places[some],
            shift=group.shift[some],
            factor=group.factor[some],
            divide=group.divide[some],
            whole=False,
        )


def _together(frame: LoopContext, group: Group) -> bool:
    """Whether one loop writes all of a role: runs of values, alone or with one or two of the row beside each."""
    role, kind, others = frame.role, frame.kinds[group.rows], len(frame.role.row_columns)
    if others == 0:
        return not group.copies and _is_run(frame, group)
    return (
        len(group.places) == 1
        and others <= 2
        and kind.steps[1] == 1
        and frame.steps[2:] == (role.num_features, 1)
    )


def _is_run(frame: LoopContext, group: Group) -> bool:
    """Whether neighbours in a row of the source are neighbours in a row of the output."""
    kind = frame.kinds[group.rows]
    if len(group.places) == 1:
        return kind.steps[1] == 1 and frame.steps[2] == 1
    features = len(group.places)
    return group.whole and kind.steps[1:] == (features, 1) and frame.steps[2:] == (features, 1)


def _span(
    frame: LoopContext, group: Group, others: int, *, longest: int = RUN
) -> tuple[int, int, np.ndarray]:
    """Origin, width and offsets of runs: a row each, or a window where its rows touch and are no ``longest``."""
    role, kind = frame.role, frame.kinds[group.rows]
    width, offsets = role.num_nodes * len(group.places), role.offsets
    origin = kind.origin + int(group.features[0]) * kind.steps[2]
    rising = int(offsets[-1] - offsets[0]) == len(offsets) - 1
    if width <= longest and rising and not others and kind.steps[0] == width and frame.steps[1] == width:
        return origin, width * len(offsets), offsets[:1]
    return origin, width, offsets


def _apart(frame: LoopContext, groups: Sequence[Group]) -> Iterator[Loop]:
    """Each group, each static and the values of the row by a loop of its own, where none can take them along."""
    others = bool(frame.role.row_columns)
    for group in groups:
        if group.copies:
            yield _copy(frame, group)
        elif _is_run(frame, group):
            yield _run(frame, group, alone=True)
        else:
            yield _tiles(frame, group, others=others)
            others = False
    for static in frame.role.statics:
        yield _spread(frame, static.places, static.values)
    if others:
        yield _spread(frame, frame.role.row_places)


def _run(frame: LoopContext, group: Group, *, alone: bool = False) -> Loop:
    """Scale a group by runs, with the values of the row beside each unless ``alone``."""
    others = 0 if alone else len(frame.role.row_columns)
    kind, rows, fill = frame.kinds[group.rows], group.rows, group.fill
    origin, width, offsets = _span(frame, group, others)
    columns, steps = len(group.places), len(frame.role.offsets)
    if group.shift.shape[2] > 1:  # where a window is one run, the statistics of a row are repeated
        nodes, repeats = frame.role.num_nodes, steps // len(offsets)
    else:
        nodes, repeats = 1 if columns == 1 else min(width // columns, max(1, PERIOD // columns)), 1
    shift, factor, known = statistics(group, nodes, repeats=repeats)
    place = int(group.places[0])
    at = 0 if others else place * frame.steps[3]
    function = (kernels.runs, kernels.pairs, kernels.triples)[others]
    divide, mark, (half, brain) = True if group.divide.any() else None, sentinel_of(kind, group), frame.words
    row_step, (out_batch, out_row) = kind.steps[0], frame.steps[:2]
    ahead = rows_ahead(kind, width)

    def streamed(
        part: BatchPart, begin: int, end: int, out: Any, lines: Lines, some: slice = slice(None), at: int = at
    ) -> None:
        streams.flows(
            part.values[rows], kind.half, origin, row_step, width, part.first[rows], offsets[some], part.entity,
            begin, end, shift, factor, known, divide, mark, fill, out, half, brain, at, out_batch,
            lines.values, lines.first, lines.steps[some], place, others,
        )  # fmt: skip

    def streamed_by_row(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        for b in range(begin, end):
            for i in range(len(offsets)):
                streamed(part, b, b + 1, out, lines, slice(i, i + 1), at + i * out_row)

    def loop(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        function(
            part.values[rows], kind.half, origin, row_step, width, part.first[rows], offsets, part.entity, begin, end,
            shift, factor, known, divide, mark, fill, out, half, brain, at, out_batch, out_row, *lines, place,
            ahead,
        )  # fmt: skip

    large = frame.batch * out_batch * frame.itemsize >= STREAMED
    touching = out_row == width * (1 + others) and out_batch == out_row * len(offsets)
    if large and touching:
        return streamed
    long = width * (1 + others) * frame.itemsize >= LONG
    return streamed_by_row if large and long else loop


def _copy(frame: LoopContext, group: Group) -> Loop:
    """Copy bits: whole runs where there are any."""
    kind, rows, role = frame.kinds[group.rows], group.rows, frame.role
    words = np.dtype(f"u{frame.itemsize}")
    row_step, node_step, (out_batch, out_row, out_node, out_feature) = *kind.steps[:2], frame.steps
    picks, places = group.features * kind.steps[2], group.places * out_feature
    origin, width, offsets = _span(frame, group, 0, longest=ANY)

    def run(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        copies.blocks(
            part.values[rows].view(words), origin, row_step, width, part.first[rows], offsets, begin, end,
            out.view(words), int(places[0]), out_batch, out_row,
        )  # fmt: skip

    def loop(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        copies.copy(
            part.values[rows].view(words), kind.origin, row_step, node_step, role.num_nodes, picks,
            part.first[rows], role.offsets, begin, end, out.view(words), out_batch, out_row, out_node, places,
        )  # fmt: skip

    return run if _is_run(frame, group) else loop


def _tiles(frame: LoopContext, group: Group, *, others: bool) -> Loop:
    """Scale any columns, and write the values of the row beside them with ``others``."""
    kind, rows, role, fill = frame.kinds[group.rows], group.rows, frame.role, group.fill
    row_step, node_step, feature_step = kind.steps
    out_batch, out_row, out_node, out_feature = frame.steps
    features, nodes = len(group.places), role.num_nodes
    dense = (
        node_step == features
        and feature_step == 1
        and bool(np.array_equal(group.features, np.arange(features) + group.features[0]))
    )
    tile = kernels.TILE // features
    if out_node > role.num_features:
        tile = min(tile, INSIDE // (out_node * frame.itemsize))
    tile = min(nodes, max(16, tile))
    shift, factor, known = statistics(group, nodes if group.shift.shape[2] > 1 else tile, dense=dense)
    picks, places = group.features * feature_step, group.places * out_feature
    row_places = role.row_places * out_feature if others else role.row_places[:0]
    divide, mark, (half, brain) = True if group.divide.any() else None, sentinel_of(kind, group), frame.words
    ahead = rows_ahead(kind, nodes * features) if dense else 0

    def loop(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        kernels.tiles(
            part.values[rows], kind.half, kind.origin, row_step, node_step, nodes, picks, dense,
            part.first[rows], role.offsets, part.entity, begin, end, shift, factor, known, divide, mark, fill,
            out, half, brain, out_batch, out_row, out_node, places, *lines, row_places, tile,
            ahead,
        )  # fmt: skip

    return loop


def _spread(frame: LoopContext, places: np.ndarray, values: np.ndarray | None = None) -> Loop:
    """Write what is the same for all nodes, or (``values``) in all rows."""
    steps, at = frame.steps[:3], places * frame.steps[3]
    rows, nodes = len(frame.role.offsets), frame.role.num_nodes

    def loop(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        words = lines.table(begin, end)[:, :, np.newaxis] if values is None else values.view(out.dtype)
        copies.spread(words, begin, end, rows, nodes, out, *steps, at)

    return loop


def _seen(frame: LoopContext, group: Group) -> Loop:
    """Mask of what `_run` writes."""
    others = len(frame.role.row_columns)
    kind, rows, place, mark = (
        frame.kinds[group.rows],
        group.rows,
        int(group.places[0]),
        sentinel_of(frame.kinds[group.rows], group),
    )
    origin, width, offsets = _span(frame, group, others)
    at = 0 if others else place * frame.steps[3]
    row_step, (out_batch, out_row) = kind.steps[0], frame.steps[:2]

    def loop(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        copies.seen(
            part.values[rows], kind.half, origin, row_step, width, part.first[rows], offsets, begin, end, mark,
            out, at, out_batch, out_row, 1 + others, place,
        )  # fmt: skip

    return loop


def _masks(frame: LoopContext) -> Iterator[Loop]:
    """Mask of each group, each static and the values of the row."""
    for group in frame.role.groups:
        if group.can_miss:
            yield _observed(frame, group)
        else:
            yield _spread(frame, group.places, np.ones((1, 1, 1, len(group.places)), np.uint8))
    for static in frame.role.statics:
        yield _spread(frame, static.places, static.observed)
    if frame.role.row_columns:
        yield _spread(frame, frame.role.row_places)


def _observed(frame: LoopContext, group: Group) -> Loop:
    kind, rows, role, mark = (
        frame.kinds[group.rows],
        group.rows,
        frame.role,
        sentinel_of(frame.kinds[group.rows], group),
    )
    row_step, node_step, feature_step = kind.steps
    picks, places = group.features * feature_step, group.places * frame.steps[3]

    def loop(part: BatchPart, begin: int, end: int, out: Any, lines: Lines) -> None:
        copies.observed(
            part.values[rows], kind.half, kind.origin, row_step, node_step, role.num_nodes, picks,
            part.first[rows], role.offsets, begin, end, mark, out, *frame.steps[:3], places,
        )  # fmt: skip

    return loop
