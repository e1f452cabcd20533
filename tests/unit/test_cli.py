"""The command line: help, version, options, and errors as messages, whatever happens."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

import windowloader as wl
from windowloader import __version__, cli
from windowloader.cli import options as shared

WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
COMMANDS = ("bench", "cache", "convert", "demo", "inspect", "plan", "preview", "stats", "warmup")
OPENING = {
    "inspect": ("inspect",),
    "preview": ("preview",),
    "plan": ("plan",),
    "stats": ("stats",),
    "convert": ("convert", "{}", "made.zarr"),
    "demo": ("demo", "--data"),
}


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(one) for one in arguments], env=WIDE)


def script(code: str, *arguments: str, **options):
    """Run code, then the command line, in a process of its own."""
    code = (
        f"import sys; sys.argv[1:] = {list(arguments)!r}\n{code}\nfrom windowloader.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture
def main(monkeypatch, capsys):
    """Run the command line as a process does; returns exit code, output and what is said on standard error."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def ran(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["windowloader", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return ran


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.random.default_rng(0).uniform(20, 70, (400, 3)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    np.save("mixed/a.npy", np.zeros((9, 2)))
    (tmp_path / "mixed/a.csv").write_text("a\n1.5\n")
    (tmp_path / "a.csv").write_text("time,a\n2012-03-01,1.5\n2012-03-02,2.5\n")
    for suffix in ("npy", "nc", "h5", "csv", "parquet", "zarr", "npz"):
        (tmp_path / f"page.{suffix}").write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
        (tmp_path / f"picture.{suffix}").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
        (tmp_path / f"packed.{suffix}").write_bytes(gzip.compress(b"a,b\n1.5,2.5\n"))
        (tmp_path / f"empty.{suffix}").write_bytes(b"")
        (tmp_path / f"text.{suffix}").write_bytes(b'{"message": "Not Found"}\n')
        (tmp_path / f"xml.{suffix}").write_bytes(
            b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
        )
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_in_the_help_and_has_its_own(name: str) -> None:
    assert name in run("--help").output
    own = run(name, "--help")
    assert own.exit_code == 0
    assert "Usage" in own.output


def test_version() -> None:
    assert run("--version").output.strip() == __version__


def test_the_module_is_the_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "windowloader", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == __version__


def test_nothing_asked_prints_the_help() -> None:
    assert "Commands" in run().output


def test_an_unknown_command_fails() -> None:
    assert run("dmeo").exit_code == 2


BAD = [
    *(f"{kind}.{suffix}" for kind in ("page", "picture", "packed", "empty", "text", "xml")
      for suffix in ("npy", "nc", "h5", "csv", "parquet", "zarr", "npz")),
    "absent.npy", "absent.zarr", "nowhere/absent.csv", "*.absent", "empty", "mixed", "s4://bucket/a.zarr", "", ".",
]  # fmt: skip


def arguments_of(command: str, file: str, *more: str) -> list[str]:
    first, *rest = OPENING[command]
    return [first, *(one.replace("{}", file) for one in rest), *([] if "{}" in rest else [file]), *more]


@pytest.mark.parametrize("command", OPENING)
def test_what_cannot_be_opened_is_one_message_of_the_package(command: str, folder, main) -> None:
    turn = list(OPENING).index(command)
    for bad in BAD[turn :: len(OPENING)]:  # together the commands see all of them
        code, out, said = main(*arguments_of(command, bad))
        assert code == 2, (bad, said)
        assert re.search(r"^\w+Error: |Invalid value", said, re.MULTILINE), (bad, said)
        assert "Traceback" not in out + said
        assert bad.rpartition("/")[2][:8] in said, (bad, said)


WRONG = [
    ("--variable", "speed"),
    ("--start", "2012-03-01"),
    ("--start", "soon", "--freq", "5min"),
    ("--start", "2012-03-01", "--freq", "5 minutes"),
    ("--missing", "x"),
    ("--absent", "1"),
    ("--fill-missing",),
    ("--axes", "tnnf"),
    ("--axes", "q"),
    ("--decimal", ","),
    ("--time", "when"),
    ("--entity", "meter"),
    ("--option", "anon"),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_options_are_one_message(wrong: tuple[str, ...], folder, main) -> None:
    place = WRONG.index(wrong)
    others = (
        ("demo", "plan", "stats") if place < 7 else ("convert", "preview", "plan")
    )  # the demo has no more
    for command in ("inspect", others[place % 3]):
        code, out, said = main(*arguments_of(command, "a.npy", *wrong))
        assert code == 2, said
        assert said
        assert "Traceback" not in out + said


@pytest.mark.parametrize(
    "arguments",
    [
        ("cache", "list", "absent"),
        ("cache", "clear", "a.npy"),
        ("cache", "list"),
        ("bench", "--size", "nothing"),
        ("bench", "--size", "40x0"),
        ("bench", "--size", "40x5"),
        ("bench", "--size", "400x5", "--only", "nothing"),
        ("warmup", "--dtype", "nothing"),
        ("warmup", "--source", "str"),
        ("stats", "a.npy", "--lookback", "1000"),
        ("stats", "a.npy", "--split", "0.7"),
        ("stats", "a.npy", "--split", "0.7,abc"),
        ("plan", "a.npy", "--memory", "much"),
        ("plan", "a.npy", "--rank", "3"),
        ("plan", "a.npy", "--bandwidth", "fast"),
        ("preview", "a.npy", "--split", "2012-05-01,2012-06-01"),
        ("preview", "a.npy", "--by", "days"),
        ("inspect", "a.npy", "--graph", "absent.pkl"),
        ("inspect", "a.npy", "--graph", "picture.npy"),
        ("convert", "a.npy", "made.txt"),
        ("convert", "a.npy", "made.zarr", "--chunks", "x"),
        ("convert", "a.npy", "made.zarr", "--compression", "rar"),
        ("convert", "a.npy", "made.zarr", "--dtype", "text"),
        ("convert", "a.npy", "absent/folder/made.zarr"),
        ("convert", "a.npy", "a.npy/made.zarr"),
        ("convert", "a.npy", "/proc/made.zarr"),
        ("convert", "a.npy", "/dev/full/made.npy"),
    ],
)
def test_wrong_use_is_one_message(arguments: tuple[str, ...], folder, main, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    code, out, said = main(*arguments)
    assert code in (1, 2), said
    assert said
    assert "Traceback" not in out + said
    assert "fault of windowloader" not in said


def test_what_may_not_be_read_is_one_message(folder, main) -> None:
    kinds = ("a.npy", "a.csv")
    for name in kinds:
        assert main("inspect", name)[0] == 0  # with all imports
        os.chmod(name, 0)
    me = os.geteuid()
    os.seteuid(65534 if me == 0 else me)
    try:
        found = [main("inspect", name) for name in kinds]
    finally:
        os.seteuid(me)
    for code, _out, said in found:
        assert code == 2, said
        assert "ermission" in said
        assert "Traceback" not in said


def test_options_of_tables_reach_pandas(tmp_path) -> None:
    rows = [f"{day:02}/03/2012;0{meter};{day}.000,5;?" for meter in (1, 2) for day in range(1, 31)]
    (tmp_path / "a.csv").write_text("day;meter;kwh;other\n" + "\n".join(rows) + "\n", encoding="utf-16")
    done = run(
        "stats", tmp_path / "a.csv", "--time", "day", "--time-format", "%d/%m/%Y", "--entity", "meter", "--sep", ";",
        "--decimal", ",", "--thousands", ".", "--encoding", "utf-16", "--na-values", "?", "--variables", "kwh",
        "--dtype", "meter=str", "--header", "0", "--lookback", "2", "--horizon", "1", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    scaler = json.loads(done.stdout)["scaler"]
    assert json.dumps(scaler).count("15500.5") == 1


def test_columns_and_several_columns_of_time(tmp_path) -> None:
    rows = [f"2012-03-{day:02},{hour:02}:00,{day},{hour}" for day in (1, 2) for hour in range(24)]
    (tmp_path / "a.csv").write_text("date,hour,a,b\n" + "\n".join(rows) + "\n")
    done = run("inspect", tmp_path / "a.csv", "--time", "date", "--time", "hour", "--columns", "b", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["steps"], found["nodes"], found["time"]["last"]) == (48, 1, "2012-03-02T23:00:00")


def test_every_option_that_opens_is_an_option_of_open(folder) -> None:
    import inspect

    words = set(inspect.signature(wl.open).parameters)
    named = {name for name, *_ in (*shared.DATA, *shared.TABLE)} - {"start", "freq"}
    assert named - words <= {
        "time_format", "time_unit", "columns", "header", "sep", "decimal", "thousands", "encoding", "na_values",
        "dtype", "fill_missing",
    }  # fmt: skip
    for name, kind, flags, _help in (*shared.DATA, *shared.TABLE):
        if name in named - words - {"fill_missing"}:
            value = ["x=str"] if name == "dtype" else ["0"] if kind in (str, list[str]) else []
            done = run("inspect", "a.npy", flags.split()[0], *value)
            assert f"['{name}'] were given" in str(done.exception), (name, done.exception)


def test_the_source_s_own_type_beside_that_of_the_result(folder) -> None:
    done = run("convert", "a.csv", "made.npy", "--source-dtype", "a=float32", "--dtype", "float64")
    assert done.exit_code == 0, done.output
    assert np.load("made.npy").dtype == np.float64


def test_a_message_says_how_to_type_its_advice(folder, main) -> None:
    _code, _out, said = main("inspect", "mixed/a.npy", "--axes", "tnnf")
    assert said.endswith("Here: --axes\n")
    (folder / "commas.csv").write_text("time;a\n2012-03-01;1,5\n2012-03-02;2,5\n")
    _code, _out, said = main("inspect", "commas.csv")
    assert "--decimal" in said.splitlines()[-1]


def test_an_unexpected_error_is_one_line_and_names_itself(folder, main, monkeypatch) -> None:
    def fails(*_arguments: object, **_options: object) -> None:
        raise KeyError("a\nb https://user:hushPASS@host/")

    monkeypatch.setattr("windowloader.view.inspection.inspect", fails)
    code, _out, said = main("inspect", "a.npy")
    assert code == 1
    assert len(said.splitlines()) == 1
    assert "KeyError" in said
    assert re.search(r"test_cli\.py:\d+", said)
    assert "WINDOWLOADER_TRACEBACK=1" in said
    assert "hush" not in said
    monkeypatch.setenv("WINDOWLOADER_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["windowloader", "inspect", "a.npy"])
    with pytest.raises(KeyError):
        cli.main()


def test_warnings_are_one_line_each_and_said_once(folder, main, monkeypatch) -> None:
    look = wl.view.inspection.inspect

    def warns(*arguments: object, **options: object) -> object:
        for number in (1, 1, 2):
            warnings.warn(f"number {number}\nof some\n  lines", UserWarning, stacklevel=1)
            warnings.warn_explicit("said again", RuntimeWarning, f"{number}.py", number)
            warnings.warn_explicit("said again", RuntimeWarning, "other.py", number)
        return look(*arguments, **options)

    monkeypatch.setattr("windowloader.view.inspection.inspect", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, out, said = main("inspect", "a.npy", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 400
    assert said.splitlines() == [
        "UserWarning: number 1 of some lines",
        "RuntimeWarning: said again",
        "UserWarning: number 2 of some lines",
    ]


def test_errors_of_the_package_are_messages_not_tracebacks(tmp_path) -> None:
    done = script("", "inspect", "absent.npy", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("SourceNotFoundError: ")
    assert "absent.npy" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("absent", ["typer", "rich"])
def test_without_typer_or_rich_the_command_says_what_to_install(absent: str) -> None:
    done = script(f"sys.modules[{absent!r}] = None", "--version")
    assert done.returncode == 2
    assert "pip install 'windowloader[cli]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    module = "import runpy; runpy.run_module('windowloader', run_name='__main__')"
    done = script(f"sys.modules[{absent!r}] = None; {module}", "--version")
    assert "pip install 'windowloader[cli]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupt_ends_with_130_and_no_traceback(folder) -> None:
    stop = (
        "import os, signal, windowloader.view.inspection as page\n"
        "page.inspect = lambda *given, **options: os.kill(os.getpid(), signal.SIGINT)"
    )
    done = script(stop, "inspect", "a.npy")
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr == ""


def test_a_thread_that_fails_is_one_line(folder) -> None:
    fails = (
        "import threading, windowloader.view.inspection as page\n"
        "look = page.inspect\n"
        "def inspect(*given, **options):\n"
        "    thread = threading.Thread(target=lambda: {}['lost'])\n"
        "    thread.start(), thread.join()\n"
        "    return look(*given, **options)\n"
        "page.inspect = inspect"
    )
    done = script(fails, "inspect", "a.npy", "--json")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "KeyError: 'lost'" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("inspect", "a.npy"), ("inspect", "a.npy", "--json"), ("--help",), ("--version",)]
)
def test_output_that_nobody_reads_ends_without_a_word(arguments: tuple[str, ...], folder) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "windowloader", *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [("inspect", "a.npy"), ("inspect", "a.npy", "--json"), ("--version",)])
def test_output_to_a_full_disk_is_one_line(arguments: tuple[str, ...], folder) -> None:
    command = [sys.executable, "-m", "windowloader", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "No space left on device" in done.stderr
        silent = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert silent.returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_error(closed: str, folder) -> None:
    line = f"{sys.executable} -m windowloader inspect a.npy {closed}"
    assert subprocess.run(["/bin/sh", "-c", line], check=False).returncode == 0
