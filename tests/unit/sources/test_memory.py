from __future__ import annotations

import numpy as np
import pytest

from windowloader.errors import AxesError, CorruptDataError, SourceFormatError
from windowloader.sources.memory import ArraySource
from windowloader.sources.numpy_files import open_npz
from windowloader.sources.registry import open_source


def test_array_is_used_where_it_lies() -> None:
    values = np.zeros((6, 4, 2), np.float32)
    view = ArraySource(values, axes="ntf").array()
    assert view is not None
    assert view.shape == (4, 6, 2)
    values[5, 3, 1] = 7
    assert view[3, 5, 1] == 7
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    assert values.flags.writeable


def test_torch_tensor_shares_its_memory() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(5, 3, requires_grad=True)
    source = open_source(tensor)
    with torch.no_grad():
        tensor[4, 2] = 3
    assert source.array()[4, 2] == 3  # type: ignore[index]
    with pytest.raises(SourceFormatError, match="float"):
        open_source(torch.zeros(5, 3, dtype=torch.bfloat16))


def test_anything_with_dunder_array() -> None:
    class Wrapped:
        shape = (2, 2)

        def __array__(self, dtype=None, copy=None):
            return np.ones((2, 2), np.int16)

    assert open_source(Wrapped()).dtype == np.int16


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (np.array([[1, "a"]], dtype=object), "unpickled"),
        (np.zeros((2, 2), complex), "complex numbers as two features"),
        (np.zeros((2, 2), "datetime64[s]"), "timestamps="),
        (np.zeros((2, 2), "timedelta64[s]"), "durations"),
        (np.zeros((2, 2), "S3"), "text"),
        (np.zeros((2, 2), "U3"), "text"),
        (np.zeros((2, 2), [("speed", "f4")]), "field"),
        (np.zeros((2, 2), np.longdouble), "float64"),
    ],
)
def test_non_numbers_are_refused_with_advice(values: np.ndarray, advice: str) -> None:
    with pytest.raises(SourceFormatError, match=advice):
        ArraySource(values, name="x")


def test_masked_values_become_nan_or_an_error() -> None:
    masked = np.ma.masked_equal(np.array([[1.0, 2.0], [3.0, 1.0]]), 1.0)
    np.testing.assert_array_equal(ArraySource(masked).array(), [[np.nan, 2], [3, np.nan]])
    with pytest.raises(SourceFormatError, match="filled"):
        ArraySource(masked.astype(int))
    assert ArraySource(np.ma.masked_array(np.ones((2, 2), int))).dtype == int


def test_axes_are_asked_for_where_nothing_tells() -> None:
    with pytest.raises(AxesError, match="axes="):
        ArraySource(np.zeros((2, 2, 2, 2)))
    with pytest.raises(AxesError, match="One letter per axis"):
        ArraySource(np.zeros((2, 2)), axes="tnf")
    assert ArraySource(np.zeros((3, 2)), axes="nf").axes == "nf"  # static: no time


def test_labels_follow_the_axes() -> None:
    source = ArraySource(np.zeros((2, 5)), axes="nt", labels={0: ["a", "b"]})
    np.testing.assert_array_equal(source.labels(1), ["a", "b"])
    assert source.labels(0) is None


def test_timestamps_of_any_unit_become_nanoseconds_or_an_error() -> None:
    years = np.array(["1900", "2000"], "datetime64[Y]")
    found = ArraySource(np.zeros((2, 1)), timestamps=years).timestamps()
    np.testing.assert_array_equal(found, years.astype("datetime64[ns]"))
    with pytest.raises(SourceFormatError, match="1677"):
        ArraySource(np.zeros((2, 1)), timestamps=np.array(["0100", "2000"], "datetime64[Y]"))


def test_fingerprint_tells_values_apart() -> None:
    values = np.zeros((50, 3))
    other = values.copy()
    other[-1, -1] = 1
    prints = {ArraySource(x).fingerprint() for x in (values, values.copy(), other, values.T.copy())}
    assert len(prints) == 3
    assert ArraySource(values).fingerprint() == ArraySource(values.astype(">f8")).fingerprint()


def test_npz_asks_which_array(tmp_path) -> None:
    np.savez(tmp_path / "two.npz", speed=np.ones((4, 2)), flow=np.zeros((4, 2), "i2"))
    with pytest.raises(SourceFormatError, match=r"holds 2 arrays: 'speed', 'flow'"):
        open_npz(tmp_path / "two.npz")
    with pytest.raises(SourceFormatError, match=r"no variable 'sped'.*'speed', 'flow'"):
        open_npz(tmp_path / "two.npz", member="sped")
    assert open_source(tmp_path / "two.npz", member="flow").dtype == np.int16
    assert open_source(tmp_path / "two.npz", variable="speed").name == "two.npz:speed"


def test_npz_is_never_unpickled(tmp_path) -> None:
    np.savez(tmp_path / "o.npz", x=np.array([[{}]], dtype=object))
    with pytest.raises(SourceFormatError, match="allow_pickle=False"):
        open_source(tmp_path / "o.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(CorruptDataError, match=r"broken\.npz"):
        open_source(tmp_path / "broken.npz")
