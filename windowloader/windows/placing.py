"""Where windows fit into a series.

In: a series, a spec. Out: the starts of all valid windows, and the columns of each role. Never reads values,
except through the scan for what is missing that ``max_missing`` and ``on_missing="raise"`` ask for.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

import numpy as np

from windowloader.errors import WindowSpecError

from .index import Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windowloader.series.series import Column, Series

    from .index import Starts
    from .spec import WindowSpec

__all__ = ["place_windows", "resolve"]


def resolve(series: Series, spec: WindowSpec) -> dict[str, Sequence[Column]]:
    """Columns of each role; names are looked up in the series."""
    columns: dict[str, Sequence[Column]] = {
        "inputs": series.columns(spec.inputs),
        "targets": series.columns(spec.targets) if spec.num_targets and spec.targets != () else (),
        "future": series.columns(spec.future) if spec.future else (),
    }
    _forbid(
        columns["targets"], columns["future"],
        "are both targets and future: what is predicted cannot be known when the forecast is made. Take them "
        "out of one of the two.",
    )  # fmt: skip
    shared = np.intersect1d(spec.input_rows, spec.target_rows) - spec.anchor
    if len(shared):
        _forbid(
            columns["inputs"], columns["targets"],
            f"at offset {shared[-1]} are both inputs and targets: the answer would be among what is given. "
            "Targets come after the last observed row, at offsets 1, 2, …",
        )  # fmt: skip
    return columns


def _forbid(some: Sequence[Column], others: Sequence[Column], why: str) -> None:
    """Raise if a column, clocks apart, is in both."""
    there = {(column.variable, column.feature) for column in others if column.variable >= 0}
    both = [column.name for column in some if (column.variable, column.feature) in there]
    if both:
        raise WindowSpecError(f"{both} {why}")


def place_windows(series: Series, spec: WindowSpec) -> Starts:
    """Find all windows that fit, less those that miss too much.

    Raises
    ------
    WindowSpecError, FeatureNameError, MissingDataError
        See `WindowSet`.
    """
    _check_kinds(series, spec)
    columns = resolve(series, spec)
    runs = Runs.of_segments(series.borders, span=spec.span, stride=spec.stride)
    _check_segments(series, spec, runs)
    if spec.max_missing is None and spec.on_missing == "mask":
        return runs
    from .gaps import leave_out, none_left, refuse, roles_of

    roles = roles_of(series, spec, columns)
    starts: Starts = runs
    if spec.max_missing is not None:
        starts = leave_out(runs, roles, spec.max_missing, series.num_steps)
        if len(starts) == 0:
            raise none_left(spec, runs, roles, series.num_steps)
    if spec.on_missing == "raise":
        refuse(series, roles, starts)
    return starts


def _check_kinds(series: object, spec: object) -> None:
    from windowloader.series.series import Series

    from .spec import WindowSpec

    for given, kind, name, how in (
        (series, Series, "series", "what wl.open(path) or wl.Series(values) returns"),
        (spec, WindowSpec, "spec", "wl.WindowSpec(lookback=12, horizon=12)"),
    ):
        if not isinstance(given, kind):
            raise WindowSpecError(f"{name}={reprlib.repr(given)} is a {type(given).__name__}. Pass {how}.")


def _other_axis(series: Series, spec: WindowSpec) -> str:
    """Advise to look at the axes, where there are more nodes than steps and they would do."""
    if series.num_nodes < max(spec.span, 2 * series.num_steps):
        return ""
    return f"; or is time another axis? There are {series.num_nodes} nodes: axes='nt' reads them as steps"


def _check_segments(series: Series, spec: WindowSpec, runs: Runs) -> None:
    empty = [name for name, size in (("rows", series.num_steps), ("nodes", series.num_nodes)) if not size]
    if empty := empty or ([] if series.features else ["features"]):
        raise WindowSpecError(
            f"{series.name!r} has no {empty[0]}, so that no window holds a value. Was it written to its end, and is "
            "nothing left out that was meant to be chosen?"
        )
    lengths = np.diff(series.borders)
    if len(runs) and (spec.short_segments == "skip" or lengths.min() >= spec.span):
        return
    what = f"{spec.describe()} needs {spec.span} steps, but"
    if len(lengths) == 1:
        raise WindowSpecError(
            f"{what} {series.name!r} has {lengths[0]}. Shorten the lookback or the horizon{_other_axis(series, spec)}."
        )
    if len(runs) == 0:
        longest = int(np.argmax(lengths))
        raise WindowSpecError(
            f"{what} the longest of {len(lengths)} segments of {series.name!r}, segment {longest} (rows "
            f"{series.borders[longest]} … {series.borders[longest + 1] - 1}), has {lengths[longest]}. Shorten "
            "the lookback or the horizon, or join segments: they end where the timestamps jump, and at entities."
        )
    short = int(np.argmax(lengths < spec.span))
    raise WindowSpecError(
        f"{what} segment {short} of {series.name!r} has {lengths[short]}. Shorten the lookback, or pass "
        "short_segments='skip'."
    )
