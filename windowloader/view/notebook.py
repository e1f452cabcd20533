"""HTML for notebooks: a title and one pandas table.

In: a `Series`, `Split` or `Plan`. Out: HTML. Never reads values.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.plan.plan import Plan
    from windowloader.series.series import Series
    from windowloader.windows.split import Split

__all__ = ["plan_html", "series_html", "split_html"]

SHOWN = 20


def series_html(series: Series) -> str:
    """Describe a series and list its variables."""
    rows = [
        (v.name, v.source.axes, " × ".join(map(str, v.source.shape)), v.dtype.name, v.missing)
        for v in series.variables[:SHOWN]
    ]
    return _html(repr(series), ("variable", "axes", "shape", "dtype", "missing"), rows)


def split_html(split: Split) -> str:
    """List the parts of a split."""
    rows = []
    for name, windows in zip(split.names, split.sets, strict=True):
        first, last = windows.row_range
        rows.append((name, f"{len(windows):,}", f"{first:,} … {last - 1:,}"))
    return _html(f"Split by {split.by}", ("part", "windows", "rows"), rows)


def plan_html(plan: Plan) -> str:
    """Show the text of a plan."""
    return f"<pre>{escape(str(plan))}</pre>"


def _html(title: str, names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(names)).to_html(index=False, border=0, na_rep="")
    return f"<div><b>{escape(title)}</b>{table}</div>"
