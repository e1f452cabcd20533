"""Maps of files that change: what a check sees, and which faults are answered; each fault in a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from windowloader.errors import SourceChangedError
from windowloader.sources.mapping import FileMap, files_of, unchanged
from windowloader.sources.numpy_files import open_npy

BEFORE = """
import mmap, os, sys, threading
import numpy as np
from windowloader.errors import SourceChangedError
from windowloader.sources.numpy_files import open_npy
from windowloader.sources.mapping import unchanged

path = sys.argv[1]
rows = open_npy(path).array()

def told(read):
    try:
        with unchanged(rows):
            read()
    except SourceChangedError:
        print("told")
"""


def run(tmp_path, code, *options):
    np.save(tmp_path / "a.npy", np.ones((4000, 64), "f4"))
    command = [sys.executable, *options, "-c", BEFORE + textwrap.dedent(code), str(tmp_path / "a.npy")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_pages_that_go_away_within_the_context_are_an_error(tmp_path):
    done = run(
        tmp_path,
        """
        told(lambda: (os.truncate(path, 9000), rows.sum()))
        told(lambda: rows[0])  # again, though nothing faults any more
        """,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["told", "told"])


def test_a_file_that_was_cut_and_is_whole_again_is_still_an_error(tmp_path):
    done = run(
        tmp_path,
        """
        before, data = os.stat(path), open(path, "rb").read()
        def read():
            os.truncate(path, 9000)
            rows.sum()
            with open(path, "r+b") as file:
                file.write(data)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        told(read)
        """,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["told"])


def test_other_faults_still_end_the_process(tmp_path):
    for code in (
        "told(lambda: None); os.truncate(path, 9000); rows.sum()",
        "told(lambda: None); os.kill(os.getpid(), 7)",
        """
        with unchanged(rows):
            threading.Thread(target=lambda: (os.truncate(path, 9000), rows.sum())).start()
            threading.Event().wait(60)
        """,
    ):
        assert run(tmp_path, code).returncode == -signal.SIGBUS, code


@pytest.mark.parametrize("when", ["before", "after"])
def test_beside_faulthandler(tmp_path, when):
    options = ("-X", "faulthandler") if when == "before" else ()
    code = "import faulthandler; told(lambda: None); faulthandler.enable()" if when == "after" else ""
    done = run(tmp_path, f"{code}\ntold(lambda: (os.truncate(path, 9000), rows.sum()))", *options)
    assert (done.returncode, done.stdout.split()) == (0, ["told"])
    assert ("Bus error" in done.stderr) == (when == "after")


def test_what_a_check_sees(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(12.0))
    rows = open_npy(path, axes="t").array()
    (file,) = files_of([rows, rows[2:], rows.reshape(3, 4).T, np.zeros(3)])
    assert isinstance(file, FileMap)
    with unchanged(rows):
        pass
    os.replace(path, tmp_path / "b.npy")
    np.save(path, np.arange(12.0) + 1)  # another file of that name: the map stays what it was
    with unchanged(rows):
        np.testing.assert_array_equal(rows, np.arange(12.0))
    path.unlink()
    with unchanged(rows):
        pass
    os.replace(tmp_path / "b.npy", path)
    with open(path, "r+b") as written:
        written.seek(-8, 2)
        written.write(bytes(8))
    with (
        pytest.raises(SourceChangedError, match=r"a\.npy.*changed while it was read.*rename"),
        unchanged(rows),
    ):
        pass
