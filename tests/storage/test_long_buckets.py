"""Long Parquet tables in a bucket: what a frame of the same rows gives, read by row groups."""

from __future__ import annotations

import io
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest

import windowloader as wl
from windowloader.sources import table_long

HOW = {"entity": "id", "time": "time"}


@pytest.mark.parametrize("small", [1 << 20, 0])
@pytest.mark.parametrize("target", ["a.parquet", "folder", "folder/*/*.parquet"])
def test_long_tables_in_a_bucket(moto, put, monkeypatch, target: str, small: int) -> None:
    monkeypatch.setattr(table_long, "SMALL", small)
    options = {"endpoint_url": moto, "key": "k", "secret": "s", "timeout": 20.0}
    times = pd.date_range("2020", periods=20, freq="h")
    frame = pd.DataFrame({"id": ["b", "0042"] * 20, "time": times.repeat(2), "x": np.arange(40.0)})
    put("readings/a.parquet", whole := written(frame))
    put("readings/folder/part=9/a.parquet", whole)
    put("readings/folder/part=10/a.parquet", written(frame.assign(id=frame["id"] + "x")))
    more = [] if target == "a.parquet" else [frame.assign(id=frame["id"] + "x")]
    with (
        pytest.warns(UserWarning, match="'part', which is left out") if target == "folder" else nullcontext()
    ):
        found = wl.open(f"s3://bkt/readings/{target}", **HOW, storage_options=options)
    right = wl.open([frame, *more], **HOW)
    assert found.tier == ("memory" if small else "mapped")
    np.testing.assert_array_equal(found.variables[0].view(), right.variables[0].view())
    np.testing.assert_array_equal(found.entity_names, right.entity_names)
    assert found.clock.fingerprint() == right.clock.fingerprint()
    for name in ("none.parquet", "none"):
        with pytest.raises(wl.errors.SourceNotFoundError):
            wl.open(f"s3://bkt/readings/{name}", **HOW, storage_options=options)


def written(frame: pd.DataFrame) -> bytes:
    frame.to_parquet(file := io.BytesIO(), row_group_size=7)
    return file.getvalue()
