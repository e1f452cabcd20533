"""Opening real files of every kind the series room joins, labels or aligns."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import windowloader as wl
from windowloader.errors import SeriesError, SourceError, SourceFormatError, SourceNotFoundError

if TYPE_CHECKING:
    from pathlib import Path


def read(series: wl.Series, place: int = 0) -> np.ndarray:
    variable = series.variables[place]
    out = np.empty((variable.num_rows, variable.num_nodes, variable.num_features), variable.dtype)
    variable.read(0, variable.num_rows, out)
    return out


def test_a_week_of_metr_la_with_its_road_graph(data: Path) -> None:
    folder = data / "metr_la_week"
    places = pd.read_csv(folder / "graph_sensor_locations.csv")[["latitude", "longitude"]].to_numpy()
    series = wl.open(
        folder / "los_speed.csv", timestamps=("2012-03-01", "5min"), graph=folder / "adj_mx.pkl", features=["speed"],
        missing=0.0, covariates={"place": (places, "nf")},
    )  # fmt: skip
    table = pd.read_csv(folder / "los_speed.csv")
    assert (series.num_steps, series.num_nodes, series.tier) == (2016, 207, "memory")
    assert series.nodes is not None
    assert series.nodes.tolist() == list(table.columns)
    np.testing.assert_array_equal(read(series)[:, :, 0], table.to_numpy())
    assert series.graph is not None
    assert series.graph.nodes.tolist() == list(table.columns)  # type: ignore[union-attr]
    day = series.select(time=slice("2012-03-02", "2012-03-03"), nodes=["717447", "773869"])
    np.testing.assert_array_equal(read(day)[:, :, 0], table[["717447", "773869"]].to_numpy()[288:576])
    assert len(pickle.dumps(series)) < 100_000  # values stay in the file; the graph travels


def test_columns_in_another_order_than_the_graph_are_aligned(data: Path, tmp_path: Path) -> None:
    folder = data / "metr_la_week"
    table = pd.read_csv(folder / "los_speed.csv")
    shuffled = table.sample(frac=1, axis=1, random_state=0)
    shuffled.to_csv(tmp_path / "speed.csv", index=False)
    series = wl.open(tmp_path / "speed.csv", graph=folder / "adj_mx.pkl")
    plain = wl.open(folder / "los_speed.csv", graph=folder / "adj_mx.pkl")
    order = [table.columns.get_loc(name) for name in shuffled.columns]
    np.testing.assert_array_equal(series.graph.dense(), plain.graph.dense()[np.ix_(order, order)])  # type: ignore[union-attr]
    shuffled.rename(columns={"773869": "999"}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(
        wl.errors.GraphError, match="1 only in the array: '999'; 1 only in the graph: '773869'"
    ):
        wl.open(tmp_path / "other.csv", graph=folder / "adj_mx.pkl")


def test_a_grid_with_its_times(data: Path) -> None:
    path = data / "era5_uk" / "era5-2mt-2019-03-uk.nc"
    with xr.open_dataset(path) as dataset:
        values = dataset.t2m.values
        times = dataset[dataset.t2m.dims[0]].values
        in_hand = wl.open(dataset.load())
    series = wl.open(path)
    assert series.features == ("t2m",)
    assert series.space_shape == (33, 49)
    assert series.clock is not None
    np.testing.assert_array_equal(series.clock.timestamps(np.arange(744)), times)
    np.testing.assert_array_equal(read(series)[:, :, 0], values.reshape(744, -1))
    np.testing.assert_array_equal(read(in_hand), read(series))
    assert len(pickle.dumps(series)) < 4096


def test_files_of_months_are_one_series(data: Path) -> None:
    series = wl.open(str(data / "iris" / "NEMO" / "nemo_1m_*.nc"), missing=float("nan"))
    assert series.num_steps == 3
    assert series.space_shape == (330, 360)
    assert np.isnan(read(series)).sum() == 3 * 53617
    assert series.borders.tolist() == [0, 3]  # months are no jumps


def test_a_table_of_named_columns(data: Path) -> None:
    series = wl.open(data / "ett" / "ETTh1.csv", axes="tf")
    assert series.features == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert series.space_shape == ()
    np.testing.assert_array_equal(read(series)[:, 0], pd.read_csv(data / "ett" / "ETTh1.csv").iloc[:, 1:])
    part = series.select(features=["OT"], time=slice("2018-01-01", None))
    np.testing.assert_array_equal(
        read(part)[:, 0, 0], pd.read_csv(data / "ett" / "ETTh1.csv").OT.to_numpy()[-part.num_steps :]
    )
    assert str(part.clock.timestamps(0)).startswith("2018-01-01T00")  # type: ignore[union-attr]
    assert wl.open(data / "ett" / "ETTh1.csv").nodes.tolist() == list(series.features)  # type: ignore[union-attr]


def test_several_variables_of_one_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    speed, flow = rng.random((20, 4)), rng.random((20, 3, 4))
    np.savez(tmp_path / "x.npz", speed=speed, flow=flow)
    with pytest.raises(SeriesError, match=r"holds 2 variables: 'speed', 'flow'.*variables=\['speed'\]"):
        wl.open(tmp_path / "x.npz")
    series = wl.open(tmp_path / "x.npz", variables=["flow", "speed"], axes={"flow": "tfn"})
    assert series.features == ("flow.0", "flow.1", "flow.2", "speed")
    np.testing.assert_array_equal(read(series), flow.transpose(0, 2, 1))
    assert wl.open(tmp_path / "x.npz", member="speed").num_nodes == 4
    with pytest.raises(SeriesError, match="unknown: 'sped'"):
        wl.open(tmp_path / "x.npz", variables=["sped"])
    dataset = xr.Dataset({"speed": (("time", "sensor"), speed), "flow": (("time", "lane", "sensor"), flow)})
    both = wl.open(dataset, variables=["speed", "flow"], axes={"flow": "tfn"})
    assert both.features == ("speed", "flow.0", "flow.1", "flow.2")


def test_mappings_and_lists_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [{"speed": rng.random((5, 4)).astype("f4"), "flow": rng.random((5, 4, 2))} for _ in range(3)]
    paths = []
    for number, part in enumerate(parts):
        paths.append({})
        for name, array in part.items():
            np.save(tmp_path / f"{name}{number}.npy", array)
            paths[-1][name] = tmp_path / f"{name}{number}.npy"
    series = wl.open(paths, timestamps=("2020-01-01", "1D"), missing={"flow": -1.0})
    assert series.features == ("speed", "flow.0", "flow.1")
    assert [variable.dtype for variable in series.variables] == [np.float32, np.float64]
    np.testing.assert_array_equal(read(series, 1), np.concatenate([part["flow"] for part in parts]))
    one = wl.open({"speed": [item["speed"] for item in paths], "flow": [item["flow"] for item in paths]})
    np.testing.assert_array_equal(read(one, 0), read(series, 0))
    assert wl.open(paths[0]).tier == "mapped"


def test_covariates_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "speed.npy", np.zeros((9, 4)))
    np.save(tmp_path / "weather.npy", np.arange(27.0).reshape(9, 3))
    np.save(tmp_path / "height.npy", np.arange(8).reshape(4, 2))
    series = wl.open(
        tmp_path / "speed.npy",
        covariates={"w": tmp_path / "weather.npy", "h": (tmp_path / "height.npy", "nf")},
    )
    weather, height = series.variables[1:]
    assert (weather.has_time, weather.has_nodes, height.has_time, height.has_nodes) == (
        True,
        False,
        False,
        True,
    )
    np.testing.assert_array_equal(weather.view()[:, 0], np.arange(27.0).reshape(9, 3))  # type: ignore[index]
    again = pickle.loads(pickle.dumps(series)).variables[2]
    np.testing.assert_array_equal(again.view()[0], np.arange(8).reshape(4, 2))
    with pytest.raises(SeriesError, match="covariate 'h' of shape"):
        wl.open(tmp_path / "weather.npy", covariates={"h": tmp_path / "height.npy"})


@pytest.mark.parametrize("form", ["zarr", "nc", "hand"])
def test_a_covariate_is_the_array_of_its_name_in_a_store_of_several(tmp_path: Path, form: str) -> None:
    dims = ("time", "latitude", "longitude")
    held = xr.Dataset(
        {
            "t2m": (dims, np.ones((9, 4, 5))),
            "tp": (dims, np.full((9, 4, 5), 2.0)),
            "z": (dims[1:], np.arange(20.0).reshape(4, 5)),
        },
        {"time": np.arange(9).astype("datetime64[D]").astype("datetime64[ns]")},
    )
    store = held if form == "hand" else tmp_path / f"store.{form}"
    if form == "zarr":
        held.to_zarr(store, consolidated=False)
    elif form == "nc":
        held.to_netcdf(store, engine="h5netcdf")
    series = wl.open(store, variables=["t2m"], covariates={"tp": store, "z": (store, "nn")})
    spec = wl.WindowSpec(lookback=2, horizon=1, inputs=["t2m", "tp", "z"], targets=["t2m"])
    inputs = wl.WindowSet(series, spec).read([3], layout="btfn").inputs
    np.testing.assert_array_equal(inputs[0, 1], np.stack([np.ones((4, 5)), np.full((4, 5), 2.0), held["z"]]))
    for variable in series.variables:
        variable.source.close()
    with pytest.raises(wl.errors.AxesError, match="z' have no time axes"):  # never another array in its place
        wl.open(store, variables=["t2m"], covariates={"z": store})


def test_three_meters_of_their_own_lengths(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    starts = {"m7": ("2020-01-01", 50), "m3": ("2020-01-02", 30), "m9": ("2019-12-31", 70)}
    frames = [
        pd.DataFrame(
            {"utc": pd.date_range(start, periods=size, freq="h"), "meter": name, "kwh": rng.random(size)}
        )
        for name, (start, size) in starts.items()
    ]
    table = pd.concat(frames).sample(frac=1, random_state=1)
    table.to_parquet(tmp_path / "meters.parquet")
    table.to_csv(tmp_path / "meters.csv", index=False)
    for name in ("meters.parquet", "meters.csv"):
        series = wl.open(tmp_path / name, entity="meter", time="utc")
        assert series.features == ("kwh",)
        assert sorted(np.diff(series.borders)) == [30, 50, 70]
        assert series.entity_borders is not None
        assert series.entity_names is not None
        assert series.clock is not None
        for number, meter in enumerate(series.entity_names):
            rows = np.arange(*series.entity_borders[number : number + 2])
            expected = table[table.meter == meter].sort_values("utc")
            np.testing.assert_array_equal(read(series)[rows, 0, 0], expected.kwh)
            np.testing.assert_array_equal(series.clock.timestamps(rows), expected.utc)
            assert (series.entity_of(rows) == number).all()
        again = pickle.loads(pickle.dumps(series))
        np.testing.assert_array_equal(again.entity_borders, series.entity_borders)
    with pytest.raises(SeriesError, match="the column of times too"):
        wl.open(tmp_path / "meters.csv", entity="meter")


def test_targets_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        wl.open(tmp_path / "none.npy")
    with pytest.raises(SourceFormatError, match="What can"):
        wl.open(3)
    with pytest.raises(SeriesError, match="cache_dir, which is not given"):
        wl.open(np.zeros((3, 2)), cache_size="1GB")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="is a file"):
        wl.open(np.zeros((3, 2)), cache_dir=tmp_path / "file")
