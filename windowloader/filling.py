"""Runs the kernels over a part of a batch: which loop for which columns, in pieces that stay in the cache.

In: roles, arrays to fill, starts and rows. Out: the arrays, filled. Imported with the first batch, as it needs numba.
Never allocates anything of a batch's size, but where rows are addressable only by bytes (see `flat`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import gather_kernels as kernels
from .row_table import row_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .gather import Recipe, Rows
    from .roles import Group, Role

__all__ = ["fill_arrays", "flat"]

PIECE = 512 * 1024  # bytes written before the next loop comes to the same windows: half a second-level cache
RUN = 8192  # elements of a window that are scaled as one run although each node has its own statistics


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """Rows as one flat array: element (row, node, feature) lies at ``origin + row·r + node·n + feature·f``."""

    values: np.ndarray
    half: bool | None
    origin: int
    steps: tuple[int, int, int]
    first: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What all loops of one call share."""

    starts: np.ndarray
    entity: np.ndarray
    rows: Sequence[Rows]
    flats: Mapping[int, Flat]
    begin: int
    end: int


def fill_arrays(
    recipe: Recipe,
    out: Mapping[str, np.ndarray],
    starts: np.ndarray,
    rows: Sequence[Rows],
    begin: int,
    end: int,
) -> None:
    """Fill batch positions ``[begin, end)`` of every array."""
    entity = recipe.entity_of(starts)
    used = {group.rows for role in recipe.roles for group in role.groups}
    flats = {number: flat(rows[number]) for number in used}
    part = Part(starts, entity, rows, flats, begin, end)
    for role in recipe.roles:
        _role(recipe, role, out, part)


def flat(rows: Rows) -> Flat:
    """Address rows by elements of one flat array, whatever their strides.

    Float16 is read as its bits, bool as bytes. Rows whose strides are no whole number of elements (a field of a
    structured array) or whose bytes are swapped are copied: the only case that costs memory.
    """
    base, first = rows.base, rows.first
    size = base.itemsize
    if not base.dtype.isnative or any(stride % size for stride in base.strides):
        base = np.ascontiguousarray(base, dtype=base.dtype.newbyteorder("="))
    if base.flags.c_contiguous:
        origin, steps = 0, [base.shape[1] * base.shape[2], base.shape[2], 1]
        values = base.reshape(-1)
    else:
        lengths = [(n - 1) * stride for n, stride in zip(base.shape, base.strides, strict=True)]
        lowest = base[tuple(slice(-1, None) if length < 0 else slice(0, 1) for length in lengths)]
        extent = sum(abs(length) for length in lengths) // size + 1
        values = np.lib.stride_tricks.as_strided(lowest, (extent,), (size,))
        origin = -sum(min(length, 0) for length in lengths) // size
        steps = [stride // size for stride in base.strides]
    half = True if values.dtype == np.float16 else None
    if half is not None or values.dtype == np.bool_:
        values = values.view(np.uint16 if half else np.uint8)
    # read-only arrays are another type to numba: as they must be taken (mapped files), all are made so
    values.flags.writeable = False
    return Flat(values, half, int(origin), (steps[0], steps[1], steps[2]), first)


def _role(recipe: Recipe, role: Role, out: Mapping[str, np.ndarray], part: Part) -> None:
    window = slice(part.begin, part.end)
    tables = [
        row_table(
            columns, recipe.clock, part.rows, part.starts[window], role.offsets, part.entity[window], window,
            recipe.dtype,
        )
        if columns
        else None
        for columns in (role.row_columns, role.shared_columns)
    ]  # fmt: skip
    if role.num_shared:
        shared = out[role.shared_name]
        if tables[1] is not None:
            shared[window][..., role.shared_places] = tables[1][0]
        for place, value in role.shared_statics:
            shared[window][..., place] = value
    if not role.num_features:
        return
    target = _words(out[role.name])
    mask = _words(out[role.mask_name]) if role.has_mask else None
    empty = np.empty((part.end - part.begin, len(role.offsets), 0), target.dtype)
    values, seen = tables[0] if tables[0] is not None else (empty, empty.astype(np.uint8))
    values = values.view(target.dtype)
    batch = target.size // (len(role.offsets) * role.num_nodes * role.num_features)
    steps = role.steps_between(batch)
    together = len(role.groups) == 1 and _beside(role, role.groups[0], part.flats, steps)
    piece = part.end - part.begin
    loops = (1 if together else len(role.groups) + len(role.statics) + bool(role.row_columns)) + (
        mask is not None
    )
    if loops > 1 and steps[0] >= steps[1]:  # with another axis outermost a few windows are not compact
        piece = max(1, PIECE // (steps[0] * target.itemsize))
    for begin in range(part.begin, part.end, max(piece, 1)):
        end = min(begin + piece, part.end)
        table = slice(begin - part.begin, end - part.begin)
        if together:
            _run(recipe, role, role.groups[0], part, begin, end, target, steps, values[table])
        else:
            _separate(recipe, role, part, begin, end, target, steps, values[table])
        if mask is not None:
            _mask(role, part, begin, end, mask, steps, seen[table], together=together)


def _words(array: np.ndarray) -> np.ndarray:
    """Flat view that numba can write: bool as bytes, float16 as its bits."""
    if not array.flags.c_contiguous:
        raise ValueError("arrays that are gathered into must be C-contiguous")
    words = array.reshape(-1)
    if words.dtype == np.float16:
        return words.view(np.uint16)
    return words.view(np.uint8) if words.dtype == np.bool_ else words


def _beside(role: Role, group: Group, flats: Mapping[int, Flat], steps: tuple[int, int, int, int]) -> bool:
    """Whether one loop writes all of a role: runs of values, alone or with one or two of the row beside each."""
    source = flats[group.rows]
    others = len(role.row_columns)
    if role.statics or group.divide.any() != group.divide.all():
        return False
    if others == 0:
        return not group.copies and _is_run(group, source, steps)
    return (
        len(group.places) == 1
        and others <= 2
        and source.steps[1] == 1
        and steps[2] == role.num_features
        and (steps[3] == 1)
    )


def _is_run(group: Group, source: Flat, steps: tuple[int, int, int, int]) -> bool:
    """Whether neighbours in a row of the source are neighbours in a row of the output."""
    if len(group.places) == 1:
        return source.steps[1] == 1 and steps[2] == 1
    features = len(group.places)
    return group.whole and source.steps[1:] == (features, 1) and steps[2:] == (features, 1)


def _run(
    recipe: Recipe, role: Role, group: Group, part: Part, begin: int, end: int,
    out: np.ndarray, steps: tuple[int, int, int, int], table: np.ndarray,
) -> None:  # fmt: skip
    """Scale a group by runs; a window whose rows touch, in and out, is one run."""
    source = part.flats[group.rows]
    others = table.shape[2]
    origin, width, offsets = _span(role, group, source, steps, others)
    shift, factor = _by_element(group.shift, role), _by_element(group.factor, role)
    if len(offsets) < len(role.offsets) and shift.shape[1] > 1:
        if width <= RUN:
            shift, factor = np.tile(shift, (1, len(role.offsets))), np.tile(factor, (1, len(role.offsets)))
        else:
            width, offsets = width // len(role.offsets), role.offsets
    place = int(group.places[0])
    at = 0 if others else place * steps[3]
    loop = (kernels.runs, kernels.pairs, kernels.triples)[table.shape[2]]
    loop(
        source.values, source.half, origin, source.steps[0], width, source.first, offsets, part.entity, begin, end,
        shift, factor, True if group.divide.any() else None, _mark(group, source), group.fill,
        out, *_words_to(recipe), at, steps[0], steps[1], table, place,
    )  # fmt: skip


def _span(
    role: Role, group: Group, source: Flat, steps: tuple[int, int, int, int], others: int
) -> tuple[int, int, np.ndarray]:
    """Origin, width and offsets of runs: a row each, or a window where its rows touch in the source and the output."""
    width = role.num_nodes * len(group.places)
    origin = source.origin + int(group.features[0]) * source.steps[2]
    offsets = role.offsets
    rising = int(offsets[-1] - offsets[0]) == len(offsets) - 1
    if rising and not others and source.steps[0] == width and steps[1] == width:
        return origin, width * len(offsets), offsets[:1]
    return origin, width, offsets


def _by_element(values: np.ndarray, role: Role) -> np.ndarray:
    """Statistics of columns [column, entity, node] as statistics of a row's elements [entity, 1 | node·column]."""
    if len(values) == 1:
        return np.asarray(values[0])
    wide = np.broadcast_to(values, (*values.shape[:2], role.num_nodes))
    return np.ascontiguousarray(wide.transpose(1, 2, 0)).reshape(values.shape[1], -1)


def _separate(
    recipe: Recipe, role: Role, part: Part, begin: int, end: int,
    out: np.ndarray, steps: tuple[int, int, int, int], table: np.ndarray,
) -> None:  # fmt: skip
    """Each group, each static and the values of the row by a loop of its own."""
    for group in role.groups:
        source = part.flats[group.rows]
        picks, places = group.features * source.steps[2], group.places * steps[3]
        run = _is_run(group, source, steps)
        if group.copies:
            words = np.dtype(f"u{out.itemsize}")
            nodes, offsets = role.num_nodes, role.offsets
            if run:
                _, nodes, offsets = _span(role, group, source, steps, 0)
                picks, places = picks[:1], places[:1]
            kernels.copy(
                source.values.view(words), source.origin, source.steps[0], 1 if run else source.steps[1], nodes, picks,
                source.first, offsets, begin, end,
                out.view(words), steps[0], steps[1], 1 if run else steps[2], places,
            )  # fmt: skip
        elif run and group.divide.any() == group.divide.all():
            _run(recipe, role, group, part, begin, end, out, steps, table[..., :0])
        else:
            kernels.columns(
                source.values, source.half, source.origin, source.steps[0], source.steps[1], role.num_nodes, picks,
                source.first, role.offsets, part.entity, begin, end,
                group.shift, group.factor, group.divide, _mark(group, source), group.fill,
                out, *_words_to(recipe), steps[0], steps[1], steps[2], places,
            )  # fmt: skip
    _spread(role, begin, end, out, steps, table, [static.values for static in role.statics])


def _mask(
    role: Role, part: Part, begin: int, end: int,
    mask: np.ndarray, steps: tuple[int, int, int, int], table: np.ndarray, *, together: bool,
) -> None:  # fmt: skip
    columns_of_rows = role.row_columns
    if together and all(column.sentinel is None for column in columns_of_rows):
        group, others = role.groups[0], len(columns_of_rows)
        source, place = part.flats[group.rows], int(group.places[0])
        origin, width, offsets = _span(role, group, source, steps, others)
        kernels.seen(
            source.values, source.half, origin, source.steps[0], width, source.first, offsets, begin, end,
            _mark(group, source),
            mask, 0 if others else place * steps[3], steps[0], steps[1], 1 + others, place,
        )  # fmt: skip
        return
    for group in role.groups:
        source = part.flats[group.rows]
        picks, places = group.features * source.steps[2], group.places * steps[3]
        if group.can_miss:
            kernels.observed(
                source.values, source.half, source.origin, source.steps[0], source.steps[1], role.num_nodes, picks,
                source.first, role.offsets, begin, end, _mark(group, source),
                mask, steps[0], steps[1], steps[2], places,
            )  # fmt: skip
        else:
            always = np.ones((1, 1, 1, len(places)), np.uint8)
            kernels.spread(always, begin, end, len(role.offsets), role.num_nodes, mask, *steps[:3], places)
    _spread(role, begin, end, mask, steps, table, [static.observed for static in role.statics])


def _spread(
    role: Role, begin: int, end: int,
    out: np.ndarray, steps: tuple[int, int, int, int], table: np.ndarray, statics: Sequence[np.ndarray],
) -> None:  # fmt: skip
    rows, nodes = len(role.offsets), role.num_nodes
    for static, values in zip(role.statics, statics, strict=True):
        words: Any = values.view(out.dtype)
        kernels.spread(words, begin, end, rows, nodes, out, *steps[:3], static.places * steps[3])
    if table.shape[2]:
        kernels.spread(
            table[:, :, np.newaxis], begin, end, rows, nodes, out, *steps[:3], role.row_places * steps[3]
        )


def _words_to(recipe: Recipe) -> tuple[bool | None, bool | None]:
    """Whether the output's words are float16, bfloat16: None where not, as the kernels take it."""
    return (True if recipe.dtype == "float16" else None, True if recipe.dtype == "bfloat16" else None)


def _mark(group: Group, source: Flat) -> np.ndarray:
    """Return the sentinel as the loops compare it: in the words of the source, but float16 by value."""
    if source.half is not None:
        return group.sentinel.astype(np.float64)
    return group.sentinel.view(source.values.dtype)
