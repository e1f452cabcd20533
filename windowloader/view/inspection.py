"""Describes a series before training: shape, storage, time range, gaps, missing values and the batch it gives.

In: a `Series`. Out: plain values, as ``windowloader inspect --json`` prints them. Reads a sample of the values, or all
of them on request.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.units import format_bytes
from windowloader.windows.missing import sentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from windowloader.series.clock import Clock
    from windowloader.series.series import Series
    from windowloader.series.variable import Variable

__all__ = ["inspect"]

SHOWN_GAPS = 5
SAMPLES = 16  # ranges of rows in a sample
SAMPLE_BYTES = 64 << 20  # of one variable
PIECE_BYTES = 16 << 20


def inspect(
    series: Series,
    *,
    lookback: int = 12,
    horizon: int = 12,
    batch_size: int = 64,
    full: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Describe a series.

    Parameters
    ----------
    series : Series
    lookback, horizon, batch_size : int
        Of the batch to describe.
    full : bool
        Read all values instead of a sample.
    progress : callable, optional
        Called with bytes done and bytes in total.

    Returns
    -------
    dict
        ``name``, ``tier``, ``steps``, ``nodes``, ``space`` (sizes of the space axes), ``features``, ``labelled``
        (whether nodes have labels), ``segments``, ``entities``, ``edges`` (None without a graph), ``full``.

        ``time``: None, or ``first``, ``last``, ``step_seconds`` (median), ``gaps`` (jumps in time), ``longest`` (the
        longest gaps, from and to), ``calendar`` (time zone of clock features, or calendar of the dates).

        ``variables``, each with ``name``, ``source``, ``axes``, ``shape``, ``dtype``, ``chunks``, ``shards``,
        ``codecs``, ``raw_bytes`` (decoded), ``stored_bytes`` (None if only the store knows) and ``values``: for each
        ``feature`` the ``rows`` that were read, the shares of ``missing`` values and of ``zeros``, and ``low``,
        ``high`` and ``mean`` of values that are not missing.

        Of the batch: ``windows`` (in the series), ``lookback``, ``horizon``, ``batch_size``, the shapes ``inputs`` and
        ``targets``, ``batch_bytes``. And ``advice``: sentences.

    Examples
    --------
    >>> import windowloader as wl
    >>> found = inspect(wl.Series(np.arange(200.0).reshape(100, 2), timestamps=("2012-03-01", "5min")))
    >>> found["windows"], found["inputs"], found["time"]["step_seconds"]
    (77, (64, 12, 2, 1), 300.0)
    """
    ranges = [_sample(variable, full) for variable in series.variables]
    read = sum(v.row_bytes * sum(map(len, rows)) for v, rows in zip(series.variables, ranges, strict=True))
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        progress(done, read)

    variables = [_variable(v, rows, advance) for v, rows in zip(series.variables, ranges, strict=True)]
    features, span = len(series.features), lookback + horizon
    return {
        "name": series.name,
        "tier": series.tier,
        "steps": series.num_steps,
        "nodes": series.num_nodes,
        "space": series.space_shape,
        "features": series.features,
        "labelled": series.nodes is not None,
        "time": None if series.clock is None or series.num_steps < 2 else _time(series.clock, series),
        "segments": max(len(series.borders) - 1, 0),
        "entities": 0 if series.entity_borders is None else len(series.entity_borders) - 1,
        "edges": None if series.graph is None else int(series.graph.edge_index.shape[1]),
        "full": full,
        "variables": tuple(variables),
        "windows": int(np.maximum(np.diff(series.borders) - span + 1, 0).sum()),
        "lookback": lookback,
        "horizon": horizon,
        "batch_size": batch_size,
        "inputs": (batch_size, lookback, series.num_nodes, features),
        "targets": (batch_size, horizon, series.num_nodes, features),
        "batch_bytes": 4 * batch_size * span * series.num_nodes * features,
        "advice": tuple(_advice(series, variables, span)),
    }


def _sample(variable: Variable, full: bool) -> list[range]:
    """Choose the rows to read: all, or ranges at equal distances."""
    rows, size = variable.num_rows, max(variable.row_bytes, 1)
    length = max(1, PIECE_BYTES // size)
    if full or rows * size <= SAMPLE_BYTES:
        return [range(start, min(start + length, rows)) for start in range(0, rows, length)]
    count = max(1, min(SAMPLES, SAMPLE_BYTES // size))
    length = max(1, SAMPLE_BYTES // size // count)
    starts = np.unique(np.linspace(0, rows - length, count).astype(np.int64))
    return [range(start, start + length) for start in starts.tolist()]


def _variable(variable: Variable, ranges: list[range], advance: Callable[[int], object]) -> dict[str, Any]:
    source, first = variable.source, variable.source.origins[0]
    stored = [origin.stored_bytes() for origin in source.origins]
    return {
        "name": variable.name,
        "source": source.name,
        "axes": source.axes,
        "shape": tuple(source.shape),
        "dtype": variable.dtype.name,
        "chunks": first.chunks,
        "shards": first.shards,
        "codecs": tuple(first.codecs()),
        "raw_bytes": math.prod(source.shape) * variable.dtype.itemsize,
        "stored_bytes": None if None in stored else sum(size or 0 for size in stored),
        "values": tuple(_values(variable, ranges, advance)),
    }


def _values(
    variable: Variable, ranges: list[range], advance: Callable[[int], object]
) -> Iterator[dict[str, Any]]:
    mark = sentinel(variable.missing, variable.dtype)
    count = variable.num_features
    missing, zeros, total = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
    low, high = np.full((2, count), np.nan)
    done = 0
    for rows in ranges:
        piece = np.empty((len(rows), variable.num_nodes, count), variable.dtype)
        if variable.has_time:
            variable.read(rows.start, rows.stop, piece)
        else:
            piece[:] = variable.view()
        values = piece.astype(np.float64)
        if mark is not None:
            values[piece == mark[0]] = np.nan
        missing += np.isnan(values).sum((0, 1))
        zeros += (values == 0).sum((0, 1))
        total += np.nansum(values, (0, 1))
        low = np.fmin(low, np.fmin.reduce(values, (0, 1), initial=np.nan))
        high = np.fmax(high, np.fmax.reduce(values, (0, 1), initial=np.nan))
        done += len(rows)
        advance(len(rows) * variable.row_bytes)
    cells = done * variable.num_nodes
    for place, feature in enumerate(variable.features):
        present = cells - int(missing[place])
        yield {
            "feature": feature,
            "rows": done,
            "missing": int(missing[place]) / max(cells, 1),
            "zeros": int(zeros[place]) / max(cells, 1),
            "low": float(low[place]),
            "high": float(high[place]),
            "mean": float(total[place]) / present if present else math.nan,
        }


def _time(clock: Clock, series: Series) -> dict[str, Any]:
    whole = series.entity_borders if series.entity_borders is not None else np.array([0, series.num_steps])
    jumps = clock.jumps(whole)
    after, before = clock.nanoseconds(jumps), clock.nanoseconds(jumps - 1)
    longest = jumps[np.argsort(before - after, kind="stable")[:SHOWN_GAPS]]
    first, last = clock.texts([0, series.num_steps - 1])
    steps = np.diff(clock.nanoseconds(np.arange(min(series.num_steps, 1 << 16))))
    return {
        "first": first,
        "last": last,
        "step_seconds": float(np.median(steps)) / 1e9,
        "gaps": len(jumps),
        "longest": tuple(tuple(clock.texts([row - 1, row])) for row in np.sort(longest)),
        "calendar": clock.calendar,
    }


def _advice(series: Series, reports: list[dict[str, Any]], span: int) -> Iterator[str]:
    """Point out what a newcomer should know."""
    if series.clock is None:
        yield "no timestamps; --start 2012-03-01 --freq 5min would give time of day, dates and gaps"
    for variable, report in zip(series.variables, reports, strict=True):
        for values in report["values"] if variable.missing is None else ():
            feature, zeros = values["feature"], values["zeros"]
            if values["missing"]:
                yield f"{feature} holds NaN; declare it with --missing nan"
            elif 0.01 < zeros < 0.5 and values["low"] == 0 and values["mean"] > 10:
                yield f"{zeros:.1%} of {feature} is 0; if 0 means missing, declare it with --missing 0"
        rows = report["chunks"][0] if report["chunks"] else report["shape"][0]
        if rows < min(4 * span, report["shape"][0]):
            better = f"windows of {span} rows read best from {4 * span} or more (windowloader convert)"
            yield f"chunks of {report['name']} have {rows} rows; {better}"
        elif report["chunks"] and rows * variable.row_bytes > 256 << 20:
            size = format_bytes(rows * variable.row_bytes)
            yield f"a row of chunks of {report['name']} takes {size}; shuffling needs several (windowloader convert)"
