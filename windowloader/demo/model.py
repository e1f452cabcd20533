"""A small graph network: what each node saw, mixed along the edges in both directions, twice.

In: windows with the nodes first, the clock of each window, a graph. Out: a forecast as a change from the last reading.
Never knows of the loader; any PyTorch model takes this place.

Its parts are well known: diffusion both ways along the graph (Li et al. 2018, DCRNN), an embedding for each node and
for the time of day and week (Shao et al. 2022, STID).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GraphForecaster", "diffusion"]

HARMONICS = 6


def diffusion(edge_index: np.ndarray, edge_weight: np.ndarray | None, num_nodes: int) -> tuple[Tensor, ...]:
    """Return the random walks along the edges and against them, as sparse matrices of shape (node, node).

    Edges from a node to itself are left out: the network keeps a node's own state beside what it hears.
    """
    ends = torch.as_tensor(edge_index)
    weight = torch.ones(ends.shape[1]) if edge_weight is None else torch.as_tensor(edge_weight).float()
    kept = ends[0] != ends[1]
    ends, weight = ends[:, kept], weight[kept]
    walks = []
    for here, there in ((0, 1), (1, 0)):
        total = torch.zeros(num_nodes).index_add_(0, ends[here], weight).clamp(min=1e-12)
        indices = torch.stack([ends[here], ends[there]])
        walk = torch.sparse_coo_tensor(
            indices, weight / total[ends[here]], (num_nodes, num_nodes), check_invariants=False
        )
        walks.append(walk.coalesce())
    return tuple(walks)


class NodeMixing(nn.Module):
    """What a node knows and what its neighbours know, through a two-layer network, added to what it knew."""

    def __init__(self, hidden: int, neighbours: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.gather = nn.Linear(hidden * (1 + neighbours), hidden)
        self.update = nn.Linear(hidden, hidden)

    def forward(self, state: Tensor, walks: tuple[Tensor, ...]) -> Tensor:
        """Mix ``state``, shape (node, batch, hidden)."""
        known = self.norm(state)
        flat = known.flatten(1)  # nodes lie first, so that a walk is one sparse product
        heard = [torch.sparse.mm(walk, flat).view_as(known) for walk in walks]
        mixed: Tensor = self.update(nn.functional.gelu(self.gather(torch.cat([known, *heard], -1))))
        return state + mixed


class GraphForecaster(nn.Module):
    """Forecast all features of all nodes.

    Parameters
    ----------
    num_nodes, num_features, lookback, horizon : int
        Sizes of a window.
    walks : tuple of Tensor
        From `diffusion`; empty without a graph.
    timed : bool
        Whether windows have a clock; what is never used must not be there, for DDP waits for its gradient.
    hidden, blocks : int
        Width and depth.
    """

    def __init__(
        self,
        *,
        num_nodes: int,
        num_features: int,
        lookback: int,
        horizon: int,
        walks: tuple[Tensor, ...] = (),
        timed: bool = True,
        hidden: int = 48,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        self.walks = walks
        self.shape = (horizon, num_features)
        self.past = nn.Linear(2 * lookback * num_features, hidden)
        self.clock = nn.Linear(2 * HARMONICS + 7, hidden, bias=False) if timed else None
        self.node = nn.Parameter(torch.randn(num_nodes, 1, hidden) * 0.2)
        self.blocks = nn.ModuleList(NodeMixing(hidden, len(walks)) for _ in range(blocks))
        last = nn.Linear(hidden, horizon * num_features)
        nn.init.zeros_(last.weight)  # so that training begins at persistence
        self.forecast = nn.Sequential(nn.LayerNorm(hidden), last)

    def forward(self, inputs: Tensor, observed: Tensor, clock: Tensor | None) -> Tensor:
        """Forecast.

        Parameters
        ----------
        inputs : Tensor, shape (node, batch, lookback, feature)
            Scaled; 0 where missing.
        observed : Tensor, shape of inputs, bool
        clock : Tensor, shape (batch, 2), or None where the model is not timed
            Time of day (0 ≤ x < 1) and day of the week (0 … 6) of the first step to forecast.

        Returns
        -------
        Tensor, shape (node, batch, horizon, feature)
            Scaled like the inputs.
        """
        seen = observed.to(inputs.dtype)
        state = self.past(torch.cat([inputs, seen], -1).flatten(2)) + self.node
        if self.clock is not None and clock is not None:
            state = state + self.clock(_waves(clock))
        for block in self.blocks:
            state = block(state, self.walks)
        change: Tensor = self.forecast(state).unflatten(-1, self.shape)
        return _last(inputs, observed) + change


def _waves(clock: Tensor) -> Tensor:
    """Time of day as sines and cosines, day of the week as one of seven; shape (batch, 2 · HARMONICS + 7)."""
    turns = 2 * math.pi * clock[:, :1] * torch.arange(1, HARMONICS + 1, device=clock.device)
    days = nn.functional.one_hot(clock[:, 1].long(), 7).to(clock.dtype)
    return torch.cat([turns.sin(), turns.cos(), days], -1)


def _last(inputs: Tensor, observed: Tensor) -> Tensor:
    """Last reading of each node that was observed, else 0 (the mean); shape (node, batch, 1, feature)."""
    steps = torch.arange(1, inputs.shape[2] + 1, device=inputs.device, dtype=torch.int32).view(-1, 1)
    newest = (observed * steps).argmax(2, keepdim=True)
    return inputs.gather(2, newest)
