"""Conversion: what goes in comes out, whatever is killed or broken on the way."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path  # noqa: TC003

import numpy as np
import pytest
import xarray
import zarr
from typer.testing import CliRunner

import windowloader as wl
from windowloader.cli import app
from windowloader.convert.conversion import convert
from windowloader.convert.layout import Access, AccessCost, choose_layout
from windowloader.convert.values import encoding_for
from windowloader.errors import ConversionError, MemoryBudgetError

SPEED = np.random.default_rng(0).uniform(1, 80, (500, 7))


def series_of(values: np.ndarray = SPEED, **options) -> wl.Series:
    options.setdefault("timestamps", ("2012-03-01", "5min"))
    return wl.Series(values, **options)


def values_of(series: wl.Series, number: int = 0) -> np.ndarray:
    source = series.variables[number].source
    out = np.empty(source.shape, source.dtype)
    source.read(0, len(out), out)
    return out


def tree(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [False, 100, True])
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd:9", "gzip"])
def test_zarr_holds_the_values_the_clock_and_the_labels(tmp_path, shards, compression):
    labels = [f"s{number}" for number in range(7)]
    series = series_of(nodes=labels)
    made = convert(series, tmp_path / "a.zarr", chunks=50, shards=shards, compression=compression)
    again = wl.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(values_of(again), SPEED)
    np.testing.assert_array_equal(again.nodes, labels)
    np.testing.assert_array_equal(
        again.clock.timestamps(np.arange(500)), series.clock.timestamps(np.arange(500))
    )
    assert made.arrays[0].chunks == (50, 7)
    assert made.arrays[0].shards == {False: None, 100: (100, 7), True: (500, 7)}[shards]
    assert sorted(os.listdir(tmp_path)) == ["a.zarr"]


def test_xarray_opens_it(tmp_path):
    stamps = np.array(["2000-01-01", "2000-01-03", "2000-02-01T12:30"], "datetime64[ns]")
    convert(
        series_of(SPEED[:3], timestamps=stamps, nodes=np.arange(7) * 10), tmp_path / "a.zarr", dtype="float32"
    )
    with xarray.open_zarr(tmp_path / "a.zarr", chunks=None) as dataset:
        np.testing.assert_array_equal(dataset["value"].values, SPEED[:3].astype("f4"))
        np.testing.assert_array_equal(dataset["time"].values, stamps)
        np.testing.assert_array_equal(dataset["node"].values, np.arange(7) * 10)


def test_attributes_levels_and_grids_stay(tmp_path):
    values = np.random.default_rng(1).normal(280, 9, (20, 2, 3, 4)).astype("f4")
    dims = ("time", "level", "latitude", "longitude")
    coords = {
        "level": [500, 850],
        "latitude": [3.0, 2.0, 1.0],
        "time": np.arange(20).astype("M8[D]").astype("M8[ns]"),
    }
    dataset = xarray.Dataset(
        {"t": (dims, values, {"units": "K", "long_name": "temperature"}), "u": (dims, -values)}, coords
    )
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    convert(wl.open(tmp_path / "a.nc", variables=["t", "u"]), tmp_path / "b.zarr", chunks=4)
    with xarray.open_zarr(tmp_path / "b.zarr", chunks=None) as found:
        xarray.testing.assert_equal(found, dataset)
        assert found["t"].attrs == {"units": "K", "long_name": "temperature"}
    convert(wl.open(tmp_path / "b.zarr", variables="t"), tmp_path / "c.zarr", chunks=8)
    again = wl.open(tmp_path / "c.zarr")
    assert again.features == ("t.500", "t.850")
    assert again.variables[0].source.dims == dims
    assert zarr.open_array(tmp_path / "c.zarr/t", mode="r").attrs["units"] == "K"


def test_names_of_features_stay(tmp_path):
    series = series_of(SPEED.reshape(500, 1, 7), features=list("abcdefg"))
    convert(series, tmp_path / "a.zarr")
    assert wl.open(tmp_path / "a.zarr").features == tuple("abcdefg")
    single = convert(series_of(features=["speed"]), tmp_path / "b.zarr")
    assert single.arrays[0].name == "speed"
    assert wl.open(tmp_path / "b.zarr").features == ("speed",)


def test_covariates_and_variables_of_other_axes_share_what_they_can(tmp_path):
    weather = (np.random.default_rng(2).normal(size=(500, 3)), "tf")
    series = wl.Series(
        {"speed": SPEED, "flow": SPEED * 2},
        timestamps=("2012-03-01", "5min"),
        covariates={"weather": weather},
    )
    made = convert(series, tmp_path / "a.zarr")
    assert [(one.name, one.dims) for one in made.arrays] == [
        ("speed", ("time", "node")), ("flow", ("time", "node")), ("weather", ("time", "feature"))
    ]  # fmt: skip
    again = wl.open(
        tmp_path / "a.zarr",
        variables=["speed", "flow"],
        covariates={"weather": str(tmp_path / "a.zarr/weather")},
    )
    np.testing.assert_array_equal(values_of(again, 2), weather[0])


def test_npy_is_mapped_and_says_what_it_cannot_hold(tmp_path):
    made = convert(series_of(), tmp_path / "a.npy", dtype="float32")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), SPEED.astype("f4"))
    assert wl.open(tmp_path / "a.npy").tier == "mapped"
    assert made.notes == (
        "a .npy file has no timestamps; open it with timestamps=('2012-03-01T00:00:00', '300s')",
    )


def test_npy_puts_variables_side_by_side(tmp_path):
    series = wl.Series({"speed": SPEED, "flow": (SPEED * 2).astype("f4")})
    made = convert(series, tmp_path / "a.npy")
    found = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(found[..., 0], SPEED)
    np.testing.assert_array_equal(found[..., 1], (SPEED * 2).astype("f4"))
    assert "open it with features=['speed', 'flow']" in made.notes


def test_a_file_a_month(tmp_path):
    for month in range(3):
        np.save(tmp_path / f"part{month}.npy", SPEED[month * 150 : (month + 1) * 150 + 50 * (month == 2)])
    convert(str(tmp_path / "part*.npy"), tmp_path / "a.zarr", chunks=64)
    np.testing.assert_array_equal(values_of(wl.open(tmp_path / "a.zarr")), SPEED)


@pytest.mark.parametrize("kind", ["csv", "h5", "nc"])
def test_a_folder_of_a_file_a_month(tmp_path, kind):
    frames, folder = [], tmp_path / "months"
    folder.mkdir()
    for month in (1, 2, 3):
        stamps = np.arange(f"2020-{month:02}-01", f"2020-{month + 1:02}-01", dtype="M8[h]").astype("M8[ns]")
        values = np.random.default_rng(month).normal(60, 9, (len(stamps), 4)).round(3)
        frame = xarray.DataArray(
            values, {"time": stamps, "sensor": list("abcd")}, ("time", "sensor"), name="speed"
        )
        name = folder / f"m{month}.{kind}"
        if kind == "csv":
            frame.to_pandas().to_csv(name)
        else:
            frame.to_netcdf(name, engine="h5netcdf")
        frames.append(frame)
    done = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "a.zarr"), "--chunks", "100"])
    assert done.exit_code == 0, done.output
    whole = xarray.concat(frames, "time")
    again = wl.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(values_of(again), whole.values)
    assert again.nodes.tolist() == list("abcd")
    if kind != "h5":  # HDF5 by itself says nothing of time
        np.testing.assert_array_equal(again.clock.timestamps(np.arange(len(whole))), whole.time.values)


# -- types and their errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
def test_the_error_reported_is_the_error_there_is(tmp_path, dtype):
    values = SPEED.copy()
    values[3:9, 2] = np.nan
    made = convert(series_of(values), tmp_path / "a.zarr", dtype=dtype, chunks=64).arrays[0]
    gap = np.abs(values_of(wl.open(tmp_path / "a.zarr")) - values)
    assert np.isnan(gap).sum() == made.missing == 6
    assert made.largest_error == pytest.approx(np.nanmax(gap), rel=1e-6)
    assert made.rms_error == pytest.approx(np.sqrt(np.nanmean(gap**2)), rel=1e-6)
    assert made.largest_error > 0
    if dtype == "int16":
        assert made.largest_error <= np.nanmax(values) / 65534


def test_a_sentinel_becomes_nan_where_values_are_scaled(tmp_path):
    values = SPEED.copy()
    values[10, 1] = 0.0
    made = convert(series_of(values, missing=0.0), tmp_path / "a.zarr", dtype="int16")
    found = values_of(wl.open(tmp_path / "a.zarr"))
    assert np.argwhere(np.isnan(found)).tolist() == [[10, 1]]
    assert made.arrays[0].scale == pytest.approx((SPEED.max() - SPEED.min()) / 65534)
    assert "missing values are NaN now; open it with missing=nan" in made.notes


@pytest.mark.parametrize(
    ("values", "options", "dtype", "message"),
    [
        ([[1e6], [1.0]], {}, "float16", "holds 1e.06, which float16 cannot"),
        (
            [[1e-9], [1.0]],
            {"missing": 0.0},
            "float16",
            "1e-09.* becomes .*0.0.* in float16, which is that mark",
        ),
        ([[-9999.9], [1.0]], {"missing": -9999.9}, "float16", None),
        ([[np.inf], [1.0]], {}, "int16", "infinite"),
        ([[1.0], [2.0]], {}, "bfloat16", "unknown"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, values, options, dtype, message):
    series = wl.Series(np.array(values), **options)
    if message is None:  # the mark is rounded alike
        convert(series, tmp_path / "a.zarr", dtype=dtype)
        return
    with pytest.raises(ConversionError, match=message):
        convert(series, tmp_path / "a.zarr", dtype=dtype)
    assert not (tmp_path / "a.zarr").exists()


def test_constant_and_all_missing_values_are_scaled():
    for values in (np.full(5, 7.5), np.full(5, np.nan), np.array([-1e308, 1e308])):
        encoding = encoding_for("x", np.dtype("f8"), "int16", None)
        encoding = encoding.fitted(*encoding.span(values))
        codes = np.empty(len(values), np.int16)
        loss = encoding.encode(values, codes)
        assert loss.largest <= encoding.scale
        np.testing.assert_array_equal(codes == -32768, np.isnan(values))


# -- refusals --------------------------------------------------------------------------------------------------------


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(ConversionError, match="exists"):
        convert(series_of(), tmp_path / "a.zarr")
    assert sorted(os.listdir(tmp_path)) == ["a.zarr"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.csv", {}, "neither"),
        ("nowhere/a.zarr", {}, "no folder"),
        ("abfs://bucket/a.zarr", {}, "Convert to a local path"),
        ("https://server/a.zarr", {}, "Convert to a local path"),
        ("s3://bucket/a.npy", {}, "takes only whole"),
        ("s3://bucket", {}, "Name a store in it"),
        ("s3://bucket/a.csv", {}, "neither"),
        ("a.npy", {"dtype": "int16"}, "no place for the scale"),
        ("a.npy", {"chunks": 3}, "neither chunks"),
        ("a.zarr", {"compression": "lzma"}, "unknown"),
        ("a.zarr", {"compression": "zstd:99"}, "unknown"),
        ("a.zarr", {"chunks": (3, 4, 5)}, "3 sizes"),
        ("a.zarr", {"chunks": 30, "shards": 40}, "multiples"),
        ("a.zarr", {"chunks": 0}, "1 row or more"),
        ("a.zarr", {"span": 0}, "1 or more"),
    ],
)
def test_wrong_use_is_told_before_anything_is_made(tmp_path, name, options, message):
    place = name if "://" in name else tmp_path / name
    with pytest.raises(ConversionError, match=message):
        convert(series_of(), place, **options)
    assert os.listdir(tmp_path) == []


def test_entities_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="entities"):
        convert(wl.Series(SPEED, entities=[0, 200, 500]), tmp_path / "a.zarr")


def test_memory_that_does_not_hold_a_chunk_is_refused(tmp_path):
    wide = np.zeros((64, 1 << 18))
    with pytest.raises(MemoryBudgetError, match="Give memory='640MiB'") as error:
        convert(wide, tmp_path / "a.zarr", chunks=64, memory="300MiB")
    assert "64 at a time" in str(error.value)


# -- kills, faults, leftovers -----------------------------------------------------------------------------------------

CONVERT = """
import json, os, signal, sys, threading, time
import numpy as np
from windowloader.cli import app
from windowloader.convert.conversion import convert
from windowloader.convert import stores
import windowloader as wl

folder, name, dtype, after, delay = sys.argv[1], sys.argv[2], sys.argv[3] or None, int(sys.argv[4]), float(sys.argv[5])
count = 0

def end():
    begun = time.perf_counter()
    while time.perf_counter() - begun < delay:
        pass
    os.kill(os.getpid(), signal.SIGKILL)

def counted(write):
    def change(*given):
        global count
        count += 1
        if count == after:  # at any moment from here: before, within and after what is written
            threading.Thread(target=end, daemon=True).start()
        return write(*given)
    return change

stores.Objects.put = counted(stores.Objects.put)
stores.NpyStore.write = counted(stores.NpyStore.write)
series = wl.open(f"{folder}/source.npy", timestamps=("2012-03-01", "5min"))
form = {} if name.endswith(".npy") else {"chunks": 16, "shards": 64}
made = convert(series, f"{folder}/{name}", dtype=dtype, **form, memory=sys.argv[6], threads=2)
print(json.dumps(made.to_dict()))
"""


def run(folder: Path, name: str, dtype: str, memory: str, after: int = 0, delay: float = 0) -> dict | None:
    """What was made, or None where the process was killed."""
    given = [folder, name, dtype, str(after), str(delay), memory]
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, *given], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert (done.returncode == 0) == bool(done.stdout)
    return json.loads(done.stdout) if done.stdout else None


def kill_and_resume(folder: Path, name: str, dtype: str, *, kills: int, seed: int) -> None:
    rows, memory = (131_072, "12MB") if name.endswith(".npy") else (4096, "600kB")
    np.save(folder / "source.npy", np.random.default_rng(seed).normal(60, 9, (rows, 120)).astype("f4"))
    chance = random.Random(seed)
    whole = run(folder, f"whole.{name}", dtype, memory)
    assert whole is not None
    for _ in range(kills):
        after, delay = chance.randint(1, 4), chance.uniform(0, 0.01)
        assert run(folder, f"killed.{name}", dtype, memory, after, delay) is None
        if (found := folder / f"killed.{name}").exists():  # killed after its last moment but one
            there = {key: value for key, value in tree(found).items() if not key.startswith(".windowloader")}
            assert there == tree(folder / f"whole.{name}")
            shutil.rmtree(found) if found.is_dir() else found.unlink()
            shutil.rmtree(folder / f"killed.{name}.partial", ignore_errors=True)
    made = run(folder, f"killed.{name}", dtype, memory)
    assert made is not None
    assert made["checksum"] == whole["checksum"]
    assert made["arrays"] == whole["arrays"]
    assert tree(folder / f"killed.{name}") == tree(folder / f"whole.{name}")
    assert sorted(os.listdir(folder)) == sorted(["source.npy", f"killed.{name}", f"whole.{name}"])


def test_killed_twice_and_resumed_it_is_the_same(tmp_path):
    kill_and_resume(tmp_path, "a.zarr", "float16", kills=2, seed=0)


@pytest.mark.campaign
@pytest.mark.parametrize(("name", "dtype"), [("a.zarr", ""), ("a.zarr", "int16"), ("a.npy", "float16")])
@pytest.mark.parametrize("seed", [1])
def test_killed_often_and_resumed_it_is_the_same(tmp_path, name, dtype, seed):
    kill_and_resume(tmp_path, name, dtype, kills=int(os.environ.get("KILLS", "50")), seed=seed)


PROCESSES = """
import json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import windowloader as wl
from windowloader.convert import convert

folder, name, dtype, options = sys.argv[1], sys.argv[2], sys.argv[3] or None, json.loads(sys.argv[4])
series = wl.open(f"{folder}/source.npy", timestamps=("2012-03-01", "5min"))
form = {} if name.endswith(".npy") else {"chunks": 16, "shards": 64, "storage_options": options}
target = name if "://" in name else f"{folder}/{name}"
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as pool:
    made = convert(series, target, dtype=dtype, **form, memory="12MB", executor=pool,
                   progress=lambda *now: print(json.dumps(now), flush=True))
print(json.dumps(made.to_dict()), flush=True)
"""


def run_in_processes(
    folder: Path, name: str, dtype: str, options: dict | None = None, kill_at: int = 0
) -> dict | None:
    """What two processes made; None where all were killed after some reports of progress."""
    given = [sys.executable, "-c", PROCESSES, str(folder), name, dtype, json.dumps(options or {})]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        lines = list(itertools.islice(process.stdout, kill_at or None))
        if kill_at:
            os.killpg(process.pid, signal.SIGKILL)
            return None
    assert process.returncode == 0
    return json.loads(lines[-1])


@pytest.mark.parametrize(("name", "dtype"), [("a.zarr", "int16"), ("a.npy", "float16")])
def test_processes_make_what_threads_make_and_go_on_after_a_kill(tmp_path, name, dtype):
    np.save(tmp_path / "source.npy", np.random.default_rng(3).normal(60, 9, (65_536, 120)).astype("f4"))
    form = {} if name.endswith(".npy") else {"chunks": 16, "shards": 64}
    series = wl.open(tmp_path / "source.npy", timestamps=("2012-03-01", "5min"))
    whole = convert(series, tmp_path / f"whole.{name}", dtype=dtype, memory="12MB", **form)
    assert run_in_processes(tmp_path, f"killed.{name}", dtype, kill_at=6) is None
    assert not (tmp_path / f"killed.{name}").exists()
    made = run_in_processes(tmp_path, f"killed.{name}", dtype)
    assert made["checksum"] == whole.checksum
    assert tree(tmp_path / f"killed.{name}") == tree(tmp_path / f"whole.{name}")


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore")
def test_the_workers_of_a_dask_scheduler_make_the_same(tmp_path):
    distributed = pytest.importorskip("distributed")
    np.save(tmp_path / "source.npy", SPEED)
    series = wl.open(tmp_path / "source.npy", timestamps=("2012-03-01", "5min"))
    whole = convert(series, tmp_path / "whole.zarr", chunks=16)
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        made = convert(series, tmp_path / "a.zarr", chunks=16, executor=client.get_executor())
    assert made.checksum == whole.checksum
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "whole.zarr")


class Stop(Exception):  # noqa: N818
    pass


def interrupted(series, path, phase, count, **options):
    """Convert up to the count-th report of a phase."""
    left = count

    def progress(now: str, _done: int, _total: int) -> None:
        nonlocal left
        left -= now == phase
        if left == 0:
            raise Stop

    with pytest.raises(Stop):
        convert(series, path, progress=progress, threads=1, **options)


@pytest.mark.parametrize("phase", ["scan", "write", "check"])
def test_interrupted_in_any_phase_it_goes_on(tmp_path, phase):
    options = {"dtype": "int16", "chunks": 16, "memory": "12kB"}
    whole = convert(series_of(), tmp_path / "whole.zarr", **options)
    interrupted(series_of(), tmp_path / "a.zarr", phase, 4, **options)
    assert not (tmp_path / "a.zarr").exists()
    made = convert(series_of(), tmp_path / "a.zarr", **options)
    assert (made.resumed_bytes > 0) == (phase != "scan")
    assert made.checksum == whole.checksum
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "whole.zarr")


def test_other_pieces_have_the_same_checksum(tmp_path):
    interrupted(series_of(), tmp_path / "a.zarr", "check", 1, chunks=16, memory="12kB")
    whole = convert(series_of(), tmp_path / "whole.zarr", chunks=16, threads=1)
    made = convert(series_of(), tmp_path / "a.zarr", chunks=16, memory="24kB")
    assert made.resumed_bytes == SPEED.nbytes
    assert made.checksum == whole.checksum


def test_a_conversion_of_something_else_is_not_gone_on_with(tmp_path):
    interrupted(series_of(), tmp_path / "a.zarr", "write", 3, chunks=16, memory="12kB")
    with pytest.raises(ConversionError, match="other data or other settings"):
        convert(series_of(SPEED + 1), tmp_path / "a.zarr", chunks=16)
    with pytest.raises(ConversionError, match="other data or other settings"):
        convert(series_of(), tmp_path / "a.zarr", chunks=32)
    made = convert(series_of(SPEED + 1), tmp_path / "a.zarr", chunks=16, restart=True)
    assert made.resumed_bytes == 0
    np.testing.assert_array_equal(values_of(wl.open(made.path)), SPEED + 1)


def test_two_at_once_are_refused(tmp_path):
    (tmp_path / "a.zarr.partial").mkdir()
    number = os.open(tmp_path / "a.zarr.partial", os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    with pytest.raises(ConversionError, match="another process"):
        convert(series_of(), tmp_path / "a.zarr")
    os.close(number)
    convert(series_of(), tmp_path / "a.zarr")


@pytest.mark.parametrize("kind", ["store", "folder", "file", "link"])
@pytest.mark.parametrize("name", ["a.zarr", "a.npy"])
def test_somebody_elses_partial_is_neither_published_nor_used_nor_deleted(tmp_path, name, kind):
    partial = tmp_path / f"{name}.partial"
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        partial.write_text("somebody's")
    elif kind == "link":
        partial.symlink_to(tmp_path / "elsewhere")
    elif kind == "store":
        convert(series_of(SPEED + 1), tmp_path / "other.zarr")
        (tmp_path / "other.zarr").rename(partial)
    else:
        partial.mkdir()
        (partial / "thesis.txt").write_text("somebody's")
    before = tree(partial)
    for restart in (False, True):
        with pytest.raises(ConversionError, match=r"no conversion wrote|is written under"):
            convert(series_of(), tmp_path / name, restart=restart)
    assert tree(partial) == before
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
@pytest.mark.parametrize("name", ["a.zarr", "a.npy"])
def test_what_breaks_on_disk_meanwhile_is_found_and_written_again(tmp_path, name, damage):
    options = {} if name.endswith(".npy") else {"chunks": 16, "compression": "none"}
    interrupted(series_of(), tmp_path / name, "check", 1, **options)
    npy = name.endswith("npy")
    chunk = tmp_path / f"{name}.partial" / ("array.npy" if npy else "value/c/3/0")
    data = bytearray(chunk.read_bytes())
    data[-9] ^= 1
    if damage == "gone":
        chunk.unlink()
    else:
        chunk.write_bytes(data if damage != "cut" else data[:-7])
    made = convert(series_of(), tmp_path / name, **options)
    np.testing.assert_array_equal(np.load(made.path) if npy else values_of(wl.open(made.path)), SPEED)


def test_progress_rises_to_all_there_is(tmp_path):
    seen: list[tuple[str, int, int]] = []
    convert(
        series_of(), tmp_path / "a.zarr", chunks=16, memory="12kB", progress=lambda *now: seen.append(now)
    )
    for phase in ("write", "check"):
        done = [now[1] for now in seen if now[0] == phase]
        assert done == sorted(done)
        assert done[0] == 0
        assert done[-1] == SPEED.nbytes
        assert len(done) > 5


# -- memory ----------------------------------------------------------------------------------------------------------

VIRTUAL = """
import json, sys
import numpy as np
from windowloader.cli import app
from windowloader.convert.conversion import convert
from windowloader.sources.base import LocalSource

ROW = np.random.default_rng(0).normal(60, 9, 10_000).astype("f4")

class Virtual(LocalSource):
    def _read(self, start, stop, out, box=None):
        out[...] = ROW
        out[:, 0] = np.arange(start, stop) % 1000
        return out.nbytes

    def fingerprint(self):
        return "virtual"

steps = int(float(sys.argv[2]) * 1e9) // ROW.nbytes
source = Virtual("virtual", shape=(steps, len(ROW)), dtype="f4", axes="tn")
made = convert(source, sys.argv[1], dtype=sys.argv[3] or None, compression=sys.argv[4], memory="1GiB")
# ru_maxrss would begin at that of the process which started this one
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
print(json.dumps({"peak": peak * 1024, **made.to_dict()}))
"""


def convert_virtual(path: Path, gigabytes: float, dtype: str = "", compression: str = "zstd:1") -> dict:
    done = subprocess.run(
        [sys.executable, "-c", VIRTUAL, path, str(gigabytes), dtype, compression],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("gigabytes", "dtype"), [pytest.param(20, "", marks=pytest.mark.measure), (5, "")])
def test_twenty_gigabytes_take_less_than_one_of_memory(tmp_path, gigabytes, dtype):
    made = convert_virtual(tmp_path / "a.zarr", gigabytes, dtype)
    assert made["arrays"][0]["raw_bytes"] > gigabytes * (0.49e9 if dtype else 0.99e9)
    assert made["peak"] < 1 << 30


# -- the model -------------------------------------------------------------------------------------------------------


def test_chunks_grow_with_latency_and_span_and_shrink_with_memory():
    base = choose_layout((100_000, 1000), 4).chunks[0]
    assert choose_layout((100_000, 1000), 4, access=Access(latency=0.2)).chunks[0] > base
    assert choose_layout((100_000, 1000), 4, access=Access(span=600)).chunks[0] > base
    assert choose_layout((100_000, 1000), 4, access=Access(memory=32 << 20)).chunks[0] < base


def test_the_choice_costs_least_of_all_tried():
    layout = choose_layout((52_105, 2_600), 4)
    costs = [
        AccessCost.of(rows, num_rows=52_105, row_bytes=10_400, access=Access()).total
        for rows in (64, 128, 256, 384, 512, 1024)
    ]
    assert layout.cost.total == min(costs)


def test_large_chunks_are_cut_along_space_and_many_objects_go_into_shards():
    layout = choose_layout((8760, 13, 721, 1440), 4)
    assert np.prod(layout.chunks) * 4 <= 16 << 20
    assert layout.shards is not None
    assert all(shard % chunk == 0 for shard, chunk in zip(layout.shards, layout.chunks, strict=True))
    assert choose_layout((8760, 13, 721, 1440), 4, shards=False).shards is None


# -- the command -----------------------------------------------------------------------------------------------------


def command(*arguments: object):
    wide = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(app, ["convert", *[str(one) for one in arguments]], env=wide)


def test_the_command_makes_what_the_function_makes(tmp_path, data):
    source = data / "metr_la_week/los_speed.csv"
    options = (
        "--start",
        "2012-03-01",
        "--freq",
        "5min",
        "--dtype",
        "float32",
        "--chunks",
        "96,100",
        "--shards",
        "no",
    )
    done = command(source, tmp_path / "a.zarr", *options, "--json")
    assert done.exit_code == 0, done.output
    made = convert(
        wl.open(source, timestamps=("2012-03-01", "5min")),
        tmp_path / "b.zarr",
        dtype="float32",
        chunks=(96, 100),
        shards=False,
    )
    assert json.loads(done.stdout)["checksum"] == made.checksum
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")


def test_a_folder_of_files_a_month_and_a_page(tmp_path, data):
    done = command(data / "iris/NEMO", tmp_path / "a.zarr", "--dtype", "int16")
    assert done.exit_code == 0, done.output
    page = " ".join(done.output.split())
    assert "missing 160,851 " in page
    assert "largest error 0.00027" in page
    assert wl.open(tmp_path / "a.zarr").num_steps == 3


def test_files_are_joined_in_the_order_given(tmp_path):
    np.save(tmp_path / "x.npy", SPEED[:200])
    np.save(tmp_path / "b.npy", SPEED[200:])
    assert command(tmp_path / "x.npy", tmp_path / "b.npy", tmp_path / "a.zarr").exit_code == 0
    np.testing.assert_array_equal(values_of(wl.open(tmp_path / "a.zarr")), SPEED)


@pytest.mark.parametrize(
    "wrong", [("--chunks", "many"), ("--shards", "some"), ("--start", "2012-03-01"), ("--threads", "0")]
)
def test_wrong_use_of_the_command_ends_with_two(tmp_path, wrong):
    np.save(tmp_path / "x.npy", SPEED)
    assert command(tmp_path / "x.npy", tmp_path / "a.zarr", *wrong).exit_code == 2
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.zarr"])
def test_what_has_the_name_is_replaced_only_when_asked_and_at_the_end(tmp_path, name, monkeypatch):
    old, new = np.arange(200.0).reshape(100, 2), np.arange(900.0).reshape(300, 3)
    place = tmp_path / name
    convert(wl.Series(old), place)
    with pytest.raises(ConversionError, match=rf"{name}' exists.*--overwrite"):
        convert(wl.Series(new), place)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("windowloader.convert.places.LocalDestination.publish", killed)
        convert(wl.Series(new), place, overwrite=True)
    assert wl.open(place).num_steps == 100
    made = convert(wl.Series(new), place, overwrite=True)
    assert made.resumed_bytes == new.nbytes
    values = np.empty((300, 3, 1))
    wl.open(place).variables[0].read(0, 300, values)
    np.testing.assert_array_equal(values[..., 0], new)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_kill_after_the_names_changed_leaves_the_new_one(tmp_path, monkeypatch):
    place = tmp_path / "a.zarr"
    convert(wl.Series(np.zeros((100, 2))), place)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("windowloader.convert.places.shutil.rmtree", killed)
        convert(wl.Series(np.ones((300, 2))), place, overwrite=True)
    assert wl.open(place).num_steps == 300
    again = convert(wl.Series(np.ones((300, 2))), place, overwrite=True)
    assert again.arrays[0].shape == (300, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


def test_a_store_is_rewritten_in_its_own_place_and_nothing_else_is_replaced(tmp_path):
    place = tmp_path / "a.zarr"
    convert(wl.Series(np.arange(900.0).reshape(300, 3)), place, chunks=100)
    assert convert(place, place, chunks=30, overwrite=True).arrays[0].chunks == (30, 3)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "kept.txt").touch()
    with pytest.raises(ConversionError, match="not a Zarr store"):
        convert(place, tmp_path / "notes", overwrite=True)


def test_names_change_where_the_system_cannot_do_it_at_once(tmp_path, monkeypatch):
    from windowloader.convert.places import _exchange

    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    monkeypatch.setattr("windowloader.convert.places.ctypes.CDLL", lambda *_, **__: object())
    _exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()
