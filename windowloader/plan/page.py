"""A plan as a page that a person understands.

In: a `Plan`. Out: text. Computes nothing that the plan does not have.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from .plan import Cost, Plan

__all__ = ["page"]

BARS = "▁▂▃▄▅▆▇█"
MODES = {
    "resident": "rows are indexed where they lie",
    "blocks": "each block is read once",
    "halo": "blocks read the rows behind them again",
    "direct": "rows are read straight into benches",
}


def page(plan: Plan, requests: int) -> str:
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


def _cost(cost: Cost) -> str:
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
        _line("", f"{plan.batches_ahead} × {format_bytes(plan.batch_bytes)} of batches are made ahead"),
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
                f"{plan.sides} sides of seams, {format_bytes(plan.side_bytes)}, when windows ask for them",
            )
        )
    if plan.again:
        lines.append(_line("again", f"{format_bytes(plan.again)} for want of places"))
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
        ("places for seams", terms.stash),
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
