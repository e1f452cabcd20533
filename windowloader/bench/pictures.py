"""Two pictures of what came out: throughput against the limit, and memory.

In: results, or the tables of a page. Out: PNG files, which carry what they show, so that a test can hold a page to its
pictures. ``python -m windowloader.bench.pictures PAGE FOLDER`` draws those of a page again. Never measures.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windowloader.errors import MissingExtraError
from windowloader.util.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rounds import BenchResult

__all__ = ["Bar", "bars_of", "draw", "read_page", "shown"]

ROW = re.compile(r"^\| (?P<title>[^|]+?) \|(?P<cells>.*)\|$")


@dataclass(frozen=True, slots=True)
class Bar:
    """One means at one size.

    Parameters
    ----------
    size, title : str
    over_limit : float or None
        Windows a second over the limit's; None where it was left out.
    peak : float or None
        Bytes.
    """

    size: str
    title: str
    over_limit: float | None
    peak: float | None

    @property
    def ours(self) -> bool:
        """Whether it is windowloader."""
        return self.title.startswith("windowloader")


def bars_of(results: Sequence[BenchResult]) -> list[Bar]:
    """Return what pictures show of results."""
    return [
        Bar(one.size, one.title, None, None)
        if one.skipped
        else Bar(one.size, one.title, one.over_limit, one.peak)
        for one in results
    ]


def read_page(text: str) -> list[Bar]:
    r"""Return what the tables of a page say, as `tables.markdown` writes them.

    Examples
    --------
    >>> lines = ["## metr-la", "| memcpy | 0.5 | 640 | 1.00 | 0.50 | 1,562 | 2 MB |"]
    >>> read_page("\n".join([*lines, "| grain | | left out: no room | | | | |"]))[1]
    Bar(size='metr-la', title='grain', over_limit=None, peak=None)
    """
    found, size = [], ""
    for line in text.splitlines():
        if line.startswith("#"):
            size = line.strip("# ")
        elif match := ROW.match(line):
            cells = [cell.strip() for cell in match["cells"].split("|")]
            if len(cells) != 6 or set(match["title"]) <= set("- "):
                continue
            skipped = not cells[5]
            peak = None if skipped else float(parse_bytes(cells[5]))
            found.append(Bar(size, match["title"], None if skipped else float(cells[3]), peak))
    return found


def shown(picture: Path) -> list[Bar]:
    """Return what a picture was drawn from.

    Raises
    ------
    KeyError
        Where it does not say.
    """
    from PIL import Image  # which matplotlib needs

    with Image.open(picture) as image:
        return [Bar(*row) for row in json.loads(image.info["Description"])]


def draw(bars: Sequence[Bar], folder: Path) -> list[Path]:
    """Draw throughput against the limit, and memory on a logarithmic scale; return the files.

    Raises
    ------
    MissingExtraError
        Without matplotlib.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError(
            "the pictures are drawn by matplotlib, which is not installed. Run: pip install 'windowloader[plot]'"
        ) from error
    sizes = list(dict.fromkeys(bar.size for bar in bars))
    titles = list(dict.fromkeys(bar.title for bar in bars))[::-1]
    written = []
    for name, label, scale in (
        ("throughput", "windows a second over one thread's memcpy of the same bytes", "linear"),
        ("memory", "peak private memory above imports, bytes", "log"),
    ):
        figure, axes = plt.subplots(
            1,
            len(sizes),
            figsize=(3.2 * len(sizes) + 2.2, 0.36 * len(titles) + 1.4),
            sharey=True,
            squeeze=False,
        )
        for axis, size in zip(axes[0], sizes, strict=True):
            _panel(axis, [one for one in bars if one.size == size], titles, name)
            axis.set_title(size, loc="left", fontsize=10, fontweight="bold")
            axis.set_xscale(scale)
        figure.supxlabel(label, fontsize=9)
        figure.tight_layout()
        path = folder / f"bench-{name}.png"
        figure.savefig(path, dpi=130, metadata={"Description": json.dumps([astuple(bar) for bar in bars])})
        plt.close(figure)
        written.append(path)
    return written


def _panel(axis: Any, bars: Sequence[Bar], titles: Sequence[str], name: str) -> None:
    from matplotlib.patheffects import withStroke

    for bar in bars:
        place = titles.index(bar.title)
        if bar.over_limit is None or bar.peak is None:
            axis.text(0.02, place, "left out", transform=axis.get_yaxis_transform(), va="center", fontsize=7)
            continue
        value = bar.over_limit if name == "throughput" else max(bar.peak, 1.0)
        color = "#d9480f" if bar.ours else "#adb5bd"
        axis.barh(place, value, color=color, height=0.7)
        text = f" {value:.2f}" if name == "throughput" else f" {format_bytes(value)}"
        label = axis.text(value, place, text, va="center", fontsize=7)
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # over the line of the limit
    if name == "throughput":
        axis.axvline(1.0, color="#495057", linewidth=1, linestyle=":")
    axis.margins(x=0.25)
    axis.set_yticks(range(len(titles)), titles, fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    for written in draw(read_page(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])):
        print(written)
