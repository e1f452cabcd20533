from __future__ import annotations

import os
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windowloader.errors import SeriesError, SourceFormatError
from windowloader.sources import Pending
from windowloader.sources.base import LocalSource
from windowloader.sources.hdf5_dataset import HDF5Source
from windowloader.sources.joined import JoinedSource, join
from windowloader.sources.memory import ArraySource
from windowloader.sources.registry import open_source

if TYPE_CHECKING:
    from pathlib import Path


def part(rows: int, dtype: str = "f4", start: str = "2020-01-01", **more) -> ArraySource:
    times = np.datetime64(start, "ns") + np.arange(rows) * np.timedelta64(1, "h")
    return ArraySource(np.arange(rows * 2).reshape(rows, 2).astype(dtype), **{"timestamps": times, **more})


class Chunked(LocalSource):
    """Rows in chunks of two."""

    def __init__(self, rows: int) -> None:
        super().__init__("chunked", shape=(rows, 2), dtype="f4", chunks=(2, 2))


def test_join_of_one_or_no_source() -> None:
    only = part(3)
    assert open_source([only]) is only
    with pytest.raises(SourceFormatError, match="empty list"):
        open_source([])


def test_joined_storage_has_edges_at_part_borders() -> None:
    source = join([part(3), part(0), part(4, start="2020-01-02")])
    assert source.array() is None
    assert source.storage().edges is None  # every row costs alike
    chunked = join([Chunked(3), part(0), Chunked(4)])
    np.testing.assert_array_equal(chunked.storage().edges, [0, 2, 3, 5, 7])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            ArraySource(np.zeros((3, 4)), name="march"),
            r"'march' has axes 'tn' and shape \(3, 4\), but 'january'",
        ),
        (ArraySource(np.zeros((3, 2)), axes="tf", name="march"), "'march' has axes 'tf'"),
        (ArraySource(np.zeros((3, 2)), axes="nf", name="march"), "'march' .* without the time"),
        (
            ArraySource(np.zeros((3, 2)), labels={1: ["b", "c"]}, name="march"),
            "'march' lacks 1 of the 2 labels of 'january'.*: 'a'; 1 only in 'march': 'c'",
        ),
        (ArraySource(np.zeros((3, 2), bool), name="march"), "'march' has dtype bool"),
    ],
)
def test_mismatched_parts_raise(other: ArraySource, message: str) -> None:
    with pytest.raises(SourceFormatError, match=message):
        join([part(3, name="january", labels={1: ["a", "b"]}), part(3, name="february"), other])


def test_timestamps_join_and_must_rise() -> None:
    times = join([part(3), part(2, start="2020-02-01")]).timestamps()
    np.testing.assert_array_equal(times[2:4], np.array(["2020-01-01T02", "2020-02-01"], "M8[ns]"))  # type: ignore[index]
    late, early = part(4, name="late", start="2020-01-01T02"), part(3, name="early")
    for overlapping in ([late, early], [early, late]):
        with pytest.raises(
            SeriesError, match="'late' begins at 2020-01-01T02.* but 'early' before it ends at 2020-01-01T02"
        ):
            join(overlapping).timestamps()
    with pytest.raises(SeriesError, match="begins"):
        join([part(3), part(3)]).timestamps()
    with pytest.raises(SeriesError, match="'bare' has no timestamps"):
        join([part(3), ArraySource(np.zeros((2, 2)), name="bare")]).timestamps()
    assert join([ArraySource(np.zeros((2, 2)))] * 2).timestamps() is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["f4", "i2", "f8"])), min_size=2, max_size=6),
    st.data(),
)
def test_reads_against_concatenate(parts: list[tuple[int, str]], data: st.DataObject) -> None:
    arrays = [np.full((rows, 2), number, dtype) for number, (rows, dtype) in enumerate(parts)]
    whole = np.concatenate(arrays)
    source = JoinedSource([ArraySource(array) for array in arrays])
    assert source.dtype == whole.dtype
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    for read in (source.read, lambda *asked: source.submit(*asked).result()):
        out = np.empty((stop - start, 2), whole.dtype)
        read(start, stop, out)
        np.testing.assert_array_equal(out, whole[start:stop])


def test_no_more_than_some_files_stay_open(tmp_path: Path) -> None:
    for number in range(40):
        with h5py.File(tmp_path / f"{number:02}.h5", "w") as file:
            file.create_dataset("x", data=np.full((2, 3), number, "f4"), chunks=(1, 3))
    source = open_source(f"{tmp_path}/*.h5")
    out = np.empty(source.shape, "f4")
    for _ in range(2):
        source.read(0, 80, out)
        np.testing.assert_array_equal(out[:, 0], np.repeat(np.arange(40), 2))
    names = [
        os.readlink(f"/proc/self/fd/{number}")
        for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")
    ]
    assert 0 < sum(name.startswith(str(tmp_path)) for name in names) <= 32
    source.close()


def test_cut_parts_read_only_what_is_within(tmp_path: Path, monkeypatch) -> None:
    from windowloader.sources.selected import SelectedSource

    for number in range(2):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file.create_dataset("x", data=np.arange(24.0).reshape(4, 6) + number, chunks=(2, 2))
    source = SelectedSource(open_source(f"{tmp_path}/*.h5"), nodes=[5, 4])
    asked = []
    monkeypatch.setattr(
        HDF5Source, "_read", lambda self, *rows: asked.append(self.slab(*rows[:2], *rows[3:])) or 0
    )
    source.read(3, 6, np.empty((3, 2)))
    assert asked == [(slice(3, 4), slice(4, 6)), (slice(0, 2), slice(4, 6))]


def test_one_failed_read_waits_for_the_others() -> None:
    from windowloader.sources.joined import All

    class Read(Pending):
        def __init__(self, error: Exception | None = None) -> None:
            self.error, self.waited = error, False

        def result(self, timeout: float | None = None) -> int:
            self.waited = True
            if self.error:
                raise self.error
            return 1

        def done(self) -> bool:
            return self.waited

    reads = [Read(), Read(OSError("first")), Read(OSError("second")), Read()]
    with pytest.raises(OSError, match="first"):
        All(reads, [0] * 4).result()
    assert All(reads, [0] * 4).done()
