"""What one window reads: steps back, steps ahead, names by role.

In: numbers and names. Out: `WindowSpec`, checked, with the rows of a window counted from its start.
Never sees data.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from windowloader.errors import WindowSpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["WindowSpec"]

CHOICES = {
    "on_missing": ("mask", "raise"),
    "graph": ("each", "first", "last"),
    "short_segments": ("skip", "raise"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """All that a window reads.

    Start s is a window's first row. Input rows are ``s + i·dilation`` for i < lookback, target rows
    ``s + (lookback + delay + j)·dilation`` for j < horizon. Offset lists count from the last observed row.

    Parameters
    ----------
    lookback : int, optional
        Past steps read, at least 1. Either this or `input_offsets`.
    horizon : int, optional
        Future steps predicted; 0 for inference, without targets. Either this or `target_offsets`.
    inputs, targets : sequence of str, optional
        Names of features, variables, covariates or clocks (``time_of_day``, ``day_of_week``,
        ``day_of_year``, each with ``_sin``, ``_cos``), in the order delivered. None: the series' own
        features. ``targets=()``: none.
    future : sequence of str
        Names read over the horizon rows that are known when the forecast is made.
    delay : int
        Steps between the last input and the first target.
    stride : int
        Rows between the starts of neighbouring windows, counted from the first row of each segment.
    dilation : int
        Rows between neighbouring steps within a window.
    input_offsets, target_offsets : sequence of int, optional
        Rows from the last observed one, rising: DCRNN's are −11…0 and 1…12, periodic ones −2016, −288, 0.
    on_missing : {"mask", "raise"}
        Deliver masks, or refuse a window set in which a window reads a missing value.
    max_missing : float, optional
        Leave out windows with a larger share missing among their inputs, their targets or their known future
        (0.0: only complete windows). None: none are left out. Needs one scan of the data, see `scan`.
    graph : {"each", "first", "last"}
        Which of a dynamic graph's steps a window gets: one for each input step, or that of the first or last.
    short_segments : {"skip", "raise"}
        Pass over segments shorter than a window, or refuse them. That no segment holds a window is an
        error always.

    Raises
    ------
    WindowSpecError
        If a number is out of its range, offsets do not rise, a name is both target and future, or an
        option is unknown.

    Examples
    --------
    >>> spec = WindowSpec(lookback=3, horizon=2, delay=1)
    >>> spec.input_rows, spec.target_rows, spec.span, spec.anchor
    (array([0, 1, 2]), array([4, 5]), 6, 2)
    >>> WindowSpec(input_offsets=(-2, 0), target_offsets=(3,)).target_rows
    array([5])
    """

    lookback: int | None = None
    horizon: int | None = None
    inputs: Sequence[str] | None = None
    targets: Sequence[str] | None = None
    delay: int = 0
    stride: int = 1
    dilation: int = 1
    future: Sequence[str] = ()
    input_offsets: Sequence[int] | None = None
    target_offsets: Sequence[int] | None = None
    on_missing: Literal["mask", "raise"] = "mask"
    max_missing: float | None = None
    graph: Literal["each", "first", "last"] = "each"
    short_segments: Literal["skip", "raise"] = "skip"

    def __post_init__(self) -> None:
        for name, lowest, why in (
            ("lookback", 1, "a window reads at least one past step"),
            ("horizon", 0, "0 means no targets"),
            ("delay", 0, "targets come after the inputs; to look back further use input_offsets"),
            ("stride", 1, "windows start at least one row apart"),
            ("dilation", 1, "the steps of a window are at least one row apart"),
        ):
            self._set(name, _integer(name, getattr(self, name), lowest, why))
        for name in ("input_offsets", "target_offsets"):
            self._set(name, _offsets(name, getattr(self, name)))
        for name in ("inputs", "targets", "future"):
            self._set(name, _names(name, getattr(self, name)))
        self._check_steps()
        self._check_names()
        self._check_options()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_steps(self) -> None:
        for length, offsets, example in (
            ("lookback", "input_offsets", "lookback=12"),
            ("horizon", "target_offsets", "horizon=12 (horizon=0 for inference)"),
        ):
            given = (getattr(self, length), getattr(self, offsets))
            if given == (None, None):
                raise WindowSpecError(
                    f"neither {length} nor {offsets} is given. Say one of them, e.g. {example}."
                )
            if None not in given:
                raise WindowSpecError(
                    f"{length}={given[0]} and {offsets}={_short(given[1])} are both given, and say the same "
                    "thing twice. Keep one of them."
                )
        if self.input_offsets is not None and self.input_offsets[-1] > 0:
            raise WindowSpecError(
                f"input_offsets={_short(self.input_offsets)} reads row +{self.input_offsets[-1]}, after the "
                "last observed row, which is offset 0. What is known ahead belongs in future=; else count "
                "back from 0, e.g. (-11, …, 0)."
            )
        if self.target_offsets is not None and self.delay:
            raise WindowSpecError(
                f"delay={self.delay} shifts a horizon, but target_offsets={_short(self.target_offsets)} say "
                "the rows themselves. Put the delay into the offsets and leave delay=0."
            )
        if self.input_offsets is not None and self.target_offsets is not None and self.dilation != 1:
            raise WindowSpecError(
                f"dilation={self.dilation} spreads the steps of lookback and horizon, but both are given as "
                "offsets, which say the rows themselves. Leave dilation=1 and multiply the offsets."
            )

    def _check_names(self) -> None:
        if self.inputs is not None and not self.inputs:
            raise WindowSpecError(
                "inputs=() reads nothing. Name at least one, or leave inputs=None for all features."
            )
        both = [name for name in self.future if name in (self.targets or ())]
        if both:
            raise WindowSpecError(
                f"{both} are both targets and future: what is predicted cannot be known when the forecast is "
                "made. Take them out of one of the two."
            )
        if self.future and self.horizon == 0:
            raise WindowSpecError(
                f"future={list(self.future)} is read over the horizon rows, and horizon=0 has none. To "
                "forecast with known future values keep the horizon and say targets=(); else future=()."
            )

    def _check_options(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise WindowSpecError(
                    f"{name}={getattr(self, name)!r} is unknown. Known are "
                    + ", ".join(map(repr, known))
                    + "."
                )
        share = self.max_missing
        if share is not None and not (isinstance(share, int | float | np.number) and 0 <= share <= 1):
            raise WindowSpecError(
                f"max_missing={share!r} is no share. It is the largest share of missing values that a window "
                "may have among its inputs or its targets: 0.0 (only complete windows) to 1.0, or None."
            )
        self._set("max_missing", None if share is None else float(share))

    @property
    def num_inputs(self) -> int:
        """Input steps of a window."""
        return self.lookback if self.lookback is not None else len(self.input_offsets or ())

    @property
    def num_targets(self) -> int:
        """Horizon steps of a window."""
        return self.horizon if self.horizon is not None else len(self.target_offsets or ())

    @property
    def input_rows(self) -> np.ndarray:
        """Rows of the inputs, counted from the start; shape (input step,), int64, rising."""
        return self._input_steps() + self.anchor

    @property
    def target_rows(self) -> np.ndarray:
        """Rows of targets and known future, counted from the start; shape (horizon step,), int64, rising."""
        return self._target_steps() + self.anchor

    @property
    def anchor(self) -> int:
        """Rows from the start to the last observed row, where offsets are 0."""
        steps = [int(part[0]) for part in (self._input_steps(), self._target_steps()) if len(part)]
        return -min(steps)

    @property
    def span(self) -> int:
        """Rows from a window's first to its last, the delay included."""
        if self.num_targets:
            last = max(int(self._input_steps()[-1]), int(self._target_steps()[-1]))
        else:
            last = int(self._input_steps()[-1]) + self.delay * self.dilation
        return self.anchor + last + 1

    def _input_steps(self) -> np.ndarray:
        """Rows of the inputs, counted from the last observed row."""
        if self.input_offsets is not None:
            return np.asarray(self.input_offsets, np.int64)
        return np.arange(1 - self.num_inputs, 1, dtype=np.int64) * self.dilation

    def _target_steps(self) -> np.ndarray:
        """Rows of the horizon, counted from the last observed row."""
        if self.target_offsets is not None:
            return np.asarray(self.target_offsets, np.int64)
        return np.arange(1 + self.delay, 1 + self.delay + self.num_targets, dtype=np.int64) * self.dilation

    def describe(self) -> str:
        """Say the steps as they were asked for, for messages.

        Examples
        --------
        >>> WindowSpec(lookback=288, horizon=12).describe()
        'lookback=288 + delay=0 + horizon=12'
        """
        parts = [
            f"lookback={self.lookback}"
            if self.lookback is not None
            else f"input_offsets={_short(self.input_offsets)}",
            f"delay={self.delay}" if self.target_offsets is None else "",
            f"horizon={self.horizon}"
            if self.horizon is not None
            else f"target_offsets={_short(self.target_offsets)}",
        ]
        return " + ".join(filter(None, parts)) + (
            f" at dilation={self.dilation}" if self.dilation > 1 else ""
        )

    def hash(self) -> str:
        """16 hexadecimal digits that are the same wherever all fields are."""
        text = json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _integer(name: str, value: object, lowest: int, why: str) -> int | None:
    """``value`` as an int, None kept for the two lengths."""
    if value is None and name in ("lookback", "horizon"):
        return None
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise WindowSpecError(
            f"{name}={value!r} is no whole number of steps. Give an int, e.g. {name}={max(lowest, 1)}."
        )
    if number < lowest:
        raise WindowSpecError(f"{name}={number} is less than {lowest}: {why}. Give {name}={lowest} or more.")
    return number


def _offsets(name: str, values: Iterable[int] | None) -> tuple[int, ...] | None:
    """Offsets as a tuple of ints that rises."""
    if values is None:
        return None
    try:
        offsets = tuple(operator.index(value) for value in values)
    except TypeError:
        raise WindowSpecError(
            f"{name}={values!r} is no list of whole numbers. Give rows from the last observed one, "
            "e.g. range(-11, 1)."
        ) from None
    if not offsets:
        raise WindowSpecError(
            f"{name}=() reads nothing. Give rows from the last observed one, e.g. range(1, 13)."
        )
    for before, after in itertools.pairwise(offsets):
        if after <= before:
            raise WindowSpecError(
                f"{name}={_short(offsets)} does not rise: {after} follows {before}. Sort the offsets, each "
                "once."
            )
    return offsets


def _names(role: str, names: Iterable[str] | str | None) -> tuple[str, ...] | None:
    """Names as a tuple; one name may come without brackets."""
    if names is None:
        return None if role != "future" else ()
    given = (names,) if isinstance(names, str) else tuple(names)
    wrong = [name for name in given if not isinstance(name, str)]
    if wrong:
        raise WindowSpecError(
            f"{role} has {wrong[0]!r}, which is no name. Names are text, e.g. {role}=['speed']."
        )
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise WindowSpecError(f"{role}={list(given)} has {twice} more than once. Name each once.")
    return given


def _short(offsets: Sequence[int] | None) -> str:
    """Offsets for messages, long lists cut."""
    values = list(offsets or ())
    shown = ", ".join(map(str, values)) if len(values) <= 6 else f"{values[0]}, {values[1]}, …, {values[-1]}"
    return f"({shown})"
