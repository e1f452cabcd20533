"""``windowloader warmup``: compile the kernels ahead, in the image or once for all ranks.

In: dtypes. Out: a line for each kind that was compiled, and where the compiled kernels are kept.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .common import AsJson, app, emit

__all__ = ["warmup"]


@app.command()
def warmup(
    source: Annotated[
        list[str] | None,
        typer.Option(help="Type of the stored values; may be given again. Default: float32."),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="Type of the batches; may be given again. Default: float32.")
    ] = None,
    missing: Annotated[bool, typer.Option(help="Compile what masks and fills need, too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Compile the kernels now, so that no first batch waits for it. NUMBA_CACHE_DIR says where they are kept."""
    from windowloader.warmup import cache_folder, warm_up

    done = []
    for kind in warm_up(source or ["float32"], dtype or ["float32"], missing=missing):
        done.append(asdict(kind))
        if not as_json:
            masks = ", missing values" if kind.missing else ""
            typer.echo(f"{kind.source} -> {kind.dtype}{masks}: {kind.seconds:.1f} s")
    folder = cache_folder()
    emit({"compiled": done, "folder": folder}, as_json=as_json, show=lambda: _show(folder))


def _show(folder: str | None) -> None:
    typer.echo(
        f"kept in {folder}"
        if folder
        else "kept nowhere: set NUMBA_CACHE_DIR to a folder that can be written, here and where training runs"
    )
