"""Objects as notebooks show them: small tables, a time line.

In: a series, a split, a plan. Out: HTML that needs no script and no style sheet. Never reads values.
"""

from __future__ import annotations

import itertools
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from windowloader.plan.plan import Plan
    from windowloader.series.series import Series
    from windowloader.windows.split import Split

__all__ = ["plan_html", "series_html", "split_html"]

WIDTH, HEIGHT = 480, 14
SHOWN = 8
BLUE, FAINT, INK = "#0072B2", "#dcdcdc", "#8a8a8a"


def series_html(series: Series) -> str:
    """Show form, time, variables and gaps."""
    rows = [
        ("shape", f"{series.num_steps:,} steps × {_space(series)} nodes × {len(series.features)} features")
    ]
    if series.clock is not None and series.num_steps:
        rows.append(
            ("time", " … ".join(series.clock.texts([0, series.num_steps - 1])) + series.clock.calendar_note)
        )
    rows.append(("tier", series.tier))
    if series.entity_borders is not None:
        rows.append(("entities", f"{len(series.entity_borders) - 1:,}"))
    if len(series.borders) > 2:
        rows.append(("segments", f"{len(series.borders) - 1:,}, which windows do not cross"))
    if series.graph is not None:
        rows.append(("graph", f"{series.graph.edge_index.shape[1]:,} edges"))
    line = _line([(begin, end, BLUE) for begin, end in _segments(series)], series.num_steps)
    columns = [("variable", "axes", "shape", "dtype", "size", "missing")]
    for variable in series.variables[:SHOWN]:
        size = int(np.prod(variable.source.shape, dtype=np.int64)) * variable.dtype.itemsize
        mark = "" if variable.missing is None else f"{variable.missing:g}"
        shape = " × ".join(f"{length:,}" for length in variable.source.shape)
        columns.append(
            (variable.name, variable.source.axes, shape, variable.dtype.name, format_bytes(size), mark)
        )
    return _card(f"Series {series.name}", _pairs(rows), line, _table(columns))


def _space(series: Series) -> str:
    return " × ".join(map(str, series.space_shape)) or "1"


def _segments(series: Series) -> list[tuple[int, int]]:
    borders = series.borders.tolist()
    if len(borders) > 200:  # more would not be seen
        return [(0, series.num_steps)]
    return list(itertools.pairwise(borders))


def split_html(split: Split) -> str:
    """Show the parts."""
    columns = [("part", "windows", "rows", "on the time line")]
    for name, windows in zip(split.names, split.sets, strict=True):
        first, last = windows.row_range
        line = _line([(first, last, BLUE)], windows.series.num_steps, width=240)
        columns.append((name, f"{len(windows):,}", f"{first:,} … {last - 1:,}", line))
    return _card(f"Split by {split.by}", _table(columns, raw=(3,)))


def plan_html(plan: Plan) -> str:
    """Show the page of a plan, with the rows resident over the epoch."""
    rows = [
        ("epoch", f"{plan.epoch}: {plan.steps:,} steps, {plan.windows:,} windows"),
        ("rank", f"{plan.rank} of {plan.world_size}"),
        ("tier", f"{plan.tier}, {plan.mode}"),
        ("order", f"{plan.order}: {plan.reason}"),
    ]
    rows += [("better" if not number else "", advice) for number, advice in enumerate(plan.advice)]
    cost = [("", "bytes", "requests", "× what must be read")]
    everyone = [("all ranks", plan.all_ranks)] if plan.world_size > 1 else []
    for name, found in (("this rank", plan.own), *everyone, ("before the first batch", plan.first)):
        cost.append((name, format_bytes(found.bytes), f"{found.requests:,}", f"{found.amplification:.3f}"))
    parts = [_pairs(rows), _table(cost)]
    if plan.resident:
        most = max(value for _, value in plan.resident)
        parts.append(_bars([value for _, value in plan.resident]))
        parts.append(
            _note(
                f"rows resident over the epoch, at most {format_bytes(most)} of {format_bytes(plan.budget)}"
            )
        )
    if plan.mixing is not None and plan.permutation is not None:
        figures = [("mixing", "this order", "permutation")]
        named = ("pairs of one block", "variance of batch means", "their correlation")
        for name, ours, theirs in zip(named, plan.mixing, plan.permutation, strict=True):
            figures.append((name, f"{ours:.4f}", f"{theirs:.4f}"))
        parts.append(_table(figures))
    return _card("Plan", *parts)


# -- pieces of HTML --------------------------------------------------------------------------------------------------


def _card(title: str, *parts: str) -> str:
    return f"<div style='font-size:90%;max-width:60em'><b>{escape(title)}</b>{''.join(parts)}</div>"


def _note(text: str) -> str:
    return f"<div style='color:{INK};font-size:85%'>{escape(text)}</div>"


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    lines = [
        f"<tr><td style='text-align:left;padding:0 1em 0 0;color:{INK}'>{escape(name)}</td>"
        f"<td style='text-align:left;padding:0'>{escape(text)}</td></tr>"
        for name, text in rows
    ]
    return f"<table style='margin:.3em 0'>{''.join(lines)}</table>"


def _table(rows: Sequence[Sequence[str]], *, raw: tuple[int, ...] = ()) -> str:
    head, *body = rows
    cells = "".join(f"<th style='text-align:left;padding:0 1em 0 0'>{escape(name)}</th>" for name in head)
    lines = [
        "".join(
            f"<td style='text-align:left;padding:0 1em 0 0'>{text if place in raw else escape(text)}</td>"
            for place, text in enumerate(row)
        )
        for row in body
    ]
    return f"<table style='margin:.3em 0'><tr>{cells}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _line(runs: Iterable[tuple[int, int, str]], total: int, *, width: int = WIDTH) -> str:
    """Draw runs of rows on the line of a whole series; neighbours are kept apart."""
    scale = width / max(total, 1)
    boxes = "".join(
        f"<rect x='{begin * scale:.2f}' y='0' width='{max((end - begin) * scale - 0.6, 0.6):.2f}' height='{HEIGHT}' "
        f"fill='{colour}'/>"
        for begin, end, colour in runs
        if end > begin
    )
    return (
        f"<svg width='{width}' height='{HEIGHT}' role='img'><rect width='{width}' height='{HEIGHT}' fill='{FAINT}'/>"
        f"{boxes}</svg>"
    )


def _bars(values: Sequence[int]) -> str:
    most, width = max([*values, 1]), WIDTH / max(len(values), 1)
    bars = "".join(
        f"<rect x='{place * width:.1f}' y='{36 - 36 * value / most:.1f}' width='{width - 1:.1f}' "
        f"height='{36 * value / most:.1f}' fill='{BLUE}'/>"
        for place, value in enumerate(values)
    )
    return f"<svg width='{WIDTH}' height='36' role='img'>{bars}</svg>"
