"""Tables of every format at every place: what a loader delivers is what pandas reads from a local copy."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from conformance import Places, by_pandas, every, holds
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FEW = settings(
    max_examples=every(1, 30),
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def frame_for(draw, *, zone=None, gaps=True) -> pd.DataFrame:
    """Draw a wide table: a row a time, a column a node."""
    rows, dtype = draw(st.integers(5, 9)), draw(st.sampled_from(["f4", "f8", "i8"]))
    names = draw(st.sampled_from([["b", "a", "é"], ["0042", "042", "7x"], ["400017", "400001", "773869"]]))
    freq, start = draw(
        st.sampled_from([("h", "2000-02-28T20:00"), ("5min", "2012-03-25T00:30"), ("D", "1999-12-30")])
    )
    values = np.random.default_rng(rows).integers(-400, 4000, (rows, len(names))) / (
        4 if dtype[0] == "f" else 1
    )
    values = values.astype(dtype)
    if gaps and dtype[0] == "f" and draw(st.booleans()):
        values[1::3, 1] = np.nan
    return pd.DataFrame(values, pd.date_range(start, periods=rows, freq=freq, tz=zone, name="time"), names)


# Each writes a drawn frame to a folder: the path, how pandas reads it, and the options that windowloader takes.


def csv(draw, folder, **more):
    path = folder / draw(st.sampled_from(["a.csv", "a.csv.gz", "a.txt"]))
    how = {"sep": draw(st.sampled_from([",", ";", "\t"])), **more}
    frame_for(draw).to_csv(path, **how)
    return path, lambda: pd.read_csv(path, index_col=0, parse_dates=True, **how), {}


def csv_decimal_comma(draw, folder):
    path, how = folder / "a.csv", {"sep": ";", "decimal": ","}
    frame_for(draw).to_csv(path, **how)
    return path, lambda: pd.read_csv(path, index_col=0, parse_dates=True, **how), how


def csv_missing_marks(draw, folder):
    path = folder / "a.csv"
    frame_for(draw).to_csv(path, na_rep="?")
    return (
        path,
        lambda: pd.read_csv(path, index_col=0, parse_dates=True, na_values=["?"]),
        {"na_values": ["?"]},
    )


def csv_encoded(draw, folder):
    path, encoding = folder / "a.csv", draw(st.sampled_from(["utf-8-sig", "utf-16", "latin-1"]))
    frame_for(draw).to_csv(path, encoding=encoding)
    return (
        path,
        lambda: pd.read_csv(path, index_col=0, parse_dates=True, encoding=encoding),
        {"encoding": encoding},
    )


def csv_utc(draw, folder):
    path = folder / "a.csv"
    frame = frame_for(draw, zone="UTC")
    frame.index = frame.index.strftime("%Y-%m-%dT%H:%M:%SZ").rename("time")
    frame.to_csv(path)
    return path, lambda: pd.read_csv(path, index_col=0, parse_dates=True), {}


def csv_day_first(draw, folder):
    path, form = folder / "a.csv", "%d/%m/%Y %H:%M"
    frame_for(draw).to_csv(path, date_format=form)
    return (
        path,
        lambda: pd.read_csv(path, index_col=0, parse_dates=True, date_format=form),
        {"time_format": form},
    )


def parquet(draw, folder):
    path = folder / "a.parquet"
    frame_for(draw).to_parquet(path, row_group_size=draw(st.integers(2, 9)))
    return path, lambda: pd.read_parquet(path), {}


def parquet_with_a_zone(draw, folder):
    path = folder / "a.parquet"
    frame_for(draw, zone=draw(st.sampled_from(["UTC", "Europe/Berlin", "America/Los_Angeles"]))).to_parquet(
        path
    )
    return path, lambda: pd.read_parquet(path), {}


def parquet_of_arrow(draw, folder):
    """Without pandas' own words on the index."""
    path, frame = folder / "a.parquet", frame_for(draw)
    table = pa.Table.from_pandas(frame.reset_index(), preserve_index=False).replace_schema_metadata(None)
    pa.parquet.write_table(table, path)
    return path, lambda: pd.read_parquet(path).set_index("time"), {}


def parquet_of_polars(draw, folder):
    polars = pytest.importorskip("polars")
    path, frame = folder / "a.parquet", frame_for(draw, gaps=False)
    polars.from_pandas(frame.reset_index()).write_parquet(path)
    return path, lambda: pd.read_parquet(path).set_index("time"), {}


def feather(draw, folder):
    path = folder / "a.feather"
    pa.feather.write_feather(frame_for(draw).reset_index(), path)
    return path, lambda: pd.read_feather(path).set_index("time"), {}


def hdf_fixed(draw, folder, form="fixed"):
    pytest.importorskip("tables", reason="frames of HDF5 are written by PyTables")
    path = folder / "a.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTables of names that are no identifiers
        frame_for(draw).to_hdf(path, key="df", format=form)
    return path, lambda: pd.read_hdf(path), {}


def hdf_table(draw, folder):
    return hdf_fixed(draw, folder, "table")


FORMATS = [
    csv, csv_decimal_comma, csv_missing_marks, csv_encoded, csv_utc, csv_day_first, parquet, parquet_with_a_zone,
    parquet_of_arrow, parquet_of_polars, feather, hdf_fixed, hdf_table,
]  # fmt: skip


CASES = [
    pytest.param(
        form,
        where,
        id=f"{form.__name__}-{where}",
        marks=[]
        if place in (0, 1 + number % 3)
        else [pytest.mark.campaign],  # on disk, and at another place in turn
    )
    for number, form in enumerate(FORMATS)
    for place, where in enumerate(Places.ALL)
]


@pytest.mark.parametrize(("form", "where"), CASES)
@FEW
@given(data=st.data())
def test_equals_pandas(places, form, where, data):
    folder = Path(tempfile.mkdtemp())
    try:
        path, read, options = form(data.draw, folder)
        target, more = places.put(where, path)
        holds(target, by_pandas(read()), **options, **more)
    finally:
        shutil.rmtree(folder)


def in_hand(frame):
    return frame


def arrow_table(frame):
    return pa.Table.from_pandas(frame)


def polars_frame(frame):
    polars = pytest.importorskip("polars")
    return polars.from_pandas(frame.reset_index())


def frame_of_arrow_types(frame):
    return frame.convert_dtypes(dtype_backend="pyarrow")


@pytest.mark.parametrize(
    "form", [in_hand, arrow_table, polars_frame, frame_of_arrow_types], ids=lambda form: form.__name__
)
@FEW
@given(data=st.data())
def test_a_frame_in_hand(form, data):
    frame = frame_for(data.draw, zone=data.draw(st.sampled_from([None, "Europe/Berlin"])))
    holds(form(frame), by_pandas(frame))


def test_a_folder_of_parquet_files(places, tmp_path):
    index = pd.date_range("2019-12-31T18:00", periods=12, freq="h", name="time")
    frame = pd.DataFrame({"a": np.arange(12.0), "b": np.arange(12.0) * 2}, index)
    table = pa.Table.from_pandas(frame.reset_index().assign(year=index.year), preserve_index=False)
    pa.parquet.write_to_dataset(table, tmp_path / "a", partition_cols=["year"])
    read = pd.read_parquet(tmp_path / "a").drop(columns="year").set_index("time")
    holds(tmp_path / "a", by_pandas(read), columns=["a", "b"])


def test_rows_of_readings(tmp_path):
    index = pd.date_range("2020-01-01", periods=9, freq="h", name="time")
    wide = pd.DataFrame(np.arange(18.0).reshape(9, 2), index, ["x", "y"])
    rows = pd.concat([wide.reset_index().assign(id=name) for name in ("b", "a")])
    rows.to_parquet(tmp_path / "a.parquet", index=False)
    right = by_pandas(pd.concat([wide, wide]))
    read = {"entity": "id", "time": "time", "variables": ["x", "y"], "segments": None}
    import windowloader as wl

    series = wl.open(tmp_path / "a.parquet", **read)
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=2, horizon=1))
    assert len(windows) == 2 * (9 - 2)
    with wl.WindowLoader(windows, batch_size=4, dtype="float64") as loader:
        for batch in loader:
            rows_ = batch.starts[:, None] + np.arange(2)
            np.testing.assert_array_equal(batch.inputs.reshape(*rows_.shape, 2), right.values[rows_][..., 0])
