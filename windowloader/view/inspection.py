"""What is in a file, as one needs to know it before training.

In: a `Series`. Out: `Inspection`: form, storage, time, gaps, missing values, a batch. Reads a sample,
or all where asked.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.units import format_bytes

from .looking import ValueReport, look, places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from windowloader.series.clock import Clock
    from windowloader.series.series import Series
    from windowloader.series.variable import Variable

    Progress = Callable[[int, int], object]

__all__ = ["Inspection", "TimeReport", "ValueReport", "VariableReport", "inspect"]

SHOWN_GAPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableReport:
    """One array as it is stored.

    Attributes
    ----------
    name, axes, dtype, source : str
        Axes with the rows first.
    shape : tuple of int
    chunks, shards : tuple of int or None
    codecs : tuple of str
        How chunks are encoded, where the file says.
    raw_bytes : int
        As delivered.
    stored_bytes : int or None
        On disk; None where only the storage knows.
    values : tuple of ValueReport
    """

    name: str
    source: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None
    shards: tuple[int, ...] | None
    codecs: tuple[str, ...]
    raw_bytes: int
    stored_bytes: int | None
    values: tuple[ValueReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeReport:
    """When rows are.

    Attributes
    ----------
    first, last : str
    step_seconds : float
        Commonest step.
    gaps : int
        Places where time jumps.
    longest : tuple of (str, str)
        The longest ones, from and to.
    calendar : str
        Time zone of the clock features (times are UTC), or calendar of the dates; empty: UTC.
    """

    first: str
    last: str
    step_seconds: float
    gaps: int
    longest: tuple[tuple[str, str], ...]
    calendar: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What `inspect` found.

    Attributes
    ----------
    name, tier : str
    steps, nodes : int
    space : tuple of int
    features : tuple of str
    labelled : bool
        Whether nodes have labels.
    time : TimeReport or None
    segments, entities : int
    edges : int or None
        Of the graph.
    full : bool
        Whether all values were looked at.
    variables : tuple of VariableReport
    windows : int
        Of ``lookback`` and ``horizon`` rows.
    lookback, horizon, batch_size : int
    inputs, targets : tuple of int
        Shape of a batch.
    batch_bytes : int
    advice : tuple of str
    """

    name: str
    tier: str
    steps: int
    nodes: int
    space: tuple[int, ...]
    features: tuple[str, ...]
    labelled: bool
    time: TimeReport | None
    segments: int
    entities: int
    edges: int | None
    full: bool
    variables: tuple[VariableReport, ...]
    windows: int
    lookback: int
    horizon: int
    batch_size: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    batch_bytes: int
    advice: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def inspect(
    series: Series,
    *,
    lookback: int = 12,
    horizon: int = 12,
    batch_size: int = 64,
    full: bool = False,
    progress: Progress | None = None,
) -> Inspection:
    """Look at a series.

    Parameters
    ----------
    series : Series
    lookback, horizon, batch_size : int
        Of the batch that is described.
    full : bool
        Look at all values, not a sample.
    progress : callable, optional
        Called with bytes done and bytes in all.

    Returns
    -------
    Inspection

    Examples
    --------
    >>> import windowloader as wl
    >>> found = inspect(wl.Series(np.arange(200.0).reshape(100, 2), timestamps=("2012-03-01", "5min")))
    >>> found.windows, found.inputs, found.variables[0].values[0].high, found.time.step_seconds
    (77, (64, 12, 2, 1), 199.0, 300.0)
    """
    total = sum(sum(stop - start for start, stop in places(v, full)) * v.row_bytes for v in series.variables)
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    variables = tuple(_variable(variable, full, advance) for variable in series.variables)
    features = len(series.features)
    span = lookback + horizon
    runs = np.diff(series.borders)
    return Inspection(
        name=series.name,
        tier=series.tier,
        steps=series.num_steps,
        nodes=series.num_nodes,
        space=series.space_shape,
        features=series.features,
        labelled=series.nodes is not None,
        time=None if series.clock is None or series.num_steps < 2 else _time(series.clock, series),
        segments=max(len(series.borders) - 1, 0),
        entities=0 if series.entity_borders is None else len(series.entity_borders) - 1,
        edges=None if series.graph is None else int(series.graph.edge_index.shape[1]),
        full=full,
        variables=variables,
        windows=int(np.maximum(runs - span + 1, 0).sum()),
        lookback=lookback,
        horizon=horizon,
        batch_size=batch_size,
        inputs=(batch_size, lookback, series.num_nodes, features),
        targets=(batch_size, horizon, series.num_nodes, features),
        batch_bytes=4 * batch_size * span * series.num_nodes * features,
        advice=tuple(_advice(series, variables, span)),
    )


def _variable(variable: Variable, full: bool, advance: Callable[[int], object]) -> VariableReport:
    source, first = variable.source, variable.source.origins[0]
    stored = [origin.stored_bytes() for origin in source.origins]
    return VariableReport(
        name=variable.name,
        source=source.name,
        axes=source.axes,
        shape=tuple(source.shape),
        dtype=variable.dtype.name,
        chunks=first.chunks,
        shards=first.shards,
        codecs=tuple(first.codecs()),
        raw_bytes=math.prod(source.shape) * variable.dtype.itemsize,
        stored_bytes=None if None in stored else sum(size or 0 for size in stored),
        values=tuple(look(variable, full, advance)),
    )


def _time(clock: Clock, series: Series) -> TimeReport:
    whole = series.entity_borders if series.entity_borders is not None else np.array([0, series.num_steps])
    jumps = clock.jumps(whole)
    after, before = clock.nanoseconds(jumps), clock.nanoseconds(jumps - 1)
    longest = jumps[np.argsort(before - after, kind="stable")[:SHOWN_GAPS]]
    first, last = clock.texts([0, series.num_steps - 1])
    lengths = np.diff(np.append(clock.rows, series.num_steps))
    step = int(clock.steps[np.argmax(lengths)] if lengths.max() > 2 else np.median(clock.steps))
    return TimeReport(
        first=first,
        last=last,
        step_seconds=step / 1e9,
        gaps=len(jumps),
        longest=tuple(
            (before, after) for row in np.sort(longest) for before, after in [clock.texts([row - 1, row])]
        ),
        calendar=clock.calendar,
    )


def _advice(series: Series, variables: tuple[VariableReport, ...], span: int) -> Iterator[str]:
    """Say what a newcomer would want to be told."""
    if series.clock is None:
        yield "no timestamps: with --start 2012-03-01 --freq 5min there would be time of day, dates and gaps"
    for variable, report in zip(series.variables, variables, strict=True):
        for values in report.values:
            if variable.missing is None and values.missing:
                yield f"{values.feature} holds NaN: say --missing nan"
            elif (
                variable.missing is None
                and 0.01 < values.zeros < 0.5
                and values.low == 0
                and values.mean > 10
            ):
                yield f"{values.zeros:.1%} of {values.feature} is 0: does 0 stand for missing? Then say --missing 0"
        rows = None if report.chunks is None else report.chunks[0]
        if rows is not None and rows < min(4 * span, report.shape[0]):
            yield (
                f"chunks of {report.name} hold {rows} rows; windows of {span} read best from {4 * span} or more "
                "(windowloader convert)"
            )
        elif rows is not None and rows * variable.row_bytes > 256 << 20:
            size = format_bytes(rows * variable.row_bytes)
            yield f"a row of chunks of {report.name} is {size}: mixing takes many in memory (windowloader convert)"
