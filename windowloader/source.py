"""What a source is: an array of rows along time that can be read by row range.

In: nothing; this is the protocol the families in ``sources/`` meet. Out: `Source`. Never knows of windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .sources.base import LocalSource, digest  # for whoever writes one

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LocalSource", "Pending", "Request", "Source", "digest"]


class Pending(Protocol):
    """A read under way.

    One that knows may also have ``add_done_callback(call)``, which calls ``call(pending)`` once `done` has become
    true, and ``overdue()``, whether it has waited longer than its source allows. Others are waited for in turn.
    """

    def result(self, timeout: float | None = None) -> object:
        """Wait until the rows stand in ``out``; raise what the read raised."""

    def done(self) -> bool:
        """Whether `result` would return at once."""


class Request(Protocol):
    """One request to storage that reading rows causes: counted by plans, and by servers in tests."""

    @property
    def bytes(self) -> int:
        """Bytes it moves, as stored where that is known, else as decoded."""


@runtime_checkable
class Source(Protocol):
    """An array whose first axis is time, readable by row range.

    Whatever the order of axes in storage, ``t`` comes first here; the other letters keep their order.
    Instances pickle small, open their handles lazily, once per process, and reopen after a fork.

    Attributes
    ----------
    name : str
        Path, URL or description, for messages.
    axes : str
        Letters of `shape`; the first is ``t`` (a source without time, for static covariates, has none).
    shape : tuple of int
        In the order of `axes`.
    dtype : numpy.dtype
        Native byte order; what `read` delivers.
    chunks : tuple of int or None
        Storage grid in the order of `axes`; None where every range of rows costs alike.

    One whose rows lie in memory or in a local file, though `array` cannot show them, says so by an attribute ``tier``,
    "memory" or "mapped": then a shuffle is a permutation of all windows, as for arrays.
    """

    name: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...] | None

    def array(self) -> np.ndarray | None:
        """Return an addressable array of `shape` and `dtype` (in memory or mapped), or None where rows must be read."""

    def read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Read rows ``[start, stop)`` into ``out``, shape (stop - start, *shape[1:]), any strides, dtype `dtype`."""

    def submit(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Begin `read` and return at once. ``out`` must stay alive until the result.

        A request cannot be called back: after a read that failed, by `SourceTimeoutError` above all, do not use ``out``
        again. Its rows may still be written.
        """

    def edges(self) -> np.ndarray | None:
        """Rows where a storage chunk begins, with 0 and the end, int64, rising; None where `chunks` is None."""

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis of `shape` as the file has them (sensor ids, latitudes, feature names), or None."""

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, datetime64[ns], if the file has them."""

    def fingerprint(self) -> str:
        """Short text that changes when the data do: shape, dtype, and size and mtime or ETag; reads no values."""

    def close(self) -> None:
        """Let go of handles; a later read opens them again."""
