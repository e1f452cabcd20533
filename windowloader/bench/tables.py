"""What came out, for people: JSON and a Markdown table.

In: results. Out: text and files. Never measures.
"""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any

from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .rounds import BenchResult

__all__ = ["machine", "markdown", "write_json"]


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


def write_json(results: Sequence[BenchResult], path: Path) -> None:
    """Write everything, the single rounds too."""
    rows = [result.to_dict() | {"rounds": result.rounds, "limit_rounds": result.limit} for result in results]
    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n", encoding="utf-8")


def markdown(results: Sequence[BenchResult]) -> str:
    """Return one table a size.

    Examples
    --------
    >>> from windowloader.bench.rounds import BenchResult
    >>> row = {"windows": 640.0, "seconds": 1.0, "bytes": 1e9, "cpu": 1.0, "peak": 2e6}
    >>> limit = BenchResult("metr-la", "memcpy-1", "memcpy", 0.5, [row], [row])
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
