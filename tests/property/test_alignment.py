"""Alignment by labels and times against pandas' reindex, for every way to hand in what goes along with a series."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import GraphError, SeriesError, SourceFormatError

NODES = {
    "text": ["a", "b", "c", "d", "e", "f"],
    "numbers": [401, 9, 77, 5, 1000000, 12],
    "zeros": ["0042", "42", "007", "7", "x", "70"],
    "latitudes": [60.1, 59.85, 50.0, 49.75, -3.3, 0.0],
}
FORMS = ["frame", "csv", "parquet", "xarray", "netcdf", "zarr"]
STATIC_FORMS = ["frame", "column", "csv", "csv column", "parquet", "xarray", "netcdf"]


def loaded(series: wl.Series, *names: str) -> np.ndarray:
    """All rows by a loader: [time, node, feature]."""
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0, inputs=list(names)))
    with wl.WindowLoader(windows, batch_size=7, dtype="float64") as loader:
        return np.concatenate([np.array(batch.inputs)[:, 0] for batch in loader])


def written(frame: pd.DataFrame, form: str, folder: Path, *, name: str = "w") -> Any:
    """Hand in a table [time, node] in some form."""
    path = folder / f"{name}.{form}"
    if form == "frame":
        return frame
    if form == "csv":
        frame.to_csv(path, index_label="time")
        return str(path)
    if form == "parquet":
        frame.set_axis(frame.columns.astype(str), axis=1).to_parquet(path)
        return str(path)
    array = xr.DataArray(
        frame,
        {"time": frame.index, "node": frame.columns.tolist()},
        ("time", "node"),
        name=name.split("_")[0],
    )
    return _stored(array.T if name == "turned" else array, form, path)


def _stored(array: xr.DataArray, form: str, path: Path) -> Any:
    if form == "netcdf":
        array.to_netcdf(path.with_suffix(".nc"))
        return str(path.with_suffix(".nc"))
    if form == "zarr":
        array.to_dataset().to_zarr(path, consolidated=False, zarr_format=2)
        return str(path)
    return array


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A series, and a table that has its nodes and times among others, its nodes in another order."""
    kind = draw(st.sampled_from(sorted(NODES)))
    order = draw(st.permutations(NODES[kind]))
    nodes = order[: draw(st.integers(2, 6))]
    wide = draw(st.permutations([*nodes, *order[len(nodes) :][: draw(st.integers(0, 2))]]))
    before, steps, after = draw(st.integers(0, 4)), draw(st.integers(5, 12)), draw(st.integers(0, 3))
    times = pd.date_range("2019-12-31 21:00", periods=before + steps + after, freq="h")
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(len(times), len(wide)))
    table = pd.DataFrame(values, times, list(wide))
    own = pd.DataFrame(
        np.arange(float(steps * len(nodes))).reshape(steps, -1), times[before : before + steps], nodes
    )
    return own, table


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8, deadline=None)
@given(
    case=tables(),
    own_form=st.sampled_from(["frame", "csv", "xarray"]),
    turned=st.booleans(),
    joined=st.booleans(),
)
def test_tables_of_time_and_nodes(
    form: str, case: tuple[pd.DataFrame, pd.DataFrame], own_form: str, turned: bool, joined: bool
) -> None:
    own, table = case
    expected = table.reindex(index=own.index, columns=own.columns).to_numpy()
    with tempfile.TemporaryDirectory() as folder:
        other = written(table, form, Path(folder), name="turned" if turned else "w")
        first = written(own, own_form, Path(folder), name="own")
        if joined:  # a variable of the series' own
            series, names = wl.open({"own": first, "w": other}), ("own", "w")
        else:
            series, names = (
                wl.open(first, variables="own" if own_form == "xarray" else None, covariates={"w": other}),
                None,
            )
            names = (*series.features, "w")
        assert series.num_steps == len(own)
        part = series.select(time=slice(1, 4), nodes=[1, 0])
        for found in (series, pickle.loads(pickle.dumps(series))):
            values = loaded(found, *names)
            np.testing.assert_array_equal(values[..., 0], own)
            np.testing.assert_array_equal(values[..., 1], expected)
        np.testing.assert_array_equal(loaded(part, "w")[..., 0], expected[1:4][:, [1, 0]])


@settings(max_examples=8, deadline=None)
@given(case=tables(), features=st.integers(1, 3), order=st.permutations(["time", "node", "feature"]))
def test_covariates_with_several_features(
    case: tuple[pd.DataFrame, pd.DataFrame], features: int, order: list[str]
) -> None:
    own, table = case
    values = np.stack([table.to_numpy() + 100 * number for number in range(features)], axis=-1)
    coords = {"time": table.index, "node": table.columns.tolist()}
    array = xr.DataArray(values, coords, ("time", "node", "feature")).transpose(*order)
    weather = array.isel(node=0, drop=True)
    series = wl.open(own, covariates={"w": array, "weather": weather})
    expected = array.transpose("time", "node", "feature").reindex(time=own.index, node=own.columns.tolist())
    np.testing.assert_array_equal(loaded(series, "w"), expected)
    shared = table.iloc[:, 0].reindex(own.index).to_numpy()[:, None, None] + 100 * np.arange(features)
    np.testing.assert_array_equal(
        loaded(series, "weather"), np.broadcast_to(shared, (len(own), own.shape[1], features))
    )


@pytest.mark.parametrize("form", STATIC_FORMS)
@settings(max_examples=8, deadline=None)
@given(case=tables(), features=st.integers(1, 3))
def test_tables_of_nodes(form: str, case: tuple[pd.DataFrame, pd.DataFrame], features: int) -> None:
    own, table = case
    frame = pd.DataFrame({f"x{i}": table.iloc[0] + 100 * i for i in range(features)})
    expected = frame.reindex(own.columns).to_numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / form
        given_ = frame
        if form == "column":
            given_, expected = frame["x0"], expected[:, :1]
        elif form.startswith("csv"):
            path = path.with_suffix(".csv")
            kept = frame if form == "csv" else frame.rename_axis("id").reset_index()
            kept.to_csv(path, index=form == "csv", index_label="sensor" if form == "csv" else None)
            given_ = str(path)
        elif form == "parquet":
            frame.to_parquet(path.with_suffix(".parquet"))
            given_ = str(path.with_suffix(".parquet"))
        elif form in ("xarray", "netcdf"):
            array = xr.DataArray(frame, {"node": frame.index.tolist()}, ("node", "feature"), name="s")
            given_ = (_stored(array, form, path), "nf")
        ids = set(map(str, frame.index))
        if form.startswith("csv") and ({"0042", "42"} <= ids or {"007", "7"} <= ids):
            return  # pandas reads both of a file as one number
        series = wl.open(own, covariates={"s": given_})
        assert not series.variables[1].has_time
        np.testing.assert_array_equal(
            loaded(series, "s"), np.broadcast_to(expected, (len(own), *expected.shape))
        )


@pytest.mark.parametrize("form", ["frame", "csv", "xarray"])
@settings(max_examples=8, deadline=None)
@given(case=tables(), what=st.sampled_from(["late", "early", "shifted", "step", "hole", "reversed", "label"]))
def test_missing_labels_are_listed(form: str, case: tuple[pd.DataFrame, pd.DataFrame], what: str) -> None:
    own, table = case
    first, last = own.index[0], own.index[-1]
    wrong = {
        "late": lambda: table[table.index > first],
        "early": lambda: table[table.index < last],
        "shifted": lambda: table.set_axis(table.index + pd.Timedelta("7min")),
        "step": lambda: table.resample("30min").ffill(),
        "hole": lambda: table.drop(own.index[2]),
        "reversed": lambda: table[::-1],
        "label": lambda: table.drop(columns=own.columns[1]),
    }[what]()
    gone = {"late": first, "early": last, "shifted": first, "hole": own.index[2]}.get(what)
    message = (
        f"only in the series: '{own.columns[1]}".rstrip("0").rstrip(".")
        if what == "label"
        else "disagree on time.*reindex"
        if gone is None
        else f"the first {gone.isoformat()}".removesuffix(":00").removesuffix("T00:00")
    )
    with tempfile.TemporaryDirectory() as folder:
        other = written(wrong, form, Path(folder))
        for target, covariates in ((own, {"w": other}), ({"own": own, "w": other}, {})):
            with pytest.raises(SeriesError, match=message):
                wl.open(target, covariates=covariates)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_grids_are_aligned_by_each_axis(data: st.DataObject) -> None:
    latitude, longitude = [60.0, 55.5, 50.25], [-10.0, 0.0, 5.1, 10.0]
    own = xr.DataArray(
        np.arange(60.0).reshape(5, 3, 4),
        {"time": pd.date_range("2000", periods=5, freq="6h"), "latitude": latitude, "longitude": longitude},
        ("time", "latitude", "longitude"),
        name="t",
    )
    wide = own.reindex(
        latitude=data.draw(st.permutations([*latitude, 47.0][: data.draw(st.integers(3, 4))])),
        longitude=data.draw(st.permutations([*longitude, 11.0, 12.0][: data.draw(st.integers(4, 6))])),
        fill_value=-1.0,
    )
    axes = data.draw(st.sampled_from([own.dims, (*own.dims[1:], "time")]))
    turned = data.draw(st.sampled_from([slice(None), slice(None, None, -1)]))
    height = (wide.isel(time=0, drop=True) + 0.5)[turned, ::-1]
    series = wl.open(own, covariates={"u": wide.transpose(*axes), "height": (height, "nn")})
    assert series.space_shape == (3, 4)
    np.testing.assert_array_equal(loaded(series, "u").reshape(own.shape), own)
    np.testing.assert_array_equal(loaded(series, "height")[3].reshape(3, 4), own[0] + 0.5)
    both = wl.open({"t": own, "u": wide})
    np.testing.assert_array_equal(*np.moveaxis(loaded(both, "t", "u"), -1, 0))
    with pytest.raises(SeriesError, match="Labels must be equal"):
        wl.open(own, covariates={"u": wide.assign_coords(latitude=wide.latitude + 1e-7)})


@pytest.mark.parametrize("form", ["matrix", "matrix csv", "xarray", "edges", "edges csv", "pickle"])
@settings(max_examples=8, deadline=None)
@given(case=tables(), data=st.data())
def test_graphs(form: str, case: tuple[pd.DataFrame, pd.DataFrame], data: st.DataObject) -> None:
    own, table = case
    if own.columns.dtype.kind == "f":
        return  # positions, not names of nodes
    rows = list(table.columns)
    columns = rows if form == "pickle" else data.draw(st.permutations(rows))
    dense = np.where(np.random.default_rng(len(rows)).random((len(rows), len(rows))) < 0.5, 0, 2.5)
    matrix = pd.DataFrame(dense + 0.25 * np.eye(len(rows)), rows, columns)
    expected = matrix.reindex(index=own.columns, columns=own.columns).to_numpy()
    edges = (
        matrix.rename_axis("from")
        .reset_index()
        .melt("from", var_name="to", value_name="cost")
        .query("cost > 0")
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.csv"
        graph: Any = {"matrix": matrix, "edges": edges, "xarray": xr.DataArray(matrix, dims=("i", "j"))}.get(
            form, path
        )
        if form == "matrix csv":
            matrix.to_csv(path)
        elif form == "edges csv":
            edges.sample(frac=1, random_state=0).to_csv(path, index=False)
        elif form == "pickle":
            graph = path.with_suffix(".pkl")
            ids = [str(label) for label in rows]
            content = [ids, {label: place for place, label in enumerate(ids)}, matrix.to_numpy()]
            graph.write_bytes(pickle.dumps(content))
        if form.startswith("edges") and own.columns.dtype.kind == "i" and set(own.columns) != set(rows):
            graph = (
                wl.Graph.load(path, ends="labels") if form == "edges csv" else graph
            )  # else numbers, perhaps
            if form == "edges":
                return
        series = wl.open(own, graph=graph)
        np.testing.assert_array_equal(series.graph.dense(), expected)  # type: ignore[union-attr]
        if form in ("matrix", "matrix csv", "pickle"):
            with pytest.raises(GraphError, match="only in the array: 'gone'"):
                wl.open(own.set_axis([*own.columns[1:], "gone"], axis=1), graph=graph)


@pytest.mark.parametrize("form", ["frame", "csv", "parquet", "netcdf", "pattern"])
@settings(max_examples=8, deadline=None)
@given(case=tables(), data=st.data())
def test_parts_join_by_their_times(
    form: str, case: tuple[pd.DataFrame, pd.DataFrame], data: st.DataObject
) -> None:
    """Out of order, with gaps, columns in any order, more of them after the first."""
    own, table = case
    own = table.reindex(index=own.index, columns=own.columns)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(own) - 1), min_size=1, max_size=3)))
    gap = pd.Timedelta(data.draw(st.sampled_from(["0h", "3h"])))
    parts = []
    for number, rows in enumerate(np.split(np.arange(len(own)), cuts)):
        columns = list(own.columns) if number == 0 else data.draw(st.permutations(table.columns.tolist()))
        times = own.index[rows] + number * gap
        parts.append(table.reindex(index=own.index[rows], columns=columns).set_axis(times))
    order = data.draw(st.permutations(range(len(parts))))
    with tempfile.TemporaryDirectory() as folder:
        kind = "csv" if form == "pattern" else form
        files = [
            written(parts[place], kind, Path(folder), name=f"part_{9 + number}")
            for number, place in enumerate(order)
        ]
        target = f"{folder}/part_*.csv" if form == "pattern" else files
        series = wl.open(target)
        times = series.clock.timestamps(np.arange(series.num_steps))  # type: ignore[union-attr]
        np.testing.assert_array_equal(times, np.concatenate([part.index for part in parts]))
        np.testing.assert_array_equal(loaded(series, *series.features)[..., 0], own)
        if gap:
            with pytest.raises(SeriesError, match=r"begins at .* before it ends at"):
                wl.open([*files, written(parts[0][-1:], kind, Path(folder), name="part_99")])


def test_a_part_that_lacks_a_label_is_named() -> None:
    frame = pd.DataFrame(np.zeros((4, 3)), pd.date_range("2000", periods=4, freq="h"), list("abc"))
    with pytest.raises(SourceFormatError, match="lacks 1 of the 3 labels .*joined along time: .*: 'b'"):
        wl.open([frame[:2], frame[2:][["a", "c"]]])
