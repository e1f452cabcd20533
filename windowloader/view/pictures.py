"""What pictures share: a figure that shows itself, colours, tidy axes.

In: sizes and titles. Out: a `Picture`, matplotlib's (extra ``plot``). Touches no global state of matplotlib.
"""

from __future__ import annotations

import io
from typing import Any

from windowloader.errors import MissingExtraError

try:
    from matplotlib.figure import Figure
except ImportError as error:  # pragma: no cover - the extra is absent
    raise MissingExtraError("pictures need matplotlib: pip install 'windowloader[plot]'") from error

__all__ = ["BLUE", "FAINT", "GREEN", "GREY", "ORANGE", "OTHERS", "RED", "Picture", "new", "tidy"]

# Told apart without colour vision (Okabe and Ito), and in print by order.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8a8a"
OTHERS = ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#7F7F7F", "#332288")
FAINT = "#dcdcdc"


class Picture(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def new(width: float, height: float) -> Picture:
    """Return an empty picture, in inches."""
    return Picture(figsize=(width, height), layout="constrained")


def tidy(ax: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Give axes their small labels, and no frame."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.set_title(title, fontsize=10, loc="left")
