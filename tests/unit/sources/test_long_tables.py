from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.errors import SourceFormatError
from windowloader.sources.table_long import open_long_table
from windowloader.testing import check_source

if TYPE_CHECKING:
    from pathlib import Path


def readings() -> pd.DataFrame:
    """Three meters of different lengths with overlapping dates, in no order."""
    rows = [("c", day, day * 1.0, 1) for day in range(5)] + [("a", day, day + 0.5, 2) for day in range(3, 10)]
    rows += [("b", 4, 9.0, 3)]
    frame = pd.DataFrame(rows, columns=["meter", "day", "kwh", "phase"])
    frame["utc"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(frame.pop("day"), unit="D")
    return frame.sample(frac=1, random_state=0, ignore_index=True)


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame", "list"])
def test_entities_lie_end_to_end(tmp_path: Path, kind: str) -> None:
    frame = readings()
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    half = [frame[:6], frame[6:]]
    target = {"csv": tmp_path / "a.csv", "parquet": tmp_path / "a.parquet", "frame": frame, "list": half}[
        kind
    ]
    found = open_long_table(target, entity="meter", time="utc")
    order = frame["meter"].unique()
    expected = pd.concat([frame[frame["meter"] == name].sort_values("utc") for name in order])
    np.testing.assert_array_equal(found.names, order)
    sizes = [(frame["meter"] == name).sum() for name in order]
    np.testing.assert_array_equal(found.borders, np.append(0, np.cumsum(sizes)))
    check_source(
        found.source,
        expected[["kwh", "phase"]].to_numpy(),
        timestamps=expected["utc"].to_numpy("M8[ns]"),
        pickled_bytes=4096 if kind in ("csv", "parquet") else None,
        fork=False,
    )
    assert found.source.axes == "tf"
    assert list(found.source.labels(1)) == ["kwh", "phase"]  # type: ignore[arg-type]


def test_values_are_chosen() -> None:
    found = open_long_table(readings(), entity="meter", time="utc", values=["phase"])
    assert found.source.shape == (13, 1)
    assert found.source.dtype == np.int64


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"entity": "site"}, r"no columns \['site'\]; it has 'meter'"),
        ({}, {"values": ["kw"]}, r"no columns \['kw'\]"),
        ({"note": "x"}, {}, r"\['note'\].*hold no numbers"),
        ({"meter": [None] + ["a"] * 12}, {}, "row 0 .* has no 'meter'"),
        ({"utc": ["soon"] + ["2020-01-01"] * 12}, {}, "row 0 of the times .* is 'soon'"),
    ],
)
def test_what_does_not_fit_is_said(change: dict, options: dict, message: str) -> None:
    with pytest.raises(SourceFormatError, match=message):
        open_long_table(readings().assign(**change), **{"entity": "meter", "time": "utc", **options})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), min_size=1, max_size=60))
def test_order_against_sorting_by_hand(rows: list[tuple[int, int]]) -> None:
    frame = pd.DataFrame({"e": [e for e, _ in rows], "t": [t for _, t in rows], "v": range(len(rows))})
    found = open_long_table(frame, entity="e", time="t", time_unit="s")
    seen = list(dict.fromkeys(frame["e"]))
    by_hand = sorted(range(len(rows)), key=lambda row: (seen.index(rows[row][0]), rows[row][1], row))
    np.testing.assert_array_equal(found.source.array()[:, 0], by_hand)  # type: ignore[index]
