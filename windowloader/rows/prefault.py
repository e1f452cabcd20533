"""Pages of fresh memory, asked of the system while the first requests are on their way.

In: arrays that nobody wrote to yet. Out: nothing that can be seen: their contents are left alone. Never waited for, and
never keeps memory alive: threads end with the arrays, or when every page is there.

The first touch of a page can cost the system more than the read that fills it (in a virtual machine, whose host has to
find the memory, up to 2.5 s a GB), and reads arrive many at a time. Until the first of them does, the processors have
nothing else to do.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING

from windowloader.util.threads import Stage, at_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

__all__ = ["touch"]

LEAST = 32 << 20  # bytes below which a thread costs more than it brings
STEP = 2 << 20  # bytes a call: a thread that ends waits for one at most
NICEST = 19  # the lowest priority: what arrives meanwhile comes first
POPULATE_WRITE = (
    23  # MADV_POPULATE_WRITE, of Linux 5.14; an older one refuses it, and pages are touched when used
)

_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_ENDED = threading.Event()


@at_end(Stage.CALL_OFF)
def _leave() -> None:
    _ENDED.set()
    for thread in list(_THREADS):
        thread.join()


def touch(slab: np.ndarray, regions: Sequence[np.ndarray]) -> threading.Thread | None:
    """Have the pages of arrays made by a thread of its own, the first rows of all of them first.

    Parameters
    ----------
    slab : ndarray
        Whose memory the arrays are; it is not kept alive.
    regions : sequence of ndarray
        C-contiguous.

    Returns
    -------
    Thread or None
        None where that is not worth it, or the system cannot.
    """
    if sys.platform != "linux" or slab.nbytes < LEAST or _ENDED.is_set():
        return None
    steps = sorted(
        (at / region.nbytes, region.ctypes.data + at, min(STEP, region.nbytes - at))
        for region in regions
        for at in range(0, region.nbytes, STEP)
    )
    thread = threading.Thread(
        target=_run,
        args=(weakref.ref(slab), [(begin, size) for _, begin, size in steps]),
        name="windowloader-touch",
        daemon=True,
    )
    _THREADS.add(thread)
    thread.start()
    return thread


def _run(slab: weakref.ref[np.ndarray], steps: list[tuple[int, int]]) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICEST)  # of this thread alone, on Linux
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for begin, size in steps:
        low = begin - begin % mmap.PAGESIZE
        held = slab()  # for this step: its addresses are somebody else's once it is gone
        if held is None or _ENDED.is_set() or madvise(low, begin + size - low, POPULATE_WRITE):
            return
        del held
