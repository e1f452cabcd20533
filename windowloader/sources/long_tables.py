"""Long tables: one row a reading, an entity and a time beside it. Entities are laid end to end.

In: CSV or Parquet files or a frame, and the names of the two columns. Out: a source [row, feature] with
timestamps, the rows where each entity begins, and the entities' names. Never makes a grid of it: entities keep
their own lengths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError

from .base import Described, optional
from .handles import Stamp
from .memory import ArraySource, LoadedSource
from .tables import numbers, parse_times, read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LongArraySource", "LongFileSource", "open_long_table"]


@dataclass(frozen=True, slots=True)
class Entities(Described):
    """A description that also knows where each entity lies.

    Parameters
    ----------
    borders : ndarray, shape (entity + 1,), int64
        First row of each, and the end.
    names : ndarray, shape (entity,)
        As the table has them, in the order they first appear.
    """

    borders: np.ndarray | None = None
    names: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LongOptions:
    """How a long table is read.

    Parameters
    ----------
    entity, time : str
        Names of the columns.
    values : sequence of str, optional
        The features; None: all other columns.
    time_unit, time_format, header, sep : optional
        As for `windowloader.sources.tables.TableOptions`.
    """

    entity: str
    time: str
    values: Sequence[str] | None = None
    time_unit: str | None = None
    time_format: str | None = None
    header: bool | None = None
    sep: str | None = None

    def __call__(self, path: str) -> tuple[np.ndarray, Entities]:
        """Read a table."""
        frame = read_table(path, header=self.header, sep=self.sep)
        return lay_out(frame, self, os.path.basename(path))


class LongFileSource(LoadedSource):
    """A long table in a file; parsed again where it was pickled to."""

    @property
    def entity_borders(self) -> np.ndarray:
        """First row of each entity, and the end, shape (entity + 1,), int64."""
        borders: np.ndarray = self.loaded()[1].borders  # type: ignore[attr-defined]
        return borders

    @property
    def entity_names(self) -> np.ndarray:
        """Names of the entities, shape (entity,)."""
        names: np.ndarray = self.loaded()[1].names  # type: ignore[attr-defined]
        return names


class LongArraySource(ArraySource):
    """A long table that was in memory.

    Parameters
    ----------
    values : ndarray, shape (row, feature)
        Entities end to end.
    described : Entities
        Labels, timestamps, borders and names.
    """

    def __init__(self, values: np.ndarray, described: Entities) -> None:
        labels = described.labels(1)
        super().__init__(
            values, axes="tf", name="DataFrame", labels={1: labels}, timestamps=described.timestamps()
        )
        self.entity_borders, self.entity_names = described.borders, described.names


def open_long_table(
    target: Any, *, entity: str, time: str, values: Sequence[str] | None = None, **options: Any
) -> Any:
    """Open a table of one row a reading.

    Parameters
    ----------
    target : path-like or pandas.DataFrame, or a list of them
        CSV or Parquet; the rows of several are taken together.
    entity, time : str
        The columns that say whose a reading is and when it was.
    values : sequence of str, optional
        The columns of numbers to take; None: all others.
    **options
        See `LongOptions`.

    Returns
    -------
    LongFileSource or LongArraySource
        Axes ``tf``, sorted by time within an entity, with ``entity_borders`` and ``entity_names``.

    Raises
    ------
    SourceFormatError
        For columns that are not there or hold no numbers, and readings without entity or time.

    Examples
    --------
    >>> import pandas
    >>> table = pandas.DataFrame(
    ...     {"meter": ["b", "a", "b"], "utc": ["2020-01-02", "2020-01-01", "2020-01-01"], "kwh": [1.0, 2.0, 3.0]}
    ... )
    >>> source = open_long_table(table, entity="meter", time="utc")
    >>> source.entity_names, source.entity_borders, source.array().ravel()
    (array(['b', 'a'], dtype=...), array([0, 2, 3]), array([3., 1., 2.]))
    """
    asked = LongOptions(entity=entity, time=time, values=values, **options)
    if isinstance(target, str | os.PathLike):
        return LongFileSource(Stamp.of(target), asked, axes="tf")
    if isinstance(target, list | tuple):
        pandas = optional("pandas", extra="tables", purpose="opening a long table")
        parts = [
            read_table(os.fspath(part), header=asked.header, sep=asked.sep)
            if isinstance(part, str | os.PathLike)
            else part
            for part in target
        ]
        target = pandas.concat(parts, ignore_index=True)
    return LongArraySource(*lay_out(target, asked, "DataFrame"))


def lay_out(frame: Any, asked: LongOptions, name: str) -> tuple[np.ndarray, Entities]:
    """Rows by entity, and by time within, stable: what stands twice stays in the file's order."""
    import pandas

    wanted = [asked.entity, asked.time, *(asked.values or ())]
    if absent := [column for column in wanted if column not in frame.columns]:
        raise SourceFormatError(f"{name!r} has no columns {absent}; it has {list(frame.columns)[:20]}.")
    times = parse_times(
        frame[asked.time], f"{name}:{asked.time}", unit=asked.time_unit, form=asked.time_format
    )
    codes, names = pandas.factorize(frame[asked.entity])
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise SourceFormatError(
            f"row {row} of {name!r} has no {asked.entity!r}. Drop such rows, or name them."
        )
    rest = [column for column in frame.columns if column not in (asked.entity, asked.time)]
    values = frame[rest if asked.values is None else list(asked.values)]
    order = np.lexsort((times.view(np.int64), codes))
    borders = np.append(0, np.cumsum(np.bincount(codes, minlength=len(names)))).astype(np.int64)
    features, labels = np.asarray(values.columns).astype(str), np.asarray(names)
    labels = labels.astype(str) if labels.dtype.kind == "O" else labels
    return numbers(values, name)[order], Entities({1: features}, times[order], borders, labels)
