"""Pictures and notebook pages: they draw the numbers their objects have, and leave matplotlib as it was."""

from __future__ import annotations

import pickle
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest

import windowloader as wl
from windowloader.convert.conversion import convert


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> wl.Series:
    path = tmp_path_factory.mktemp("plots") / "a.zarr"
    values = np.random.default_rng(0).normal(60, 9, (6000, 20)).astype("f4")
    convert(wl.Series(values, timestamps=("2012-03-01", "5min")), path, chunks=50)
    return wl.open(path)


def loader_of(
    series: wl.Series, *, shuffle: bool = True, rank: int = 0, world_size: int = 1
) -> wl.WindowLoader:
    windows = wl.WindowSet(series, wl.WindowSpec(lookback=6, horizon=6))
    return wl.WindowLoader(
        windows, batch_size=32, shuffle=shuffle, fill=0.0, rank=rank, world_size=world_size, memory="40MiB"
    )


def is_png(data: bytes) -> bool:
    return data.startswith(b"\x89PNG") and len(data) > 5000


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_plan_draws_every_block_it_will_read(series, shuffle, world_size) -> None:
    with loader_of(series, shuffle=shuffle, rank=world_size - 1, world_size=world_size) as loader:
        plan = loader.plan()
    assert plan.trace is not None
    own = [lane for lane in plan.trace.lanes if lane.own]
    assert sum(len(lane.begin) for lane in own) == plan.blocks
    assert len(plan.trace.lanes) == world_size
    for lane in plan.trace.lanes:
        assert (lane.enter <= lane.leave).all()
        assert lane.leave.max() == 1.0
    rows = np.zeros(6000, bool)
    for lane in plan.trace.lanes:
        for begin, end in zip(lane.begin, lane.end, strict=True):
            rows[begin:end] = True
    assert rows.all()
    figure = plan.plot()
    order, memory, mixing = figure.axes
    assert sum(len(patches.get_paths()) for patches in order.collections) == sum(
        len(x.begin) for x in plan.trace.lanes
    )
    assert len(memory.collections) == 3
    assert bool(mixing.patches) == shuffle
    assert is_png(figure._repr_png_())


def test_a_plan_in_memory_draws_some_windows_of_its_own_order() -> None:
    with loader_of(wl.Series(np.zeros((3000, 4)))) as loader:
        plan = loader.plan()
        first = next(iter(loader)).starts
    assert plan.trace is not None
    np.testing.assert_array_equal(plan.trace.starts[:16], first[:16])
    assert plan.trace.shares.max() < 1
    assert is_png(plan.plot()._repr_png_())


def test_a_trace_is_small_travels_and_is_no_number(series) -> None:
    with loader_of(series) as loader:
        plan = loader.plan()
    assert "trace" not in plan.to_dict()
    assert len(pickle.dumps(plan)) < 100_000
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize("by", ["targets", "windows"])
@pytest.mark.parametrize("dated", [True, False])
def test_a_split_draws_its_parts_and_what_is_left_over(by, dated) -> None:
    series = wl.Series(np.zeros((3000, 2)), timestamps=("2012-03-01", "5min") if dated else None)
    split = wl.split(series, wl.WindowSpec(lookback=60, horizon=6), (0.6, 0.2, 0.2), by=by, purge=300)
    figure = split.plot()
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert [label.split("\n")[0] for label in labels] == ["train", "val", "test", "in no window"]
    assert labels[0].endswith(f"{len(split['train']):,} windows")
    assert is_png(figure._repr_png_())


def test_waits_are_drawn_step_by_step() -> None:
    with loader_of(wl.Series(np.zeros((3000, 4)))) as loader:
        assert is_png(loader.stats().plot()._repr_png_())
        for _ in range(2):
            for _ in loader:
                pass
        figure = loader.stats().plot()
        steps, epochs = figure.axes
        assert [len(line.get_xdata()) for line in steps.lines] == [len(loader), len(loader)]
        assert len(epochs.patches) == 2 * 3
        assert is_png(figure._repr_png_())


def test_waits_of_epochs_long_past_are_not_drawn(monkeypatch) -> None:
    monkeypatch.setattr("windowloader.loader.stats.LAST_EPOCHS", 2)
    with loader_of(wl.Series(np.zeros((3000, 4)))) as loader:
        for _ in range(5):
            for _ in loader:
                pass
        steps, epochs = loader.stats().plot().axes
        drawn = [line.get_xdata() for line in steps.lines if len(line.get_xdata())]
        assert [int(at[0]) for at in drawn] == [3 * len(loader), 4 * len(loader)]
        assert steps.get_xlim()[0] > 2 * len(loader)
        assert len(epochs.patches) == 5 * 3


def test_pictures_leave_pyplot_alone() -> None:
    code = """
import sys, numpy as np, windowloader as wl
windows = wl.WindowSet(wl.Series(np.zeros((300, 2))), wl.WindowSpec(lookback=3, horizon=3))
assert "matplotlib" not in sys.modules
plan = wl.WindowLoader(windows, rank=0, world_size=1).plan()
assert "matplotlib" not in sys.modules
plan.plot()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "windowloader.view.pictures", raising=False)
    monkeypatch.delattr("windowloader.view.pictures", raising=False)
    split = wl.split(wl.Series(np.zeros((300, 2))), wl.WindowSpec(lookback=3, horizon=3), (0.5, 0.5))
    with pytest.raises(wl.errors.MissingExtraError, match=r"windowloader\[plot\]"):
        split.plot()


def text_of(page: str) -> str:
    return " ".join(xml.etree.ElementTree.fromstring(page).itertext())


def test_notebook_pages_say_what_objects_are(series) -> None:
    split = wl.split(series, wl.WindowSpec(lookback=6, horizon=6), (0.6, 0.2, 0.2))
    assert "6000 steps × 20 nodes" in text_of(series._repr_html_())
    page = text_of(split._repr_html_())
    assert all(name in page for name in ("train", "val", "test"))
    with loader_of(series) as loader:
        plan = loader.plan()
        assert f"{plan.steps:,} steps" in text_of(plan._repr_html_())
        for _ in loader:
            pass


def test_names_cannot_break_a_page() -> None:
    series = wl.Series(np.zeros((50, 2)), name="<script>alert(1)</script>", features=["a<b>&c"])
    assert "<script>" not in series._repr_html_()
    assert "a<b>&c" in text_of(series._repr_html_()) or "value" in text_of(series._repr_html_())


def test_many_segments_do_not_make_a_page_long() -> None:
    series = wl.Series(np.zeros((5000, 1)), segments=np.arange(0, 5001, 10))
    assert len(series._repr_html_()) < 3000
    assert "500 segments" in text_of(series._repr_html_())
