"""The literature's loaders: counts, order, padding and values as their sources define them."""

from __future__ import annotations

import numpy as np
import pytest

import windowloader as wl
from windowloader.adapters.numpy_loops import FeatureScaler, LoopLoader, load_dataset
from windowloader.errors import LoaderError, SourceFormatError, SourceNotFoundError

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def speed(data):
    return np.loadtxt(data / "metr_la_week" / "los_speed.csv", delimiter=",", skiprows=1)


@pytest.fixture(scope="module")
def series(speed):
    return wl.Series(speed[:, :, None], features=["speed"], timestamps=("2012-03-01", "5min"))


@pytest.fixture(scope="module")
def literature(speed):
    """What generate_training_data.py of DCRNN materialises: x, y of each part, with the time of day."""
    day = (np.arange(2016) % 288 / 288)[:, None, None]
    both = np.concatenate([speed[:, :, None], np.broadcast_to(day, (2016, 207, 1))], axis=-1)
    x = np.lib.stride_tricks.sliding_window_view(both, 12, axis=0).transpose(0, 3, 1, 2)
    count = 1993
    cuts = {"train": slice(0, 1395), "val": slice(1395, 1594), "test": slice(1594, count)}
    return {part: (x[:count][cut], x[12:][cut]) for part, cut in cuts.items()}


def loop(pairs, batch_size, tail):
    """The literature's loader in full: arrays, padded or cut, walked through in order."""
    x, y = pairs
    if tail == "pad":
        index = np.concatenate([np.arange(len(x)), np.full(-len(x) % batch_size, len(x) - 1)])
    else:
        index = np.arange(len(x) - (len(x) % batch_size if tail == "drop" else 0))
    return [
        (x[index[i : i + batch_size]], y[index[i : i + batch_size]]) for i in range(0, len(index), batch_size)
    ]


def test_counts_padding_and_scaler_on_the_metr_la_week(series):
    found = load_dataset(series, 64)
    loaders = [found[f"{part}_loader"] for part in PARTS]
    assert [len(found[f"x_{part}"]) for part in PARTS] == [1395, 199, 399]
    assert [loader.size for loader in loaders] == [1408, 256, 448]
    assert [loader.num_batch for loader in loaders] == [22, 4, 7]
    assert found["scaler"].mean == pytest.approx(59.32686319096545, abs=1e-12)
    assert found["scaler"].std == pytest.approx(12.365653034957196, abs=1e-12)
    assert found["x_offsets"].ravel().tolist() == list(range(-11, 1))
    assert found["y_offsets"].ravel().tolist() == list(range(1, 13))
    assert found["x_offsets"].shape == (12, 1)


@pytest.mark.parametrize("tail", ["pad", "keep", "drop"])
@pytest.mark.parametrize("scale_targets", [False, True])
def test_an_epoch_equals_the_literatures_in_order(series, literature, tail, scale_targets):
    found = load_dataset(series, 64, 50, 400 if tail != "drop" else 100, tail, scale_targets=scale_targets)
    scaler = found["scaler"]
    for part, batch_size in zip(PARTS, (64, 50, 400 if tail != "drop" else 100), strict=True):
        expected = loop(literature[part], batch_size, tail)
        loader = found[f"{part}_loader"]
        assert loader.batch_size == batch_size
        batches = list(loader.get_iterator())
        assert len(batches) == len(expected) == loader.num_batch
        for (x, y), (raw_x, raw_y) in zip(batches, expected, strict=True):
            raw_x, raw_y = raw_x.copy(), raw_y.copy()
            raw_x[..., 0] = scaler.transform(raw_x[..., 0])
            if scale_targets:
                raw_y[..., 0] = scaler.transform(raw_y[..., 0])
            np.testing.assert_array_equal(x, raw_x.astype(np.float32))
            np.testing.assert_array_equal(y, raw_y.astype(np.float32))


def test_shuffles_use_numpys_global_generator_and_include_repeated_samples(series, literature):
    loader = load_dataset(series, 64)["train_loader"]
    index = np.concatenate([np.arange(1395), np.full(13, 1394)])
    np.random.seed(7)  # noqa: NPY002 - as the literature's scripts do
    for _ in range(2):
        loader.shuffle()
    np.random.seed(7)  # noqa: NPY002
    for _ in range(2):
        index = index[np.random.permutation(1408)]  # noqa: NPY002
    raw = literature["train"][1][index]
    np.testing.assert_array_equal(loader.ys[:130], raw[:130].astype(np.float32))
    batches = list(loader.get_iterator())
    np.testing.assert_array_equal(batches[-1][1], raw[-64:].astype(np.float32))
    other = load_dataset(series, 64, rng=np.random.default_rng(3), shuffle_train=True)["train_loader"]
    index = np.concatenate([np.arange(1395), np.full(13, 1394)])[np.random.default_rng(3).permutation(1408)]
    np.testing.assert_array_equal(other.ys[5], literature["train"][1][index[5]].astype(np.float32))


def test_a_dropped_tail_changes_with_the_shuffle(series):
    loader = load_dataset(series, 64, tail="drop", rng=np.random.default_rng(0))["train_loader"]
    assert (loader.size, loader.num_batch) == (1395, 21)
    seen = set()
    for _ in range(6):
        loader.shuffle()
        seen |= set(loader._order[: 21 * 64].tolist())
    assert len(seen) == 1395


def test_tails_by_part(series):
    found = load_dataset(series, 64, tail={"train": "drop", "val": "drop", "test": "keep"})
    assert [found[f"{part}_loader"].num_batch for part in PARTS] == [21, 3, 7]
    assert len(list(found["test_loader"].get_iterator())[-1][0]) == 399 - 6 * 64


def test_samples_are_indexed_as_the_array_would_be(series, literature):
    found = load_dataset(series, 64)
    y, whole = found["y_test"], literature["test"][1].astype(np.float32)
    assert (y.shape, y.ndim, len(y), y.dtype) == (whole.shape, 4, 399, np.float32)
    for key in (
        0, -1, np.int64(5), slice(3, 9), slice(None, None, -100), [4, 2, 2], np.arange(399) % 50 == 0,
        np.array([[1], [2]]), (slice(0, 4), ..., 0), (7, slice(None), 3), (..., 1), (slice(0, 2),
        slice(None), [3, 5], 0),
    ):  # fmt: skip
        np.testing.assert_array_equal(y[key], whole[key], err_msg=str(key))
    with pytest.raises(IndexError):
        y[399]
    assert sum(1 for _ in y) == 399
    np.testing.assert_array_equal(np.asarray(y), whole)
    assert np.asarray(y, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="not materialised"):
        np.array(y, copy=False)
    assert "shape (399, 12, 207, 2)" in repr(y)


def test_torch_makes_a_tensor_of_samples(series, literature):
    torch = pytest.importorskip("torch")
    found = load_dataset(series, 64)
    real = torch.Tensor(found["y_val"])
    np.testing.assert_array_equal(real.numpy(), literature["val"][1].astype(np.float32))
    scaler = found["scaler"]
    prediction = torch.zeros(3, 207, requires_grad=True)
    assert torch.equal(scaler.inverse_transform(prediction), prediction * scaler.std + scaler.mean)


def test_two_iterators_at_once_are_independent(series):
    loader = load_dataset(series, 500)["train_loader"]
    first = loader.get_iterator()
    next(first)
    for (x, _), (other, _) in zip(loader, list(loader), strict=True):
        np.testing.assert_array_equal(x, other)
    assert loader.current_ind == loader.num_batch
    assert len(list(first)) == loader.num_batch - 1
    assert len(loader) == 3


def test_window_sets_and_a_scaler_may_be_given(series):
    spec = wl.WindowSpec(lookback=6, horizon=3, inputs=["speed"], targets=["speed"])
    parts = wl.split(series, spec, (0.6, 0.2, 0.2))
    found = load_dataset(parts, 32, scaler=wl.StandardScaler(50.0, 10.0, features="speed"), dtype="float64")
    assert found["scaler"] == FeatureScaler(50.0, 10.0)
    x = found["x_train"][0]
    np.testing.assert_allclose(x * 10 + 50, parts[0].read([0]).inputs[0], rtol=1e-6)
    assert x.shape == (6, 207, 1)
    with pytest.raises(LoaderError, match="2 window sets"):
        load_dataset(parts[:2] if isinstance(parts, tuple) else list(parts)[:2], 32)
    with pytest.raises(LoaderError, match="one mean and one std"):
        load_dataset(parts, 32, scaler=wl.StandardScaler.fit(parts[0], per="node"))


@pytest.fixture
def folder(tmp_path, literature):
    rng = np.random.default_rng(0)
    for part in PARTS:
        x, y = (np.ascontiguousarray(side[:70, :, :4]) for side in literature[part])
        x[rng.random(x.shape) < 0.1] = 0  # they count zeros among the statistics
        offsets = {"x_offsets": np.arange(-11, 1)[:, None], "y_offsets": np.arange(1, 13)[:, None]}
        np.savez_compressed(tmp_path / f"{part}.npz", x=x, y=y, **offsets)
    return tmp_path


def test_a_folder_of_npz_is_read_as_the_literature_does(folder):
    found = load_dataset(folder, 32, tail="keep")
    with np.load(folder / "train.npz") as train:
        x, y, offsets = train["x"], train["y"], train["x_offsets"]
    mean, std = x[..., 0].mean(), x[..., 0].std()
    assert (found["scaler"].mean, found["scaler"].std) == (mean, std)
    x[..., 0] = (x[..., 0] - mean) / std
    batches = list(found["train_loader"].get_iterator())
    assert [len(b) for b, _ in batches] == [32, 32, 6]
    np.testing.assert_array_equal(np.concatenate([b for b, _ in batches]), x.astype(np.float32))
    np.testing.assert_array_equal(np.concatenate([b for _, b in batches]), y.astype(np.float32))
    np.testing.assert_array_equal(found["x_offsets"], offsets)
    scaled = load_dataset(folder, 32, scale_targets=True, scaler=wl.StandardScaler(1.0, 2.0))
    np.testing.assert_array_equal(scaled["y_train"][0, ..., 0], ((y[0, ..., 0] - 1) / 2).astype(np.float32))


def test_folders_that_are_not_whole_are_refused(folder):
    np.savez(folder / "val.npz", a=np.zeros(3))
    with pytest.raises(SourceFormatError, match="holds a, not x and y"):
        load_dataset(folder, 32)
    np.savez(folder / "val.npz", x=np.zeros((3, 1)), y=np.zeros((2, 1)))
    with pytest.raises(SourceFormatError, match="3 x and 2 y"):
        load_dataset(folder, 32)
    (folder / "test.npz").unlink()
    with pytest.raises(SourceNotFoundError, match=r"has no test\.npz"):
        load_dataset(folder, 32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "integer >= 1, got 0"),
        ({"batch_size": 64, "tail": "fill"}, "got 'fill'"),
        ({"batch_size": 64, "tail": {"train": "pad"}}, "one entry each"),
        ({"batch_size": 300, "tail": "drop"}, "199 windows give no batch of 300"),
    ],
)
def test_wrong_arguments_are_refused(series, arguments, words):
    with pytest.raises(LoaderError, match=words):
        load_dataset(series, **arguments)


def test_a_loader_of_custom_pairs():
    class Pairs:
        shapes, dtype = ((1,), (1,)), np.dtype(float)

        def __len__(self):
            return 5

        def read(self, positions):
            return positions[:, None] * 1.0, positions[:, None] * -1.0

    loader = LoopLoader(Pairs(), 2)
    assert [x.ravel().tolist() for x, _ in loader] == [[0, 1], [2, 3], [4, 4]]
    assert loader.xs.shape == (6, 1)
