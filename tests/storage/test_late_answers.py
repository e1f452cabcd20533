"""Answers that come after their read timed out: they never reach rows that somebody else reads by then."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import windowloader as wl
from windowloader.batch.window_reader import WindowReader
from windowloader.errors import SourceError, SourceTimeoutError

ROWS, NODES, SPAN = 6000, 200, 10
VALUES = np.random.default_rng(3).normal(size=(ROWS, NODES)).astype("f4")
SPEC = wl.WindowSpec(lookback=6, horizon=4)
DIRECT = {"shuffle": False}
BLOCKS = {"shuffle": True, "active_blocks": 5, "reads_ahead": 4}


@pytest.fixture
def url(bucket_folder, write_array, proxy, request):
    """Write VALUES under a name of the test's own, so that no other test's requests are for it."""
    name = f"late-{abs(hash(request.node.name))}.zarr"
    write_array({"driver": "file", "path": f"{bucket_folder}/bkt/{name}/"}, VALUES, chunks=(40, NODES))
    return f"{proxy.url}/bkt/{name}"


def late(every, first, last):
    """Answer the first request for each of some chunks late, after ``first`` to ``last`` seconds."""
    seen = set()

    def script(number, method, path, headers):
        if "/c/" not in path or path in seen:
            return None
        seen.add(path)
        chunk = int(path.split("/c/")[1].split("/")[0])
        return f"late:{first + (last - first) * (chunk % 7) / 6}" if chunk % every == every // 2 else None

    return script


def right(batch):
    rows = batch.starts[:, None] + np.arange(SPAN)
    both = np.concatenate([batch.inputs, batch.targets], axis=1)[..., 0]
    np.testing.assert_array_equal(both, VALUES[rows])
    return batch.num_windows


def iterate_until_all_have_come(loader, proxy, *, leaving=False):
    """Go through epochs, every value held to the truth, until no late answer is on its way; count the time-outs."""
    failed, epoch, quiet = 0, 0, False
    while not quiet:
        asked = [entry for entry in proxy.log if entry.fault]
        quiet = len(asked) >= 2 and all(entry.sent for entry in asked)
        loader.set_epoch(epoch)
        leave_at = 3 if leaving and epoch % 2 else -1
        epoch += 1
        try:
            windows = 0
            for number, batch in enumerate(loader):
                windows += right(batch)
                if number == leave_at:
                    break
            else:
                assert windows == len(loader.windows)
        except SourceTimeoutError:
            failed += 1
            quiet = False
    return failed


def close(series):
    for variable in series.variables:
        variable.source.close()


@pytest.mark.parametrize(
    ("limit", "first", "last", "every"),
    [(1, 1.5, 2.5, 60), pytest.param(2, 3, 5, 20, marks=pytest.mark.campaign)],
    ids=["quick", "long"],
)
@pytest.mark.parametrize("cached", [False, True], ids=["stream", "cache"])
@pytest.mark.parametrize(
    "way",
    [
        BLOCKS,
        {"shuffle": True},
        pytest.param({"shuffle": False}, marks=pytest.mark.campaign),
        pytest.param(DIRECT, marks=pytest.mark.campaign),
    ],
    ids=["blocks", "default", "in-time", "direct"],
)
def test_the_same_loader_again_has_every_value_right(
    proxy, url, tmp_path, monkeypatch, way, cached, limit, first, last, every
):
    if way is BLOCKS:
        monkeypatch.setattr("windowloader.order.grid._BYTES", 1)
    series = wl.open(
        url, storage_options={"timeout": limit}, cache_dir=tmp_path / "cache" if cached else None
    )
    windows = wl.WindowSet(series, SPEC)
    if way is DIRECT:  # windows that are not in time order are read one batch at a time
        windows = windows.take(np.random.default_rng(4).permutation(len(windows))[:500])
    try:
        with wl.WindowLoader(windows, batch_size=64, **way) as loader:
            proxy.clear(late(every, first, last))
            assert iterate_until_all_have_come(loader, proxy) >= 1
    finally:
        close(series)


@pytest.mark.campaign
@pytest.mark.parametrize("cached", [False, True], ids=["stream", "cache"])
def test_epochs_that_are_left_midway_have_every_value_right(proxy, url, tmp_path, monkeypatch, cached):
    """Reads of an iterator that was left are under way when the next one begins, in the same memory."""
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)
    series = wl.open(url, storage_options={"timeout": 1}, cache_dir=tmp_path / "cache" if cached else None)
    try:
        with wl.WindowLoader(wl.WindowSet(series, SPEC), batch_size=16, **BLOCKS) as loader:
            proxy.clear(late(10, 1.5, 3))
            iterate_until_all_have_come(loader, proxy, leaving=True)
    finally:
        close(series)


def test_windows_by_number_are_not_read_into_memory_of_a_late_answer(proxy, url):
    """The answer to a read that timed out comes while other windows are read, between two of their chunks."""

    def script(number, method, path, headers):
        if "/c/10/" in path:
            proxy.loop.call_later(0.3, proxy.release)
            return "late:0.6"
        return "hold" if "/c/1/" in path else None

    series = wl.open(url, storage_options={"timeout": 2})
    windows = wl.WindowSet(series, SPEC)
    proxy.clear(script)
    with WindowReader(windows) as reader:
        match = r"rows 35–44: for 2 s .* less than 64 KiB arrived"
        with pytest.raises(SourceTimeoutError, match=match) as kept:  # as a debugger or a log keeps it
            reader.read(np.array([35]))
        right(reader.read(np.array([435])))  # rows of chunks 10 and 11
        assert kept.value.__traceback__ is not None
    close(series)


def test_a_trickle_is_an_error_and_a_new_loader_does_not_join_it(proxy, url):
    windows = wl.WindowSet(wl.open(url, storage_options={"timeout": 2}), SPEC)
    proxy.clear(lambda number, method, path, headers: "trickle:2" if "/c/40/" in path else None)
    with wl.WindowLoader(windows, batch_size=64, shuffle=True) as loader:
        with pytest.raises(SourceTimeoutError, match=r"for 2 s .* less than 64 KiB arrived"):
            list(loader)
        proxy.clear()
        assert sum(right(batch) for batch in loader) == len(windows)
    again = wl.open(url, storage_options={"timeout": 2})
    with wl.WindowLoader(wl.WindowSet(again, SPEC), batch_size=64, shuffle=True) as loader:
        assert sum(right(batch) for batch in loader) == len(windows)
    close(windows.series)
    close(again)


def test_a_read_does_not_join_a_request_that_another_one_left_failing(proxy, url):
    """One chunk fails at once; the last try of the other is not over when the store is well again."""
    options = {"retries": 1, "timeout": 20}
    source = wl.open(url, storage_options=options).variables[0].source

    tries, held = [], threading.Event()

    def script(number, method, path, headers):
        tries.append(path)
        if "/c/1/" in path and tries.count(path) == 2:
            held.set()
            return "hold+503"
        return "503" if "/c/" in path else None

    proxy.clear(script)
    rows = np.empty((80, NODES), "f4")
    with pytest.raises(SourceError, match="Retries are used up"):
        source.read(0, 80, rows)
    assert held.wait(60)
    proxy.script = {}
    again = np.empty((80, NODES), "f4")
    pending = source.submit(0, 80, again)
    proxy.settle()
    proxy.release()
    pending.result()
    np.testing.assert_array_equal(again, VALUES[:80])
    source.close()


@pytest.mark.campaign
def test_a_trickle_is_cut_and_tried_again_by_default(proxy, url):
    windows = wl.WindowSet(wl.open(url), SPEC)
    proxy.clear({5: "trickle:2"})
    with wl.WindowLoader(windows, batch_size=64, shuffle=True) as loader:
        assert sum(right(batch) for batch in loader) == len(windows)
    close(windows.series)


@pytest.mark.parametrize(
    ("options", "chunk", "line"),
    [
        ({"timeout": 1}, 1 << 19, 2e6),
        pytest.param({}, 8 << 20, 2e6, marks=pytest.mark.campaign),
    ],
    ids=["quick", "default"],
)
def test_requests_that_share_a_slow_line_are_waited_for(
    bucket_folder, write_array, proxy, options, chunk, line
):
    """Eight chunks at once over a line on which none of them is complete within the time-out."""
    rows = chunk // 4000
    values = np.random.default_rng(3).normal(size=(8 * rows, 1000)).astype("f4")
    write_array({"driver": "file", "path": f"{bucket_folder}/bkt/line.zarr/"}, values, chunks=(rows, 1000))
    source = wl.open(f"{proxy.url}/bkt/line.zarr", storage_options=options).variables[0].source
    proxy.clear(line=line)
    read = np.empty_like(values)
    source.read(0, len(values), read)
    np.testing.assert_array_equal(read, values)
    source.close()


@pytest.mark.campaign
def test_fewer_requests_share_a_slow_line(bucket_folder, write_array, proxy, monkeypatch):
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)
    monkeypatch.setattr("windowloader.rows.reader.LONG", 1.0)
    values = np.random.default_rng(3).normal(size=(4000, 700)).astype("f4")
    write_array({"driver": "file", "path": f"{bucket_folder}/bkt/share.zarr/"}, values, chunks=(100, 700))
    series = wl.open(f"{proxy.url}/bkt/share.zarr")
    under_way = []
    proxy.clear(lambda *_: under_way.append(proxy.in_flight), line=1e6)
    loader = wl.WindowLoader(
        wl.WindowSet(series, SPEC), batch_size=64, shuffle=True, active_blocks=4, reads_ahead=12
    )
    with loader:
        assert sum(batch.num_windows for batch in loader) == len(loader.windows)
    assert max(under_way) >= 8  # what the plan allows
    assert np.mean(under_way[24:]) <= 4  # 280 kB each: a second, if three or four share the line
    close(series)


STOPPED = """
import sys, numpy as np, windowloader as wl
windows = wl.WindowSet(wl.open(sys.argv[1], storage_options={"timeout": 2}), wl.WindowSpec(lookback=6, horizon=4))
with wl.WindowLoader(windows, batch_size=64, shuffle=True) as loader:
    print("ready", flush=True)
    print(sum(float(batch.inputs.sum(dtype="f8")) for batch in loader))
"""


def test_a_process_that_was_stopped_looks_again_before_it_fails(proxy, url):
    asked = threading.Event()

    def script(number, method, path, headers):
        if "/c/" not in path:
            return None
        asked.set()
        return "hold"

    starts = np.arange(ROWS - SPAN + 1)
    truth = VALUES[starts[:, None] + np.arange(6)].sum(dtype="f8")
    proxy.clear(script)
    with subprocess.Popen([sys.executable, "-c", STOPPED, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert asked.wait(60)
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)  # more than the time-out, of which the process sees nothing
        process.send_signal(signal.SIGCONT)
        time.sleep(0.5)  # no answer yet when it looks
        proxy.release()
        told, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert float(told) == pytest.approx(truth)
