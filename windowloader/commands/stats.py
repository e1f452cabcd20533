"""``windowloader stats``: a scaler, fitted in one pass.

In: options. Out: statistics as a table, a scaler as JSON. Never computes; `windowloader.scaling` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windowloader.commands.common import AsJson, fields, progress_bar, windows_of
from windowloader.commands.target import Target, on_target

if TYPE_CHECKING:
    from windowloader.scaling import Scaler

__all__ = ["register", "stats"]

KINDS = ("standard", "minmax", "robust")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(on_target(stats))


def stats(
    target: Target,
    kind: Annotated[str, typer.Option(help="standard, minmax, robust.")] = "standard",
    per: Annotated[str, typer.Option(help="feature, node, entity.")] = "feature",
    weighting: Annotated[str, typer.Option(help="rows, or windows (DCRNN's numbers).")] = "rows",
    unseen: Annotated[str, typer.Option(help="Entities without rows: raise, or pooled.")] = "raise",
    lookback: Annotated[int, typer.Option(min=1, help="Of the windows whose rows count.")] = 12,
    horizon: Annotated[int, typer.Option(min=0)] = 12,
    split: Annotated[
        str | None, typer.Option(help="Fit on the first part of: 0.7,0.1,0.2.", show_default="all rows")
    ] = None,
    by: Annotated[str, typer.Option(help="How parts are told apart: targets, rows, windows.")] = "targets",
    out: Annotated[Path | None, typer.Option(help="Write the scaler here, for StandardScaler.load.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a scaler in one pass, in bounded memory."""
    for name, value, known in (("kind", kind, KINDS), ("per", per, ("feature", "node", "entity")),
                               ("weighting", weighting, ("rows", "windows")),
                               ("unseen", unseen, ("raise", "pooled")),
                               ("by", by, ("targets", "rows", "windows", "entities"))):  # fmt: skip
        if value not in known:
            raise typer.BadParameter(f"--{name} {value}: {', '.join(known)}.")
    if out is not None and not out.resolve().parent.is_dir():
        raise typer.BadParameter(f"--out {out}: there is no folder {out.resolve().parent}")
    windows = windows_of(target.open(), lookback, horizon, split=split, by=by)
    with progress_bar("rows", quiet=as_json) as advance:
        scaler = _kind(kind).fit(
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


def _kind(kind: str) -> Any:
    from windowloader import scaling

    return {
        "standard": scaling.StandardScaler,
        "minmax": scaling.MinMaxScaler,
        "robust": scaling.RobustScaler,
    }[kind]


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
