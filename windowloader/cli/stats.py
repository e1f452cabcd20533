"""``windowloader stats``: a scaler, fitted in one pass.

In: options. Out: statistics as a table, a scaler as JSON. Never computes; `windowloader.scaling.scalers` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .common import AsJson, app, fields, progress_bar, windows_of
from .target import By, Horizon, Lookback, Target, on_target

if TYPE_CHECKING:
    from windowloader.scaling.scalers import Scaler

__all__ = ["stats"]


@app.command()
@on_target
def stats(
    target: Target,
    kind: Annotated[
        Literal["standard", "minmax", "robust"], typer.Option(help="Kind of scaler.")
    ] = "standard",
    per: Annotated[
        Literal["feature", "node", "entity"], typer.Option(help="What has its own numbers.")
    ] = "feature",
    weighting: Annotated[
        Literal["rows", "windows"],
        typer.Option(help="How often a row counts: once, or as windows hold it (DCRNN)."),
    ] = "rows",
    unseen: Annotated[
        Literal["raise", "pooled"],
        typer.Option(help="For entities without rows: an error, or all rows together."),
    ] = "raise",
    lookback: Lookback = 12,
    horizon: Horizon = 12,
    split: Annotated[
        str | None,
        typer.Option(help="Fit on the first part of this split: 0.7,0.1,0.2.", show_default="all rows"),
    ] = None,
    by: By = "targets",
    out: Annotated[Path | None, typer.Option(help="File for the scaler, for StandardScaler.load.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a scaler in one pass, in bounded memory."""
    from windowloader.scaling.scalers import MinMaxScaler, RobustScaler, StandardScaler

    kinds: Any = {"standard": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}
    if out is not None and not out.resolve().parent.is_dir():
        raise typer.BadParameter(f"--out {out}: there is no folder {out.resolve().parent}")
    windows = windows_of(target.open(), lookback, horizon, split=split, by=by)
    with progress_bar("rows", quiet=as_json) as advance:
        scaler = kinds[kind].fit(
            windows,
            per=per,
            weighting=weighting,
            unseen=unseen,
            progress=lambda done, total: advance("fitting", done, total),
        )
    if out is not None:
        scaler.save(out)
    if as_json:
        typer.echo(json.dumps({"windows": len(windows), "scaler": json.loads(scaler.to_json())}, indent=2))
    else:
        _show(scaler, len(windows), out)


def _show(scaler: Scaler, windows: int, out: Path | None) -> None:
    import numpy as np

    rows = [("fitted on", f"the rows of {windows:,} windows")]
    for feature in scaler.names():
        one: Any = scaler[feature]
        parts = []
        for name in type(scaler).NAMES:
            value = np.asarray(getattr(one, name))
            ends = (
                f"{np.nanmin(value):.6g} … {np.nanmax(value):.6g} over {value.size:,}"
                if value.ndim
                else f"{value:.6g}"
            )
            parts.append(f"{name} {ends}")
        rows.append((feature, ", ".join(parts)))
    if out is not None:
        rows.append(("written", str(out)))
    fields(rows)
