"""A steady batch from a local file takes a short way through the package: what it does per batch stays visible."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import windowloader as wl

ROOT = Path(wl.__file__).parent


@pytest.mark.parametrize("threads", [0, 2])
def test_a_steady_batch_enters_at_most_twelve_files(tmp_path, threads):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((600, 50), dtype=np.float32))
    series = wl.open(tmp_path / "x.npy", axes="tn", timestamps=("2024-01-01", "5min"))
    spec = wl.WindowSpec(lookback=12, horizon=12, inputs=[*series.features, "time_of_day"])
    windows = wl.WindowSet(series, spec)
    scaler = wl.StandardScaler.fit(windows)
    entered: set[str] = set()
    steady = threading.Event()

    def profile(frame, event, _arg):
        path = Path(frame.f_code.co_filename)
        if event == "call" and steady.is_set() and path.is_relative_to(ROOT):
            entered.add(str(path.relative_to(ROOT)))

    with wl.WindowLoader(
        windows,
        batch_size=16,
        shuffle=True,
        scaler=scaler,
        threads=threads,
        prefetch_batches=2,
        rank=0,
        world_size=1,
    ) as loader:
        list(loader)  # all rows are known to hold no NaN
        threading.setprofile(profile)  # for the threads of the next iterator
        sys.setprofile(profile)
        try:
            iterator = iter(loader)
            next(iterator)
            steady.set()
            for _ in range(10):
                next(iterator)
            steady.clear()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert "batch/gather.py" in entered
    assert len(entered) <= 12, sorted(entered)
