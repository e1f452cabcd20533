"""A source whose rows are kept on this node: fetched once, by whichever process asks first, then read from a file.

In: a source that must be read, and a `MirrorFolder`. Out: `CachedSource`, with the same rows, edges, labels and
fingerprint, so that order and state are those of the source itself. Never fetches a block that is whole on this node.

A read asks the mirror for its blocks. Those that are there are copied, those that nobody fetches are claimed and
fetched, straight into the caller's array where they lie in it whole, and those that another process is fetching are
waited for, as long as it lives. `rows_held` and `mapped` let a loader gather from the file itself once all that it
needs is there: decided anew for each epoch, so that the first runs through blocks and the later ones mapped.
"""

from __future__ import annotations

import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError

from .base import LocalSource, complete, digest
from .joined import JoinedSource
from .mirror_form import Form
from .mirror_reads import MirrorRead
from .mirror_state import place_of, state_of
from .processes import PerProcess
from .reads import Done
from .tiers import tier_of

if TYPE_CHECKING:
    from windowloader.source import Pending, Source

    from .mirror import Mirror
    from .mirror_folder import Lease, MirrorFolder

__all__ = ["CachedSource", "cached"]

TRIES = 4  # to bring rows to a mirror that somebody else changes
BLOCK = 64 << 10  # bytes of a block, where storage has no chunks


def cached(source: Source, folder: MirrorFolder, *, options: str = "") -> Source:
    """Keep a source's rows on this node, part by part where it is joined along time; one that is here already stays.

    Parameters
    ----------
    source : Source
        From a path or URL: its fingerprint tells whether the data changed.
    folder : MirrorFolder
        Where to keep them.
    options : str
        What else decides its values.

    Returns
    -------
    Source
    """
    if isinstance(source, JoinedSource):
        with ThreadPoolExecutor(8) as pool:  # each asks storage what state it is in
            joined = JoinedSource(
                list(pool.map(lambda part: cached(part, folder, options=options), source.parts))
            )
        joined.times, joined.moved = source.times, source.moved
        return joined
    if source.axes[:1] != "t" or 0 in source.shape or tier_of(source) != "streamed":
        return source
    kind = CuttableSource if complete(source).can_take else CachedSource
    return kind(source, folder, options=options)


class CachedSource(LocalSource):
    """A source and its mirror on this node.

    Parameters
    ----------
    source : Source
        What is kept.
    folder : MirrorFolder
        Where.
    options : str
        What else decides its values.
    state : str, optional
        What tells this state of the data from others, as `mirror_state.state_of` says; None: it is asked.

    Examples
    --------
    >>> import tempfile
    >>> from windowloader.sources.memory import ArraySource
    >>> from windowloader.sources.mirror_folder import MirrorFolder
    >>> source = CachedSource(ArraySource(np.arange(12.0).reshape(6, 2)), MirrorFolder(tempfile.mkdtemp()))
    >>> rows = np.empty((2, 2))
    >>> source.read(1, 3, rows)
    >>> rows[0].tolist(), bool(source.rows_held([0], [6]))
    ([2.0, 3.0], True)
    >>> source.close()
    """

    tier = "cached"

    def __init__(
        self, source: Source, folder: MirrorFolder, *, options: str = "", state: str | None = None
    ) -> None:
        self.source, self.folder, self.options = complete(source), folder, options
        self.state = state_of(source) if state is None else state
        row_bytes = int(np.prod(source.shape[1:], dtype=np.int64)) * source.dtype.itemsize
        # Without chunks the blocks of the mirror are rows, so that no read ends within one; where rows are so small
        # that a table of them would be long, several, and then they are this source's chunks.
        self._rows = 0 if source.chunks is not None else max(1, -(-BLOCK // max(row_bytes, 1)))
        grid = (self._rows, *source.shape[1:]) if self._rows > 1 else source.chunks
        super().__init__(source.name, shape=source.shape, dtype=source.dtype, axes=source.axes, chunks=grid)
        self.fill_value = self.source.fill_value
        self._process: PerProcess[list[Lease | None]] = PerProcess()  # the last is in use

    @property
    def inner(self) -> LocalSource:
        """The source, whose chunks are fetched."""
        return self.source

    # -- what it is ----------------------------------------------------------------------------------------------------

    def edges(self) -> np.ndarray | None:
        """Rows where a block of the mirror begins that is more than a row: the source's own edges where it has any."""
        return super().edges() if self._rows else self.source.edges()

    def labels(self, axis: int) -> np.ndarray | None:
        """Labels along an axis of `shape`, or None."""
        return self.source.labels(axis)

    def timestamps(self) -> np.ndarray | None:
        """Timestamps of the rows, or None."""
        return self.source.timestamps()

    def fingerprint(self) -> str:
        """Fingerprint of the source: the mirror makes no difference to a run."""
        return self.source.fingerprint()

    def requests(self, start: int, stop: int) -> np.ndarray:
        """Bytes of each request that fetching rows ``[start, stop)`` makes, where nothing of them is kept yet."""
        asked: np.ndarray = self.source.requests(start, stop)  # type: ignore[attr-defined]
        return asked

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        self._begin(start, stop, out).result()

    def submit(self, start: int, stop: int, out: np.ndarray) -> Pending:
        """Begin to read; blocks that are nowhere on this node are fetched from the source."""
        self.check_range(start, stop, out)
        if out.dtype != self.dtype:
            raise ValueError(f"rows of {self.name!r} are {self.dtype}, but out has dtype {out.dtype}.")
        return self._begin(start, stop, out) if out.size else Done()

    def _begin(self, start: int, stop: int, out: np.ndarray) -> Pending:
        mirror = self.mirror()
        if mirror is None:
            return self.source.submit(start, stop, out)
        return MirrorRead(self.source, self.folder, mirror, (start, stop), out)

    def mirror(self) -> Mirror | None:
        """Return the mirror as this process has it open; None where the folder is read-only and has none."""
        leases = self._process.get(lambda: [self._open()])
        lease = leases[-1]
        if lease is not None and not lease.mirror.intact():
            warnings.warn(
                f"the files in {lease.mirror.folder} were changed by somebody else; what this cache has of "
                f"{self.name!r} is dropped and fetched again.",
                stacklevel=2,
            )
            lease = self._open()
            leases.append(lease)  # the others stay open: another thread may be reading from them
        return None if lease is None else lease.mirror

    def _open(self) -> Lease | None:
        edges = self.edges()
        if edges is None:
            edges = np.arange(self.shape[0] + 1, dtype=np.int64)
        state = digest(self.source.fingerprint(), self.state)
        chosen = [(dim, index.tobytes()) for dim, index in sorted(self.source.selection.items())]
        which = (self.name, self.axes, self.shape[1:], self.dtype.str, self.options, place_of(self.source))
        key = digest(*which, chosen)
        salt = int.from_bytes(hashlib.blake2b(f"{key} {state}".encode(), digest_size=8).digest(), "little")
        form = Form(self.name, self.shape, self.dtype, edges, salt)
        lease = self.folder.open(form, key=key, fingerprint=state)
        if lease is None:
            warnings.warn(
                f"cache_dir={self.folder.path!r} is read-only and has nothing of {self.name!r}; it is streamed "
                "without a mirror.",
                stacklevel=2,
            )
        return lease

    # -- mapped --------------------------------------------------------------------------------------------------------

    def rows_held(self, begin: Any, end: Any) -> bool:
        """Whether rows ``[begin, end)`` are all on this node.

        Parameters
        ----------
        begin, end : array_like of int, shape (n,)
            Ranges of rows, none of them empty.

        Returns
        -------
        bool
        """
        mirror = self.mirror()
        if mirror is None:
            return False
        missing = np.append(0, np.cumsum(~mirror.held()))
        edges = mirror.form.edges
        first = np.searchsorted(edges, begin, "right") - 1
        last = np.searchsorted(edges, end, "left")
        return bool((missing[last] == missing[first]).all())

    def require(self, begin: np.ndarray, end: np.ndarray) -> tuple[Mirror, int]:
        """Return a mirror that has rows ``[begin, end)``: compared once a process, fetched where absent.

        Parameters
        ----------
        begin, end : ndarray, shape (n,), int64
            Ranges of rows, none of them empty.

        Returns
        -------
        mirror : Mirror
            Of its ``rows`` only these may be looked at, and used if it says afterwards that it still has them.
        seen : int
            For `Mirror.unwritten`.

        Raises
        ------
        CorruptDataError
            Where the mirror does not keep them.
        """
        for _ in range(TRIES):
            mirror = self.mirror()
            if mirror is None:
                break
            seen = mirror.seen
            if mirror.has(begin, end):
                return mirror, seen
            for low, high in mirror.spans(begin, end):
                if not mirror.check(low, high):
                    edges = mirror.form.edges
                    rows = np.empty((int(edges[high] - edges[low]), *self.shape[1:]), self.dtype)
                    self.read(int(edges[low]), int(edges[high]), rows)
        raise CorruptDataError(
            f"rows of {self.name!r} cannot be kept in {self.folder.path}, which somebody else changes or has made "
            "read-only. Leave cache_dir= out, or choose another folder."
        )

    def close(self) -> None:
        """Let go of the source and of the mirror; a later read opens them again."""
        for lease in self._process.drop() or ():
            if lease is not None:
                lease.close()
        self.source.close()


class CuttableSource(CachedSource):
    """A cached source of which some nodes can be had alone: they get a mirror of their own, and no more is fetched."""

    can_take = True

    def take(self, axis: int, index: np.ndarray) -> CuttableSource:
        """Return a source of some positions along an axis, as `windowloader.sources.chunked.ChunkedSource` does.

        Parameters
        ----------
        axis : int
            Of `shape`, not the rows.
        index : ndarray, int64
            Positions, in the order they are wanted.

        Returns
        -------
        CuttableSource
        """
        taken: Source = self.source.take(axis, index)  # type: ignore[attr-defined]
        return CuttableSource(taken, self.folder, options=self.options, state=self.state)
