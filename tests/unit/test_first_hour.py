"""What goes wrong in a user's first hour: each message has the values and a way out.

A case is provoked as a user would; the words it must hold are those that say what was asked, what was found, and what
to do. The exact wording is free.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import windowloader as wl
from windowloader import errors
from windowloader.cli import main
from windowloader.sources.failures import Asked, explain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPEC = wl.WindowSpec(lookback=12, horizon=12)
RATIOS = (0.7, 0.1, 0.2)
VALUES = np.random.default_rng(0).uniform(20, 70, (400, 8)).astype(np.float32)
HOLES = np.where(np.arange(8) == 2, np.nan, VALUES)
SERIES = wl.Series(VALUES, timestamps=("2012-03-01", "5min"), features=["speed"])
TIMELESS = wl.Series(VALUES, features=["speed"])


def train(**changes: Any) -> wl.WindowSet:
    spec = wl.WindowSpec(**{"lookback": 12, "horizon": 12, **changes})
    return wl.split(SERIES, spec, RATIOS)[0]


def loader(**arguments: Any) -> wl.WindowLoader:
    return wl.WindowLoader(train(), **arguments)


def two_variables() -> Any:
    import xarray

    return xarray.Dataset(dict.fromkeys("tu", (("time", "y"), VALUES)))


def keep_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore what the command line sets for its process."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the files that people have, some of them broken."""
    import zarr

    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    np.save("speeds.npy", VALUES)
    whole = (tmp_path / "speeds.npy").read_bytes()
    (tmp_path / "half.npy").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save("objects.npy", np.array([[1, None]], object), allow_pickle=True)
    np.savez("two.npz", speed=VALUES, flow=VALUES)
    (tmp_path / "bytes.bin").write_bytes(bytes(1000))
    (tmp_path / "folder").mkdir()
    zarr.save_array(tmp_path / "pems.zarr", VALUES)
    (tmp_path / "frame.pkl").write_bytes(b"\x80\x05\x95rest")
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04rest")
    (tmp_path / "months").mkdir()
    for month in "123":
        (tmp_path / "months" / f"{month}.csv").write_text("time,a\n2012-03-01,1.5\n2012-03-02,2.5\n")
    (tmp_path / "text.csv").write_text("time,city,v\n2012-03-01,Aachen,1.5\n2012-03-02,Bonn,2.5\n")
    sparse = zarr.create_array(tmp_path / "sparse.zarr", shape=VALUES.shape, chunks=(50, 8), dtype="f4")
    sparse[:350] = np.maximum(VALUES[:350], 1)  # the last chunk is absent
    readings = [f"{meter},2012-03-{day:02},{day}.5" for meter in "abc" for day in range(1, 31)]
    (tmp_path / "meters.csv").write_text("\n".join(["meter,utc,kwh", *readings]) + "\n")
    (tmp_path / "commas.csv").write_text("time;a\n2012-03-01;1,5\n2012-03-02;2,5\n")
    return tmp_path


class Case(NamedTuple):
    what: str
    provoke: Callable[[], object]
    kind: type[Exception]
    words: tuple[str, ...]


def case(what: str, provoke: Callable[[], object], kind: type[Exception], *words: str) -> Any:
    return pytest.param(Case(what, provoke, kind, words), id=what)


OPENING = [
    case("misspelt name", lambda: wl.open("pens.zarr"), FileNotFoundError, "pens.zarr", "'pems.zarr'"),
    case("wrong suffix", lambda: wl.open("speeds.h5"), FileNotFoundError, "speeds.h5", "'speeds.npy'"),
    case("no folder", lambda: wl.open("data/x.npy"), FileNotFoundError, "data' does not exist either"),
    case("empty folder", lambda: wl.open("folder"), ValueError, "folder", "list the files"),
    case("no file matches", lambda: wl.open("*.nc"), ValueError, "*.nc"),
    case("half a file", lambda: wl.open("half.npy"), errors.CorruptDataError, "(400, 8)", "12928", "6464", "copied"),
    case("empty file", lambda: wl.open("empty.npy"), errors.CorruptDataError, "0 bytes", "copied"),
    case("objects", lambda: wl.open("objects.npy"), ValueError, "object", "float32"),
    case("two arrays", lambda: wl.open("two.npz"), ValueError, "'speed', 'flow'", "variables=['"),
    case("bare bytes", lambda: wl.open("bytes.bin"), ValueError, "shape= and dtype="),
    case("pickled frame", lambda: wl.open("frame.pkl"), ValueError, "never opened",
         "pandas.read_pickle", "pass the frame"),
    case("spreadsheet", lambda: wl.open("book.xlsx"), ValueError, "book.xlsx", "Excel", "zip file"),
    case("folder of tables", lambda: wl.open("months"), ValueError, "months", "'months/*.csv'"),
    case("column of text", lambda: wl.open("text.csv"), ValueError, "['city']", "'Aachen'", "columns=[", "entity="),
    case("decimal commas", lambda: wl.open("commas.csv"), ValueError, "['a']", "'1,5'", "decimal=','"),
    case("numbers in lists", lambda: wl.open([[1, 2], [3, 4]]), ValueError, "list", "numpy.asarray("),
    case("dataset of two", lambda: wl.open(two_variables()), ValueError, "this Dataset holds 2 variables: 't', 'u'",
         "variables=['t']"),
    case("dataset without time", lambda: wl.open(two_variables()[["t"]].rename(time="x")), ValueError,
         "('x', 'y')", "axes='tn'"),
    case("nothing", lambda: wl.open(None), ValueError, "None", "Zarr"),
    case("unknown scheme", lambda: wl.open("s4://bucket/a.zarr"), ValueError, "s4", "s3://"),
    case("misspelt option",
         lambda: wl.open("s3://bucket/a.zarr", storage_options={"endpont_url": "http://localhost"}),
         ValueError, "endpont_url", "meant: endpoint_url"),
]  # fmt: skip

SHAPES = [
    case("four axes", lambda: wl.Series(np.zeros((9, 2, 3, 4))), ValueError, "4 dimensions", "axes='tfnn'"),
    case("axes too many", lambda: wl.Series(VALUES, axes="tnf"), ValueError, "'tnf'", "3 axes", "2 dimensions"),
    case("unknown letter", lambda: wl.Series(VALUES, axes="tx"), ValueError, "'tx'", "t (time), n (space)"),
    case("time last", lambda: wl.WindowSet(wl.Series(VALUES.T), SPEC), ValueError, "400 nodes", "axes='nt'"),
    case("features for nodes", lambda: wl.Series(VALUES, features=list("abcdefgh")), ValueError,
         "8 names", "1 features", "axes='tf'"),
    case("short timestamps", lambda: wl.Series(VALUES, timestamps=SERIES.clock.timestamps(range(9))), ValueError,
         "9 timestamps", "400 rows"),
    case("misspelt step", lambda: wl.Series(VALUES, timestamps=("2012-03-01", "5 minutes")), ValueError,
         "'5 minutes'", "'5min'"),
    case("only a start", lambda: wl.Series(VALUES, timestamps="2012-03-01"), ValueError, "('2012-03-01', '5min')"),
    case("time falls", lambda: wl.Series(VALUES, timestamps=SERIES.clock.timestamps(range(400))[::-1]), ValueError,
         "row 0", "Sort the rows"),
    case("other graph", lambda: wl.Series(VALUES, graph=np.eye(5)), ValueError, "5 nodes", "8", "select(nodes="),
    case("graph in lists", lambda: wl.Series(VALUES, graph=[[0, 1], [1, 0]]), ValueError, "list", "numpy.array("),
    case("graph of edges", lambda: wl.Series(VALUES, graph=np.array([[0, 1, 2], [1, 2, 3]])), ValueError,
         "(2, 3)", "Graph(edge_index"),
    case("graph in a folder", lambda: wl.Series(VALUES, graph="folder"), ValueError, "'folder' is a folder", ".npz"),
    case("no graph there", lambda: wl.Series(VALUES, graph="pems.csv"), FileNotFoundError, "pems.csv", "'pems.zarr'"),
    case("other shape beside", lambda: wl.open({"a": VALUES, "b": VALUES[:300]}), ValueError, "300", "400", "Cut"),
]  # fmt: skip

WINDOWS = [
    case("no timestamps for a clock", lambda: wl.WindowSet(TIMELESS, wl.WindowSpec(
        lookback=12, horizon=12, inputs=["speed", "time_of_day"])), ValueError,
        "'time_of_day'", "timestamps=", "('2012-03-01', '5min')"),
    case("misspelt feature", lambda: train(inputs=["sped"]), ValueError, "'sped'", "Did you mean 'speed'?"),
    case("span too long", lambda: wl.WindowSet(TIMELESS, wl.WindowSpec(lookback=288, horizon=288)), ValueError,
         "lookback=288", "576", "400", "Shorten"),
    case("lookback of text", lambda: wl.WindowSpec(lookback="12", horizon=12), ValueError, "'12'", "int"),
    case("target known ahead", lambda: wl.WindowSpec(lookback=3, horizon=3, targets=["a"], future=["a"]), ValueError,
         "['a']", "Take them out"),
    case("path for a series", lambda: wl.WindowSet("pems.zarr", SPEC), ValueError, "'pems.zarr'", "wl.open("),
    case("number for a spec", lambda: wl.WindowSet(SERIES, 12), ValueError, "12", "WindowSpec(lookback="),
    case("arguments swapped", lambda: wl.split(SERIES, RATIOS, SPEC), ValueError, "(0.7, 0.1, 0.2)",
         "wl.split(series, spec,"),
    case("ratios above 1", lambda: wl.split(SERIES, SPEC, (0.7, 0.2, 0.2)), ValueError, "1.1", "not 1"),
    case("percentages", lambda: wl.split(SERIES, SPEC, (70, 10, 20)), ValueError, "(70, 10)", "(0.7, 0.1, 0.2)"),
    case("empty part", lambda: wl.split(SERIES.select(time=slice(0, 100)), SPEC, RATIOS, by="rows"), ValueError,
         "'val'", "70 … 79", "by='targets'"),
    case("dates of another year", lambda: wl.split(SERIES, SPEC, ["2013-03-01", "2013-04-01"]), ValueError,
         "'val'", "2012-03-01", "2012-03-02"),
    case("dates without timestamps", lambda: wl.split(TIMELESS, SPEC, ["2012-03-02"]), ValueError,
         "'2012-03-02'", "timestamps="),
]  # fmt: skip

LOADING = [
    case("series for windows", lambda: wl.WindowLoader(SERIES), ValueError, "Series", "wl.split("),
    case("split for windows", lambda: wl.WindowLoader(wl.split(SERIES, SPEC, RATIOS)), ValueError,
         "train, val, test", "unpack"),
    case("windows for a DataLoader", lambda: train()[0], TypeError, "windows[0]", "TorchLoader", "windows.read([0])"),
    case("loop over windows", lambda: list(train()), TypeError, "WindowLoader("),
    case("shuffle of words", lambda: loader(shuffle="no"), ValueError, "shuffle='no'", "True nor False"),
    case("transform without return", lambda: next(iter(loader(transform=lambda batch: None))), ValueError,
         "transform returned None", "Return"),
    case("epoch of text", lambda: loader().set_epoch("1"), ValueError, "'1'", ">= 0"),
    case("state of a path", lambda: loader().load_state_dict("run.json"), ValueError,
         "str", "state_dict()", "json.load"),
    case("no batch", lambda: loader(batch_size=0), ValueError, "batch_size=0", ">= 1"),
    case("no seed", lambda: loader(seed=None), ValueError, "seed=None", "whole number"),
    case("words for memory", lambda: loader(memory="lots"), ValueError, "'lots'", "512MiB"),
    case("misspelt mode", lambda: loader(uneven="repeat"), ValueError, "'repeat'", "'pad', 'drop' or 'exact'"),
    case("layout without time", lambda: loader(layout="bnf"), ValueError, "'bnf'", "12"),
    case("words for fill", lambda: loader(fill="mean"), ValueError, "'mean'", "0.0"),
    case("no function", lambda: loader(transform=3), ValueError, "transform=3", "function"),
    case("rank outside", lambda: loader(rank=5, world_size=4), ValueError, "rank 5", "world_size=4", "from 0"),
    case("rank alone", lambda: len(loader(rank=1)), ValueError, "rank=1", "world_size="),
    case("class for a scaler", lambda: loader(scaler=wl.StandardScaler), ValueError, "StandardScaler.fit(train)"),
    case("scaler of others", lambda: loader(scaler=wl.StandardScaler(1.0, 2.0, features=["flow"])), ValueError,
         "['speed']", "Fit it"),
    case("array for windows", lambda: wl.StandardScaler.fit(VALUES), ValueError, "ndarray", "wl.split("),
    case("NaN not declared", lambda: wl.StandardScaler.fit(wl.WindowSet(wl.Series(HOLES), SPEC)), ValueError,
         "row 0, node 2", "missing=float('nan')"),
    case("NaN without fill", lambda: wl.WindowLoader(wl.WindowSet(wl.Series(HOLES, missing=np.nan), SPEC)),
         ValueError, "fill=0.0", "max_missing=0.0"),
    case("NaN forbidden", lambda: wl.WindowSet(wl.Series(HOLES, missing=np.nan), wl.WindowSpec(
        lookback=3, horizon=3, on_missing="raise")), ValueError, "1 of 8 nodes", "row 0", "max_missing=0.0"),
    case("state of other data", lambda: loader().load_state_dict(wl.WindowLoader(
        wl.WindowSet(wl.Series(VALUES[:300]), SPEC)).state_dict()), ValueError, "277", "257", "start anew"),
    case("state of a model", lambda: loader().load_state_dict({"layer.weight": 0}), ValueError,
         "layer.weight", "state_dict()"),
    case("budget under a chunk", lambda: next(iter(wl.WindowLoader(
        wl.WindowSet(wl.open("pems.zarr"), SPEC), memory=1000))), MemoryError,
        "12800", "memory=1000", "memory='27kB'", "windowloader convert"),
    case("pair of weighted rows", lambda: [x for x, _ in loader(uneven="exact")], TypeError,
         "batch.weights", "uneven='pad'"),
]  # fmt: skip


@pytest.mark.parametrize("case", [*OPENING, *SHAPES, *WINDOWS, *LOADING])
def test_a_message_has_the_values_and_the_way_out(case: Case) -> None:
    with pytest.raises(case.kind) as caught:
        case.provoke()
    assert isinstance(caught.value, wl.WindowLoaderError)
    message = str(caught.value)
    assert [word for word in case.words if word not in message] == [], message


def test_a_closed_loader_says_how_to_go_on() -> None:
    closed = loader()
    closed.close()
    with pytest.raises(errors.ClosedError, match=r"state_dict\(\) can be loaded"):
        iter(closed)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "4"}, ("WORLD_SIZE='4'", "RANK is not", "rank= and world_size=")),
        ({"WORLD_SIZE": "4", "RANK": "four"}, ("RANK='four'", "unset")),
        ({"WORLD_SIZE": "4", "RANK": "4"}, ("rank 4", "world_size=4", "from 0")),
    ],
)
def test_a_launcher_that_says_half_is_named(variables, words, monkeypatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.RankError) as caught:
        len(loader())
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://bucket/pems.zarr", ("'key'", "'anon': True", "AWS_ACCESS_KEY_ID")),
        ("gs://bucket/pems.zarr", ("GOOGLE_APPLICATION_CREDENTIALS", "'anon': True")),
        ("https://host/pems.npy", ("web server",)),
        ("abfs://bucket/pems.zarr", ("storage_options", "abfs://")),
    ],
)
def test_missing_credentials_are_asked_for_in_the_words_of_their_store(url, words) -> None:
    found = explain(PermissionError("PERMISSION_DENIED: Access Denied"), Asked(url))
    assert isinstance(found, errors.CredentialsError)
    assert all(word in str(found) for word in words), found
    assert ("AWS" in str(found)) == url.startswith("s3")


@pytest.mark.parametrize(
    ("package", "code", "extra"),
    [
        ("h5py", "import windowloader as wl; wl.open('a.h5')", "windowloader[netcdf]"),
        ("pyarrow", "import windowloader as wl; wl.open('a.parquet', time='time')", "windowloader[parquet]"),
        ("torch", "import windowloader.adapters.pytorch", "windowloader[torch]"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package, code, extra, folder) -> None:
    (folder / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (folder / "a.parquet").write_bytes(b"PAR1 and no more")
    code = f"import sys; sys.modules[{package!r}] = None; {code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "MissingExtraError" in last
    assert package in last
    assert extra in last


def test_names_alike_are_looked_for_only_where_there_are_some(folder) -> None:
    with pytest.raises(
        errors.SourceNotFoundError, match=r"\d+ other names?, none like it; check the path|is empty"
    ):
        wl.open("qqqqqq.npy")


def test_the_command_line_prints_the_message_alone(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["windowloader", "inspect", "pens.zarr"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "SourceNotFoundError" in said
    assert "'pems.zarr'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("plan pems.zarr --step-time 80", ("80", "80ms")),
        ("convert speeds.npy s3:/bucket/a.zarr", ("s3://", "two slashes")),
        ("convert speeds.npy out.csv", (".zarr or .npy",)),
        ("convert speeds.npy nowhere/a.zarr", ("no folder", "Make it first")),
        ("inspct pems.zarr", ("inspect",)),
        ("demo --data pens.zarr", ("'pems.zarr'",)),
        ("inspect sparse.zarr", ("a chunk is missing", "\nHere: --fill-missing\n")),
        ("inspect meters.csv", ("entity=", "\nHere: --columns, --time, --entity\n")),
        ("preview meters.csv --entity meter --time utc", ("by='entities'", "\nHere: --by\n")),
    ],
)
def test_the_command_line_says_what_to_type(typed, words, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["windowloader", *typed.split()])
    keep_hooks(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "typed",
    [
        "inspect sparse.zarr --fill-missing",
        "inspect meters.csv --entity meter --time utc",
        "stats meters.csv --entity meter --time utc --per entity",
        "preview meters.csv --entity meter --time utc --by entities --split 0.4,0.3,0.3",
        "demo --data sparse.zarr --fill-missing --epochs 1 --steps-per-epoch 1 --json",
    ],
)
def test_what_the_command_line_says_to_type_works(typed, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["windowloader", *typed.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), capsys.readouterr().err


def test_the_command_line_prints_a_warning_alone(folder, monkeypatch, capsys) -> None:
    (folder / "mangled.csv").write_text("61.5,61.5.1\n" + "60.5,60.25\n" * 35)
    monkeypatch.setattr(sys, "argv", ["windowloader", "inspect", "mangled.csv"])
    monkeypatch.setattr("warnings.filters", [])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.err.startswith("UserWarning: the first line of ")
    assert "mangled.csv'" in said.err
    assert said.err.count("\n") == 1
    assert "steps 35 " in " ".join(said.out.split())


def test_half_precision_in_an_npz_trains_in_float32() -> None:
    np.savez("half.npz", VALUES.astype("f2"))
    windows = wl.WindowSet(wl.open("half.npz"), SPEC)
    batch = next(iter(wl.WindowLoader(windows, scaler=wl.StandardScaler.fit(windows))))
    assert batch.inputs.dtype == np.float32
    assert abs(float(batch.inputs.mean())) < 1


def test_a_constant_feature_is_warned_of_by_name() -> None:
    windows = wl.WindowSet(
        wl.Series(np.ones((40, 2)), features=["flow"]), wl.WindowSpec(lookback=3, horizon=3)
    )
    with pytest.warns(UserWarning, match="std is 0 for 'flow'"):
        wl.StandardScaler.fit(windows)
