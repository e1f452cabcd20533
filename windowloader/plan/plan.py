"""What an epoch will take, before anything is read: `Plan`, which ``loader.plan()`` returns.

In: the `ReadPlan` that the loader itself executes, steps, a rank, where the run stands. Out: a `Plan` of numbers, a
page for people, a dict for JSON. Never touches data.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from windowloader.rows.budget import REQUESTS
from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from windowloader.order.mixing import Mixing
    from windowloader.rows.budget import MemoryTerms

__all__ = ["EpochCost", "LaneTrace", "Plan", "Trace"]

BARS = "▁▂▃▄▅▆▇█"
MODES = {
    "resident": "rows are indexed where they lie",
    "blocks": "each block is read once",
    "preloaded": "each block is read once and stays",
    "halo": "blocks read the rows behind them again",
    "direct": "rows are read straight into buffers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCost:
    """What is read.

    Attributes
    ----------
    bytes, requests : int
        Decoded bytes that storage hands out, and requests to it; an index of a shard counts as one.
    distinct : int
        Bytes that must be read at least once.
    """

    bytes: int
    requests: int
    distinct: int

    @property
    def amplification(self) -> float:
        """Bytes read over bytes that must be."""
        return self.bytes / max(self.distinct, 1)


@dataclass(frozen=True, slots=True, eq=False)
class LaneTrace:
    """Blocks of a lane, in the order in which they enter.

    Attributes
    ----------
    lane : int
    own : bool
        Whether the rank reads it.
    begin, end : ndarray of int
        Rows.
    enter, leave : ndarray of float
        Share of the epoch at which windows of a block begin to come, and end.
    """

    lane: int
    own: bool
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    enter: NDArray[np.float64]
    leave: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What is read when.

    Attributes
    ----------
    num_rows : int
        Of the series.
    lanes : tuple of LaneTrace
        Of a streamed epoch.
    shares, starts : ndarray
        Else: share of the epoch, and first rows of some windows that come there.
    """

    num_rows: int
    lanes: tuple[LaneTrace, ...]
    shares: NDArray[np.float64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the rest of an epoch takes, for one rank and for all.

    Attributes
    ----------
    tier : str
        "memory", "mapped" or "streamed".
    mode : str
        How rows are reached: "resident", "preloaded" (read once and kept), "blocks", "halo" (blocks that read the
        rows behind them again) or "direct".
    order : str
        Name and version of the order.
    parameters : mapping
        Its parameters, as the state of the run has them.
    reason : str
        Why this order and mode.
    rank, world_size, epoch, step : int
    lanes : tuple of int
        Lanes that the rank reads.
    steps, windows : int
        Steps left, and the rank's rows in them.
    own, all_ranks : EpochCost
        What this rank and all of them read; of an epoch that begins within a pass (``steps_per_epoch``) as if it began
        there: one that goes on from the epoch before it finds the active blocks in place. In memory or mapped: what
        they touch; mapped rows go through the page cache, which all processes of a machine share and which is no
        memory of theirs.
    blocks, active, slots : int
        Blocks that the rank reads; blocks of a lane that are active, and its places for blocks.
    sides, side_bytes : int
        Sides of overlaps that a resumed run reads when a window asks for them, among ``own``.
    estimated : bool
        Whether ``own`` was found from a part of the steps.
    memory : MemoryTerms or None
        What the memory goes to; None where nothing is read step by step.
    held : int
        Bytes of small variables that are kept whole.
    budget : int
        The loader's ``memory``.
    batch_bytes, batches_ahead : int
        Of a batch, and how many are prefetched; they come on top, with those that the loop holds.
    resident : tuple of (float, int)
        Share of the rest of the epoch, and bytes of rows resident then.
    at_a_time : int
        Requests handed to storage at a time.
    first : EpochCost
        What the first batch waits for: of blocks, those of all turns up to that of its last window.
    upcoming : EpochCost
        What is read ahead of the epoch's end, besides ``own``: the first blocks of the next pass while this one
        drains; with ``steps_per_epoch``, the next ones of the same pass.
    mixing, permutation : Mixing or None
        Figures of this order, and of a full permutation; None in time order.
    scan_share : float or None
        The share of a plain scan's speed at `budget.REQUESTS` requests at a time that reading can reach::

            min(1, at_a_time / REQUESTS) / amplification

        None where nothing is read step by step. Above it, copying windows or the training step is the limit.
    advice : tuple of str
        What budget or storage would be better.
    trace : Trace or None
        What is read when, for `plot`; not in `to_dict`.
    """

    tier: str
    mode: str
    order: str
    parameters: Mapping[str, int | str]
    reason: str
    rank: int
    world_size: int
    epoch: int
    step: int
    lanes: tuple[int, ...]
    steps: int
    windows: int
    own: EpochCost
    all_ranks: EpochCost
    blocks: int = 0
    active: int = 0
    slots: int = 0
    sides: int = 0
    side_bytes: int = 0
    estimated: bool = False
    memory: MemoryTerms | None = None
    held: int = 0
    budget: int
    batch_bytes: int
    batches_ahead: int
    resident: tuple[tuple[float, int], ...] = field(default=(), repr=False)
    at_a_time: int = 0
    first: EpochCost
    upcoming: EpochCost = field(default_factory=lambda: EpochCost(bytes=0, requests=0, distinct=0))
    mixing: Mixing | None = None
    permutation: Mixing | None = None
    scan_share: float | None = None
    advice: tuple[str, ...] = ()
    trace: Trace | None = field(default=None, repr=False, compare=False)

    @property
    def private_bytes(self) -> int:
        """Up to how much an epoch makes the process's own memory grow, of a loop that holds one batch at a time.

        All terms of ``memory``, what is kept whole, prefetched batches and the loop's. All requests may have their
        chunks at once, most of all where the processors have other work, and the allocator keeps some that were freed.
        """
        rows = 0 if self.memory is None else self.memory.total
        return rows + self.held + (self.batches_ahead + 1) * self.batch_bytes

    def first_seconds(self, *, latency: float = 0.02, rate: float = 20e6) -> float:
        """Estimate the seconds until the first batch has its rows.

        Parameters
        ----------
        latency : float
            Seconds of a request.
        rate : float
            Bytes a second of a request.

        Returns
        -------
        float
            Requests go ``at_a_time`` at a time, each of their mean size.
        """
        if not self.first.requests or not self.at_a_time:
            return 0.0
        waves = -(-self.first.requests // self.at_a_time)
        return waves * (latency + self.first.bytes / self.first.requests / rate)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain dicts and lists, for JSON."""
        found = asdict(replace(self, trace=None))
        del found["trace"]
        for name in ("mixing", "permutation"):
            figures = getattr(self, name)
            found[name] = None if figures is None else figures._asdict()
        for name in ("own", "all_ranks", "first", "upcoming"):
            found[name]["amplification"] = getattr(self, name).amplification
        if self.memory is not None:
            found["memory"]["total"] = self.memory.total
        found.update(
            parameters=dict(self.parameters),
            lanes=list(self.lanes),
            resident=[list(point) for point in self.resident],
            advice=list(self.advice),
            private_bytes=self.private_bytes,
            first_seconds=self.first_seconds(),
        )
        return found

    def __str__(self) -> str:
        return _page(self, REQUESTS)

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        from windowloader.view.notebook import plan_html

        return plan_html(self)

    def plot(self) -> Figure:
        """Draw what is read when, memory over the epoch, and mixing (extra ``plot``).

        See `windowloader.view.pictures`.
        """
        from windowloader.view.pictures import plot_plan

        return plot_plan(self)


def _page(plan: Plan, requests: int) -> str:
    """Write a plan out.

    Parameters
    ----------
    plan : Plan
    requests : int
        Of the plain scan it is compared with, at a time.

    Returns
    -------
    str
    """
    lines = [
        _line("epoch", _where(plan)),
        _line("order", f"{plan.order}: {plan.reason}"),
        _line("tier", f"{plan.tier}, {MODES[plan.mode]}"),
        _line("this rank", f"{_cost(plan.own)}{' (estimated)' if plan.estimated else ''}"),
    ]
    if plan.world_size > 1:
        lines.append(_line("all ranks", _cost(plan.all_ranks)))
    lines += _streamed(plan, requests) if plan.memory is not None else _resident(plan)
    if plan.mixing is not None and plan.permutation is not None:
        lines.append(_line("mixing", "this order · full permutation"))
        for name, ours, theirs in zip(
            ("pairs of one block", "variance of batch means", "their correlation"),
            plan.mixing,
            plan.permutation,
            strict=True,
        ):
            lines.append(_line("", f"{name:<24} {_share(ours):>8} · {_share(theirs)}"))
    lines += [_line("better" if i == 0 else "", f"· {advice}") for i, advice in enumerate(plan.advice)]
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"{name:<10} {text}".rstrip()


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _where(plan: Plan) -> str:
    begun = f" from step {plan.step}" if plan.step else ""
    rank = f", rank {plan.rank} of {plan.world_size}" if plan.world_size > 1 else ""
    return f"{plan.epoch}{begun}: {plan.steps:,} steps, {plan.windows:,} windows{rank}"


def _cost(cost: EpochCost) -> str:
    return (
        f"{format_bytes(cost.bytes)} in {cost.requests:,} requests, "
        f"{cost.amplification:.3f} × what must be read"
    )


def _resident(plan: Plan) -> list[str]:
    note = (
        "page cache, shared by all processes and given back when needed"
        if plan.tier == "mapped"
        else "there already"
    )
    return [
        _line("memory", f"{format_bytes(plan.own.distinct)} of rows are touched: {note}"),
        _line("", f"{plan.batches_ahead} × {format_bytes(plan.batch_bytes)} of batches are prefetched"),
        _line("", f"the process will grow by about {format_bytes(plan.private_bytes)}"),
    ]


def _streamed(plan: Plan, requests: int) -> list[str]:
    terms = plan.memory
    assert terms is not None
    lines = []
    if plan.sides or plan.step:
        lines.append(
            _line(
                "resume",
                f"{plan.sides} sides of overlaps, {format_bytes(plan.side_bytes)}, when windows ask for them",
            )
        )
    if plan.upcoming.bytes:
        more = f"{format_bytes(plan.upcoming.bytes)} in {plan.upcoming.requests:,} requests"
        lines.append(_line("next", f"{more} of the next epoch, while this one drains"))
    lines.append(
        _line(
            "memory",
            f"{format_bytes(terms.total + plan.held)} of {format_bytes(plan.budget)}, and the batches",
        )
    )
    for name, value in (
        ("places for rows", terms.arena),
        ("places for overlaps", terms.overlap_buffer),
        ("chunks being read", terms.in_flight),
        ("the store's own", terms.reserve),
        ("small, kept whole", plan.held),
    ):
        if value:
            lines.append(_line("", f"{name:<24} {format_bytes(value):>8}"))
    ahead = f"{plan.batches_ahead} × {format_bytes(plan.batch_bytes)}"
    lines.append(_line("", f"{'batches ahead, on top':<24} {ahead:>8}"))
    grown = f"{format_bytes(plan.private_bytes):>8}, up to which the process will grow"
    lines.append(_line("", f"{'in all':<24} {grown}"))
    if plan.resident:
        most = max(value for _, value in plan.resident)
        bars = "".join(BARS[min(7, value * 8 // max(most, 1))] for _, value in plan.resident)
        lines.append(_line("resident", f"{bars} at most {format_bytes(most)} of rows over the epoch"))
    lines.append(
        _line(
            "first",
            f"{format_bytes(plan.first.bytes)} in {plan.first.requests} requests, about "
            f"{plan.first_seconds():.2f} s at 20 ms and 20 MB/s a request",
        )
    )
    if plan.scan_share is not None:
        lines.append(
            _line(
                "speed",
                f"{plan.scan_share:.0%} of a plain scan with {requests} requests at a time ({plan.at_a_time} here)",
            )
        )
    return lines
