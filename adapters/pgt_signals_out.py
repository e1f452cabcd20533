"""Windows as a PGT signal: how its snapshots look.

In: a window set, scaling, layouts, a container to be like. Out: a `WindowSignal`. Reads nothing, but all rows
once where PGT's statistics are asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windowloader.adapters.pgt_arithmetic import Published
from windowloader.adapters.pgt_pairs import Fold, PairOptions, WindowPairs
from windowloader.adapters.pgt_snapshots import SignalPart, WindowSignal
from windowloader.errors import GraphError, LoaderError, SeriesError
from windowloader.series.dynamic_graph import DynamicGraph
from windowloader.windows.window_set import WindowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.scaling.scaler import Scaler
    from windowloader.windows.spec import WindowSpec

__all__ = ["to_signal"]


def to_signal(
    windows: WindowSet,
    *,
    scaler: Scaler | None = None,
    scale_targets: bool = True,
    statistics: Literal["series"] | None = None,
    per: Literal["feature", "node"] = "feature",
    epsilon: float = 0.0,
    precision: Literal["float32", "float64"] = "float64",
    fill: float | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    layout: str | tuple[str | None, str | None] | None = None,
    additional: Mapping[str, str | Sequence[str]] = {},
    like: Any = None,
) -> WindowSignal:
    """See windows as a PGT signal, without materialising them.

    Parameters
    ----------
    windows : WindowSet
        A window is a snapshot. With a dynamic graph the spec says whose row's edges a snapshot has:
        ``graph="first"`` as PGT's loaders, or ``"last"``.
    scaler : Scaler, optional
        For example ``StandardScaler.fit(train)``, which sees no row of the test part.
    scale_targets : bool
        False: targets keep their units.
    statistics : {"series"}, optional
        PGT's published arithmetic instead of a scaler: over all rows of the series, for each feature or (``per``)
        each node, ``epsilon`` added to the deviation, computed in ``precision``.
    per, epsilon, precision
        Of ``statistics="series"``.
    fill : float, optional
        What missing cells hold. None: as they are (NaN stays NaN).
    dtype : {"float32", "float64"}
        Of x and y; PGT's snapshots are float32. Integer targets that nothing scales stay int64.
    layout : str or pair of str, optional
        Axes of x and y of a snapshot, letters ``t``, ``n``, ``f``; brackets fold, ``"n(tf)"``. Default as PGT's
        loaders: x ``nt`` for one feature, ``nft`` for more; y the same without an axis of size 1.
    additional : mapping of str to name or names
        Further attributes of a snapshot: features read over the input rows.
    like : signal, optional
        A PGT container that the series was made from (`from_signal`): snapshots get the shapes, additional features
        and batch numbers of its own.

    Returns
    -------
    WindowSignal

    Raises
    ------
    GraphError
        Where a snapshot would have the graphs of several rows.
    LoaderError, AxesError, ScalerError, SeriesError
        For arguments that do not fit.

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.arange(30.0).reshape(10, 3), graph=wl.Graph([[0, 1], [1, 2]]))
    >>> signal = to_signal(wl.WindowSet(series, wl.WindowSpec(lookback=4, horizon=1)))
    >>> len(signal), signal.features[0].shape, signal.targets[0], len(signal[2:])
    (6, (3, 4), array([12., 13., 14.], dtype=float32), 4)
    """
    spec, series = windows.spec, windows.series
    if isinstance(series.graph, DynamicGraph) and spec.graph == "each" and spec.num_inputs > 1:
        raise GraphError(
            f"the graph changes with time, and a snapshot of {spec.num_inputs} input rows would have one for each. Say "
            "WindowSpec(…, graph='first'), as PGT's loaders do, or 'last'."
        )
    if scaler is not None and statistics is not None:
        raise LoaderError("scaler= and statistics= both say how to scale. Give one of them.")
    scaling: Scaler | Published | None = scaler
    if statistics == "series":
        names = [c.name for c in (*series.columns(spec.inputs), *_target_columns(windows))]
        names = [n for n in dict.fromkeys(names) if _is_scalable(windows, n)]
        scaling = Published.fit(series, names, per=per, epsilon=epsilon, dtype=precision)
    elif statistics is not None:
        raise LoaderError(
            f"statistics={statistics!r} is unknown: 'series' is PGT's, None leaves it to scaler=."
        )
    options = PairOptions(
        scaling=scaling, scale_targets=scale_targets, dtype=dtype, fill=_fill(windows, fill),
        layouts=_layouts(windows, layout),
    )  # fmt: skip
    pairs = WindowPairs(windows, options)
    parts = {
        "x": SignalPart(pairs, 0, _shape(like, "features")),
        "y": SignalPart(pairs, 1, _shape(like, "targets")),
    }
    extras: dict[str, Any] = dict(additional)
    if like is not None:
        extras |= {key: key for key in like.additional_feature_keys}
        extras |= {"batch": "batch"} if hasattr(like, "batches") else {}
    for key, names_ in extras.items():
        parts[key] = _extra(windows, key, names_, options, like)
    return WindowSignal(windows, parts, range(len(windows)))


def _target_columns(windows: WindowSet) -> Sequence[Any]:
    spec = windows.spec
    return windows.series.columns(spec.targets) if spec.num_targets and spec.targets != () else ()


def _is_scalable(windows: WindowSet, name: str) -> bool:
    """Whether a column changes with time; clocks do."""
    series = windows.series
    (column,) = series.columns([name])
    return column.variable < 0 or series.variables[column.variable].has_time


def _by_node(windows: WindowSet, columns: Sequence[Any]) -> bool:
    """Whether a column has a value for each node."""
    variables = windows.series.variables
    return any(column.variable >= 0 and variables[column.variable].has_nodes for column in columns)


def _fill(windows: WindowSet, fill: float | None) -> float | None:
    """Keep NaN where nothing else is asked for: PGT's containers hand it on."""
    declared = [variable.missing for variable in windows.series.variables]
    keep = fill is None and any(missing is not None and np.isnan(missing) for missing in declared)
    return float("nan") if keep else fill


def _layouts(windows: WindowSet, layout: Any) -> tuple[Fold, Fold]:
    """Layouts as given, else as PGT's loaders have them."""
    given = layout if isinstance(layout, tuple) else (layout, layout)
    spec, columns = windows.spec, windows.series.columns(windows.spec.inputs)
    targets = _target_columns(windows)
    several = "f" if len(columns) > 1 else ""
    x = "n" + several + ("t" if spec.num_inputs > 1 or not several else "")
    y = "n" * _by_node(windows, targets) + "f" * (len(targets) > 1) + "t" * (spec.num_targets > 1)
    return Fold(x if given[0] is None else given[0]), Fold(y if given[1] is None else given[1])


def _first(given: Any) -> Any:
    """Return the first array that is there of an attribute of a container, which may be one array for all snapshots."""
    if given is None or hasattr(given, "dtype"):
        return given
    return next((array for array in given if array is not None), None)


def _shape(like: Any, name: str) -> tuple[int, ...] | None:
    """Shape of an attribute of a container's snapshots."""
    if like is None:
        return None
    if hasattr(like, "feature_dicts") or hasattr(like, "feature_dict"):
        raise SeriesError(
            "like= is a signal of several node types, and a snapshot here has one. Leave it out, and cut nodes and "
            "features apart by hetero_layout(signal)."
        )
    found = _first(getattr(like, name, getattr(like, "feature", None) if name == "features" else None))
    return None if found is None else tuple(np.shape(found))


def _extra(
    windows: WindowSet, key: str, names: str | Sequence[str], options: PairOptions, like: Any
) -> SignalPart:
    """Read a further attribute over the input rows."""
    spec: WindowSpec = replace(windows.spec, inputs=names, targets=())
    chosen = WindowSet(windows.series, spec, index=windows.index)
    columns = windows.series.columns(spec.inputs)
    variables = [windows.series.variables[column.variable] for column in columns if column.variable >= 0]
    integer = len(variables) == len(columns) and all(variable.dtype.kind in "iu" for variable in variables)
    node = "n" if _by_node(windows, columns) else ""
    text = node + "f" * (len(columns) > 1) + "t" * (spec.num_inputs > 1)
    pairs = WindowPairs(
        chosen,
        PairOptions(
            dtype="float64" if integer else options.dtype, fill=options.fill, layouts=(Fold(text), Fold(text))
        ),
    )
    shape = None if like is None else _shape(like, "batches" if key == "batch" else key)
    return SignalPart(pairs, 0, shape, integer)
