"""What came out, for people: JSON, a Markdown table, two pictures.

In: results. Out: text and files. Never measures.
"""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any

from windowloader.errors import MissingExtraError
from windowloader.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .rounds import Result

__all__ = ["draw", "machine", "markdown", "write_json"]

OURS = "windowloader"


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
    }
    for package in ("numpy", "numba", "torch", "torch-geometric-temporal", "xbatcher", "grain", "keras"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_json(results: Sequence[Result], path: Path) -> None:
    """Write everything, the single rounds too."""
    rows = [result.to_dict() | {"rounds": result.rounds, "limit_rounds": result.limit} for result in results]
    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n", encoding="utf-8")


def markdown(results: Sequence[Result]) -> str:
    """Return one table a size.

    Examples
    --------
    >>> from windowloader.bench.rounds import Result
    >>> row = {"windows": 640.0, "seconds": 1.0, "bytes": 1e9, "cpu": 1.0, "peak": 2e6}
    >>> limit = Result("metr-la", "memcpy-1", "memcpy", 0.5, [row], [row])
    >>> print(markdown([limit]).splitlines()[-1])
    | memcpy | 0.5 | 640 | 1.00 | 1.00 | 1,562 | 2 MB |
    """
    lines: list[str] = []
    for size in dict.fromkeys(result.size for result in results):
        lines += [
            f"### {size}",
            "",
            "| | set-up, s | windows/s | GB/s | of the limit | CPU µs a window | peak private memory |",
            "|---|---|---|---|---|---|---|",
        ]
        for result in (one for one in results if one.size == size):
            if result.skipped:
                lines.append(f"| {result.title} | | left out: {result.skipped} | | | | |")
                continue
            lines.append(
                f"| {result.title} | {result.setup:.1f} | {result.windows_per_second:,.0f} | "
                f"{result.gigabytes_per_second:.2f} | {result.over_limit:.2f} | "
                f"{result.cpu_per_window * 1e6:,.0f} | {format_bytes(result.peak)} |"
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
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
    sizes = list(dict.fromkeys(result.size for result in results))
    titles = list(dict.fromkeys(result.title for result in results))[::-1]
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
            _panel(axis, [one for one in results if one.size == size], titles, name)
            axis.set_title(size, loc="left", fontsize=10, fontweight="bold")
            axis.set_xscale(scale)
        figure.supxlabel(label, fontsize=9)
        figure.tight_layout()
        path = folder / f"bench-{name}.png"
        figure.savefig(path, dpi=130)
        plt.close(figure)
        written.append(path)
    return written


def _panel(axis: Any, results: Sequence[Result], titles: Sequence[str], name: str) -> None:
    for result in results:
        place = titles.index(result.title)
        value = result.over_limit if name == "throughput" else max(result.peak, 1.0)
        color = "#d9480f" if result.name.startswith(OURS) else "#adb5bd"
        if result.skipped:
            axis.text(0.02, place, "left out", transform=axis.get_yaxis_transform(), va="center", fontsize=7)
            continue
        axis.barh(place, value, color=color, height=0.7)
        text = f" {value:.2f}" if name == "throughput" else f" {format_bytes(value)}"
        axis.text(value, place, text, va="center", fontsize=7)
    if name == "throughput":
        axis.axvline(1.0, color="#495057", linewidth=1, linestyle=":")
    axis.margins(x=0.25)
    axis.set_yticks(range(len(titles)), titles, fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
