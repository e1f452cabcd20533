"""`Recipe`: a spec compiled for a series, which turns rows and starts into the arrays of a batch in one pass.

In: the rows of each variable, and where the windows start. Out: inputs, targets, future and masks, scaled, cast and in
their layout, written into the arrays passed. Never allocates anything of a batch's size.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.rows.strided import StridedBuffer
from windowloader.sources.mapping import files_of, unchanged
from windowloader.util.memory import address_of, second_level_cache
from windowloader.windows.reads import Reads

from .compiling import compile_roles
from .roles import ALIGNMENT, Delivery, Field, Role, delivered_dtype
from .row_table import KeptClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from windowloader.rows.strided import Rows
    from windowloader.series.clock import Clock
    from windowloader.series.series import Series
    from windowloader.windows.spec import WindowSpec
    from windowloader.windows.window_set import WindowSet

    from .gather import RoleGather
    from .nan_guard import NanGuard
    from .roles import WindowReadOptions

__all__ = ["Field", "Recipe"]

HERE, AHEAD = 1.5, 0.75  # of the second-level cache: batches from these sizes on are written around the cache
GATHERS = 16  # batch sizes and row layouts whose loops are kept: row buffers grow now and then


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How rows become batches: compiled once from names, used for every batch.

    Parameters
    ----------
    roles : tuple of Role
    variables : tuple of int
        Which of ``series.variables`` the gather needs `Rows` of, in this order.
    clock : Clock, KeptClock or None
    borders : ndarray or None
        Rows where entities begin, where the series has any.
    dtype : str
        Delivered: "float32", "float64", "float16", "bfloat16" (as bits, uint16), or an integer dtype.
    guard : NanGuard or None
        Checks what must not be delivered silently; None: no check is needed.

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
    _fields: dict[int, tuple[Field, ...]] = field(default_factory=dict, repr=False)
    _gathers: dict[Any, tuple[RoleGather, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def compile(cls, series: Series, spec: WindowSpec, **options: Unpack[WindowReadOptions]) -> Recipe:
        """Resolve everything about a batch but its windows.

        Parameters
        ----------
        series : Series
        spec : WindowSpec
        **options
            Those of `Delivery`.

        Returns
        -------
        Recipe

        Raises
        ------
        FeatureNameError
            A name that is nothing of the series, or given twice.
        MissingDataError
            NaN marks missing values, and neither ``fill`` nor ``max_missing=0.0`` says what to do; or a covariate
            without time holds NaN that nothing fills.
        ScalerError
            A scaler that covers nothing, was fitted on other nodes or entities, or has statistics that are not finite.
        AxesError, LoaderError
            A layout or dtype that does not fit.
        """
        delivery = Delivery(**options)
        roles, variables, guard = compile_roles(series, spec, delivery)
        names = tuple(dict.fromkeys(name for role in roles for name in role.clocks))
        clock = (
            KeptClock.where_small(series.clock, names, series.num_steps) if series.clock and names else None
        )
        return cls(roles, variables, clock, series.entity_borders, delivery.dtype, guard)

    def __reduce__(self) -> tuple[Any, ...]:  # loops are chosen again
        return Recipe, (self.roles, self.variables, self.clock, self.borders, self.dtype, self.guard)

    def check(self, windows: WindowSet) -> None:
        """Refuse windows that would deliver NaN, as far as it is known before the first batch.

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
        for role in self.roles:
            for name, shape, dtype in role.arrays(batch, delivered_dtype(self.dtype)):
                found.append(Field(name, shape, dtype, offset))
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
        """Whether several batches of ``batch`` windows built as one can be split by windows, each array aligned."""
        outermost = all(role.layout.letters[0] == "b" for role in self.roles)
        return outermost and all(field.nbytes % ALIGNMENT == 0 for field in self.fields(batch))

    def _gathers_of(self, batch: int, flats: Sequence[StridedBuffer], around: bool) -> tuple[RoleGather, ...]:
        """Return the loops for batches of ``batch`` windows from rows that lie in memory as these do."""
        known = batch, around, *(flat.kind for flat in flats)
        found = self._gathers.get(known)
        if found is None:
            from .gather import RoleGather

            if len(self._gathers) >= GATHERS:
                self._gathers.clear()
            layouts = [flat.kind for flat in flats]
            made = tuple(
                RoleGather(role, self.clock, self.dtype, layouts, batch, around) for role in self.roles
            )
            found = self._gathers.setdefault(known, made)
        return found

    def _goes_around(self, out: Mapping[str, np.ndarray]) -> bool:
        """Whether a batch is written around the cache: it would not stay there until it is read.

        A batch that another thread reads is read from another core's cache or from memory.
        """
        ahead = threading.current_thread() is not threading.main_thread()
        written = sum([array.nbytes for array in out.values()])
        if written < second_level_cache() * (AHEAD if ahead else HERE):
            return False
        return all(address_of(array) % ALIGNMENT == 0 for array in out.values())

    def entity_of(self, starts: np.ndarray) -> np.ndarray:
        """Entity of each window, int64; zeros where the series has none."""
        if self.borders is None:
            return _zeros(len(starts))
        return np.searchsorted(self.borders, starts, side="right") - 1

    def gather(
        self,
        out: Mapping[str, np.ndarray],
        starts: np.ndarray,
        rows: Sequence[Rows],
        *,
        begin: int = 0,
        end: int | None = None,
    ) -> None:
        """Fill the arrays of a batch.

        Parameters
        ----------
        out : mapping of str to ndarray
            One C-contiguous array per field. All other positions stay untouched.
        starts : ndarray, shape (batch,), int64
            First row of each window, in the series.
        rows : sequence of Rows
            One for each of `variables`. They must hold every row that the windows read: nothing checks it here.
        begin, end : int
            Batch positions to fill; None: to the last.

        Raises
        ------
        MissingDataError
            A window reads NaN that nothing fills.
        ScalerError
            The scaler has no statistics for the entity of a window.
        """
        end = len(starts) if end is None else end
        flats = [row.flat or StridedBuffer.of(row.base) for row in rows]
        around = self._goes_around(out)
        gathers, entity = self._gathers_of(len(starts), flats, around), self.entity_of(starts)
        sources = [flat.values for flat in flats]
        files = files_of(row.base for row in rows)
        with unchanged(files=files) if files else nullcontext():
            if self.guard is not None and not self.guard.done:
                self.guard.check_batch(starts, rows, entity, begin, end)
            for role in gathers:
                role.fill(out, starts, sources, rows, entity, begin, end)


@lru_cache(maxsize=GATHERS)
def _zeros(count: int) -> np.ndarray:
    """Entity 0 for each window; shared by all batches of a size, so read-only by convention."""
    return np.zeros(count, np.int64)
