"""Large long tables in mapped files: in ``cache_dir``, where the next process finds them, or in a temporary folder.

In: Parquet files. Out: `LongTable`. Several processes may open a table at once: one makes its files, and goes on from
the last state where an earlier one was killed. A folder of another user is refused.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from windowloader.errors import SourceChangedError, SourceError
from windowloader.util.calendars import Times
from windowloader.util.units import format_bytes

from .base import Description, digest
from .handles import Stamp
from .mapping import Region
from .memory import MappedSource
from .table_passes import count_entities, described, load, save, scatter, sort

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .base import Source
    from .table_files import TableOptions

__all__ = ["LongTable", "in_a_file"]

log = logging.getLogger("windowloader")


class LongTable(NamedTuple):
    """A long table that is open.

    Parameters
    ----------
    source : Source
        Axes ``tf``: entities end to end, rising in time within each.
    borders : ndarray, shape (entity + 1,), int64
        First row of each entity, and the end.
    names : ndarray, shape (entity,)
        Ids as in the table, in the order of their first rows.
    static : mapping of str to ndarray, shape (entity,)
        Columns that do not change within an entity: numbers or text.
    """

    source: Source
    borders: np.ndarray
    names: np.ndarray
    static: Mapping[str, np.ndarray]


class LongSource(MappedSource):
    """The rows of a large table in a mapped file, which is as good as any other that was made of the same table."""

    def __init__(self, region: Region, state: str, **array: Any) -> None:
        self._state = state
        super().__init__(region, axes="tf", **array)

    def fingerprint(self) -> str:
        """Shape, dtype and what the table was made of."""
        return digest(self.axes, self.shape, self.dtype.str, self._state)


@dataclass(frozen=True, slots=True)
class StoredTimes(Description):
    """Names of features, and times in a mapped file."""

    features: np.ndarray
    region: Region
    zone: str

    def labels(self, dim: int) -> np.ndarray | None:
        """Names of the features."""
        return self.features if dim == 1 else None

    def timestamps(self) -> np.ndarray:
        """Return the times of the rows, mapped."""
        return Times(self.region.map(), self.zone)


def in_a_file(parts: Sequence[Any], asked: TableOptions, name: str, cache_dir: str | None) -> LongTable:
    """Open the file of a table, made if it is not there: other processes wait until it is."""
    state = [part.identity() for part in parts]
    key = digest(repr(asked), [part.path for part in parts])
    folder = Path(
        tempfile.mkdtemp(prefix="windowloader-") if cache_dir is None else _folder(cache_dir, key, state)
    )
    used = os.open(folder / "used", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(used, fcntl.LOCK_SH)  # until the source goes
        with open(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            table = _read(folder) or _build(folder, parts, asked, name, state)
        rows, features = int(table["borders"][-1]), table["features"]
        dtype = table["like"].dtype
        regions = [
            Region.packed(Stamp.of(folder / file), offset=0, shape=shape, dtype=kind)
            for file, shape, kind in (("values", (rows, len(features)), dtype), ("times", (rows,), np.int64))
        ]
        description = StoredTimes(features, regions[1], str(table["zone"]))
        source = LongSource(regions[0], digest(state, key), name=name, description=description)
    except BaseException:
        _close(used, folder if cache_dir is None else None, os.getpid())
        raise
    weakref.finalize(source, _close, used, folder if cache_dir is None else None, os.getpid())
    static = {one.removeprefix("static."): table[one] for one in table if one.startswith("static.")}
    return LongTable(source, table["borders"], table["names"], static)


def _folder(cache_dir: str, key: str, state: Any) -> str:
    """Make the folder of a table in its present state, and remove those of other states that nobody uses."""
    folder = Path(cache_dir, f"long-table.{key}.{digest(state)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SourceError(f"{str(folder)!r} is not a folder of this user alone. Choose another cache_dir=.")
    for other in folder.parent.glob(f"long-table.{key}.*"):
        with suppress(OSError):
            if other != folder:
                with open(os.open(other / "used", os.O_RDWR | os.O_NOFOLLOW)) as used:
                    fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(other)
    return str(folder)


def _read(folder: Path) -> dict[str, np.ndarray] | None:
    """Read what describes a table; None where it is not complete."""
    if (table := load(folder / "table.npz")) is None:
        return None
    sizes = [os.path.getsize(file) if (file := folder / name).exists() else 0 for name in ("values", "times")]
    rows, row_bytes = int(table["borders"][-1]), len(table["features"]) * table["like"].dtype.itemsize
    return table if sizes == [rows * row_bytes, rows * 8] else None


def _build(
    folder: Path, parts: Sequence[Any], asked: TableOptions, name: str, state: Any
) -> dict[str, np.ndarray]:
    """Write the files of a table and return what `_read` reads; its file tells that all are complete."""
    log.info("%s is sorted by %s into %s", name, asked.entity, folder)
    found, saved = count_entities(parts, asked, name), folder / "progress.npz"
    rows = int(found.counts.sum())
    values = _allocated(folder / "values", found.dtype, (rows, len(found.features)))
    times = _allocated(folder / "times", np.dtype(np.int64), (rows,))
    zone = scatter(parts, asked, found, values, times, name, saved)
    saved.unlink(missing_ok=True)  # from a sort that was killed none goes on
    sort(values, times, found.borders)
    about = described(found, asked)
    about |= {f"static.{one}": column for one, column in about.pop("static").items()}
    features, like = np.asarray(found.features).astype(str), np.empty(0, found.dtype)
    about |= {"features": features, "like": like, "zone": np.array(zone)}
    if [part.identity() for part in parts] != state:
        raise SourceChangedError(f"{name!r} changed while it was read. Open it again.")
    save(folder / "table.npz", values, times, **about)
    return about


def _allocated(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> Any:
    """Map a file of a size for writing; its bytes are allocated, as a write to a full device would be a bus error."""
    size = dtype.itemsize * int(np.prod(shape))
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as file:
        try:
            os.truncate(file.fileno(), size)
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise SourceError(
                f"{format_bytes(size)} are needed in {str(path.parent)!r}: {error}. Give the folder of a larger disk, "
                "cache_dir= (or the environment's TMPDIR)."
            ) from error
    return np.memmap(path, dtype, "r+", shape=shape)


def _close(used: int, folder: Path | None, process: int) -> None:
    """Release a table, and remove a temporary one in the process that made it."""
    os.close(used)
    if folder is not None and os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
