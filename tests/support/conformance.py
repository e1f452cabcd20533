"""What a file holds by xarray's or pandas' own reading, held to what a loader delivers; and the places of files.

In: a target, and an `xarray.DataArray` or a `pandas.DataFrame` that the library itself has read from a local copy.
Out: nothing, or an `AssertionError`. Speaks to public names of the package only.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import uuid
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd

import windowloader as wl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import xarray as xr

LOOKBACK, HORIZON = 2, 1
SPAN = LOOKBACK + HORIZON


@dataclass(frozen=True)
class Expected:
    """What a series must hold.

    Parameters
    ----------
    values : ndarray, shape (time, node …, feature), float64
        Missing cells are NaN.
    features : tuple of str
    times : ndarray of datetime64[ns], list of ISO text (calendars of their own), or None
    nodes : ndarray, shape (node,), or None
        Labels, where there is one space axis.
    zone : str
        Name of the time zone whose hours the clocks show.
    """

    values: np.ndarray
    features: tuple[str, ...]
    times: Any = None
    nodes: Any = None
    zone: str = ""

    def __add__(self, other: Expected) -> Expected:
        """Join the features of two on one clock and one space."""
        values = np.concatenate([self.values, other.values], axis=-1)
        return Expected(values, self.features + other.features, self.times, self.nodes, self.zone)


def by_xarray(array: xr.DataArray, time: str, *, name: str | None = None) -> Expected:
    """Take what xarray decoded: `time` is the name of the dimension that is time."""
    array = array.transpose(time, ...)
    spaces = [str(dim) for dim in array.dims if dim != time]
    nodes = array[spaces[0]].values if len(spaces) == 1 and spaces[0] in array.coords else None
    values = np.asarray(array.values).astype(np.float64)[..., None]
    return Expected(values, (name or str(array.name),), _times_of(array, time), nodes)


def _times_of(array: xr.DataArray, time: str) -> Any:
    """Find the times of a dimension: its coordinate, else an auxiliary one of dates."""
    found = [array.coords[time]] if time in array.coords else []
    found += [one for name, one in array.coords.items() if one.dims == (time,) and name != time]
    for one in found:
        values = one.values
        if values.dtype.kind == "M":
            return values.astype("datetime64[ns]")
        if values.dtype.kind in "OUT" and len(values):
            if hasattr(values[0], "isoformat"):
                return [date.isoformat()[:19] for date in values]
            index = pd.to_datetime(pd.Index(np.asarray(values, object)))
            return index.tz_localize(None).to_numpy().astype("datetime64[ns]")
    return None


def by_pandas(frame: pd.DataFrame, name: str = "value") -> Expected:
    """Take a frame that pandas read: one row a time, one column a node."""
    times, zone = None, ""
    if isinstance(frame.index, pd.DatetimeIndex):
        if frame.index.tz is not None:
            zone = str(frame.index.tz)
            times = frame.index.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[ns]")
        else:
            times = frame.index.to_numpy().astype("datetime64[ns]")
    values = frame.to_numpy(np.float64, na_value=np.nan)[..., None]
    nodes = None if isinstance(frame.columns, pd.RangeIndex) else frame.columns.to_numpy()
    return Expected(values, (name,), times, nodes, "" if zone == "UTC" else zone)


@contextlib.contextmanager
def opened(target: Any, **options: Any) -> Iterator[wl.Series]:
    """Open a series; its files and connections are closed at the end."""
    series = wl.open(target, **options)
    try:
        yield series
    finally:
        for variable in series.variables:
            variable.source.close()


def holds(target: Any, expected: Expected, **options: Any) -> None:
    """Open a target, and hold its description and all windows of a shuffled epoch to what is expected."""
    rows = len(expected.values)
    if np.isnan(expected.values).any():
        options = {"missing": np.nan, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what was assumed is said elsewhere
        warnings.filterwarnings("ignore", "variable .* has multiple fill values")  # xarray's own word
        with opened(target, **{"segments": [0, rows], **options}) as series:
            described(series, expected)
            delivered(series, expected)


def described(series: wl.Series, expected: Expected) -> None:
    """Hold names, sizes, labels and times to what is expected."""
    rows, *space, _ = expected.values.shape
    assert (series.num_steps, series.space_shape) == (rows, tuple(space))
    assert series.features == expected.features
    if expected.nodes is not None:
        assert series.nodes is not None, "the labels of the nodes are lost"
        assert [_text(label) for label in series.nodes] == [_text(label) for label in expected.nodes]
    if expected.times is None:
        assert series.clock is None, f"times out of nothing: {series.clock}"
        return
    assert series.clock is not None, "the times are lost"
    if isinstance(expected.times, list):
        assert series.clock.texts(np.arange(rows)) == expected.times
        return
    np.testing.assert_array_equal(series.clock.timestamps(np.arange(rows)), expected.times)
    shown = pd.DatetimeIndex(expected.times)
    if expected.zone:
        shown = shown.tz_localize("UTC").tz_convert(expected.zone)
    hours = series.clock.values(["time_of_day"], np.arange(rows))[:, 0] * 24
    np.testing.assert_allclose(
        hours, shown.hour + shown.minute / 60 + shown.second / 3600 + shown.microsecond / 3.6e9, atol=1e-9
    )


def _text(label: Any) -> str:
    """Return a label as text: whole numbers are labels as they are, others as text."""
    if isinstance(label, bytes):
        return label.decode()
    if isinstance(label, (float, np.floating)):
        return str(int(label)) if float(label).is_integer() else str(label.item())
    return str(label)


def delivered(series: wl.Series, expected: Expected) -> None:
    """Hold all windows of a shuffled epoch, unscaled, to what is expected: equal to the bit, missing as NaN."""
    values = expected.values.reshape(len(expected.values), -1)
    masked = bool(np.isnan(values).any())
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=LOOKBACK, horizon=HORIZON))
    starts: list[int] = []
    fill = np.nan if masked else None
    how: dict[str, Any] = {"batch_size": max(3, len(values) // 16), "dtype": "float64", "fill": fill}
    with wl.WindowLoader(windows, shuffle=True, seed=1, **how) as loader:
        for batch in loader:
            rows = batch.starts[:, None] + np.arange(SPAN)
            for found, mask, wanted in (
                (batch.inputs, batch.input_mask, values[rows[:, :LOOKBACK]]),
                (batch.targets, batch.target_mask, values[rows[:, LOOKBACK:]]),
            ):
                flat = np.asarray(found).reshape(wanted.shape)
                np.testing.assert_array_equal(flat, wanted)
                if masked:
                    np.testing.assert_array_equal(np.asarray(mask).reshape(wanted.shape), ~np.isnan(wanted))
            starts += batch.starts.tolist()
    assert sorted(starts) == list(range(len(values) - SPAN + 1))


class Places:
    """Puts what lies on disk into a bucket, onto a web server, into memory; names are never used twice."""

    ALL = ("disk", "s3", "http", "memory")

    def __init__(self, put: Callable[[str, bytes], Any], endpoint: str, static: Any) -> None:
        self.upload, self.endpoint, self.static = put, endpoint, static
        self.numbers = (uuid.uuid4().hex for _ in itertools.count())  # servers outlive the tests of a module

    def put(self, where: str, path: Path) -> tuple[str, dict[str, Any]]:
        """Copy a file or folder to a place; returns its name there and the options it is opened with."""
        if where == "disk":
            return str(path), {}
        name = f"conformance/{next(self.numbers)}/{path.name}"
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        for one in files:
            key = name if one == path else f"{name}/{one.relative_to(path)}"
            if where == "s3":
                self.upload(key, one.read_bytes())
            elif where == "http":
                copy = self.static.folder / "bkt" / key
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(one, copy)
            else:
                fsspec.filesystem("memory").pipe(f"/{key}", one.read_bytes())
        if where == "s3":
            login = {"endpoint_url": self.endpoint, "key": "k", "secret": "s"}
            return f"s3://bkt/{name}", {"storage_options": login}
        return (f"{self.static.url}/bkt/{name}" if where == "http" else f"memory://{name}"), {}

    def clear(self) -> None:
        """Remove what was put into memory and onto the web server."""
        fsspec.filesystem("memory").store.clear()
        shutil.rmtree(self.static.folder / "bkt" / "conformance", ignore_errors=True)


def every(examples: int, campaign: int) -> int:
    """Return how many examples a test takes: more with ``EVERY=1``."""
    return campaign if "EVERY" in os.environ else examples
