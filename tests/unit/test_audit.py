"""What an audit prints and holds."""

from __future__ import annotations

import numpy as np
import pytest

import windowloader as wl
from windowloader.windows import audit

SPEC = wl.WindowSpec(lookback=12, horizon=12)


@pytest.fixture
def series():
    return wl.Series(np.zeros((2016, 3)), timestamps=("2012-03-01", "5min"))


def test_inputs_that_reach_back_are_listed_with_their_times(series):
    found = wl.split(series, SPEC, ["2012-03-06"]).audit()
    assert repr(found).splitlines() == [
        "rows that parts share",
        "  targets of 'train', inputs of 'test': 12 rows, 1428 … 1439 (2012-03-05T23:00:00 … 2012-03-05T23:55:00)",
        "no part reads targets of a later one",
    ]
    assert not found.leaks


def test_published_splits_share_targets_and_the_audit_says_so(series):
    found = wl.split(series, SPEC, (0.7, 0.1, 0.2), by="windows").audit()
    pairs = {(one.first, one.first_role, one.second, one.second_role): one.rows for one in found.shared}
    assert pairs["train", "targets", "val", "targets"] == 11
    assert pairs["train", "targets", "val", "inputs"] == 23
    assert ("train", "inputs", "val", "targets") not in pairs
    assert {(one.first, one.second) for one in found.leaks} == {("train", "val"), ("val", "test")}
    assert "earlier parts read 22 target rows of later ones" in repr(found)


def test_parts_by_rows_share_nothing(series):
    assert repr(wl.split(series, SPEC, (0.7, 0.1, 0.2), by="rows").audit()) == "parts share no rows"


def test_chunks_do_not_show(series, monkeypatch):
    whole = repr(wl.split(series, SPEC, (0.7, 0.1, 0.2), by="windows").audit())
    monkeypatch.setattr(audit, "CHUNK", 7)
    assert repr(wl.split(series, SPEC, (0.7, 0.1, 0.2), by="windows").audit()) == whole


def test_many_ranges_are_cut_short():
    series = wl.Series(np.zeros((400, 1)))
    spec = wl.WindowSpec(input_offsets=(-100, -75, -50, -25, 0), target_offsets=(1,), stride=10)
    shared = wl.split(series, spec, (0.5, 0.5), by="windows").audit()
    assert any(len(one.ranges) > 4 for one in shared.shared)
    assert "more ranges" in repr(shared)
