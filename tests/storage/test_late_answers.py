"""Answers that come after their read timed out: they never reach rows that somebody else reads by then."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import SourceTimeoutError

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


def iterate_until_all_have_come(loader, proxy):
    """Go through epochs, every value held to the truth, until no late answer is on its way; count the time-outs."""
    failed, epoch, quiet = 0, 0, False
    while not quiet:
        asked = [entry for entry in proxy.log if entry.fault]
        quiet = failed > 0 and all(entry.sent for entry in asked)
        loader.set_epoch(epoch)
        epoch += 1
        try:
            windows = sum(right(batch) for batch in loader)
        except SourceTimeoutError:
            failed += 1
            quiet = False
        else:
            assert windows == len(loader.windows)
    assert len([entry for entry in proxy.log if entry.fault]) >= 4
    return failed


@pytest.mark.parametrize(
    ("limit", "first", "last"),
    [(1, 1.5, 2.5), pytest.param(2, 3, 5, marks=pytest.mark.campaign)],
)
@pytest.mark.parametrize("cached", [False, True], ids=["stream", "cache"])
@pytest.mark.parametrize(
    "way",
    [BLOCKS, {"shuffle": True}, {"shuffle": False}, DIRECT],
    ids=["blocks", "default", "in-time", "direct"],
)
def test_the_same_loader_again_has_every_value_right(
    proxy, url, tmp_path, monkeypatch, way, cached, limit, first, last
):
    if way is BLOCKS:
        monkeypatch.setattr("windowloader.streaming.grid._BYTES", 1)
    series = wl.open(url, storage_options={"timeout": limit}, cache_dir=tmp_path / "cache" if cached else None)
    windows = wl.WindowSet(series, SPEC)
    if way is DIRECT:  # windows that are not in time order are read one batch at a time
        windows = windows.take(np.random.default_rng(4).permutation(len(windows))[:500])
    try:
        with wl.WindowLoader(windows, batch_size=64, **way) as loader:
            proxy.clear(late(30, first, last))
            assert iterate_until_all_have_come(loader, proxy) >= 1
    finally:
        for variable in series.variables:
            variable.source.close()
