"""Damaged and hostile graph files: no crash, no more memory than a file can ask for, no error but the package's."""

from __future__ import annotations

import collections
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from windowloader.adapters.numpy_loops import load_dataset
from windowloader.adapters.pgt import FAMILIES
from windowloader.errors import SourceFormatError
from windowloader.sources.numpy_files import open_npz
from windowloader.sources.unpickle import load_plain

WORKER = Path(__file__).with_name("graph_mutations.py")
CASES = 17_000


def loaded(folder: Path, first: int, last: int, *real: Path) -> dict:
    """Load the cases in a process of their own; one that crashes names its case."""
    folder.mkdir()
    command = [sys.executable, str(WORKER), str(folder), str(first), str(last), *map(str, real)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    number = (folder / "number").read_text() if (folder / "number").exists() else "none"
    assert done.returncode == 0, f"case {number}: exit status {done.returncode}\n{done.stderr[-3000:]}"
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert told["grown"] < 1 << 30
    assert sum(told["found"].values()) == last - first
    return told


def test_damaged_and_hostile_files_are_errors_of_graphs(tmp_path: Path) -> None:
    told = loaded(tmp_path / "few", 0, 500)
    assert told["found"]["GraphError"] > told["hostile"] > 70
    assert told["found"]["read"] > 20  # damage may leave a graph


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_many_damaged_files(tmp_path: Path, data: Path) -> None:
    real = data / "metr_la_week" / "adj_mx.pkl"
    total: collections.Counter[str] = collections.Counter()
    grown = 0
    for first in range(500, 500 + CASES, 1000):
        told = loaded(tmp_path / str(first), first, first + 1000, real)
        total.update(told["found"])
        grown = max(grown, told["grown"])
    print(f"{total.total()} damaged files: {dict(total)}, at most {grown >> 20} MiB more memory")
    assert total.total() == CASES


def test_arrays_and_json_of_other_readers_are_bounded_too(tmp_path: Path) -> None:
    """A header that asks for terabytes, in the archives of series and of loops; JSON that nests without end."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 9), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
        for name in "xy":
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00\x76\x00" + header)
    with pytest.raises(SourceFormatError, match="79164837199872 bytes, and 0 follow"):
        open_npz(tmp_path / "train.npz", member="x").read(0, 1, np.empty((1, 9)))
    for name in ("val", "test"):
        shutil.copy(tmp_path / "train.npz", tmp_path / f"{name}.npz")
    with pytest.raises(SourceFormatError, match="79164837199872 bytes, and 0 follow"):
        load_dataset(tmp_path, batch_size=4)
    (tmp_path / "nested.json").write_text("[" * 100_000)
    with pytest.raises(SourceFormatError, match="cannot be read as JSON"):
        FAMILIES["chickenpox"].open(tmp_path / "nested.json")


def test_what_is_nearly_a_pickle_of_plain_data_says_what_was_refused() -> None:
    for content, message in (
        (np.array([{}], dtype=object), "a pickled dtype is refused"),
        (np.zeros(2, "M8[s]"), "a pickled dtype is refused"),
    ):
        with pytest.raises(SourceFormatError, match=message):
            load_plain(pickle.dumps(content, 2))
    assert load_plain(pickle.dumps([["a" * 9] * 3, {"a": -(2**63)}], 2))[0] == ["a" * 9] * 3
