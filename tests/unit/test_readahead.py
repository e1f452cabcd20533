"""Mapped files: what is asked for ahead, when, and that batches stay the same."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

import windowloader as wl
from windowloader.rows import readahead
from windowloader.rows.readahead import MmapPrefetcher, ReadAhead, Stretch, file_memory, stretch_of
from windowloader.rows.rows import Resident

SPEC = wl.WindowSpec(input_offsets=[-20, -2, -1, 0], target_offsets=[1, 2])
ROWS = {0, 18, 19, 20, 21, 22}


@pytest.fixture
def path(tmp_path):
    values = np.arange(4000 * 300, dtype=np.float32).reshape(4000, 300)
    np.save(tmp_path / "speed.npy", values)
    return tmp_path / "speed.npy"


def forget(path):
    """Drop a file's pages, which needs that nobody maps it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def told(monkeypatch):
    """Every advice: rows, and which."""
    advices = []

    def advise(self, begins, ends, advice, *, most=0):
        rows = {row for begin, end in zip(begins, ends, strict=True) for row in range(begin, end)}
        advices.append((advice, rows))

    monkeypatch.setattr(Stretch, "advise", advise)
    monkeypatch.setattr(Stretch, "resident", lambda self: 0.0)
    monkeypatch.setattr(readahead, "SMALL", 0)
    return advices


def test_rows_that_lie_one_after_another_in_a_map_can_be_advised(path):
    mapped = np.load(path, mmap_mode="r")
    whole = stretch_of(mapped[..., None])
    assert (whole.rows, whole.row_step, whole.row_bytes, whole.nbytes) == (4000, 1200, 1200, 4_800_000)
    part = stretch_of(mapped[10:20, 5:7, None])
    assert (part.address - whole.address, part.rows, part.row_step, part.row_bytes) == (12020, 10, 1200, 8)
    assert stretch_of(np.zeros((4, 2, 1))) is None
    assert stretch_of(mapped[::-1][..., None]) is None
    assert stretch_of(mapped.T[..., None]) is None
    assert stretch_of(mapped[:0][..., None]) is None


def test_pages_are_in_memory_or_not(path):
    forget(path)
    mapped = np.load(path, mmap_mode="r")
    stretch = stretch_of(mapped[..., None])
    assert stretch.resident() < 0.5  # pages may be brought in by a look at the header
    mapped.sum()
    assert stretch.resident() == 1.0


def test_ranges_are_united():
    rng = np.random.default_rng(0)
    for _ in range(200):
        begins = rng.integers(0, 40, rng.integers(1, 9))
        ends = begins + rng.integers(1, 9, begins.size)
        got = readahead._united(np.stack([begins, ends]))
        assert (got[0][1:] > got[1][:-1]).all()
        assert {r for b, e in zip(*got, strict=True) for r in range(b, e)} == {
            r for b, e in zip(begins, ends, strict=True) for r in range(b, e)
        }


def test_the_memory_for_files_can_be_declared(monkeypatch):
    monkeypatch.delenv(readahead.VARIABLE, raising=False)
    assert file_memory() > 1 << 20
    monkeypatch.setenv(readahead.VARIABLE, "3MiB")
    assert file_memory() == 3 << 20


@pytest.mark.parametrize(("declared", "mark"), [("1MiB", "MADV_RANDOM"), ("1GiB", "MADV_NORMAL")])
def test_each_batch_is_told_before_its_turn_and_nothing_else(path, told, monkeypatch, declared, mark):
    monkeypatch.setenv(readahead.VARIABLE, declared)
    windows = wl.WindowSet(wl.open(path, axes="tn"), SPEC)
    loader = wl.WindowLoader(windows, batch_size=64, shuffle=True, threads=0, steps_per_epoch=30)
    together = loader._bind().batches_per_call
    assert together > 1
    wanted = []
    for batch in loader:
        wanted.append({start + row for start in batch.starts.tolist() for row in ROWS})
        assert told[0][0] == getattr(mmap, mark)
        known = [rows for advice, rows in told[1:] if advice == mmap.MADV_WILLNEED]
        assert known[: len(wanted)] == wanted
        made = -(-len(wanted) // together) * together  # small batches are made several at a time
        assert len(known) == min(made + 16, 30)
    loader.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_batches_are_the_same(path, monkeypatch, threads):
    monkeypatch.setenv(readahead.VARIABLE, "1MiB")
    windows = wl.WindowSet(wl.open(path, axes="tn"), SPEC)

    def run(kind):
        with wl.WindowLoader(windows, batch_size=128, shuffle=True, seed=4, threads=threads) as loader:
            iterator = iter(loader)
            assert type(iterator._stream) is kind
            return [(batch.inputs.copy(), batch.targets.copy()) for batch in iterator]

    plain = run(Resident)
    monkeypatch.setattr(readahead, "SMALL", 0)
    monkeypatch.setattr(Stretch, "resident", lambda self: 0.0)
    for one, other in zip(plain, run(MmapPrefetcher), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_what_is_in_memory_is_left_alone(path, monkeypatch):
    windows = wl.WindowSet(wl.open(path, axes="tn"), SPEC)
    monkeypatch.setattr(readahead, "SMALL", 0)
    np.load(path, mmap_mode="r").sum()
    with wl.WindowLoader(windows, rank=0, world_size=1) as loader:
        iterator = iter(loader)
        assert isinstance(loader._pipeline.access, ReadAhead)
        assert type(iterator._stream) is Resident


@pytest.mark.measure
def test_a_file_that_has_warmed_up_is_asked_for_no_more(path, told, monkeypatch):
    warm = []
    monkeypatch.setattr(Stretch, "resident", lambda self: 1.0 if warm else 0.0)
    monkeypatch.setattr(readahead, "AGAIN", 8)
    windows = wl.WindowSet(wl.open(path), SPEC)
    with wl.WindowLoader(windows, batch_size=4, shuffle=True, threads=0, rank=0, world_size=1) as loader:
        iterator = iter(loader)
        for _ in range(20):
            next(iterator)
        asked = len(told)
        assert asked > 20
        warm.append(True)
        for _ in range(8):
            next(iterator)
        asked = len(told)
        for _ in range(40):
            next(iterator)
        assert len(told) == asked


def test_a_cold_file_is_read_once_where_it_is_used(tmp_path):
    """Bytes from the disk over distinct bytes of the windows: at most 1.02, in random order."""
    path = tmp_path / "large.npy"
    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(30_000, 2716))
    values[:] = 1.0
    values.flush()
    del values
    forget(path)
    series = wl.open(path, axes="tn")
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=12, horizon=12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(readahead.VARIABLE, "64MiB")
        with wl.WindowLoader(windows, batch_size=64, shuffle=True, steps_per_epoch=6) as loader:
            before = read_bytes()
            starts = np.concatenate([batch.starts for batch in loader])
            read = read_bytes() - before
    distinct = np.unique(starts[:, None] + np.arange(24)).size * 2716 * 4
    if read == 0:
        pytest.skip("this file system does not count what is read")
    assert 0.9 * distinct < read <= 1.02 * distinct


def read_bytes():
    with open("/proc/self/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
