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
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import CorruptDataError

from .base import SourceOver, digest
from .box import box_shape, chunk_edges
from .joined import JoinedSource
from .mirror_form import Form
from .mirror_reads import MirrorRead
from .processes import PerProcess
from .reads import Done, begun

if TYPE_CHECKING:
    from .base import Source
    from .box import Box
    from .mirror import Mirror
    from .mirror_folder import EntryLease, MirrorFolder
    from .reads import Pending
    from .storage import Storage

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
        joined.times, joined.moved, joined.doubts = source.times, source.moved, source.doubts
        return joined
    if source.axes[:1] != "t" or 0 in source.shape or source.tier != "streamed":
        return source
    return CachedSource(source, folder, options=options)


class CachedSource(SourceOver):
    """A source and its mirror on this node.

    Parameters
    ----------
    source : Source
        What is kept.
    folder : MirrorFolder
        Where.
    options : str
        What else decides its values.
    box : tuple of slice or ndarray, optional
        What is kept of the axes after the first: parts that are read alone have a mirror of their own.
    state : str, optional
        What tells this state of the data from others, as `Source.state` says; None: it is asked.

    Examples
    --------
    >>> import tempfile
    >>> from windowloader.sources.memory import ArraySource
    >>> from windowloader.sources.mirror_folder import MirrorFolder
    >>> source = CachedSource(ArraySource(np.arange(12.0).reshape(6, 2)), MirrorFolder(tempfile.mkdtemp()))
    >>> rows = np.empty((2, 2))
    >>> taken = source.read(1, 3, rows)
    >>> rows[0].tolist(), bool(source.rows_held([0], [6]))
    ([2.0, 3.0], True)
    >>> source.close()
    """

    tier = "cached"

    def __init__(
        self,
        source: Source,
        folder: MirrorFolder,
        *,
        options: str = "",
        box: Box | None = None,
        state: str | None = None,
    ) -> None:
        self.source, self.folder, self.options, self._box = source, folder, options, box
        self._state = source.state() if state is None else state
        sizes = source.shape[1:] if box is None else box_shape(box)
        row_bytes = math.prod(sizes) * source.dtype.itemsize
        # Without chunks the blocks of the mirror are rows, so that no read ends within one; where rows are so small
        # that a table of them would be long, several, and then they count as chunks.
        chunked = source.storage(box).edges is not None
        self._rows = 0 if chunked else max(1, -(-BLOCK // max(row_bytes, 1)))
        shape = (source.shape[0], *sizes)
        super().__init__(source.name, shape=shape, dtype=source.dtype, axes=source.axes)
        self.boxes = source.boxes if box is None else "whole"
        self._parts: dict[bytes, CachedSource] = {}
        self._process: PerProcess[list[EntryLease | None]] = PerProcess()  # the last is in use

    # -- what it is ----------------------------------------------------------------------------------------------------

    def storage(self, box: Box | None = None) -> Storage:
        """Return that of the source, or of blocks of rows where it has no chunks."""
        if box is not None:
            return self._of_box(box).storage()
        inner = self.source.storage(*self._more)
        if self._rows > 1:
            inner = replace(inner, edges=chunk_edges(self.shape[0], self._rows))
        return replace(inner, split=False)

    @property
    def _more(self) -> tuple[Box, ...]:
        return () if self._box is None else (self._box,)

    def _of_box(self, box: Box) -> CachedSource:
        """Return the source of what a box holds, which keeps and fetches nothing else."""
        key = b"".join(repr(part).encode() if isinstance(part, slice) else part.tobytes() for part in box)
        if key not in self._parts:
            self._parts[key] = CachedSource(
                self.source, self.folder, options=self.options, box=box, state=self._state
            )
        return self._parts[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": {}}

    # -- reading -------------------------------------------------------------------------------------------------------

    def submit(self, start: int, stop: int, out: np.ndarray, box: Box | None = None) -> Pending:
        """Begin to read; blocks that are nowhere on this node are fetched from the source."""
        self.check_range(start, stop, out, box)
        if out.dtype != self.dtype:
            raise ValueError(f"rows of {self.name!r} are {self.dtype}, but out has dtype {out.dtype}.")
        if box is not None:
            return self._of_box(box).submit(start, stop, out)
        return self._begin(start, stop, out) if out.size else Done()

    def _begin(self, start: int, stop: int, out: np.ndarray) -> Pending:
        mirror = self.mirror()
        if mirror is None:
            return begun(self.source.submit(start, stop, out, *self._more), self.name)
        return MirrorRead(self.source, self._more, self.folder, mirror, (start, stop), out)

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

    def _open(self) -> EntryLease | None:
        edges = self.storage().edges
        if edges is None:
            edges = np.arange(self.shape[0] + 1, dtype=np.int64)
        state = digest(self.source.fingerprint(), self._state)
        parts = enumerate(self._box or ())
        chosen = [(axis, repr(part) if isinstance(part, slice) else part.tobytes()) for axis, part in parts]
        which = (self.name, self.axes, self.shape[1:], self.dtype.str, self.options, self.source.address())
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
        for part in self._parts.values():
            part.close()
        self.source.close()
