"""A picture of what happened: the wait for each step, and what epochs waited for.

In: `LoaderStats`. Out: a `Picture`. Computes nothing that the loader did not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .pictures import BLUE, FAINT, GREY, ORANGE, new, tidy

if TYPE_CHECKING:
    from windowloader.loader.stats import LoaderStats

    from .pictures import Picture

__all__ = ["plot_stats"]


def plot_stats(stats: LoaderStats) -> Picture:
    """Draw the wait for each step, and what each epoch waited for.

    Parameters
    ----------
    stats : LoaderStats

    Returns
    -------
    Picture
    """
    figure = new(9, 3.4)
    steps, epochs = figure.subplots(1, 2, width_ratios=(3, 2))
    _waits(steps, stats)
    _epochs(epochs, stats)
    return figure


def _waits(ax: Any, stats: LoaderStats) -> None:
    tidy(ax, title="wait for each step", x="step, epoch after epoch", y="ms")
    begin, most = 0, 0.0
    left = None  # of epochs long past the waits are gone
    for number, epoch in enumerate(stats.epochs):
        waits = 1000 * np.array(epoch.waits)
        end = begin + epoch.batches
        at = np.arange(end - len(waits), end)  # of long epochs the last waits are kept
        ax.plot(at, waits, ".", markersize=3, color=(BLUE, ORANGE)[number % 2], alpha=0.7)
        if len(waits):
            left = at[0] if left is None else left
            most = max(most, float(waits.max()))
            ax.hlines(float(np.median(waits)), at[0], at[-1] + 1, color="black", linewidth=1)
        begin = end
    if begin == 0:
        ax.text(0.5, 0.5, "no step was taken yet", transform=ax.transAxes, ha="center", color=GREY)
        return
    ax.set_yscale("symlog", linthresh=0.1, linscale=0.4)
    ax.set_ylim(0, max(most * 2, 1.0))
    left = left or 0
    ax.set_xlim(left - 0.015 * (begin - left), begin)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_title("wait for each step (line: median of the epoch)", fontsize=10, loc="left")


def _epochs(ax: Any, stats: LoaderStats) -> None:
    tidy(ax, title="share of an epoch's time spent waiting", x="epoch", y="%")
    epochs = [epoch for epoch in stats.epochs if epoch.seconds > 0]
    if not epochs:
        ax.set_axis_off()
        return
    place, bottom = np.arange(len(epochs)), np.zeros(len(epochs))
    for name, word, colour in (
        ("waited_read", "for storage", BLUE), ("waited_assemble", "for assembly", ORANGE),
        ("waited_hand_over", "for a thread's turn", FAINT),
    ):  # fmt: skip
        share = np.array([100 * getattr(epoch, name) / epoch.seconds for epoch in epochs])
        ax.bar(place, share, 0.7, bottom=bottom, color=colour, label=word)
        bottom += share
    high = max(float(bottom.max()) * 1.45, 1.0)
    if len(epochs) <= 12:
        for at, top, epoch in zip(place, bottom, epochs, strict=True):
            ax.text(
                at,
                top + high * 0.015,
                f"{epoch.windows_per_second:,.0f}\nwindows/s",
                ha="center",
                fontsize=6.5,
                color=GREY,
            )
    ax.set_ylim(0, high)
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 100])  # above stands text alone
    ax.set_xticks(
        place[:: -(-len(place) // 12)], [str(epoch.epoch) for epoch in epochs][:: -(-len(place) // 12)]
    )
    ax.legend(fontsize=7, frameon=False, loc="upper right")
