"""Whole epochs in block order over the S3 protocol: every batch held against memory, every request against the plan.

The bucket is moto's, behind a proxy that counts. Sharded Zarr 3, Zarr 2 and ``.npy`` hold the same numbers.
"""

from __future__ import annotations

import collections
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import SourceChangedError

pytestmark = pytest.mark.usefixtures("by_blocks")  # what they hold is that blocks come and go

ROWS, NODES = 1000, 12
FORMS = ("zarr3", "zarr2", "npy")
CHUNK, SHARD = 20, 100
INDEX = 16 * SHARD // CHUNK + 4  # bytes of a shard's index
SPEC = {"lookback": 6, "horizon": 4}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("windowloader.order.grid._BYTES", 1)  # else one block of 1 MiB would hold everything
    monkeypatch.setattr("windowloader.rows.lane_cache.LaneCache._drains", lambda self, lane_pass: False)
    monkeypatch.setattr("windowloader.sources.options._CONTEXTS", {})


@pytest.fixture
def another_process(monkeypatch):
    """Forget what this process keeps of the store: the next loader is like that of another rank."""
    return lambda: monkeypatch.setattr("windowloader.sources.options._CONTEXTS", {})


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(3).normal(size=(ROWS, NODES)).astype(np.float32)


@pytest.fixture(scope="module")
def stored(put, write_array, values, tmp_path_factory):
    """Put the numbers into the bucket in three forms; returns names by form."""
    folder = tmp_path_factory.mktemp("forms")
    kvstore = {"driver": "file", "path": f"{folder}/speed.zarr3/"}
    write_array(kvstore, values, chunks=(CHUNK, NODES), shards=(SHARD, NODES), crc=False)
    kvstore = {"driver": "file", "path": f"{folder}/speed.zarr2/"}
    write_array(kvstore, values, form="zarr", chunks=(CHUNK, 4))
    np.save(folder / "speed.npy", values)
    for file in folder.rglob("*"):
        if file.is_file():
            put(f"forms/{file.relative_to(folder)}", file.read_bytes())
    return {form: f"s3://bkt/forms/speed.{form}" for form in FORMS}


def opened(stored, s3, form, **options):
    return wl.open(
        stored[form], storage_options={"endpoint_url": s3.url, "key": "k", "secret": "s"}, **options
    )


def loader_of(series, **options):
    asked = {"batch_size": 16, "shuffle": True, "seed": 4, "active_blocks": 5, "reads_ahead": 4, **options}
    return wl.WindowLoader(wl.WindowSet(series, wl.WindowSpec(**SPEC)), **asked)


def reads(s3):
    """Requests for values, how often each, and their bytes: not for metadata, nor for versions."""
    found = [
        entry for entry in s3.log if entry.method == "GET" and not entry.path.endswith((".json", ".zarray"))
    ]
    return collections.Counter((entry.path, entry.range) for entry in found), sum(e.sent for e in found)


def in_memory(values, state, **options):
    """Return a loader of the same numbers in memory, in the order of the stream: a state carries it."""
    loader = loader_of(wl.Series(values), active_blocks=None, reads_ahead=None, **options)
    loader.load_state_dict(state)
    return loader


def assert_alike(streamed, expected):
    count = 0
    for one, other in zip(streamed, expected, strict=True):
        assert (one.epoch, one.step) == (other.epoch, other.step)
        for name in ("starts", "inputs", "targets"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        if one.weights is not None:
            np.testing.assert_array_equal(one.weights, other.weights)
        count += 1
    assert count == len(expected)


@pytest.mark.parametrize("form", FORMS)
def test_an_epoch_is_that_of_memory_and_its_requests_are_the_plans(s3, stored, values, form, another_process):
    total = 0
    for rank in range(2):
        another_process()
        ranks = {"rank": rank, "world_size": 2, "uneven": "exact"}
        with loader_of(opened(stored, s3, form), **ranks) as loader:
            plan = loader.plan()
            with in_memory(values, loader.state_dict(), **ranks) as expected:
                s3.clear()
                assert_alike(loader, expected)
        counts, sent = reads(s3)
        indexes = sum(str(part).startswith("bytes=-") for _, part in counts)
        assert (plan.mode, plan.tier, plan.own.amplification) == ("blocks", "streamed", 1.0)
        assert set(counts.values()) == {1}
        assert sum(counts.values()) == plan.own.requests
        assert sent == plan.own.bytes + indexes * INDEX
        assert (indexes > 0) == (form == "zarr3")
        total += plan.own.bytes
    assert total <= values.nbytes + 4 * 3 * CHUNK * NODES * 4  # lanes share the block at their borders


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threads", [0, 2])
def test_short_epochs_go_on_through_a_pass_without_reading_again(s3, stored, values, form, threads):
    ranks = {"rank": 1, "world_size": 2, "batch_size": 18, "steps_per_epoch": 7}
    whole = {name: value for name, value in ranks.items() if name != "steps_per_epoch"}
    with loader_of(opened(stored, s3, form), threads=threads, **whole) as loader:
        plan = loader.plan()  # of the pass
    with loader_of(opened(stored, s3, form), threads=threads, **ranks) as loader:
        assert loader.plan().own.requests < plan.own.requests
        with in_memory(values, loader.state_dict(), **ranks) as expected:
            s3.clear()
            for epoch in range(4):  # 28 steps of 2 × 18 windows are a pass over 991
                assert loader.epoch == expected.epoch == epoch
                assert_alike(loader, expected)
    counts, _ = reads(s3)
    assert set(counts.values()) == {1}
    assert sum(counts.values()) == plan.own.requests


WORKERS = """
    import sys
    import numpy as np, torch
    import windowloader as wl
    from windowloader.adapters.pytorch import TorchLoader, WindowDataset
    url, endpoint = sys.argv[1:]
    values = np.load("values.npy")
    series = wl.open(url, storage_options={"endpoint_url": endpoint, "key": "k", "secret": "s"})
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=6, horizon=4))
    used = TorchLoader(windows, batch_size=16, shuffle=True, seed=4)
    batches = iter(used)
    next(batches), next(batches)  # the store is in use, and reads are under way
    dataset = WindowDataset(windows)

    def workers(context):
        return torch.utils.data.DataLoader(
            dataset, batch_size=64, num_workers=2, multiprocessing_context=context, collate_fn=dataset.collate
        )

    def check(batch):
        rows = np.asarray(batch.starts)[:, None] + np.arange(10)
        both = torch.cat([batch.inputs, batch.targets], 1)[..., 0].numpy()
        assert (both == values[rows]).all()
        return len(rows)

    try:
        next(iter(workers("fork")))
        raise AssertionError
    except wl.errors.SourceError as error:
        assert "forkserver" in str(error), error
    assert sum(map(check, workers("forkserver"))) == len(windows) == 991
    assert sum(map(check, batches)) == 991 - 32  # the parent's own epoch goes on
    used.close()
    print("done")
"""


@pytest.mark.campaign
@pytest.mark.parametrize("form", FORMS)
def test_workers_started_while_the_store_is_in_use(s3, stored, values, form, tmp_path):
    pytest.importorskip("torch")
    np.save(tmp_path / "values.npy", values)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WORKERS), stored[form], s3.url],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


@pytest.mark.parametrize("kind", ["mapped", "chunked"])
def test_values_in_the_bucket_and_covariates_here(s3, stored, values, kind, tmp_path, write_array):
    rain = np.random.default_rng(5).normal(size=(ROWS, 3)).astype("f4")
    if kind == "mapped":
        np.save(tmp_path / "rain.npy", rain)
    else:
        write_array({"driver": "file", "path": f"{tmp_path}/rain.zarr/"}, rain, chunks=(40, 3))
    local = tmp_path / ("rain.npy" if kind == "mapped" else "rain.zarr")
    series = opened(stored, s3, "zarr3", covariates={"rain": (local, "tf")})
    asked = {"inputs": [*series.features, "rain"], "targets": series.features}
    windows = wl.WindowSet(series, wl.WindowSpec(**SPEC, **asked))
    with wl.WindowLoader(windows, batch_size=16, shuffle=True, seed=4, active_blocks=5) as loader:
        plan, seen = loader.plan(), 0
        s3.clear()
        for batch in loader:
            rows = batch.starts[:, None] + np.arange(6)
            np.testing.assert_array_equal(batch.inputs[..., 0], values[rows])
            np.testing.assert_array_equal(batch.inputs[:, :, 5, 1:], rain[rows])
            seen += batch.num_windows
    assert seen == len(windows)
    counts, _ = reads(s3)
    assert set(counts.values()) == {1}
    assert plan.own.amplification == 1.0
    chunks = ROWS // 40 if kind == "chunked" else 0
    assert plan.own.bytes == values.nbytes + (rain.nbytes if kind == "chunked" else 0)
    assert plan.own.requests == sum(counts.values()) + chunks
    for variable in series.variables:
        variable.source.close()


@pytest.fixture
def replaced(put, values, tmp_path):
    """Put an array of a form under a name of its own, or one of the same shape in its place."""
    import zarr

    other = np.full_like(values, 7.0)  # packed, it lies elsewhere in its shards

    def replaced(form, name, new=False):
        numbers = other if new else values
        if form == "npy":
            np.save(tmp_path / "one.npy", numbers)
            put(f"replaced/{name}.npy", (tmp_path / "one.npy").read_bytes())
            return f"s3://bkt/replaced/{name}.npy"
        store = {}
        shards = (SHARD, NODES) if form == "zarr3" else None
        zarr.create_array(
            store, data=numbers, chunks=(CHUNK, NODES), shards=shards, zarr_format=int(form[-1])
        )
        for key, value in store.items():
            put(f"replaced/{name}.{form}/{key}", value.to_bytes())
        return f"s3://bkt/replaced/{name}.{form}"

    return replaced


@pytest.mark.parametrize("form", FORMS)
def test_what_is_replaced_during_an_epoch(s3, replaced, values, form):
    """One object is an error; of many, each is read whole, in its old state or its new one."""
    url = replaced(form, "during")
    series = wl.open(url, storage_options={"endpoint_url": s3.url, "key": "k", "secret": "s"})
    whole = {True: set(), False: set()}
    with loader_of(series, threads=0, active_blocks=2, reads_ahead=1) as loader:
        iterator = iter(loader)

        def rest():
            for batch in iterator:
                rows = batch.starts[:, None] + np.arange(6)
                old, new = batch.inputs[..., 0] == values[rows], batch.inputs[..., 0] == 7.0
                assert (old.all(2) | new.all(2)).all()
                whole[True].update((rows[new.all(2)] // CHUNK).tolist())
                whole[False].update((rows[old.all(2)] // CHUNK).tolist())
                if batch.step == 10:
                    replaced(form, "during", new=True)

        if form == "npy":
            with pytest.raises(SourceChangedError, match="open it again"):
                rest()
        else:
            rest()
            assert whole[True]
            assert not whole[True] & whole[False]  # each chunk was read once
        assert whole[False]
