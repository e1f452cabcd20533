"""Fixtures shared by all tests: real data where it is, and a watch on what a test leaves behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import hypothesis
import pytest

# Machines are shared: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("windowloader", deadline=None, print_blob=True)
hypothesis.settings.load_profile("windowloader")

# Threads that libraries keep for the life of the process and that no test can end.
LIBRARY_THREADS = (
    "pydevd",
    "asyncio_",
    "ThreadPoolExecutor",
    "fsspec",
    "zarr",
    "pymp",
    "QueueFeederThread",
    "tqdm",
    "tensorstore-loader",
)
DATA = Path(os.environ.get("WINDOWLOADER_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read streams block by block, also where the memory would hold all their rows."""
    monkeypatch.setattr("windowloader.rows.read_plan.PRELOAD", False)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets; tests that ask for it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set WINDOWLOADER_DATA to the folder")
    return DATA


def _threads() -> set[str]:
    return {
        f"{thread.name}#{thread.ident}"
        for thread in threading.enumerate()
        if thread.is_alive() and not thread.name.startswith(LIBRARY_THREADS)
    }


def _descriptors() -> dict[str, str]:
    """Open descriptors of regular files and shared memory; sockets and pipes belong to libraries' pools."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.endswith((".ttf", ".otf")):  # fonts that matplotlib has used stay open
            continue
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/sys/", "/memfd:")):
            found[entry.name] = target
    return found


def _shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return (
        {entry.name for entry in folder.iterdir() if "windowloader" in entry.name}
        if folder.is_dir()
        else set()
    )


@pytest.fixture(autouse=True, scope="module")
def looks_at_old_objects_no_more():
    """Let collections look at a module's own objects: all those of libraries and tests took seconds each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest):
    """Fail a test that leaves threads, file descriptors or shared memory behind (marker: ``leaks``)."""
    threads, files, shared = _threads(), _descriptors(), _shared_memory()
    yield
    if request.node.get_closest_marker("leaks"):
        return
    deadline = (
        time.monotonic() + 60
    )  # threads that were told to stop may need a moment, on a busy machine more
    while True:
        left = (
            _threads() - threads,
            {target for number, target in _descriptors().items() if number not in files},
            _shared_memory() - shared,
        )
        if not any(left) or time.monotonic() > deadline:
            break
        gc.collect()  # only where something is left: a collection costs more than most tests
        time.sleep(0.01)
    assert not any(left), f"left behind: threads {left[0]}, files {left[1]}, shared memory {left[2]}"
