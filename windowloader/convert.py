"""Convert a series to Zarr or ``.npy``, laid out for windows.

In: a `Series`, or anything `windowloader.open` takes. Out: a store under its final name, whole and checked, and
`Conversion`, which says what it cost. Never leaves half a result under the final name; a killed conversion goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .conversion.journal import Journal
from .conversion.layout import Access
from .conversion.report import ArrayReport, Conversion, report, told
from .conversion.stores import NpyStore, ZarrStore, codecs_of
from .conversion.targets import npy_target, zarr_targets
from .conversion.work import Work, size_pieces
from .errors import ConversionError
from .series import Series
from .sources.base import digest
from .units import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .conversion.stores import Store
    from .conversion.targets import Target

__all__ = ["ArrayReport", "Conversion", "convert"]

FORM = 1  # of journals and checksums


def convert(
    source: Any,
    destination: str | os.PathLike[str],
    *,
    chunks: int | Sequence[int] | None = None,
    shards: int | Sequence[int] | bool | None = None,
    dtype: str | None = None,
    compression: str = "lz4",
    span: int = 24,
    memory: str | int = "1GiB",
    threads: int | None = None,
    verify: bool = True,
    restart: bool = False,
    overwrite: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> Conversion:
    """Write a series to a Zarr 3 store or a ``.npy`` file.

    Killed at any moment, the same call goes on with what is done: finished pieces are in a journal beside the
    temporary name, with checksums. At the end all is read back, and renamed at once.

    Parameters
    ----------
    source : Series, or what `windowloader.open` takes
        A list of files is joined along time.
    destination : path
        Ending in ``.npy``: one array, which can be mapped. Else a Zarr store with coordinates, which xarray opens.
    chunks : int or sequence of int, optional
        Rows of a chunk, or all its sizes; None: by a model of what access costs (`windowloader.conversion.layout`).
    shards : int, sequence of int or bool, optional
        Several chunks in one object: rows, all sizes, or whether. None: where there would be over 4,096 objects.
    dtype : {"float64", "float32", "float16", "int16"}, optional
        None: as it is. "int16" is scaled from the smallest to the largest value; missing becomes NaN.
    compression : str
        Of Zarr: "lz4", "zstd", "gzip", "none"; with a level if wanted, "zstd:9".
    span : int
        Rows of the windows that will be read, for the model.
    memory : str or int
        For the whole process, about.
    threads : int, optional
        None: up to 4.
    verify : bool
        Read everything back and compare.
    restart : bool
        Throw away what an earlier conversion to this destination has done.
    overwrite : bool
        Replace a file or a Zarr store of that name, at once when the new one is whole; it may be the source.
    progress : callable, optional
        Called with a phase ("scan", "write", "check"), bytes done, bytes in all.

    Returns
    -------
    Conversion

    Raises
    ------
    ConversionError
        Where the destination exists, is being written, or cannot hold the series; the message says what to do.
    MemoryBudgetError
        Where the memory does not hold the rows of one chunk or shard.

    Examples
    --------
    >>> import tempfile, windowloader as wl
    >>> series = wl.Series(np.arange(600.0).reshape(200, 3), timestamps=("2012-03-01", "5min"))
    >>> made = convert(series, tempfile.mkdtemp() + "/speed.zarr", dtype="float32")
    >>> wl.open(made.path)
    Series('...value': 200 steps × 3 nodes, features value; 2012-03-01T00:00:00 … 2012-03-01T16:35:00; streamed)
    """
    began = time.perf_counter()
    budget = parse_bytes(memory)
    path, temporary, journal_path = _paths(destination, overwrite=overwrite)
    series = _series(source)
    targets: tuple[Target, ...]
    store: Store
    if path.suffix == ".npy":
        if chunks is not None or shards:
            raise ConversionError(
                "a .npy file has neither chunks nor shards. Leave them out, or convert to Zarr."
            )
        targets = (npy_target(series, dtype=dtype),)
        store = NpyStore(temporary, targets[0])
    else:
        access = Access(span=_at_least_one("span", span))
        targets = zarr_targets(series, dtype=dtype, chunks=chunks, shards=shards, access=access)
        codecs_of(compression, np.dtype(np.float32))  # a wrong name is an error now
        store = ZarrStore(temporary, targets, compression)
    sizing = size_pieces(targets, memory=budget, threads=_threads(threads))
    head = json.dumps([FORM, compression, [target.describe() for target in targets]])
    if restart:
        _throw_away(temporary, journal_path)
    with Journal(journal_path, _identity(series, targets, head)) as journal:
        done = next((record for record in journal.records[::-1] if "done" in record), None)
        if path.exists():
            if (
                done is not None and path.stat().st_ino == done["inode"]
            ):  # killed between the rename and the end
                _throw_away(temporary, None)
                journal.remove()
                return told(done["done"], began)
            if not overwrite:
                journal.remove()
                raise _exists(path)
        work = Work(targets, store, journal, sizing, progress)
        work.run(verify=verify)
        store.finish(series.clock)
        made = report(path, series, work, head, began)
        journal.write({"done": made.to_dict(), "inode": temporary.stat().st_ino})
        _sync(path.parent)
        _publish(store, path, overwrite=overwrite)
        _sync(path.parent)
        journal.remove()
    return made


def _paths(destination: str | os.PathLike[str], *, overwrite: bool) -> tuple[Path, Path, Path]:
    """Return final name, temporary name, journal."""
    text = os.fspath(destination)
    if "://" in text and not text.startswith("file://"):
        raise ConversionError(
            f"{text!r} is not on this machine, and objects of a bucket cannot be given their names all at once. "
            "Convert to a local path, then copy the store, its zarr.json files last (e.g. by 'aws s3 sync')."
        )
    path = Path(text.removeprefix("file://")).expanduser().absolute()
    if path.suffix not in (".npy", ".zarr", ".zarr3", ""):
        raise ConversionError(
            f"{text!r}: what is made is told by the name, .zarr or .npy; {path.suffix!r} is neither."
        )
    if not path.parent.is_dir():
        raise ConversionError(f"{text!r}: there is no folder {str(path.parent)!r}. Make it first.")
    temporary = path.with_name(f"{path.name}.partial")
    journal = path.with_name(f"{path.name}.partial.journal")
    if path.exists() and not journal.exists() and not overwrite:
        raise _exists(path)
    if path.exists() and overwrite:
        _check_replaceable(path)
    return path, temporary, journal


def _exists(path: Path) -> ConversionError:
    return ConversionError(
        f"{str(path)!r} exists. Choose another name, or pass overwrite=True (--overwrite), which replaces it once the "
        "new one is whole."
    )


def _check_replaceable(path: Path) -> None:
    """Refuse to replace what no conversion would have made."""
    if path.suffix == ".npy":
        fits = path.is_file()
    else:
        fits = path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
    if not fits:
        kind = "a file" if path.suffix == ".npy" else "a Zarr store"
        raise ConversionError(
            f"{str(path)!r} exists and is not {kind}, so it is not replaced. Remove it, or choose another name."
        )


def _series(source: Any) -> Series:
    if not isinstance(source, Series):
        from .opening import open as open_series

        source = open_series(source)
    series: Series = source
    if series.entity_borders is not None:
        raise ConversionError(
            "series of several entities, which lie end to end, have no form in Zarr or .npy that keeps them apart. "
            "Convert the series of each entity, or keep the table (Parquet)."
        )
    if series.num_steps == 0:
        raise ConversionError(f"{series.name!r} has no rows.")
    return series


def _threads(threads: int | None) -> int:
    return min(4, os.cpu_count() or 1) if threads is None else _at_least_one("threads", threads)


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ConversionError(f"{name}={value}: 1 or more.")
    return int(value)


def _identity(series: Series, targets: Sequence[Target], head: str) -> str:
    labels = [
        (dim, digest(found.astype(str).tolist()))
        for target in targets
        for dim, found in target.labels.items()
    ]
    marks = [str(target.encoding.mark) for target in targets]
    attributes = [sorted(target.attributes.items()) for target in targets]
    return digest(series.fingerprint(), head, labels, marks, attributes)


def _throw_away(temporary: Path, journal: Path | None) -> None:
    if journal is not None and journal.exists():
        try:
            Journal(journal, "").close()  # held by a process that is at work?
        except ConversionError as error:
            if "another process" in str(error):
                raise
        journal.unlink()
    if temporary.is_dir():
        shutil.rmtree(temporary)
    else:
        temporary.unlink(missing_ok=True)


def _publish(store: Store, path: Path, *, overwrite: bool) -> None:
    try:
        store.publish(path, overwrite=overwrite)
    except OSError as error:
        raise ConversionError(f"{str(path)!r} cannot be given its name: {error}") from error


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
