"""Each row of the how-to on DCRNN's files compared with that script's arithmetic, reimplemented over whole arrays.

What the scripts do was read in their repositories: liyaguang/DCRNN (``scripts/generate_training_data.py``,
``model/dcrnn_supervisor.py``, ``lib/utils.py``), nnzhan/Graph-WaveNet and nnzhan/MTGNN (``util.py``), liuxu77/LargeST
(``data/generate_data_for_training.py``, ``src/utils/dataloader.py``, ``src/base/engine.py``), LeiBAI/AGCRN
(``lib/dataloader.py``, ``lib/add_window.py``, ``model/BasicTrainer.py``), GestaltCogTeam/BasicTS
(``scripts/data_preparation/METR-LA``, ``src/basicts/data/tsf_dataset.py``).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import windowloader as wl  # noqa: E402
from windowloader.adapters.numpy_loops import CLIENTS, load_dataset  # noqa: E402
from windowloader.adapters.pytorch import TorchLoader  # noqa: E402
from windowloader.errors import LoaderError  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "dcrnn-npz.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| ([\w ]+) \| `(load_dataset\(.*?\))` \|", PAGE, re.MULTILINE))
PARTS = ("train", "val", "test")
SIZE = 64


@pytest.fixture(scope="module")
def frame(data):
    """The METR-LA week of 9 sensors, some of their readings gone (0)."""
    speed = pd.read_csv(data / "metr_la_week" / "los_speed.csv").to_numpy(np.float64)[:, :9]
    speed[np.random.default_rng(2).random(speed.shape) < 0.03] = 0.0
    return pd.DataFrame(speed, index=pd.date_range("2012-03-01", periods=len(speed), freq="5min"))


@pytest.fixture(scope="module")
def series(frame):
    return wl.Series(frame.to_numpy()[:, :, None], features=["speed"], timestamps=("2012-03-01", "5min"))


# -- the scripts ------------------------------------------------------------------------------------------------------


class Arrays:
    """Batches of arrays; `pad` repeats the last pair up to a full batch, otherwise a short batch is dropped."""

    def __init__(self, x, y, *, pad):
        numbers = np.arange(len(x) + (-len(x) % SIZE if pad else 0)).clip(max=len(x) - 1)
        self.x, self.y = x[numbers], y[numbers]

    def shuffle(self):
        order = np.random.permutation(len(self.x))  # noqa: NPY002 - as the scripts do
        self.x, self.y = self.x[order], self.y[order]

    def get_iterator(self):
        for begin in range(0, len(self.x) - SIZE + 1, SIZE):
            yield self.x[begin : begin + SIZE], self.y[begin : begin + SIZE]


class Scaling:
    def __init__(self, values):
        self.mean, self.std = values.mean(), values.std()

    def transform(self, values):
        return (values - self.mean) / self.std

    def inverse_transform(self, values):
        return values * self.std + self.mean


def with_clocks(frame, *, week):
    """Readings, share of the day and perhaps of the week as features of every sensor: (time, sensor, feature)."""
    clocks = [(frame.index - frame.index.normalize()) / pd.Timedelta("1D")]
    clocks += [frame.index.day_of_week / 7] if week else []
    columns = [np.repeat(np.asarray(clock)[:, None], frame.shape[1], axis=1) for clock in clocks]
    return np.stack([frame.to_numpy(), *columns], axis=-1)


def windows_of(values):
    """All x of 12 rows, and y of the 12 that follow."""
    view = np.lib.stride_tricks.sliding_window_view(values, 24, axis=0)
    whole = np.moveaxis(view, -1, 1)
    return whole[:, :12].copy(), whole[:, 12:].copy()


def dcrnn_files(frame):
    x, y = windows_of(with_clocks(frame, week=False))
    test, train = round(len(x) * 0.2), round(len(x) * 0.7)
    return {
        "train": (x[:train], y[:train]),
        "val": (x[train : len(x) - test], y[train : len(x) - test]),
        "test": (x[-test:], y[-test:]),
    }


def dcrnn(frame, *, both=True):
    parts = dcrnn_files(frame)
    scaler = Scaling(parts["train"][0][..., 0])
    for part in parts.values():
        for side in part[: 2 if both else 1]:
            side[..., 0] = scaler.transform(side[..., 0])
    data = {"scaler": scaler, "y_test": parts["test"][1]}
    data |= {f"{name}_loader": Arrays(*part, pad=True) for name, part in parts.items()}
    if both:
        data["train_loader"].shuffle()
    return data


def graph_wavenet(frame):
    return dcrnn(frame, both=False)


def largest(frame):
    values = with_clocks(frame, week=True)
    last = np.arange(11, len(values) - 12)  # last observed row of every window
    train, val = round(len(last) * 0.6), round(len(last) * 0.2)
    scaler = Scaling(values[: last[train] - 12, :, 0])
    values[..., 0] = scaler.transform(values[..., 0])
    data = {"scaler": scaler}
    for name, rows in zip(PARTS, np.split(last, [train, train + val]), strict=True):
        x = np.float32(values[rows[:, None] + np.arange(-11, 1)])
        y = np.float32(values[rows[:, None] + np.arange(1, 13)][..., :1])
        data[f"{name}_loader"] = Arrays(x, y, pad=False)
    return data


def agcrn(frame):
    values = frame.to_numpy()[..., None]
    scaler = Scaling(values)
    values = scaler.transform(values)
    count = len(values)
    cuts = [count - int(count * (0.2 + 0.2)), count - int(count * 0.2)]
    data = {"scaler": scaler}
    for name, rows in zip(PARTS, np.split(values, cuts), strict=True):
        pairs = TensorDataset(*map(torch.FloatTensor, windows_of(rows)))
        data[f"{name}_loader"] = DataLoader(
            pairs, batch_size=SIZE, shuffle=name == "train", drop_last=name != "test"
        )
    return data


SCRIPTS = {
    "DCRNN": dcrnn,
    "Graph WaveNet": graph_wavenet,
    "MTGNN": graph_wavenet,
    "LargeST": largest,
    "AGCRN": agcrn,
}


def epoch(script, loader, *, train):
    """Iterate over a loader as the script does; return tensors as it feeds them to its model."""
    if script == "AGCRN":
        return [(x, y) for x, y in loader]
    if train and script != "DCRNN":
        loader.shuffle()
    return [(torch.Tensor(x), torch.Tensor(y)) for x, y in loader.get_iterator()]


def mae(script, data):
    """The script's test error in miles an hour, of a forecast that goes on with the last reading."""
    batches = epoch(script, data["test_loader"], train=False)
    scaler = data["scaler"]
    forecast = torch.cat([x[:, -1:, :, :1].expand_as(y[..., :1]) for x, y in batches])
    if script in ("DCRNN", "Graph WaveNet", "MTGNN"):
        truth = torch.Tensor(data["y_test"])[..., :1]
        forecast = forecast[: len(truth)]  # what was repeated is cut off
    else:
        truth = torch.cat([y[..., :1] for _, y in batches])
    forecast = scaler.inverse_transform(forecast)
    truth = truth if script in ("Graph WaveNet", "MTGNN") else scaler.inverse_transform(truth)
    known = truth > 0.5
    return (forecast - truth).abs()[known].mean().item()


# -- rows of the page -------------------------------------------------------------------------------------------------


def call(row, series):
    return eval(row, {"load_dataset": load_dataset, "series": series})


def seed():
    np.random.seed(11)  # noqa: NPY002
    torch.manual_seed(11)


def test_the_page_has_a_row_for_every_script():
    assert set(ROWS) == set(SCRIPTS)
    named = {re.search(r'client="([\w-]+)"', row)[1] for row in ROWS.values()}
    assert named == set(CLIENTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_row_gives_the_scripts_batches_and_error(frame, series, script):
    seed()
    theirs = SCRIPTS[script](frame)
    expected = [epoch(script, theirs["train_loader"], train=True) for _ in range(2)]
    expected += [epoch(script, theirs[f"{part}_loader"], train=False) for part in ("val", "test")]
    seed()
    ours = call(ROWS[script], series)
    found = [epoch(script, ours["train_loader"], train=True) for _ in range(2)]
    found += [epoch(script, ours[f"{part}_loader"], train=False) for part in ("val", "test")]
    assert ours["scaler"].mean == pytest.approx(theirs["scaler"].mean, rel=1e-12)
    assert ours["scaler"].std == pytest.approx(theirs["scaler"].std, rel=1e-12)
    for mine, other in zip(found, expected, strict=True):
        assert len(mine) == len(other) > 0
        for pair, their_pair in zip(mine, other, strict=True):
            for tensor, their_tensor in zip(pair, their_pair, strict=True):
                assert tensor.dtype == their_tensor.dtype == torch.float32
                assert tensor.shape == their_tensor.shape
                np.testing.assert_allclose(tensor, their_tensor, rtol=1.2e-7, atol=1e-9)  # one bit of float32
    assert mae(script, ours) == pytest.approx(mae(script, theirs), rel=1e-6)
    assert 1 < mae(script, ours) < 20


@pytest.mark.parametrize("script", SCRIPTS)
def test_loaders_look_like_the_scripts(frame, series, script):
    ours, theirs = call(ROWS[script], series), SCRIPTS[script](frame)
    for part in PARTS:
        mine, other = ours[f"{part}_loader"], theirs[f"{part}_loader"]
        if script == "AGCRN":
            assert type(mine) is DataLoader
            assert len(mine) == len(other)
            assert (mine.batch_size, mine.drop_last) == (other.batch_size, other.drop_last)
        else:
            batches = list(other.get_iterator())
            assert mine.num_batch == len(batches)
            assert mine.size == len(other.x)
            assert type(next(mine.get_iterator())[0]) is np.ndarray


@pytest.mark.parametrize("script", ["DCRNN", "Graph WaveNet", "MTGNN"])
def test_arrays_are_the_files_in_their_own_precision(frame, series, script):
    seed()
    theirs = SCRIPTS[script](frame)
    seed()
    ours = call(ROWS[script].replace(")", ', dtype="float64")'), series)
    assert ours["y_test"].dtype == theirs["y_test"].dtype == np.float64
    for mine, other in zip(
        ours["train_loader"].get_iterator(), theirs["train_loader"].get_iterator(), strict=True
    ):
        for array, their_array in zip(mine, other, strict=True):
            assert array.dtype == their_array.dtype == np.float64
            np.testing.assert_allclose(array, their_array, rtol=1e-11, atol=1e-12)
    if script != "DCRNN":
        np.testing.assert_array_equal(np.asarray(ours["y_test"]), theirs["y_test"])


def test_a_folder_of_dcrnns_files_is_read_as_each_script_reads_it(frame, tmp_path):
    for name, (x, y) in dcrnn_files(frame.iloc[:400]).items():
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    for script, name in (("DCRNN", "dcrnn"), ("MTGNN", "mtgnn")):
        seed()
        theirs = SCRIPTS[script](frame.iloc[:400])
        seed()
        ours = load_dataset(tmp_path, SIZE, client=name)
        assert (ours["scaler"].mean, ours["scaler"].std) == (theirs["scaler"].mean, theirs["scaler"].std)
        for part in PARTS:
            mine, other = (epoch(script, data[f"{part}_loader"], train=False) for data in (ours, theirs))
            assert len(mine) == len(other)
            for pair, their_pair in zip(mine, other, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(pair, their_pair, strict=True))
    with pytest.raises(LoaderError, match=r"client='largest' reads no train\.npz"):
        load_dataset(tmp_path, SIZE, client="largest")


def test_arguments_override_those_of_the_script(frame, series):
    plain = load_dataset(
        series,
        32,
        client="agcrn",
        ratio=(0.7, 0.1, 0.2),
        tail="keep",
        scale_targets=False,
        shuffle_train=False,
    )
    x, y = next(iter(plain["train_loader"]))
    assert len(plain["x_train"]) == 2016 - int(2016 * (0.2 + 0.1)) - 23
    np.testing.assert_array_equal(y[0, ..., 0], np.float32(frame.to_numpy()[12:24]))
    assert len(x) == 32
    drawn = [
        next(
            iter(
                load_dataset(series, 32, client="agcrn", rng=torch.Generator().manual_seed(seed))[
                    "train_loader"
                ]
            )
        )[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    spec = wl.WindowSpec(lookback=6, horizon=3, inputs=["speed", "day_of_week"], targets=["speed"])
    parts = wl.split(series, spec, (0.6, 0.2, 0.2), by="windows")
    found = load_dataset(parts, 32, client="largest")
    rows = frame.to_numpy()[: parts[1].starts([0])[0] - 1]
    assert found["scaler"].mean == pytest.approx(rows.mean(), rel=1e-12)
    assert set(np.unique(found["x_test"][:5, ..., 1])) <= set(np.float32(np.arange(7) / 7))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"client": "stgcn"}, "client='stgcn' is unknown. Known are 'dcrnn'"),
        ({"client": "agcrn", "tail": "pad"}, "repeats no sample"),
        ({"client": "agcrn", "batch_size": 400}, "380 windows give no batch of 400"),
    ],
)
def test_arguments_that_no_script_supports_are_refused(series, arguments, words):
    with pytest.raises(LoaderError, match=words):
        load_dataset(series, **{"batch_size": SIZE, **arguments})


def test_batches_as_dicts_are_basicts_items(frame, series, capsys):
    """BasicTS cuts rows into files of float32 once; its runner scales what its data sets hand out."""
    block = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "as_basicts" in code)
    names = {"wl": wl, "series": series}
    exec(block, names)
    assert "(64, 12, 9)" in capsys.readouterr().out
    values = np.float32(frame.to_numpy())
    clocks = np.float32(with_clocks(frame, week=True)[:, 0, 1:])
    train, val = int(len(values) * 0.7), int(len(values) * 0.1)
    for part, begin, end in zip(
        names["parts"], (0, train, train + val), (train, train + val, len(values)), strict=True
    ):
        items = [
            {
                "inputs": values[i : i + 12],
                "targets": values[i + 12 : i + 24],
                "inputs_timestamps": clocks[i : i + 12],
                "targets_timestamps": clocks[i + 12 : i + 24],
            }
            for i in range(begin, end - 23)
        ]
        ours = TorchLoader(part, batch_size=SIZE, transform=names["as_basicts"], **names["options"])
        for mine, other in zip(ours, DataLoader(items, batch_size=SIZE), strict=True):
            assert set(mine) == set(other)
            for name, tensor in mine.items():
                assert tensor.dtype == other[name].dtype
                assert torch.equal(tensor, other[name]), name
