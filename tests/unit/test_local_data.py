"""What lies here and is no array: foreign bytes, some nodes of many, arrays joined along time. Its order is global."""

from __future__ import annotations

import numpy as np
import pytest

import windowloader as wl
from windowloader.sources.joined import JoinedSource
from windowloader.sources.memory import ArraySource
from windowloader.sources.numpy_files import open_npz
from windowloader.sources.selected import SelectedSource

SPEC = wl.WindowSpec(lookback=3, horizon=2)
VALUES = np.random.default_rng(5).normal(size=(300, 6, 2)).astype("f4")
CHOSEN = [5, 0, 2, 3]


def foreign(_folder):
    return wl.Series(VALUES.astype(">f4")), VALUES


def foreign_file(folder):
    np.save(folder / "x.npy", VALUES.astype(">f8"))
    return wl.open(folder / "x.npy"), VALUES.astype("f8")


def some_nodes(_folder):
    return wl.Series(VALUES).select(nodes=CHOSEN), VALUES[:, CHOSEN]


def some_nodes_of_a_file(folder):
    np.save(folder / "x.npy", VALUES)
    return wl.open(folder / "x.npy").select(nodes=CHOSEN), VALUES[:, CHOSEN]


def joined(_folder):
    return wl.Series([VALUES[:100], VALUES[100:].astype(">f4")]), VALUES


def joined_files(folder):
    for number, rows in enumerate(np.array_split(VALUES, 40)):  # more than are kept open at a time
        np.save(folder / f"{number:02}.npy", rows)
    return wl.open(str(folder / "*.npy")), VALUES


@pytest.fixture(params=[foreign, foreign_file, some_nodes, some_nodes_of_a_file, joined, joined_files])
def both(request, tmp_path):
    """Windows of local data that are no array, and of the same values as one array."""
    series, values = request.param(tmp_path)
    assert series.variables[0].view() is None
    assert series.tier == ("mapped" if "file" in request.param.__name__ else "memory")
    yield wl.WindowSet(series, SPEC), wl.WindowSet(wl.Series(values), SPEC)
    series.variables[0].source.close()


@pytest.mark.parametrize(("memory", "mode"), [("1GiB", "resident"), ("12kB", "direct")])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("threads", [0, 2])
def test_batches_and_states_are_those_of_an_array(both, memory, mode, shuffle, threads):
    options = {"batch_size": 7, "shuffle": shuffle, "seed": 3, "uneven": "exact", "world_size": 2, "rank": 1}
    ours = wl.WindowLoader(both[0], memory=memory, threads=threads, **options)
    plain = wl.WindowLoader(both[1], **options)
    plan = ours.plan()
    assert (plan.mode, plan.order) == (mode, "global-1" if shuffle else "sequential-1")
    assert bool(plan.held) == (mode == "resident")
    for _ in range(2):
        for one, other in zip(ours, plain, strict=True):
            np.testing.assert_array_equal(one.starts, other.starts)
            np.testing.assert_array_equal(one.inputs, other.inputs)
            np.testing.assert_array_equal(one.targets, other.targets)
    told = (ours.state_dict(), plain.state_dict())
    assert {name for name in told[0] if told[0][name] != told[1][name]} <= {"data"}
    ours.close()


def test_the_rest_of_a_stream_stays_a_stream(tmp_path):
    """Local data beside streamed data are read along with them."""
    import zarr

    zarr.create_array(str(tmp_path / "x.zarr"), data=VALUES[..., 0], chunks=(50, 6))
    streamed = wl.open(tmp_path / "x.zarr")
    assert streamed.tier == "streamed"
    series = wl.open({"x": str(tmp_path / "x.zarr"), "y": VALUES[..., 1].astype(">f4")})
    assert series.tier == "streamed"
    batches = list(wl.WindowLoader(wl.WindowSet(series, SPEC), batch_size=50, shuffle=True))
    assert wl.WindowLoader(wl.WindowSet(series, SPEC), shuffle=True, batch_size=50).plan().order == "block-1"
    for batch in batches:
        np.testing.assert_array_equal(batch.inputs, VALUES[batch.starts[:, None] + np.arange(3)])


def test_files_that_would_be_parsed_again_and_again_are_streamed(tmp_path):
    np.savez(tmp_path / "x.npz", x=VALUES[:5])
    parts = [open_npz(tmp_path / "x.npz") for _ in range(33)]
    assert JoinedSource(parts[:32]).tier == "memory"
    assert JoinedSource(parts).tier == "streamed"
    assert JoinedSource([ArraySource(VALUES)] * 33).tier == "memory"


def test_a_tier_is_that_of_what_is_selected_from():
    class Cached(ArraySource):
        tier = "cached"

        def array(self):
            return None

    kept = Cached(VALUES)
    assert SelectedSource(kept, nodes=[0, 2, 3]).tier == "cached"
    assert JoinedSource([kept, kept]).tier == "cached"
    assert JoinedSource([kept, ArraySource(VALUES)]).tier == "streamed"
