"""Pages of fresh memory: made without a look at their contents, and never longer than the memory is wanted."""

from __future__ import annotations

import os
import sys
import threading
import weakref

import numpy as np
import pytest

import windowloader as wl
from windowloader.rows import prefault as touching
from windowloader.rows.arena import Arena
from windowloader.sources.base import LocalSource
from windowloader.util.units import private_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems make pages when they are used")

SIZE = 64 << 20


def slab_of(nbytes=SIZE):
    slab = np.empty(nbytes, np.uint8)
    half = nbytes // 2 + 100  # regions begin anywhere on a page
    return slab, [slab[:half], slab[half:]]


def can_populate():
    slab, _ = slab_of()
    low = -(-slab.ctypes.data // 4096) * 4096
    madvise = touching.ctypes.CDLL(None).madvise
    madvise.argtypes = (touching.ctypes.c_void_p, touching.ctypes.c_size_t, touching.ctypes.c_int)
    return madvise(low, 4096, touching.POPULATE_WRITE) == 0


def test_all_pages_are_there_afterwards_and_not_before():
    if not can_populate():
        pytest.skip("Linux before 5.14")
    slab, regions = slab_of()
    before = private_bytes()
    thread = touching.touch(slab, regions)
    thread.join()
    assert private_bytes() - before > 0.9 * SIZE


def test_what_is_written_meanwhile_stays():
    slab, regions = slab_of()
    thread = touching.touch(slab, regions)
    slab[:] = 7
    thread.join()
    assert (slab == 7).all()


def test_first_rows_of_all_regions_come_first(monkeypatch):
    asked = []
    monkeypatch.setattr(touching, "_run", lambda slab, steps: asked.extend(steps))
    slab, regions = slab_of()
    touching.touch(slab, regions).join()
    begins = [begin for begin, _ in asked]
    assert begins[:2] == [region.ctypes.data for region in regions]
    assert sum(size for _, size in asked) == SIZE
    assert begins != sorted(begins)  # by turns


def test_memory_that_is_gone_is_not_touched(monkeypatch):
    called = []
    monkeypatch.setattr(touching.ctypes, "CDLL", lambda _: type("C", (), {"madvise": _Note(called)})())
    slab, regions = slab_of()
    steps = [(region.ctypes.data, region.nbytes) for region in regions]
    gone = weakref.ref(slab)
    held = threading.Thread(target=touching._run, args=(gone, steps))
    del slab, regions
    assert gone() is None
    held.start()  # on a thread of its own, whose priority it lowers
    held.join()
    assert called == []


class _Note:
    def __init__(self, called):
        self.called = called

    def __call__(self, *asked):
        self.called.append(asked)
        return 0


def test_a_thread_does_not_keep_the_memory():
    slab, regions = slab_of()
    alive = weakref.ref(slab)
    thread = touching.touch(slab, regions)
    del slab, regions
    thread.join()
    assert alive() is None


def test_only_its_own_thread_is_slowed():
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    slab, regions = slab_of()
    touching.touch(slab, regions).join()
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


@pytest.mark.parametrize(("nbytes", "refused"), [(1 << 20, 0), (SIZE, 22)])
def test_a_little_memory_and_an_old_system_are_left_alone(monkeypatch, nbytes, refused):
    monkeypatch.setattr(touching.ctypes, "CDLL", lambda _: type("C", (), {"madvise": _Refuse(refused)})())
    slab, regions = slab_of(nbytes)
    before = private_bytes()
    thread = touching.touch(slab, regions)
    if thread is not None:
        thread.join()
    assert (thread is None) == (nbytes < touching.LEAST)
    assert private_bytes() - before < SIZE // 8


class _Refuse:
    def __init__(self, code):
        self.code = code

    def __call__(self, *_):
        return -self.code


class Zeros(LocalSource):
    def _read(self, start, stop, out, box=None):
        out[...] = 0
        return out.nbytes


@pytest.mark.parametrize("chunk", [20, 1])  # in blocks, and directly
def test_arenas_of_streams_are_touched(monkeypatch, chunk):
    touched = []
    monkeypatch.setattr(Arena, "touch", lambda self: touched.append(self.nbytes))
    source = Zeros("zeros", shape=(400, 3), dtype="f4", axes="tn", chunks=(chunk, 3))
    windows = wl.WindowSet(wl.Series(source), wl.WindowSpec(lookback=2, horizon=1))
    with wl.WindowLoader(windows, batch_size=8, shuffle=True) as loader:
        plan = loader.plan()
        for _ in range(2):
            list(loader)
    assert plan.mode == "preloaded"
    assert len(touched) == 1
    assert 0 < touched[0] <= plan.memory.arena + plan.memory.overlap_buffer
