"""A training loop over PGT's loaders and over these has the same losses to the bit."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

import windowloader as wl  # noqa: E402
from windowloader.adapters.pgt import get_index_dataset  # noqa: E402


@pytest.fixture(scope="module")
def their_loader(pgt_package, data, tmp_path_factory):
    """PGT's METR-LA loader over the week."""
    speed = pd.read_csv(data / "metr_la_week" / "los_speed.csv").to_numpy(np.float64)
    day = np.arange(2016) % 288 / 288
    week = np.stack([speed, np.repeat(day[:, None], 207, axis=1)], axis=-1)
    folder = tmp_path_factory.mktemp("pgt")
    (folder / "METR-LA.zip").touch()
    np.save(folder / "node_values.npy", week)
    with (data / "metr_la_week" / "adj_mx.pkl").open("rb") as file:
        np.save(folder / "adj_mat.npy", pickle.load(file, encoding="latin1")[2])
    return pgt_package.dataset.METRLADatasetLoader(raw_data_dir=str(folder), index=True)


@pytest.fixture(autouse=True)
def one_thread():
    """Sum in one order, without threads that wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class DiffusionGRU(torch.nn.Module):
    """A gated recurrent cell whose gates mix each node with its upstream and downstream neighbours, as DCRNN's do."""

    def __init__(self, edges, weights, nodes, width=4):
        super().__init__()
        matrix = torch.zeros(nodes, nodes).index_put((edges[0], edges[1]), weights, accumulate=True)
        transitions = [matrix, matrix.T]
        self.transitions = [
            torch.eye(nodes),
            *(one / one.sum(1, keepdim=True).clamp(min=1e-9) for one in transitions),
        ]
        self.gates = torch.nn.Linear(3 * (2 + width), 2 * width)
        self.candidate = torch.nn.Linear(3 * (2 + width), width)
        self.out = torch.nn.Linear(width, 12)

    def mixed(self, values):
        return torch.cat([one @ values for one in self.transitions], dim=-1)

    def forward(self, x):
        state = torch.zeros(*x.shape[:1], x.shape[2], self.out.in_features)
        for step in x.unbind(1):
            update, reset = self.gates(self.mixed(torch.cat([step, state], -1))).sigmoid().chunk(2, -1)
            fresh = self.candidate(self.mixed(torch.cat([step, reset * state], -1))).tanh()
            state = update * state + (1 - update) * fresh
        return self.out(state).transpose(1, 2)


def train(loaders, epochs, steps):
    """Losses of a training loop; two calls differ only in the loaders."""
    train_loader, val_loader, _, edges, weights, means, stds = loaders
    torch.manual_seed(5)
    model = DiffusionGRU(edges, weights, 207)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _epoch in range(epochs):
        for number, (x, y) in enumerate(train_loader):
            if number == steps:
                break
            prediction = model(x.float()) * stds[0] + means[0]
            loss = (prediction - (y[..., 0].float() * stds[0] + means[0])).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            losses.append(sum((model(x) - y[..., 0]).abs().mean().item() for x, y in list(val_loader)[:2]))
    return losses


def test_the_same_loss_digits(their_loader):
    theirs = train(their_loader.get_index_dataset(shuffle=True, batch_size=16), epochs=2, steps=4)
    series = wl.open(
        f"{their_loader.raw_data_dir}/node_values.npy", axes="tnf", features=["speed", "time"],
        graph=f"{their_loader.raw_data_dir}/adj_mat.npy",
    )  # fmt: skip
    ours = train(
        get_index_dataset(series, shuffle=True, batch_size=16, statistics="series"), epochs=2, steps=4
    )
    assert ours == theirs
    assert len(ours) == 10
    assert ours[8] < ours[0]  # it learns


@pytest.mark.campaign
def test_the_same_loss_digits_over_a_whole_epoch(their_loader):
    theirs = train(their_loader.get_index_dataset(shuffle=True), epochs=1, steps=-1)
    ours = train(get_index_dataset(their_loader, shuffle=True, statistics="series"), epochs=1, steps=-1)
    assert ours == theirs
