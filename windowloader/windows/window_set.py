"""The windows of a series: all valid ones, a part, or any choice of them.

In: a series, a spec. Out: `WindowSet`, which keeps runs of starts and nothing per window. Never reads values, except
to scan for missing ones where the spec asks for it, and in `read`.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import numpy as np

from windowloader.errors import NotSamplesError, WindowSpecError
from windowloader.series.series import Series

from .index import Explicit, Runs, digest, rows_held
from .spec import WindowSpec as WindowSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from windowloader.batch.batch import Batch
    from windowloader.batch.window_reader import WindowReadOptions
    from windowloader.series.series import Column

    from .index import Starts

__all__ = ["WindowSet", "WindowSpec"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WindowSet:
    """The valid windows of a series, numbered 0, 1, … in order of rows.

    Windows lie within a segment and within an entity; each segment's first window begins at its first row.

    Parameters
    ----------
    series : Series
        The rows.
    spec : WindowSpec
        What a window reads.
    index : Starts, optional
        Starts that are known already: those of a part or a choice. None: all valid windows.
    part : str, optional
        Name of the part of a split.

    Raises
    ------
    WindowSpecError
        If no segment is as long as a window, if the spec leaves no windows, or if a value would be both
        input and target.
    FeatureNameError
        For a name that the series does not have.
    MissingDataError
        If a window reads a missing value and ``on_missing="raise"``.

    Examples
    --------
    >>> import windowloader as wl
    >>> series = wl.Series(np.arange(20.0).reshape(10, 2))
    >>> windows = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=2, stride=2))
    >>> len(windows), windows.starts()
    (3, array([0, 2, 4]))
    >>> windows.take([2, 0, 0]).starts()
    array([4, 0, 0])
    """

    series: Series
    spec: WindowSpec
    index: Starts = field(default=cast("Any", None), kw_only=True)
    part: str | None = field(default=None, kw_only=True)
    compiled: list[Any] = field(default_factory=list, init=False)  # what `WindowReader` compiled last

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(WindowSet, index=self.index, part=self.part), (self.series, self.spec)

    def __post_init__(self) -> None:
        if cast("Any", self.index) is None:
            object.__setattr__(self, "index", _place_windows(self.series, self.spec))

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        part = f"{self.part!r}, " if self.part is not None else ""
        first, last = self.row_range
        return f"WindowSet({part}{len(self):,} windows{f' of rows {first} … {last - 1}' if last else ''})"

    def starts(self, positions: Any = None) -> np.ndarray:
        """First rows of windows.

        Parameters
        ----------
        positions : int or array-like of int, optional
            Window numbers, any shape. None: all.

        Returns
        -------
        ndarray, int64, shape of positions

        Raises
        ------
        IndexError
            For a number outside ``[0, len)``.
        """
        if positions is None:
            return self.index(np.arange(len(self), dtype=np.int64))
        return self.index(self._check(positions))

    def _check(self, positions: Any) -> np.ndarray:
        """Window numbers as int64."""
        given = np.asarray(positions)
        if given.size == 0:
            return given.astype(np.int64)
        if given.dtype.kind not in "iu":
            raise TypeError(
                f"positions are whole numbers, found {given.dtype}. For a mask take np.flatnonzero(mask)."
            )
        low, high = int(given.min()), int(given.max())
        if low < 0 or high >= len(self):
            raise IndexError(
                f"window {low if low < 0 else high} is outside this set of {len(self):,}. Windows are numbered "
                f"0 … {len(self) - 1}; negative numbers do not count from the end."
            )
        return given.astype(np.int64, copy=False)

    def take(self, positions: Any) -> WindowSet:
        """Choose windows, in the order given; repeats are kept.

        Parameters
        ----------
        positions : slice, range or array-like of int
            Window numbers. Evenly spaced ones stay arithmetic and take no memory.

        Returns
        -------
        WindowSet

        Raises
        ------
        IndexError
            For a number outside ``[0, len)``.
        """
        if isinstance(positions, slice):
            positions = range(*positions.indices(len(self)))
        if not isinstance(positions, range):
            positions = _evenly(self._check(positions).reshape(-1))
        elif len(positions):
            self._check([positions[0], positions[-1]])
        if isinstance(positions, range) and positions.step > 0:
            return self.chosen(self.index.slice(positions.start, positions.stop, positions.step))
        return self.chosen(Explicit(self.index(np.asarray(positions, np.int64))))

    def __getitem__(self, position: object) -> NoReturn:
        """Refuse: a window set is not a dataset of samples."""
        raise NotSamplesError(
            f"windows[{position!r}]: a WindowSet is not a dataset of samples, as DataLoader expects. Pass it to "
            "WindowLoader or windowloader.adapters.pytorch.TorchLoader; one window is windows.read([0])."
        )

    def __iter__(self) -> NoReturn:
        """Refuse: only a loader iterates."""
        raise NotSamplesError(
            "a WindowSet cannot be iterated over. Use a loader: for inputs, targets in WindowLoader(windows, "
            "batch_size=64)."
        )

    def chosen(self, index: Starts, *, part: str | None = None) -> WindowSet:
        """Return the set of the windows with these starts, which are valid ones."""
        return WindowSet(self.series, self.spec, index=index, part=self.part if part is None else part)

    def row_counts(
        self, start: int, stop: int, *, role: Literal["inputs", "targets", "all"] = "inputs"
    ) -> np.ndarray:
        """Count the windows that read each row.

        Parameters
        ----------
        start, stop : int
            Rows to count for.
        role : {"inputs", "targets", "all"}
            Whether a window reads the row as an input, as a target, or as either.

        Returns
        -------
        ndarray, shape (stop - start,), int64
        """
        return rows_held(self.index, self._rows(role), start, stop)

    def _rows(self, role: str) -> np.ndarray:
        if role not in ("inputs", "targets", "all"):
            raise ValueError(f"role={role!r} is unknown. Known are 'inputs', 'targets' and 'all'.")
        if role == "all":
            return np.union1d(self.spec.input_rows, self.spec.target_rows)
        return self.spec.input_rows if role == "inputs" else self.spec.target_rows

    @property
    def row_range(self) -> tuple[int, int]:
        """First row that a window reads, and one past the last; (0, 0) without windows."""
        if len(self) == 0:
            return 0, 0
        starts = self.index(np.array([0, len(self) - 1]) if self.index.rising else np.arange(len(self)))
        rows = self._rows("all")
        return int(starts.min() + rows[0]), int(starts.max() + rows[-1]) + 1

    def entities(self, positions: Any = None) -> np.ndarray:
        """Return the number of the entity that each window belongs to, int64; 0 where there are none."""
        return self.series.entity_of(self.starts(positions))

    def fingerprint(self) -> str:
        """16 hexadecimal digits of which windows these are, of what shape of series; values do not count."""
        return digest(
            self.spec.hash(), self.index.fingerprint(), self.series.num_steps, self.series.num_nodes,
            ",".join(f"{variable.dtype.str}:{variable.num_features}" for variable in self.series.variables),
        )  # fmt: skip

    def read(self, positions: Any, **options: Unpack[WindowReadOptions]) -> Batch:
        """Read some windows as one batch, without a loader.

        Parameters
        ----------
        positions : int or array-like of int
            Window numbers.
        **options
            ``scaler``, ``scale_targets``, ``fill``, ``dtype``, ``layout``, ``broadcast`` as in `WindowLoader`.

        Returns
        -------
        Batch

        Examples
        --------
        >>> import windowloader as wl
        >>> series = wl.Series(np.arange(20.0).reshape(10, 2))
        >>> batch = wl.WindowSet(series, wl.WindowSpec(lookback=3, horizon=1)).read([0, 4])
        >>> batch.inputs[1, :, 0, 0], batch.starts
        (array([ 8., 10., 12.], dtype=float32), array([0, 4]))
        """
        from windowloader.batch.window_reader import WindowReader

        with WindowReader(self, **options) as reader:
            return reader.read(np.asarray(positions).reshape(-1))

    def graph_at(self, starts: np.ndarray) -> Any:
        """Return the graph of windows: the static one itself, or the windows' own edges over their input rows."""
        graph = self.series.graph
        if graph is None:  # asked for each batch
            return None
        from windowloader.series.dynamic_graph import DynamicGraph

        if not isinstance(graph, DynamicGraph):
            return graph
        return graph.batch(starts, self.spec.input_rows, self.spec.graph, self.series.num_nodes)


def _evenly(positions: np.ndarray) -> range | np.ndarray:
    """Window numbers as a range if they rise in equal steps."""
    step = int(positions[1] - positions[0]) if len(positions) > 1 else 1
    if step < 1 or not (np.diff(positions) == step).all():
        return positions
    first = int(positions[0]) if len(positions) else 0
    return range(first, first + step * len(positions), step)


def _place_windows(series: Series, spec: WindowSpec) -> Starts:
    """Find the starts of all windows that fit, less those that miss too much; errors are those of `WindowSet`."""
    given: tuple[tuple[object, type], ...] = ((series, Series), (spec, WindowSpec))
    if not all(isinstance(value, kind) for value, kind in given):
        raise WindowSpecError(
            "pass a series and a spec, e.g. wl.WindowSet(wl.open(path), wl.WindowSpec(lookback=12, horizon=12)), got "
            f"{reprlib.repr(series)} and {reprlib.repr(spec)}."
        )
    columns = _columns(series, spec)
    runs = Runs.of_segments(series.borders, span=spec.span, stride=spec.stride)
    _check_segments(series, spec, runs)
    if spec.max_missing is None and spec.on_missing == "mask":
        return runs
    from .missing_policy import leave_out

    return leave_out(series, spec, columns, runs)


def _columns(series: Series, spec: WindowSpec) -> dict[str, Sequence[Column]]:
    """Look up the columns of each role in the series."""
    columns: dict[str, Sequence[Column]] = {
        "inputs": series.columns(spec.inputs),
        "targets": series.columns(spec.targets) if spec.num_targets and spec.targets != () else (),
        "future": series.columns(spec.future) if spec.future else (),
    }
    targets = {(column.variable, column.feature): column.name for column in columns["targets"]}
    shared = np.intersect1d(spec.input_rows, spec.target_rows) - spec.anchor
    for role in ("future", "inputs") if len(shared) else ("future",):
        places = [(column.variable, column.feature) for column in columns[role] if column.variable >= 0]
        if both := [targets[place] for place in places if place in targets]:
            raise WindowSpecError(
                f"{both} are both targets and future: what is predicted cannot be known when the forecast is made. "
                "Take them out of one of the two."
                if role == "future"
                else f"{both} at offset {shared[-1]} are both inputs and targets: the answer would be among what is "
                "given. Targets come after the last observed row, at offsets 1, 2, …"
            )
    return columns


def _check_segments(series: Series, spec: WindowSpec, runs: Runs) -> None:
    """Raise where no window fits, or where segments are too short and `short_segments` forbids it."""
    if 0 in (series.num_steps, series.num_nodes, len(series.features)):
        raise WindowSpecError(
            f"{series.name!r} has {series.num_steps} rows, {series.num_nodes} nodes and {len(series.features)} "
            "features, so no window has a value. Check that the file was written to its end and that a selection did "
            "not leave out everything."
        )
    lengths = np.diff(series.borders)
    if len(runs) and (spec.short_segments == "skip" or lengths.min() >= spec.span):
        return
    where, advice = repr(series.name), "Shorten the lookback or the horizon"
    number = int(np.argmax(lengths < spec.span) if len(runs) else np.argmax(lengths))
    if len(lengths) > 1:
        first, stop = series.borders[number : number + 2]
        where = f"{'a' if len(runs) else 'the longest'} segment of {where} (number {number} of {len(lengths)}, rows "
        where += f"{first} … {stop - 1})"
        advice += ", or pass short_segments='skip'" if len(runs) else ", or join segments"
    elif series.num_nodes >= max(spec.span, 2 * series.num_steps):
        advice += (
            f"; or is time another axis? There are {series.num_nodes} nodes: axes='nt' reads them as steps"
        )
    raise WindowSpecError(
        f"{spec.describe()} needs {spec.span} steps, but {where} has {lengths[number]}. {advice}."
    )
