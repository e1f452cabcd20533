"""The suite itself: a source that is wrong in one way must not pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from windowloader.errors import SourceError
from windowloader.sources import Storage
from windowloader.sources.base import LocalSource
from windowloader.sources.reads import Done
from windowloader.testing import check_source

VALUES = np.arange(24, dtype="f4").reshape(8, 3)


class Good(LocalSource):
    def __init__(self, **more: Any) -> None:
        super().__init__("good", shape=(8, 3), dtype="f4", **more)

    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        out[...] = VALUES[start:stop]
        return self.bytes_of(start, stop)

    def fingerprint(self) -> str:
        return "good"


class Contiguous(Good):
    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        np.ascontiguousarray(out)[...] = VALUES[start:stop]
        return out.nbytes


class OffByOne(Good):
    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        out[...] = np.roll(VALUES, -1 if stop == 8 else 0, axis=0)[start:stop]
        return out.nbytes


class Unchecked(Good):
    def check_range(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> None:
        pass

    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        out[: max(0, min(stop, 8) - max(start, 0))] = VALUES[max(start, 0) : min(stop, 8)][: len(out)]
        return out.nbytes


class Forgetful(Good):
    def submit(self, start: int, stop: int, out: np.ndarray) -> Done:
        self.check_range(start, stop, out)
        return Done()


class Heavy(Good):
    def __init__(self) -> None:
        super().__init__()
        self.kept = np.zeros(1000)


class Restless(Good):
    def fingerprint(self) -> str:
        return str(id(self))


class Edgy(Good):
    def storage(self, box: Any = None) -> Storage:
        return Storage(np.array([0, 4, 9]), row_bytes=12)


class Silent(Good):
    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> None:  # type: ignore[override]
        out[...] = VALUES[start:stop]


class Greedy(Good):
    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        out[...] = VALUES[start:stop]
        return VALUES.nbytes


class Wide(Good):
    boxes = "slices"

    def _read(self, start: int, stop: int, out: np.ndarray, box: Any = None) -> int:
        out[...] = VALUES[start:stop, : out.shape[1]]
        return self.bytes_of(start, stop, box)


class Foreign(Good):
    def __init__(self) -> None:
        super().__init__()
        self.dtype = np.dtype(">f4")


class Other(Good):
    def array(self) -> np.ndarray:
        return VALUES + 1


class Once(Good):
    def close(self) -> None:
        self._read = None  # type: ignore[assignment, method-assign]


def test_a_good_source_passes() -> None:
    check_source(Good(chunks=(3, 3)), VALUES)


@pytest.mark.parametrize(
    "wrong",
    [Contiguous, OffByOne, Unchecked, Forgetful, Heavy, Restless, Edgy, Silent, Greedy, Wide, Foreign, Other],
)
def test_a_wrong_one_does_not(wrong: type[Good]) -> None:
    with pytest.raises(AssertionError):
        check_source(wrong(), VALUES)


def test_other_ways_to_be_wrong() -> None:
    with pytest.raises(AssertionError, match="expected"):
        check_source(Good(), VALUES[:7])
    with pytest.raises(AssertionError, match="timestamps"):
        check_source(Good(), VALUES, timestamps=np.arange(8).astype("M8[ns]"))
    with pytest.raises(AssertionError, match="other data have the same fingerprint"):
        check_source(Good(), VALUES, changed=Good())
    with pytest.raises(SourceError, match="TypeError") as caught:
        check_source(Once(), VALUES)
    assert isinstance(caught.value.__cause__, TypeError)
