"""Sources as people write them: `plan`, `stats()` and what the source was asked agree to the byte."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import SourceError, SourceFormatError
from windowloader.sources import Storage
from windowloader.sources.disk_cache import DiskCache
from windowloader.sources.disk_cache_source import CachedSource
from windowloader.testing import check_source

SPEC = wl.WindowSpec(lookback=5, horizon=3)


class Archive(wl.Source):
    """Values in chunks, of which each that is touched is read whole, and counted."""

    def __init__(self, values, chunks, boxes="whole", axes=None, **described):
        super().__init__(
            "archive", shape=values.shape, dtype=values.dtype, axes=axes, chunks=chunks, **described
        )
        self.values, self.grid, self.boxes = values, chunks, boxes
        self.total, self.lock = 0, threading.Lock()

    def __getstate__(self):
        return {**self.__dict__, "lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, lock=threading.Lock())

    def read(self, start, stop, out, box=None):
        self.check_range(start, stop, out, box)
        parts = [slice(start, stop), *(box or (slice(0, size) for size in self.shape[1:]))]
        places = [np.arange(x.start, x.stop) if isinstance(x, slice) else x for x in parts]
        hit = [np.unique(place // chunk) for place, chunk in zip(places, self.grid, strict=True)]
        size = 0
        for cell in itertools.product(*hit):
            block = [slice(at * chunk, (at + 1) * chunk) for at, chunk in zip(cell, self.grid, strict=True)]
            size += self.values[tuple(block)].nbytes
        out[...] = self.values[np.ix_(*places)]
        with self.lock:
            self.total += size
        return size


class Uneven(Archive):
    """Rows in files of different lengths, read whole: it says itself how it lies in storage."""

    EDGES = np.array([0, 70, 400, 410, 1100, 1234])

    def storage(self, box=None):
        return Storage(self.EDGES, row_bytes=self.shape[1] * self.dtype.itemsize)

    def read(self, start, stop, out, box=None):
        self.check_range(start, stop, out, box)
        first = np.searchsorted(self.EDGES, start, "right") - 1
        last = np.searchsorted(self.EDGES, stop, "left") if stop > start else first
        size = self.values[self.EDGES[first] : self.EDGES[last]].nbytes
        out[...] = self.values[start:stop]
        with self.lock:
            self.total += size
        return size


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("f4")


def iterated(series, expected, **options):
    """Iterate one epoch, compare every value, and return the bytes of the plan and of the stats."""
    windows = wl.WindowSet(series, SPEC)
    with wl.WindowLoader(windows, batch_size=64, threads=0, **{"shuffle": True, **options}) as loader:
        plan, seen = loader.plan(), 0
        for batch in loader:
            rows = batch.starts[:, None] + np.arange(SPEC.lookback)
            np.testing.assert_array_equal(batch.inputs, expected[rows])
            seen += len(batch.starts)
        assert seen == len(windows)
        with loader._pipeline.access.reader.lock:
            loader._pipeline.access.reader.drain()
        read = loader.stats().epochs[0]
        assert (read.read_bytes, read.read_requests) == (plan.own.bytes, plan.own.requests)
        return plan.own.bytes, plan.upcoming.bytes


@pytest.mark.parametrize(
    ("boxes", "total"),
    [("whole", 480_000), ("slices", 120_000), ("indices", 120_000)],  # two nodes of one chunk's ten
)
def test_two_of_forty_nodes(boxes, total):
    values = numbers(3000, 40)
    source = Archive(values, (100, 10), boxes)
    own, upcoming = iterated(wl.open(source).select(nodes=[8, 3]), values[:, [8, 3], None])
    assert own == total
    assert source.total == own + upcoming


CHOICES = {
    "nodes apart": ({"nodes": [1, 25]}, lambda v: v[:, [1, 25]]),
    "a range of nodes": ({"nodes": slice(15, 37)}, lambda v: v[:, 15:]),
    "a part of a part": ({"nodes": [30, 4, 5]}, lambda v: v[:, [30, 4, 5]]),
    "rows": ({"time": slice(150, 1003)}, lambda v: v[150:1003]),
    "rows and nodes": ({"time": slice(150, 1003), "nodes": [36, 0]}, lambda v: v[150:1003][:, [36, 0]]),
}


@pytest.mark.parametrize("what", CHOICES)
@pytest.mark.parametrize("boxes", ["whole", "slices", "indices"])
def test_parts_of_an_array_whose_last_chunks_are_short(boxes, what):
    values = numbers(1234, 37)
    chosen, part = CHOICES[what]
    source = Archive(values, (100, 10), boxes)
    series = wl.open(source)
    if what == "a part of a part":
        series = series.select(nodes=slice(3, 36)).select(nodes=[27, 1, 2])
    else:
        series = series.select(**chosen)
    assert sum(iterated(series, part(values)[..., None])) == source.total


@pytest.mark.parametrize("boxes", ["whole", "slices", "indices"])
def test_features_and_grids(boxes):
    values = numbers(700, 9, 3)
    source = Archive(values, (50, 4, 1), boxes)
    series = wl.open(source, features=["a", "b", "c"]).select(nodes=[0, 8], features=["c"])
    assert sum(iterated(series, values[:, [0, 8]][..., [2]])) == source.total
    grid = Archive(numbers(700, 6, 8), (50, 4, 3), boxes, axes="tnn")
    series = wl.open(grid).select(nodes=[0, 7, 41])
    assert sum(iterated(series, grid.values.reshape(700, 48)[:, [0, 7, 41], None])) == grid.total


def test_an_own_storage_and_none_at_all():
    values = numbers(1234, 12)
    source = Uneven(values, (100, 12))
    assert sum(iterated(wl.open(source), values[..., None], memory=300_000)) == source.total
    check_source(source, values, pickled_bytes=None)
    free = Archive(values, (1, 1))
    free.chunks = None  # every range costs alike
    assert sum(iterated(wl.open(free).select(nodes=[2, 3]), values[:, [2, 3], None])) == free.total


@pytest.mark.parametrize("boxes", ["whole", "indices"])
def test_joined_along_time(boxes):
    values = numbers(1234, 30)
    parts = [Archive(values[:555], (100, 10), boxes), Archive(values[555:], (60, 15), boxes)]
    own, upcoming = iterated(wl.open(parts).select(nodes=[29, 2]), values[:, [29, 2], None])
    assert sum(part.total for part in parts) == own + upcoming


def test_kept_on_disk(tmp_path):
    values = numbers(1234, 37)
    inner = Archive(values, (100, 10), "indices")
    source = CachedSource(inner, DiskCache(str(tmp_path)))
    windows = wl.WindowSet(wl.open(source).select(nodes=[8, 3]), SPEC)
    with wl.WindowLoader(windows, batch_size=64, threads=0) as loader:
        plan = loader.plan()
        for _ in range(2):
            list(loader)
        read = [(one.read_bytes, one.read_requests) for one in loader.stats().epochs]
    assert read == [(plan.own.bytes, plan.own.requests), (0, 0)]
    assert inner.total == plan.own.bytes == 1234 * 10 * 4
    source.close()


@pytest.mark.parametrize("boxes", ["whole", "slices", "indices"])
def test_the_check_passes(boxes):
    check_source(Archive(values := numbers(40, 7, 3), (9, 4, 2), boxes), values, pickled_bytes=None)


def test_read_must_return_bytes():
    class Silent(Archive):
        def read(self, start, stop, out, box=None):
            super().read(start, stop, out, box)

    series = wl.open(Silent(numbers(100, 4), (10, 4)))
    with (
        wl.WindowLoader(wl.WindowSet(series, SPEC), batch_size=8) as loader,
        pytest.raises(SourceError, match=r"read\(\) of 'archive' returned None; return the bytes"),
    ):
        next(iter(loader))


def test_only_subclasses_of_source_are_accepted():
    class Alike:
        name, axes, shape, dtype, chunks = "alike", "tn", (9, 2), np.dtype("f4"), None

        def read(self, start, stop, out):
            out[...] = 0

    with pytest.raises(SourceFormatError, match=r"Alike.*windowloader\.Source"):
        wl.open(Alike())
