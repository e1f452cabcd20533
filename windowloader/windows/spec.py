"""What one window reads: past steps, future steps, and names by role.

In: numbers and names. Out: `WindowSpec`, checked, with the rows of a window counted from its start. Never sees data.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import reprlib
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Literal

import numpy as np

from windowloader.errors import WindowSpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["WindowSpec"]

LOWEST = {"lookback": 1, "horizon": 0, "delay": 0, "stride": 1, "dilation": 1}
CHOICES = {
    "on_missing": ("mask", "raise"),
    "graph": ("each", "first", "last"),
    "short_segments": ("skip", "raise"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """What a window reads.

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
        ``day_of_year``, each with ``_sin``, ``_cos``), in the order of delivery. None: the series' own
        features. ``targets=()``: none.
    future : sequence of str
        Names read over the horizon rows, known when the forecast is made.
    delay : int
        Steps between the last input and the first target.
    stride : int
        Rows between the starts of neighbouring windows, counted from the first row of each segment.
    dilation : int
        Rows between neighbouring steps within a window.
    input_offsets, target_offsets : sequence of int, optional
        Rows from the last observed one, rising: DCRNN's are −11…0 and 1…12, periodic ones −2016, −288, 0.
    on_missing : {"mask", "raise"}
        Deliver masks, or raise when a window set has a window that reads a missing value.
    max_missing : float, optional
        Leave out windows with a larger share of missing values among their inputs, their targets or their known
        future (0.0: only complete windows). None: keep all. Needs one scan of the data, see `scan`.
    graph : {"each", "first", "last"}
        Which of a dynamic graph's steps a window gets: one for each input step, or that of the first or last.
    short_segments : {"skip", "raise"}
        Skip segments shorter than a window, or raise. It is always an error if no window fits at all.

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
        for name, lowest in LOWEST.items():
            self._set(name, _integer(name, getattr(self, name), lowest))
        for name in ("input_offsets", "target_offsets"):
            self._set(name, _offsets(name, getattr(self, name)))
        for name in ("inputs", "targets", "future"):
            self._set(name, _names(name, getattr(self, name)))
        self._check_steps()
        self._check_names()
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise WindowSpecError(
                    f"{name}={getattr(self, name)!r} is unknown. Known are {', '.join(map(repr, known))}."
                )
        share = self.max_missing
        if share is not None and not (isinstance(share, int | float | np.number) and 0 <= share <= 1):
            raise WindowSpecError(
                f"max_missing must be between 0.0 (only complete windows) and 1.0, or None, got {share!r}: it is the "
                "largest share of missing values that a window may have among its inputs or its targets."
            )
        self._set("max_missing", None if share is None else float(share))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_steps(self) -> None:
        inputs, targets = reprlib.repr(self.input_offsets), reprlib.repr(self.target_offsets)
        for length, offsets, example in (
            ("lookback", "input_offsets", "lookback=12"),
            ("horizon", "target_offsets", "horizon=12 (horizon=0 for inference)"),
        ):
            given = [name for name in (length, offsets) if getattr(self, name) is not None]
            if not given:
                raise WindowSpecError(f"neither {length} nor {offsets} is given. Give one, e.g. {example}.")
            if len(given) == 2:
                raise WindowSpecError(
                    f"{length}={getattr(self, length)} and {offsets}={reprlib.repr(getattr(self, offsets))} are both "
                    "given. Keep one of them."
                )
        if self.input_offsets is not None and self.input_offsets[-1] > 0:
            raise WindowSpecError(
                f"input_offsets={inputs} reads row +{self.input_offsets[-1]}, after the last observed row, which is "
                "offset 0. What is known in advance belongs in future=; else count back from 0, e.g. (-11, …, 0)."
            )
        if self.target_offsets is not None and self.delay:
            raise WindowSpecError(
                f"delay={self.delay} shifts a horizon, but target_offsets={targets} give the rows themselves. Put the "
                "delay into the offsets and leave delay=0."
            )
        if self.input_offsets is not None and self.target_offsets is not None and self.dilation != 1:
            raise WindowSpecError(
                f"dilation={self.dilation} spreads the steps of lookback and horizon, but both are given as offsets. "
                "Leave dilation=1 and multiply the offsets."
            )

    def _check_names(self) -> None:
        if self.inputs == ():
            raise WindowSpecError(
                "inputs=() reads nothing. Name at least one, or leave inputs=None for all features."
            )
        both = [name for name in self.future if name in (self.targets or ())]
        if both:
            raise WindowSpecError(
                f"{both} are both targets and future: what is predicted cannot be known when the forecast is made. "
                "Take them out of one of the two."
            )
        if self.future and self.horizon == 0:
            raise WindowSpecError(
                f"future={list(self.future)} is read over the horizon rows, and horizon=0 has none. To forecast with "
                "known future values keep the horizon and pass targets=(); else pass future=()."
            )

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
        return self._steps()[0] + self.anchor

    @property
    def target_rows(self) -> np.ndarray:
        """Rows of targets and known future, counted from the start; shape (horizon step,), int64, rising."""
        return self._steps()[1] + self.anchor

    @property
    def anchor(self) -> int:
        """Rows from the start to the last observed row, where offsets are 0."""
        return -int(np.concatenate(self._steps()).min())

    @property
    def span(self) -> int:
        """Rows from a window's first to its last, the delay included."""
        inputs, targets = self._steps()
        if not len(targets):
            targets = inputs[-1:] + self.delay * self.dilation
        return self.anchor + max(int(inputs[-1]), int(targets[-1])) + 1

    def _steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the inputs and of the horizon, counted from the last observed row."""
        if self.input_offsets is not None:
            inputs = np.asarray(self.input_offsets, np.int64)
        else:
            inputs = np.arange(1 - self.num_inputs, 1, dtype=np.int64) * self.dilation
        if self.target_offsets is not None:
            return inputs, np.asarray(self.target_offsets, np.int64)
        first = 1 + self.delay
        return inputs, np.arange(first, first + self.num_targets, dtype=np.int64) * self.dilation

    def describe(self) -> str:
        """Describe the steps as they were given, for messages.

        Examples
        --------
        >>> WindowSpec(lookback=288, horizon=12).describe()
        'lookback=288 + delay=0 + horizon=12'
        """
        text = f"input_offsets={reprlib.repr(self.input_offsets)}"
        if self.lookback is not None:
            text = f"lookback={self.lookback}"
        if self.horizon is not None:
            text += f" + delay={self.delay} + horizon={self.horizon}"
        else:
            text += f" + target_offsets={reprlib.repr(self.target_offsets)}"
        return text + (f" at dilation={self.dilation}" if self.dilation > 1 else "")

    def hash(self) -> str:
        """16 hexadecimal digits that are the same wherever all fields are."""
        text = json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _integer(name: str, value: object, lowest: int) -> int | None:
    """``value`` as an int; the two lengths may be None."""
    if value is None and name in ("lookback", "horizon"):
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < lowest:
        raise WindowSpecError(
            f"{name} must be an integer >= {lowest}, got {value!r}. Give an int, e.g. {name}={max(lowest, 1)}; to read "
            "other rows use input_offsets and target_offsets."
        )
    return int(value)


def _offsets(name: str, values: Iterable[int] | None) -> tuple[int, ...] | None:
    """Offsets as a rising tuple of ints."""
    if values is None:
        return None
    try:
        offsets = tuple(operator.index(value) for value in values)
    except TypeError:
        offsets = ()
    if not offsets or any(after <= before for before, after in itertools.pairwise(offsets)):
        raise WindowSpecError(
            f"{name} must be rising integers, counted from the last observed row, e.g. range(-11, 1) or range(1, 13), "
            f"got {reprlib.repr(values)}."
        )
    return offsets


def _names(role: str, names: Iterable[str] | str | None) -> tuple[str, ...] | None:
    """Names as a tuple; a single name may come without brackets."""
    if names is None:
        return None if role != "future" else ()
    given = (names,) if isinstance(names, str) else tuple(names)
    if not all(isinstance(name, str) for name in given) or len(set(given)) < len(given):
        raise WindowSpecError(
            f"{role} must be names, each once, got {reprlib.repr(given)}. Write e.g. {role}=['speed']."
        )
    return given
