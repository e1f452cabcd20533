"""Estimates from a plan whether training waits for reading.

In: a `Plan`, the duration of a step, a network's latency and bandwidth. Out: `Outlook`. Arithmetic on the numbers of
the plan; measures nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["Outlook", "outlook"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Duration of an epoch, by a simple model.

    Requests go ``at_a_time`` at a time and share the bandwidth, so that reading takes
    ``max(bytes / bandwidth, requests · latency / at_a_time)``; it overlaps with training, except before the first
    batch. Decoding and assembling batches are not counted.

    Attributes
    ----------
    latency, bandwidth : float
        Seconds per request; bytes per second of this process.
    step_seconds : float
        Seconds per training step.
    reading_seconds, training_seconds : float
        Seconds of this rank's epoch.
    first_seconds : float
        Until the first batch has its rows.
    stall_seconds : float
        Seconds that the epoch takes longer than training alone.
    stall_share : float
        Of the epoch.
    limit : str
        "training", "bandwidth" or "latency".
    """

    latency: float
    bandwidth: float
    step_seconds: float
    reading_seconds: float
    training_seconds: float
    first_seconds: float
    stall_seconds: float
    stall_share: float
    limit: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def outlook(plan: Plan, *, step_seconds: float, latency: float = 0.02, bandwidth: float = 250e6) -> Outlook:
    """Estimate how long an epoch takes, and what limits it.

    Parameters
    ----------
    plan : Plan
    step_seconds : float
        Seconds per training step, without waiting.
    latency : float
        Seconds until a request is answered.
    bandwidth : float
        Bytes per second that this process gets.

    Returns
    -------
    Outlook

    Examples
    --------
    >>> import numpy as np, windowloader as wl
    >>> windows = wl.WindowSet(wl.Series(np.zeros((500, 4))), wl.WindowSpec(lookback=12, horizon=12))
    >>> outlook(wl.WindowLoader(windows, rank=0, world_size=1).plan(), step_seconds=0.1).limit
    'training'
    """
    by_bytes, by_requests = _seconds(plan, plan.own.bytes, plan.own.requests, latency, bandwidth)
    first = max(_seconds(plan, plan.first.bytes, plan.first.requests, latency, bandwidth))
    if plan.first.requests:
        first = max(first, latency)
    reading, training = max(by_bytes, by_requests, first), plan.steps * step_seconds
    whole = max(reading, first + training)
    limit = (
        "training" if reading <= first + training else "bandwidth" if by_bytes >= by_requests else "latency"
    )
    return Outlook(
        latency=latency,
        bandwidth=bandwidth,
        step_seconds=step_seconds,
        reading_seconds=reading,
        training_seconds=training,
        first_seconds=first,
        stall_seconds=whole - training,
        stall_share=(whole - training) / whole if whole else 0.0,
        limit=limit,
    )


def _seconds(plan: Plan, size: int, requests: int, latency: float, bandwidth: float) -> tuple[float, float]:
    """Seconds by bytes and by requests; 0 for rows in memory or mapped."""
    if not plan.at_a_time:
        return 0.0, 0.0
    return size / bandwidth, requests * latency / plan.at_a_time
