"""`Recipe`: a spec compiled for a series, which turns rows and starts into the arrays of a batch in one pass.

In: the rows of each variable, and where the windows start. Out: inputs, targets, future and masks, scaled, cast and in
their layout, written into arrays that are handed in. Never allocates anything of a batch's size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.sources.mapping import files_of, unchanged
from windowloader.windows.reads import Reads

from .compiling import compile_roles
from .delivery import Options, delivered_dtype
from .roles import ALIGNMENT, Field, Role
from .row_table import KeptClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.rows.strided import Rows
    from windowloader.series.clock import Clock
    from windowloader.series.series import Series
    from windowloader.windows.spec import WindowSpec
    from windowloader.windows.window_set import WindowSet

    from .filling import Filling
    from .nan_guard import NanGuard

__all__ = ["Field", "Recipe"]

FILLINGS = 16  # batch sizes, and shapes of rows: scratch grows now and then


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How rows become batches: compiled once from names, used for every batch.

    Parameters
    ----------
    roles : tuple of Role
    variables : tuple of int
        Which of ``series.variables`` the gather wants `Rows` of, in this order.
    clock : Clock, KeptClock or None
    borders : ndarray or None
        Where entities begin, where statistics differ by entity.
    dtype : str
        Delivered: "float32", "float64", "float16", "bfloat16" (as bits, uint16), or an integer dtype.
    guard : NanGuard or None
        What must not be delivered in silence; None: nothing is looked for.

    Examples
    --------
    >>> import windowloader as wl
    >>> from windowloader.rows.strided import Rows
    >>> series = wl.Series(np.arange(40.0).reshape(20, 2))
    >>> recipe = Recipe.compile(series, wl.WindowSpec(lookback=3, horizon=1))
    >>> out = {field.name: np.empty(field.shape, field.dtype) for field in recipe.fields(2)}
    >>> starts = np.array([0, 7])
    >>> recipe.gather(out, starts, [Rows(series.variables[0].view(), starts)])
    >>> out["inputs"][1, :, 0, 0], out["targets"][1, 0, :, 0]
    (array([14., 16., 18.], dtype=float32), array([20., 21.], dtype=float32))
    """

    roles: tuple[Role, ...]
    variables: tuple[int, ...]
    clock: Clock | KeptClock | None
    borders: np.ndarray | None
    dtype: str
    guard: NanGuard | None = None
    _fields: dict[int, tuple[Field, ...]] = field(
        default_factory=dict, repr=False
    )  # a run has two batch sizes
    _fillings: dict[Any, Filling] = field(default_factory=dict, repr=False)

    @classmethod
    def compile(
        cls,
        series: Series,
        spec: WindowSpec,
        *,
        scaler: Any = None,
        scale_targets: bool = True,
        fill: float | None = None,
        dtype: str = "float32",
        layout: str | tuple[str, str] = "btnf",
        broadcast: bool = True,
    ) -> Recipe:
        """Settle everything about a batch but its windows.

        Parameters
        ----------
        series : Series
        spec : WindowSpec
        scaler : Scaler, optional
            Asked for each column by name; clocks and covariates without time are never scaled.
        scale_targets : bool
            False: targets keep the units of the data.
        fill : float, optional
            What a missing cell holds after scaling. None: the raw value, scaled like any other.
        dtype : str
            Delivered. An integer dtype is possible where values are only copied.
        layout : str or pair of str
            Axes of inputs and future, and of targets.
        broadcast : bool
            False: what does not depend on the node is delivered once a row, in ``shared_inputs``, ``shared_future``.

        Returns
        -------
        Recipe

        Raises
        ------
        FeatureNameError
            A name that is nothing of the series, twice in a role, or both target and future.
        SeriesError
            A clock of a series without timestamps.
        MissingDataError
            NaN marks missing values, and neither ``fill`` nor ``max_missing=0.0`` says what to do; or a covariate
            without time holds NaN that nothing fills.
        ScalerError
            A scaler that covers nothing, was fitted on other nodes or entities, or has statistics that are not finite.
        AxesError, LoaderError
            A layout or dtype that does not fit.
        """
        options = Options.check(
            scaler=scaler,
            scale_targets=scale_targets,
            fill=fill,
            dtype=dtype,
            layout=layout,
            broadcast=broadcast,
        )
        roles, variables, guard = compile_roles(series, spec, options)
        borders = series.entity_borders if any(role.by_entity for role in roles) else None
        names = tuple(dict.fromkeys(name for role in roles for name in role.clocks))
        clock = (
            KeptClock.where_small(series.clock, names, series.num_steps) if series.clock and names else None
        )
        return cls(
            roles=roles,
            variables=variables,
            clock=clock,
            borders=borders,
            dtype=options.dtype,
            guard=guard,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Recipe, (
            self.roles,
            self.variables,
            self.clock,
            self.borders,
            self.dtype,
            self.guard,
        )  # loops are chosen again

    def check(self, windows: WindowSet) -> None:
        """Refuse a loader of windows that would be delivered NaN, as far as it is known before the first batch.

        Raises
        ------
        MissingDataError
            An array in memory holds NaN that the windows read and nothing fills.
        ScalerError
            The scaler has no statistics for the entity of some window.
        """
        if self.guard is not None:
            self.guard.check_set(windows)

    def fields(self, batch: int) -> tuple[Field, ...]:
        """Arrays of a batch of ``batch`` windows, and where each lies in a buffer of `nbytes`."""
        known = self._fields.get(batch)
        if known is not None:
            return known
        found: list[Field] = []
        offset = 0
        delivered = delivered_dtype(self.dtype)
        for role in self.roles:
            for name, shape, flat, dtype in role.arrays(batch, delivered):
                found.append(Field(name, shape, flat, dtype, offset))
                offset += -(-found[-1].nbytes // ALIGNMENT) * ALIGNMENT
        return self._fields.setdefault(batch, tuple(found))

    def nbytes(self, batch: int) -> int:
        """Bytes of a buffer that holds a batch of ``batch`` windows."""
        last = self.fields(batch)[-1]
        return last.offset + -(-last.nbytes // ALIGNMENT) * ALIGNMENT

    @property
    def reads(self) -> Reads:
        """Variables and row offsets that each window reads."""
        return Reads(self.variables, np.unique(np.concatenate([role.offsets for role in self.roles])))

    def separable(self, batch: int) -> bool:
        """Whether several batches of ``batch`` windows made as one are cut apart by windows, each array aligned."""
        outermost = all(role.layout.letters[0] == "b" for role in self.roles)
        return outermost and all(field.nbytes % ALIGNMENT == 0 for field in self.fields(batch))

    def filling(self, batch: int, rows: Sequence[Rows], nodes: tuple[int, int] | None = None) -> Filling:
        """Return the loops for batches of ``batch`` windows from rows that lie in memory as these do."""
        lie = (row.flat or (row.base.dtype, row.base.shape, row.base.strides) for row in rows)
        known = (batch, nodes, *lie)
        found = self._fillings.get(known)
        if found is None:
            from .filling import Filling

            if len(self._fillings) >= FILLINGS:
                self._fillings.clear()
            found = self._fillings.setdefault(
                known, Filling.of(self.roles, self.clock, self.dtype, batch, rows, nodes)
            )
        return found

    def entity_of(self, starts: np.ndarray) -> np.ndarray:
        """Whose each window is, int64; zeros where no statistic differs by entity."""
        if self.borders is None:
            return _none_of(len(starts))
        return np.searchsorted(self.borders, starts, side="right") - 1

    def gather(
        self,
        out: Mapping[str, np.ndarray],
        starts: np.ndarray,
        rows: Sequence[Rows],
        *,
        begin: int = 0,
        end: int | None = None,
        nodes: tuple[int, int] | None = None,
    ) -> None:
        """Fill the arrays of a batch.

        Parameters
        ----------
        out : mapping of str to ndarray
            One C-contiguous array a field, of its shape or flat shape. All other positions stay untouched, so
            several threads may share a batch.
        starts : ndarray, shape (batch,), int64
            First row of each window, in the series.
        rows : sequence of Rows
            One for each of `variables`; must hold every row that the windows read, as nothing checks it here.
        begin, end : int
            Batch positions to fill; None: to the last.
        nodes : (int, int), optional
            First and end of those to fill; None: all. What is delivered once for all goes with node 0.

        Raises
        ------
        MissingDataError
            A window reads NaN that nothing fills.
        ScalerError
            The scaler has no statistics for the entity of a window.
        """
        end = len(starts) if end is None else end
        fill = self.filling(len(starts), rows, nodes).fill
        entity = self.entity_of(starts)
        guard = (
            self.guard if nodes is None or nodes[0] == 0 else None
        )  # who fills the first node looks at all
        files = files_of(row.base for row in rows)
        if not files:
            fill(out, starts, rows, entity, begin, end, guard)
            return
        with unchanged(files=files):
            fill(out, starts, rows, entity, begin, end, guard)


@lru_cache(maxsize=FILLINGS)
def _none_of(count: int) -> np.ndarray:
    """Entity 0 for each window; shared by all batches of a size, so nobody may write to it."""
    return np.zeros(count, np.int64)
