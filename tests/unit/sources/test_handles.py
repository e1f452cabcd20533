from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from windowloader.errors import SourceChangedError, SourceNotFoundError
from windowloader.sources.handles import Stamp
from windowloader.sources.processes import PerProcess

if TYPE_CHECKING:
    from pathlib import Path


class Thing:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_opened_once_by_any_number_of_threads() -> None:
    handle: PerProcess[Thing] = PerProcess()
    opened: list[Thing] = []
    ready = threading.Barrier(8)

    def use() -> Thing:
        ready.wait()
        return handle.get(lambda: opened.append(Thing()) or opened[-1])

    with ThreadPoolExecutor(8) as pool:
        found = {id(future.result()) for future in [pool.submit(use) for _ in range(8)]}
    assert len(found) == len(opened) == 1


def test_closed_and_opened_again() -> None:
    handle: PerProcess[Thing] = PerProcess()
    first = handle.get(Thing)
    handle.close()
    handle.close()
    assert first.closed
    assert handle.get(Thing) is not first


def test_close_waits_for_users() -> None:
    handle: PerProcess[Thing] = PerProcess()
    with handle.held(Thing) as thing:
        closer = threading.Thread(target=handle.close)
        closer.start()
        closer.join(0.05)
        assert not thing.closed
        assert closer.is_alive()
    closer.join()
    assert thing.closed


def test_drop_does_not_wait_for_get() -> None:
    handle: PerProcess[Thing] = PerProcess()
    opening, release = threading.Event(), threading.Event()

    def slow() -> Thing:
        opening.set()
        release.wait()
        return Thing()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(handle.get, slow)
        opening.wait()
        assert handle.drop() is None
        release.set()
        thing = future.result()
    assert handle.drop(only=Thing()) is None
    assert handle.drop(only=thing) is thing
    assert handle.drop() is None
    assert not thing.closed


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # the thread is the test
@pytest.mark.parametrize("survives", [False, True])
def test_fork_and_pickle(survives: bool) -> None:
    handle: PerProcess[list[int]] = PerProcess(survives_fork=survives)
    value = handle.get(lambda: [os.getpid()])
    assert pickle.loads(pickle.dumps(handle)).get(lambda: [0]) == [0]
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with handle.held(list):
            taken.set()
            release.wait()

    holder = threading.Thread(
        target=hold
    )  # holds the lock while the process forks; the child has no such thread
    holder.start()
    taken.wait()
    child = os.fork()
    if child == 0:
        found = handle.get(lambda: [os.getpid()])
        os._exit(0 if found == (value if survives else [os.getpid()]) else 1)
    release.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0
    assert handle.get(list) is value


def test_stamp_detects_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(SourceNotFoundError, match="does not exist"):
        Stamp.of(path)
    path.write_bytes(b"1234")
    stamp = Stamp.of(path)
    stamp.check()
    path.write_bytes(b"12")
    with pytest.raises(SourceChangedError, match="4 bytes then and 2 now"):
        stamp.check()
    path.unlink()
    with pytest.raises(SourceNotFoundError, match="is gone"):
        stamp.check()
