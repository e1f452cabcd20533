"""Splits: published numbers, how parts are said, what is refused and how."""

from __future__ import annotations

import datetime
import pickle

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import SplitError
from windowloader.windows.parts import cut

SPEC = wl.WindowSpec(lookback=12, horizon=12)


def series_of(steps, **options):
    return wl.Series(np.broadcast_to(np.float32(0), (steps, 3)), name="traffic.npy", **options)


def meters():
    stamps = np.concatenate([np.datetime64("2024-01-01") + np.arange(n) for n in (60, 40, 50)])
    return series_of(150, entities=[0, 60, 100, 150], entity_names=["a", "b", "c"], timestamps=stamps)


@pytest.mark.parametrize(
    ("steps", "ratios", "sizes"),
    [
        (2016, (0.7, 0.1, 0.2), (1395, 199, 399)),  # PGT-I, DCRNN
        (34272, (0.7, 0.1, 0.2), (23974, 3425, 6850)),  # METR-LA
        (52116, (0.7, 0.1, 0.2), (36465, 5209, 10419)),  # PEMS-BAY
        (17856, (0.6, 0.2, 0.2), (10700, 3566, 3567)),  # PEMS08 by this rule; STAEformer rounds val, not test
    ],
)
def test_published_sizes(steps, ratios, sizes):
    parts = wl.split(series_of(steps), SPEC, ratios, by="windows")
    assert tuple(len(part) for part in parts) == sizes


@pytest.mark.parametrize("name", ["METRLA", "PEMSBAY", "PEMS08"])
def test_published_index_files(data, name):
    with np.load(data / "staeformer_index" / f"{name}.index.npz") as published:
        index = {part: published[part] for part in ("train", "val", "test")}
    steps = int(index["test"][-1, 2])
    # PEMS08's files round val where DCRNN rounds test: window numbers say exactly theirs.
    said = (
        (0.7, 0.1, 0.2)
        if name != "PEMS08"
        else (len(index["train"]), len(index["train"]) + len(index["val"]))
    )
    for part, found in zip(index, wl.split(series_of(steps), SPEC, said, by="windows"), strict=True):
        starts = found.starts()
        assert (starts == index[part][:, 0]).all()
        assert (starts + 12 == index[part][:, 1]).all()
        assert (starts + SPEC.span == index[part][:, 2]).all()


def test_ratios_are_cut_alike_everywhere():
    assert cut(10, (0.25, 0.75)) == [0, 2, 10]  # 2.5 rounds to even, as round() does
    assert cut(10, (1.0,)) == [0, 10]
    assert cut(10, (0.25, 0.25, 0.25, 0.25)) == [0, 2, 4, 8, 10]


def test_parts_by_name_by_number_and_in_order():
    parts = wl.split(series_of(500), SPEC, {"fit": 0.6, "tune": 0.2, "check": 0.2})
    fit, tune, check = parts
    assert (parts["tune"], parts[2], len(parts)) == (tune, check, 3)
    assert dict(parts) == {"fit": fit, "tune": tune, "check": check}
    assert fit.part == "fit"
    with pytest.raises(KeyError, match="there are 'fit', 'tune', 'check'"):
        parts["train"]
    assert repr(parts).splitlines()[1] == "  fit: 277 windows of rows 0 … 299"
    assert wl.split(series_of(500), SPEC, (0.6, 0.2, 0.2)).names == ("train", "val", "test")
    assert pickle.loads(pickle.dumps(parts))["tune"].starts().tolist() == tune.starts().tolist()


@pytest.mark.parametrize(
    "said",
    [
        ["2012-03-05", "2012-03-06"],
        (np.datetime64("2012-03-05"), np.datetime64("2012-03-06")),
        (datetime.datetime(2012, 3, 5), datetime.date(2012, 3, 6)),
        (1152, 1440),
        {"train": (None, "2012-03-05"), "val": ("2012-03-05", "2012-03-06"), "test": ("2012-03-06", None)},
        {"train": slice(0, 1152), "val": slice(1152, 1440), "test": slice(1440, None)},
        [(0, 1152), (1152, 1440), (1440, 2016)],
    ],
)
def test_borders_and_ranges_by_date_and_row(said):
    series = series_of(2016, timestamps=("2012-03-01", "5min"))
    train, val, test = wl.split(series, SPEC, said)
    assert [part.row_range for part in (train, val, test)] == [(0, 1152), (1140, 1440), (1428, 2016)]
    rows = wl.split(series, SPEC, said, by="rows")
    assert [part.row_range for part in rows] == [(0, 1152), (1152, 1440), (1440, 2016)]


def test_ranges_may_leave_rows_out():
    train, test = wl.split(series_of(500), SPEC, {"train": (50, 200), "test": (300, 400)})
    assert train.row_range == (38, 200)
    assert test.row_range == (288, 400)


@pytest.mark.parametrize(
    ("parts", "options", "says"),
    [
        ((0.7, 0.1), {}, r"sum to 0.8, not 1. To leave rows out, name ranges"),
        ((1.2, -0.2), {}, r"must each be above 0"),
        (0.7, {}, r"parts=0.7 cannot be read as parts. Give ratios"),
        ((), {}, r"has no parts"),
        ("2012-03-05", {}, r"cannot be read as parts"),
        ((0.5, "2012-03-05"), {}, r"mixes ways"),
        ((900,), {}, r"row 900 is outside the series' 500 rows"),
        ((300, 200), {}, r"'val' ends before it begins: \(300, 200\)"),
        ({"train": (100, 300), "test": (200, 400)}, {}, r"'test' \(\(200, 400\)\) begins before part 'train'"),
        ({"test": (200, 400), "train": (0, 200)}, {}, r"come in order of time"),
        (["2012-03-05"], {}, r"'2012-03-05' is a date, and 'traffic.npy' has no timestamps"),
        ((0.5, 0.5), {"by": "time"}, r"by='time' is unknown. Known are 'targets', 'rows', 'windows', 'entities'"),
        ((0.5, 0.5), {"purge": -1}, r"purge must be an integer number of rows >= 0, got -1"),
        ((0.5, 0.5), {"by": "entities"}, r"'traffic.npy' has none"),
        ((0.999, 0.001), {"by": "windows"}, r"'test' has no windows: 0.001 of 477 windows comes to 0.*by='targets'"),
        ((0.97, 0.03), {"by": "rows"}, r"by='rows' .*24 rows, and its rows 485 … 499 are 15.*by='targets'.*12 rows"),
        ((0.99, 0.01), {}, r"by='targets' puts .*target rows .* 12 rows, .* 495 … 499 are"),
        ((0.5, 0.5), {"purge": 240}, r"'train' has no windows"),
        ((600,), {"by": "windows"}, r"from 0 to 477"),
        (["2012-03-05"], {"by": "windows"}, r"cuts window numbers, .* not dates"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be(parts, options, says):
    with pytest.raises(SplitError, match=says):
        wl.split(series_of(500), SPEC, parts, **options)


def test_bad_dates_and_dates_outside():
    series = series_of(500, timestamps=("2012-03-01", "5min"))
    with pytest.raises(SplitError, match="nonsense"):
        wl.split(series, SPEC, ["nonsense"])
    with pytest.raises(SplitError, match=r"'test' has no windows.*none of the 500 rows, 2012-03-01"):
        wl.split(series, SPEC, ["2013-01-01"])


def test_inference_has_no_targets_to_go_by():
    spec = wl.WindowSpec(lookback=12, horizon=0)
    with pytest.raises(SplitError, match=r"horizon=0 has none. Say by='rows'"):
        wl.split(series_of(500), spec, (0.5, 0.5))
    assert len(wl.split(series_of(500), spec, (0.5, 0.5), by="rows")) == 2


def test_purge_keeps_rows_between_parts_and_the_test_part_whole():
    plain = wl.split(series_of(500), SPEC, (0.5, 0.2, 0.3))
    purged = wl.split(series_of(500), SPEC, (0.5, 0.2, 0.3), purge=12)
    assert purged["test"].row_range == plain["test"].row_range
    assert purged["train"].row_range == (0, 238)
    assert not purged.audit().shared
    apart = wl.split(series_of(500), SPEC, {"train": (0, 200), "test": (230, 500)}, purge=12)
    assert apart["train"].row_range == (0, 200)  # further apart already


def test_a_window_set_can_be_split_again():
    train, _ = wl.split(series_of(500), SPEC, (0.8, 0.2))
    fit, tune = wl.split(train, None, (0.75, 0.25))
    assert fit.row_range == (0, 300)
    assert tune.row_range == (288, 400)
    with pytest.raises(SplitError, match="a window set, which has its own"):
        wl.split(train, wl.WindowSpec(lookback=3, horizon=1), (0.5, 0.5))
    with pytest.raises(SplitError, match="second argument is None.*a series and its spec"):
        wl.split(series_of(500), None, (0.5, 0.5))
    chosen = train.take([300, 0, 5, 5])
    early, late = wl.split(chosen, None, [100])
    assert (early.starts().tolist(), late.starts().tolist()) == ([0, 5, 5], [300])


def test_entities_whole_by_ratio_and_name():
    series = meters()
    train, test = wl.split(series, SPEC, (0.67, 0.33), by="entities")
    assert (set(train.entities()), set(test.entities())) == ({0, 1}, {2})
    named = wl.split(series, SPEC, {"train": ["c", "a"], "test": ["b"]}, by="entities")
    assert (set(named["train"].entities()), set(named["test"].entities())) == ({0, 2}, {1})
    pair = wl.split(series, SPEC, {"train": ("a", "b"), "test": ("c",)}, by="entities")
    assert set(pair["train"].entities()) == {0, 1}
    assert not named.audit().shared


@pytest.mark.parametrize(
    ("parts", "options", "says"),
    [
        (
            (0.5, 0.5),
            {},
            r"ratios \(0.5, 0.5\) cannot cut the rows of 3 entities.*Cut by date.*by='entities'",
        ),
        ((0.5, 0.5), {"by": "rows"}, r"cannot cut the rows of 3 entities"),
        ((0.5, 0.5), {"by": "windows"}, r"3 entities, which lie end to end"),
        ({"train": ["a", "d"]}, {"by": "entities"}, r"'d' is none of the 3 entities.*'a', 'b', 'c'"),
        ({"train": ["a"], "test": ["a"]}, {"by": "entities"}, r"entity 'a' is in 'train' and in 'test'"),
        ({"train": ["a"], "test": []}, {"by": "entities"}, r"'test' has no windows"),
        ((0.5, 0.5), {"by": "entities", "purge": 3}, r"Leave purge=0"),
        ({"train": ["a"], "test": ["b"]}, {}, r"Say by='entities'"),
    ],
)
def test_entities_are_not_cut_wrongly(parts, options, says):
    with pytest.raises(SplitError, match=says):
        wl.split(meters(), SPEC, parts, **options)


def test_entities_by_date():
    train, test = wl.split(meters(), SPEC, ["2024-02-10"])  # row 40 of each
    assert [train.row_range, test.row_range] == [(0, 140), (28, 60)]
    assert set(test.entities()) == {0}  # only a's last 20 rows hold 12 targets; c's last 10 do not
    with pytest.raises(SplitError, match=r"'test' has no windows.*its rows 55 … 59 are 5"):
        wl.split(meters(), SPEC, ["2024-02-25"])


def test_folds_expand_or_slide():
    expanding = wl.folds(series_of(400), SPEC, 3)
    assert [fold["train"].row_range for fold in expanding] == [(0, 100), (0, 200), (0, 300)]
    assert [fold["test"].row_range for fold in expanding] == [(88, 200), (188, 300), (288, 400)]
    sliding = wl.folds(series_of(400), SPEC, 2, test_steps=50, train_steps=120, val_steps=40)
    assert [fold["train"].row_range for fold in sliding] == [(128, 260), (178, 310)]
    assert [fold.names for fold in sliding] == [("train", "val", "test")] * 2
    with pytest.raises(SplitError, match="leave 0 of 400 rows to train"):
        wl.folds(series_of(400), SPEC, 4, test_steps=100)
    with pytest.raises(SplitError, match="a fold at a time"):
        wl.folds(meters(), SPEC, 2)
    with pytest.raises(SplitError, match="by='windows' is unknown"):
        wl.folds(series_of(400), SPEC, 2, by="windows")
