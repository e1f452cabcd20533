"""The state of a run: about 300 bytes of JSON from which any rank of any world goes on.

In: the steps of a run and a position. Out: a flat dict of numbers and short strings, the same keys always;
and back, refused where it belongs to another run. Arithmetic only: a state can be written for any step, past
or to come.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from windowloader.errors import StateError

from .order import ORDERS, PARAMETERS
from .shard import Position

if TYPE_CHECKING:
    from .shard import Steps

__all__ = ["FORMAT", "RunState"]

FORMAT = 2  # of the dict; a release reads every format up to its own
NEW = {"chunk_rows": 0, "chunk_first": 0, "draws": 0, "sampling": "", "places": 0}  # keys that format 1 lacks

ELSEWHERE = {
    "data": "the data set, or the part of it",
    "spec": "what a window reads",
    "windows": "the number of windows",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What a run needs to go on: its order, where it stands, and what it was made for.

    Parameters
    ----------
    order : str
        Name and version of the order.
    lanes, active_blocks, rotate, span, block_rows, chunk_rows, chunk_first : int
        The order's resolved parameters (`windowloader.order.order.PARAMETERS`). On load they win over what the
        loader would choose.
    grid : str
        Hash of the block borders where they are irregular, the last of them; of states of format 1 always.
    draws, sampling, places : int, str, int
        Of weighted sampling and of patches: 0 and "" without.
    seed : int
    epoch, step, pass_number, cursor : int
        See `windowloader.order.shard.Position`.
    global_batch : int
        For information: a run may go on with any multiple of its lanes.
    windows : int
        How many windows there are.
    spec, data : str
        Hashes of the window specification, and of the shape of data and windows.
    stamp : str
        Hash of the data's ETag or modification time, "" where unknown. Another one only warns.

    Raises
    ------
    StateError
        For numbers outside their range or an order that this release does not have.

    Examples
    --------
    >>> from windowloader.order.order import GlobalOrder
    >>> from windowloader.order.shard import Steps
    >>> steps = Steps(GlobalOrder(100, seed=7), 32)
    >>> state = RunState.of(steps, steps.advance(steps.start(2), 3), spec="5eed", data="f00d")
    >>> state.epoch, state.cursor, RunState.from_dict(state.to_dict()) == state
    (2, 96, True)
    """

    order: str
    lanes: int
    active_blocks: int
    rotate: int
    span: int
    block_rows: int
    chunk_rows: int = 0
    chunk_first: int = 0
    grid: str
    draws: int = 0
    sampling: str = ""
    places: int = 0
    seed: int
    epoch: int
    step: int
    pass_number: int
    cursor: int
    global_batch: int
    windows: int
    spec: str
    data: str
    stamp: str = ""

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise StateError(
                f"the state was written by order {self.order!r}; this release has {', '.join(ORDERS)}. "
                "Install the release that wrote it, or a later one."
            )
        if not 0 <= self.seed < 1 << 128:
            raise StateError(f"the state has seed={self.seed}, outside [0, 2**128): it is damaged.")
        for name in ("epoch", "step", "pass_number"):
            if not 0 <= getattr(self, name) < 1 << 32:
                raise StateError(
                    f"the state has {name}={getattr(self, name)}, outside [0, 2**32): it is damaged."
                )
        if not 0 <= self.cursor <= self.windows:
            raise StateError(
                f"the state has cursor={self.cursor}, outside [0, {self.windows}]: it is damaged."
            )
        if self.lanes < 1 or self.global_batch < 1 or self.global_batch % self.lanes:
            raise StateError(
                f"the state has global_batch={self.global_batch} in lanes={self.lanes}, which do not go "
                "together: it is damaged."
            )

    @classmethod
    def of(cls, steps: Steps, position: Position, *, spec: str, data: str, stamp: str = "") -> RunState:
        """Describe a position of a run.

        Parameters
        ----------
        steps : Steps
        position : Position
        spec, data, stamp : str
            Hashes, see the class.

        Returns
        -------
        RunState
        """
        parameters: dict[str, Any] = {**PARAMETERS, **steps.order.parameters}
        return cls(
            order=steps.order.name,
            **parameters,
            seed=steps.order.seed,
            epoch=position.epoch,
            step=position.step,
            pass_number=position.pass_number,
            cursor=position.cursor,
            global_batch=steps.global_batch,
            windows=steps.order.num_windows,
            spec=spec,
            data=data,
            stamp=stamp,
        )

    def to_dict(self) -> dict[str, int | str]:
        """Return the state as a flat dict for JSON, ``torch.save`` and checkpoints, ``format`` first."""
        return {"format": FORMAT} | {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> RunState:
        """Read what `to_dict` wrote.

        Parameters
        ----------
        state : mapping
            Integers may have become NumPy's or tensors of one element on the way.

        Returns
        -------
        RunState

        Raises
        ------
        StateError
            For another format, absent or unknown keys, values of another type or outside their range.
        """
        if not isinstance(state, Mapping):
            raise StateError(
                f"a {type(state).__name__} is no state. Pass the mapping that state_dict() returned; from a file, "
                "json.load(file) or torch.load(path)['loader']."
            )
        if state.get("format") == 1 and not set(NEW) & set(state):
            state = {**state, **NEW, "format": FORMAT}
        if state.get("format") != FORMAT or set(state) != {"format", *cls.__slots__}:
            cls._refuse_keys(state)
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = state[field.name]
            try:
                values[field.name] = operator.index(value) if field.type == "int" else _text(value)
            except TypeError:
                raise StateError(
                    f"the state has {field.name}={value!r}, which should be {field.type}: it is damaged."
                ) from None
        return cls(**values)

    @classmethod
    def _refuse_keys(cls, state: Mapping[str, Any]) -> None:
        """Say in what the keys are another format's, or none."""
        found = state.get("format")
        if found is None:
            raise StateError(
                f"this is no state of a loader: it has no 'format', its keys are {sorted(map(str, state))}. "
                "Pass what state_dict() returned."
            )
        absent = sorted({*cls.__slots__} - set(state))
        unknown = sorted(map(str, set(state) - {"format", *cls.__slots__}))
        raise StateError(
            f"the state has format {found}, this release reads formats 1 and {FORMAT}; absent keys: {absent}, "
            f"unknown keys: {unknown}. Install the release that wrote it, or pass the whole dict."
        )

    @property
    def borders(self) -> str | tuple[int, int]:
        """What block borders follow from, as `windowloader.order.grid.cut` takes it."""
        return (self.chunk_rows, self.chunk_first) if self.chunk_rows else self.grid

    @property
    def parameters(self) -> dict[str, int | str]:
        """The order's parameters, to make it again: keys of `windowloader.order.order.PARAMETERS`."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def check(self, present: RunState) -> None:
        """Refuse to go on with other data or windows than the state's.

        Parameters
        ----------
        present : RunState
            Of the run that would go on, at any position. Its seed and its order's parameters may differ: the
            state's win. Its order's kind may not: time order and shuffled order are what the user asked for.

        Raises
        ------
        StateError
            Naming all that differs and what to do.

        Warns
        -----
        UserWarning
            Where only the stamp differs: the data were written or copied since.
        """
        differs = [
            f"{what} ({name} {getattr(self, name)!r} in the state, {getattr(present, name)!r} here)"
            for name, what in ELSEWHERE.items()
            if getattr(self, name) != getattr(present, name)
        ]
        if differs:
            raise StateError(
                f"the state belongs to another run; it differs in {', '.join(differs)}. Open the data, "
                "split them and make the windows as in that run, or start anew without the state."
            )
        if self.order.startswith("sequential") != present.order.startswith("sequential"):
            shuffled = not self.order.startswith("sequential")
            raise StateError(
                f"the state is of a run in order {self.order!r}, this one has {present.order!r}. "
                f"Pass shuffle={shuffled}, or start anew without the state."
            )
        if self.stamp and present.stamp and self.stamp != present.stamp:
            warnings.warn(
                f"the data were written or copied since the state was (stamp {self.stamp!r} there, "
                f"{present.stamp!r} here). Their shape is the same; the run goes on.",
                UserWarning,
                stacklevel=2,
            )

    def position(self, steps: Steps) -> Position:
        """Return where a run with these steps goes on.

        Parameters
        ----------
        steps : Steps
            With the state's order; batch, ranks and ``uneven`` are free.

        Returns
        -------
        Position

        Raises
        ------
        StateError
            Where the order is not the state's, or the state needs ``steps_per_epoch``.
        """
        order = steps.order
        here = (
            {"order": order.name, "windows": order.num_windows, "seed": order.seed}
            | PARAMETERS
            | order.parameters
        )
        if self.grid and not self.chunk_rows:  # of format 1, or irregular
            here |= {"chunk_rows": 0, "chunk_first": 0, "grid": order.grid_hash}
        differs = [
            f"{name}={getattr(self, name)!r} in the state, {value!r} here"
            for name, value in here.items()
            if getattr(self, name) != value
        ]
        if differs:
            raise StateError(
                f"the state's order cannot be made here: {'; '.join(differs)}. Where only the grid differs, "
                "the data have other chunks than where it was written: open the same files, or start anew."
            )
        if steps.steps_per_epoch is None and self.pass_number != self.epoch:
            raise StateError(
                f"the state is in pass {self.pass_number} of the data in epoch {self.epoch}: it was "
                "written with steps_per_epoch. Pass steps_per_epoch= here too."
            )
        return Position(epoch=self.epoch, step=self.step, pass_number=self.pass_number, cursor=self.cursor)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
