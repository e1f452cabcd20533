"""The report of a conversion: arrays, errors, bytes, and notes on opening the result.

In: finished work. Out: `Conversion`, also as JSON.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.util.calendars import own

from .values import Loss

if TYPE_CHECKING:
    from windowloader.series.series import Series

    from .work import Work

__all__ = ["ArrayReport", "Conversion", "report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayReport:
    """One array that was made.

    Attributes
    ----------
    name : str
    dims : tuple of str
    shape : tuple of int
    dtype : str
    chunks : tuple of int
    shards : tuple of int or None
    access_cost : dict or None
        Cost of the chunks by the model that chose them: see `windowloader.convert.layout`.
    raw_bytes, stored_bytes : int
        Size before compression, and as stored.
    missing : int
        Number of missing values.
    largest_error, rms_error : float
        Error of stored values against the source.
    scale, offset : float or None
        Of packed values.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    access_cost: dict[str, float] | None
    raw_bytes: int
    stored_bytes: int
    missing: int
    largest_error: float
    rms_error: float
    scale: float | None
    offset: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What `convert` made.

    Attributes
    ----------
    path : str
    checksum : str
        Digest of layout and values; does not depend on interruptions, memory or threads.
    arrays : tuple of ArrayReport
    seconds : float
        Time in this process.
    resumed_bytes : int
        Written by earlier processes.
    read_amplification : float
        Bytes taken from the source, divided by the bytes of the rows that were read.
    notes : tuple of str
        Hints for opening the result.
    """

    path: str
    checksum: str
    arrays: tuple[ArrayReport, ...]
    seconds: float
    resumed_bytes: int
    read_amplification: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def report(name: str, series: Series, work: Work, head: str, began: float) -> Conversion:
    """Build the report of a conversion."""
    arrays = tuple(_array_report(work, number) for number in range(len(work.targets)))
    return Conversion(
        path=name,
        checksum=work.checksum(head),
        arrays=arrays,
        seconds=time.perf_counter() - began,
        resumed_bytes=work.resumed,
        read_amplification=work.amplification,
        notes=tuple(_notes(name, series, work)),
    )


def _array_report(work: Work, number: int) -> ArrayReport:
    target, done = work.targets[number], work.of(number)
    encoding, cost = target.encoding, target.layout.cost
    loss = reduce(Loss.joined, (piece.loss for piece in done))
    return ArrayReport(
        **target.describe(),
        access_cost=None if cost is None else {**cost._asdict(), "total": cost.total},
        raw_bytes=target.shape[0] * target.row_bytes,
        stored_bytes=sum(piece.stored for piece in done),
        missing=loss.missing,
        largest_error=loss.largest,
        rms_error=loss.rms,
        scale=encoding.scale,
        offset=None if encoding.scale is None else encoding.offset,
    )


def _notes(name: str, series: Series, work: Work) -> list[str]:
    """Return hints for opening the result."""
    notes = []
    if name.endswith(".npy"):
        if series.clock is not None:
            notes.append(f"a .npy file has no timestamps; open it with timestamps={_stamps(series)}")
        several = "t" + "n" * (len(work.targets[0].shape) - 2) + "f"
        letters = several if len(series.variables) > 1 else series.variables[0].source.axes
        if letters not in ("t", "tn", "tnf"):
            notes.append(f"open it with axes={letters!r}")
        if len(series.features) > 1:
            notes.append(f"open it with features={list(series.features)}")
        if series.nodes is not None:
            notes.append("labels of nodes are not in a .npy file; pass nodes=")
    if series.clock is not None and series.clock.calendar and not own(series.clock.calendar):
        notes.append(f"the time zone {series.clock.calendar} is not kept: clocks of the result are of UTC")
    marks = {v.missing for v in series.variables if v.missing is not None}
    if any(target.encoding.scale is not None for target in work.targets):
        notes += ["missing values are NaN now; open it with missing=nan"] if marks else []
    elif marks:
        notes.append(f"what marks a missing value is as before; open it with missing={marks.pop():g}")
    if series.graph is not None:
        notes.append("the graph is not part of the store; pass graph= again")
    if (again := work.amplification) > 1.2:
        notes.append(
            f"each byte of the source was decoded {again:.1f} times: its chunks are longer than the pieces that memory "
            "allows. More memory= would be quicker"
        )
    return notes


def _stamps(series: Series) -> str:
    clock = series.clock
    assert clock is not None
    if len(clock.rows) == 1 and clock.num_steps > 1:
        first, second = clock.timestamps([0, 1])
        seconds = (second - first) / np.timedelta64(1, "s")
        return f"('{np.datetime_as_string(first, unit='s')}', '{seconds:g}s')"
    return "…, one a row, which are not regular"
