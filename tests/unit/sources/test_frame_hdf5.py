"""Frames that pandas wrote to HDF5: the same values, labels and times as pandas reads, from the file or by PyTables."""

from __future__ import annotations

import os
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest

import windowloader as wl
from windowloader.errors import MissingExtraError, SourceFormatError
from windowloader.sources.memory import MappedSource
from windowloader.sources.registry import list_variables, open_source
from windowloader.testing import check_source

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.arange(60, dtype=np.float32).reshape(12, 5)
TIMES = np.datetime64("2012-03-01", "ns") + np.arange(12) * np.timedelta64(5, "m")
INDEX = pd.date_range("2020-03-28", periods=30, freq="h")
FRAME = pd.DataFrame(np.random.default_rng(0).normal(50, 9, (30, 3)), INDEX, list("abc"))


def loaded(series: wl.Series) -> np.ndarray:
    """All rows by a loader, shape (time, node)."""
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
    with wl.WindowLoader(windows, batch_size=4096, dtype="float64") as loader:
        return np.concatenate(
            [np.array(batch.inputs)[:, 0].reshape(len(batch.inputs), -1) for batch in loader]
        )


def write_frame(
    path: Path, blocks: list[tuple[list[Any], np.ndarray]], columns: list[Any], **how: Any
) -> Path:
    """A frame in pandas' fixed format, as PyTables lays it out."""
    kind = how.get("kind", "datetime64")
    times = TIMES.astype(kind if "[" in kind else "M8[ns]").view("i8")
    with h5py.File(path, "w") as file:
        for key, value in (
            ("CLASS", "GROUP"),
            ("PYTABLES_FORMAT_VERSION", "2.1"),
            ("TITLE", ""),
            ("VERSION", "1.0"),
        ):
            file.attrs[key] = np.bytes_(value)
        group = file.create_group("df")
        text = {"CLASS": "GROUP", "TITLE": "", "VERSION": "1.0", "pandas_type": "frame", "encoding": "UTF-8",
                "pandas_version": "0.15.2", "errors": "strict", "axis0_variety": "regular",
                "axis1_variety": "regular"}  # fmt: skip
        for key, value in text.items():
            group.attrs[key] = np.bytes_(value)
        group.attrs["ndim"], group.attrs["nblocks"] = 2, len(blocks)

        def labels(name: str, found: list[Any]) -> None:
            array = np.array(found)
            group[name] = np.char.encode(array) if array.dtype.kind == "U" else array
            group[name].attrs["kind"] = np.bytes_("string" if array.dtype.kind == "U" else "integer")

        labels("axis0", columns)
        group["axis1"] = times
        group["axis1"].attrs["kind"] = np.bytes_(kind)
        group["axis1"].attrs["index_class"] = np.bytes_("datetime")
        group["axis1"].attrs["freq"] = np.void(b"\x80\x04not unpickled")
        if "freq" in how:
            del group["axis1"].attrs["freq"]
        for number, (items, values) in enumerate(blocks):
            labels(f"block{number}_items", items)
            group.create_dataset(f"block{number}_values", data=values, **how.get("storage", {}))
            group[f"block{number}_values"].attrs["transposed"] = 1
    return path


@pytest.mark.parametrize("kind", ["datetime64", "datetime64[us]", "datetime64[s]"])
def test_pandas_frame_as_metr_la_comes(tmp_path: Path, kind: str) -> None:
    sensors = ["773869", "767541", "767542", "717447", "717446"]
    path = write_frame(tmp_path / "metr-la.h5", [(sensors, VALUES.astype("f8"))], sensors, kind=kind)
    source = open_source(path)
    assert isinstance(source, MappedSource)
    check_source(source, VALUES.astype("f8"), timestamps=TIMES)
    np.testing.assert_array_equal(source.labels(1), sensors)
    assert list_variables(path) == ()
    assert open_source(path, variable="df").shape == (12, 5)
    assert open_source(path, variable="df/block0_values").timestamps() is None


def test_pandas_frame_as_pems_bay_comes(tmp_path: Path) -> None:
    sensors = [400001, 400017, 400030, 400040, 400045]
    path = write_frame(
        tmp_path / "pems-bay.h5", [(sensors, VALUES)], sensors, storage={"chunks": (5, 5), "compression": 4}
    )
    source = open_source(path)
    check_source(source, VALUES, timestamps=TIMES)
    np.testing.assert_array_equal(source.labels(1), sensors)
    np.testing.assert_array_equal(source.storage().edges, [0, 5, 10, 12])


def test_rows_of_a_frame_without_times_keep_their_labels(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "a.h5", [(["a", "b"], VALUES[:, :2])], ["a", "b"])
    with h5py.File(path, "r+") as file:
        del file["df/axis1"]
        file["df/axis1"] = np.arange(12) + 7
        file["df/axis1"].attrs["kind"] = np.bytes_("integer")
    source = open_source(path)
    assert isinstance(source, MappedSource)
    assert source.timestamps() is None
    np.testing.assert_array_equal(source.labels(0), np.arange(12) + 7)
    with pytest.warns(UserWarning, match="look like row numbers or parts of times.*day"):
        wl.open(write_frame(tmp_path / "b.h5", [(["a", "day"], VALUES[:, :2])], ["a", "day"]))


@pytest.mark.parametrize("tz", ["Europe/Berlin", "UTC", "+02:00"])
def test_zone_of_a_mapped_frame(tmp_path: Path, tz: str) -> None:
    path = write_frame(tmp_path / "a.h5", [(["a"], VALUES[:, :1])], ["a"], kind="datetime64[us]")
    index = pd.DatetimeIndex(TIMES).tz_localize("UTC").tz_convert(tz)
    stored = tz if tz == "Europe/Berlin" else pickle.dumps(index.tz, 0)
    with h5py.File(path, "r+") as file:
        file["df/axis1"].attrs["tz"] = np.bytes_(stored)
    series = wl.open(path)
    assert isinstance(series.variables[0].source, MappedSource)
    hours = series.clock.values(["time_of_day"], np.arange(12))[:, 0] * 24  # type: ignore[union-attr]
    np.testing.assert_allclose(hours, index.hour + index.minute / 60)


def test_a_frame_in_a_bucket_is_the_frame_here(tmp_path: Path) -> None:
    sensors = ["773869", "767541", "767542", "717447", "717446"]
    for name, storage in (("map.h5", {}), ("chunks.h5", {"chunks": (5, 5), "compression": 4})):
        path = write_frame(tmp_path / name, [(sensors, VALUES)], sensors, storage=storage)
        with fsspec.open(f"memory://frames/{name}", "wb") as file:
            file.write(path.read_bytes())
        here, there = wl.open(path), wl.open(f"memory://frames/{name}")
        np.testing.assert_array_equal(loaded(there), loaded(here))
        assert there.nodes.tolist() == sensors  # type: ignore[union-attr]
        np.testing.assert_array_equal(there.clock.timestamps(np.arange(12)), TIMES)  # type: ignore[union-attr]


FRAMES = {
    "plain": FRAME,
    "zone": FRAME.set_axis(pd.date_range("2020-03-28", periods=30, freq="h", tz="Europe/Berlin")),
    "utc": FRAME.tz_localize("UTC"),
    "offset": FRAME.tz_localize("+02:00"),
    "microseconds": FRAME.set_axis(INDEX.as_unit("us")),
    "irregular": FRAME.iloc[[0, 1, 3, 10]],
    "numbers as columns": FRAME.set_axis([401, 402, 403], axis=1),
    "floats as columns": FRAME.set_axis([1.5, 2.5, 3.5], axis=1),
    "counted rows": FRAME.reset_index(drop=True),
    "text": FRAME.set_axis(INDEX.astype(str)),
    "periods": FRAME.set_axis(INDEX.to_period("h")),
    "named": FRAME.rename_axis(index="time", columns="sensor"),
    "two dtypes": FRAME.assign(d=np.arange(30) * 3 % 7, e=np.float32(2.5)),
    "levels": pd.concat({"s1": FRAME[["a", "b"]], "s2": FRAME[["a"]]}, axis=1),
    "levels of two dtypes": pd.concat({"s1": FRAME, "s2": (FRAME * 9).astype("i4")}, axis=1),
    "bool": FRAME > 50,
    "one row": FRAME.iloc[:1],
    "one column": FRAME[["a"]],
    "series": FRAME["a"],
    "integers": (FRAME * 9).astype("i8"),
    "missing": FRAME.where(FRAME > 45),
    "rows of levels": pd.DataFrame({"speed": FRAME.stack()}).rename_axis(["time", "id"]),
}


@pytest.mark.parametrize("form", ["fixed", "table"])
@pytest.mark.parametrize("name", FRAMES)
def test_frames_as_pandas_reads_them(tmp_path: Path, name: str, form: str) -> None:
    pytest.importorskip("tables")
    FRAMES[name].to_hdf(path := str(tmp_path / "a.h5"), key="df", format=form)
    right = pd.read_hdf(path)
    right = right.to_frame() if right.ndim == 1 else right
    right = right["speed"].unstack("id") if name == "rows of levels" else right
    series = wl.open(path, missing=float("nan") if name == "missing" else None, axes="tn")
    got = series.variables[0].view()[:, :, 0]  # type: ignore[index]
    np.testing.assert_array_equal(got, right)
    assert got.dtype == (right.to_numpy().dtype if name != "two dtypes" else np.float64)
    if name != "missing":
        np.testing.assert_array_equal(loaded(series), right)
    nodes = [".".join(c) if isinstance(c, tuple) else c for c in right.columns]
    assert name == "series" or series.nodes.tolist() == [str(c) if isinstance(c, float) else c for c in nodes]  # type: ignore[union-attr]
    if name == "counted rows":
        assert series.clock is None
        return
    index = right.index.to_timestamp() if name == "periods" else pd.DatetimeIndex(right.index)
    times = series.clock.timestamps(np.arange(len(right)))  # type: ignore[union-attr]
    np.testing.assert_array_equal(
        times, index.tz_localize(None) if index.tz is None else index.tz_convert(None)
    )
    hours = series.clock.values(["time_of_day"], np.arange(len(right)))[:, 0] * 24  # type: ignore[union-attr]
    np.testing.assert_allclose(hours, index.hour)


@pytest.mark.parametrize("form", ["fixed", "table"])
@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.set_axis(pd.to_timedelta(np.arange(30), "h")), "durations"),
        (FRAME.assign(s="text"), "(hold no numbers|never unpickled)"),
        (FRAME.assign(w=INDEX), "hold no numbers, but datetime64"),
        (FRAME.set_axis(INDEX[[0] * 30]), "must increase"),
        (FRAME.assign(id=list("xyz") * 10).set_index("id", append=True), r"levels \[None, 'id'\]"),
        (FRAME.iloc[:0], "(no array|no rows|0 rows)"),
        (FRAME[[]], "(no columns|cannot be read|no rows|no array)"),
    ],
)  # fmt: skip
def test_frames_that_are_not_series_raise(
    tmp_path: Path, frame: pd.DataFrame, message: str, form: str
) -> None:
    pytest.importorskip("tables")
    with warnings.catch_warnings(action="ignore"):  # pandas: an empty frame is not written
        frame.to_hdf(path := str(tmp_path / "a.h5"), key="df", format=form)
    with pytest.raises(wl.WindowLoaderError, match=message):
        wl.WindowSet(wl.open(path), wl.WindowSpec(lookback=1, horizon=1))


def test_several_frames_and_options_of_tables(tmp_path: Path) -> None:
    pytest.importorskip("tables")
    path = str(tmp_path / "a.h5")
    FRAME.to_hdf(path, key="speed")
    (FRAME * 2).to_hdf(path, key="deep/flow", format="table")
    assert list_variables(path) == ("deep/flow", "speed")
    with pytest.raises(wl.errors.SeriesError, match="holds 2 variables"):
        wl.open(path)
    series = wl.open(path, variables=["speed", "deep/flow"])
    both = np.stack([FRAME, FRAME * 2], axis=2)
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=1, horizon=0))
    with wl.WindowLoader(windows, batch_size=99, dtype="float64") as loader:
        np.testing.assert_array_equal(next(iter(loader)).inputs[:, 0], both)
    series = wl.open(path, variables="speed", columns=["c", "a"])
    np.testing.assert_array_equal(loaded(series), FRAME[["c", "a"]])
    long = (
        FRAME.rename_axis(index="utc").melt(ignore_index=False, var_name="id", value_name="v").reset_index()
    )
    long.to_hdf(tmp_path / "long.h5", key="l", format="table")
    series = wl.open(tmp_path / "long.h5", entity="id", time="utc")
    np.testing.assert_array_equal(loaded(series)[:30, 0], FRAME["a"])
    with pytest.raises(SourceFormatError, match="no frame of pandas"):
        open_source(tmp_path / "a.h5", variable="speed/block0_values", columns=["a"])


def test_pytables_is_named_where_it_is_missing(tmp_path: Path, monkeypatch) -> None:
    blocks = [(["a", "c"], VALUES[:, [0, 2]].astype("f8")), (["b"], VALUES[:, [1]].astype("i4"))]
    path = write_frame(tmp_path / "a.h5", blocks, ["a", "b", "c"])
    monkeypatch.setitem(__import__("sys").modules, "tables", None)
    with pytest.raises(MissingExtraError, match=r"'/df' of .*pip install 'windowloader\[tables\]'"):
        open_source(path)


def test_a_block_in_another_order_than_the_columns(tmp_path: Path) -> None:
    pytest.importorskip("tables")
    FRAME.to_hdf(path := str(tmp_path / "a.h5"), key="df")
    FRAME[["b", "c", "a"]].to_hdf(other := str(tmp_path / "b.h5"), key="df")
    with h5py.File(path, "r+") as file, h5py.File(other) as turned:
        del file["df/block0_items"]
        file.copy(turned["df/axis0"], file["df"], "block0_items")
    check_source(open_source(path), pd.read_hdf(path).to_numpy(), timestamps=INDEX.to_numpy("M8[ns]"))
    np.testing.assert_array_equal(open_source(path).labels(1), list("abc"))


class Bomb:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def _long_text(raw: bytes) -> h5py.h5t.TypeID:
    """Text that HDF5 ends at its first zero, and PyTables does not."""
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(raw))
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    return kind


@pytest.mark.parametrize("place", ["df", "df/axis1", "/", "vlen", "text", "nullterm", "link"])
def test_pickles_in_a_frame_are_never_run(tmp_path: Path, place: str) -> None:
    gone = tmp_path / "went off"
    bomb = pickle.dumps(Bomb(str(gone)), 0)
    blocks = [(["a"], VALUES[:, :1]), (["b"], VALUES[:, [1]].astype("i4"))]
    path = write_frame(tmp_path / "a.h5", blocks, ["a", "b"], freq=None)
    with h5py.File(path, "r+") as file:
        if place == "vlen":
            del file["df/block1_values"]
            made = file.create_dataset("df/block1_values", (1,), h5py.vlen_dtype(np.uint8))
            made[0] = np.frombuffer(bomb, np.uint8)
            made.attrs.update({"PSEUDOATOM": np.bytes_("object"), "CLASS": np.bytes_("VLARRAY"),
                               "VERSION": np.bytes_("1.4"), "TITLE": np.bytes_(""), "transposed": 1})  # fmt: skip
        elif place == "text":
            file["df"].attrs.create("info", bomb.decode(), dtype=h5py.string_dtype("ascii"))
        elif place == "nullterm":
            raw = b"X\x01\0\0\0a0" + bomb  # text of one letter, which is dropped
            kind = _long_text(raw)
            made = h5py.h5a.create(file["df"].id, b"info", kind, h5py.h5s.create(h5py.h5s.SCALAR))
            made.write(np.frombuffer(raw, f"V{len(raw)}").reshape(()), mtype=kind)
        elif place == "link":
            write_frame(tmp_path / "b.h5", blocks, ["a", "b"])
            del file["df/block1_values"]
            file["df/block1_values"] = h5py.ExternalLink("b.h5", "df/block1_values")
        else:
            file[place].attrs["info"] = np.bytes_(bomb)
    with pytest.raises(SourceFormatError, match="(names posix.mkdir|never unpickled|has links)"):
        open_source(path)
    assert not gone.exists()


def test_damaged_frames_are_errors_of_the_package(tmp_path: Path) -> None:
    stored = write_frame(tmp_path / "a.h5", [(["a", "b"], VALUES[:, :2])], ["a", "b"], freq=None).read_bytes()
    rng, errors = np.random.default_rng(0), 0
    for _ in range(200):
        data = bytearray(stored)
        for place in rng.integers(0, len(data), 4).tolist():
            data[place] = int(rng.choice([0, 255, data[place] ^ 1 << int(rng.integers(8))]))
        (tmp_path / "b.h5").write_bytes(data)
        try:
            source = open_source(tmp_path / "b.h5")
            source.read(0, source.shape[0], np.empty(source.shape, source.dtype))
            source.close()
        except wl.WindowLoaderError:
            errors += 1
    assert errors > 20
