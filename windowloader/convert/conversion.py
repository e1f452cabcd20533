"""Convert a series to Zarr or ``.npy``, laid out for windows.

In: a `Series`, or anything `windowloader.open` takes. Out: a store under its final name, whole and checked, and
`Conversion`, which says what it cost. Never leaves half a result under the final name; a killed conversion goes on.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import ConversionError
from windowloader.series.series import Series
from windowloader.sources.base import digest
from windowloader.util.units import parse_bytes

from .layout import Access
from .places import SUFFIXES, LocalPlace, exists, unknown_kind
from .report import ArrayReport, Conversion, report, told
from .sizing import size_pieces
from .targets import npy_target, zarr_targets
from .work import Work
from .zarr_form import codecs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .places import Place
    from .targets import ArrayTarget

__all__ = ["ArrayReport", "Conversion", "convert"]

ONE_SLASH = re.compile(r"(s3|gs|https?|file):/(?!/)")

FORM = 1  # of checksums
JOURNAL = 2  # form of journals


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
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Conversion:
    """Write a series to a Zarr 3 store or a ``.npy`` file.

    Killed at any moment, the same call goes on with what is done: finished pieces are in a journal beside the result,
    with checksums. At the end all is read back; then a local result is renamed at once, and one in a bucket gets the
    documents (``zarr.json``) without which nobody finds it.

    Parameters
    ----------
    source : Series, or what `windowloader.open` takes
        A list of files is joined along time.
    destination : path or URL
        Ending in ``.npy``: one array, which can be mapped. Else a Zarr store with coordinates, which xarray opens;
        it may be in a bucket, ``s3://`` or ``gs://``.
    chunks : int or sequence of int, optional
        Rows of a chunk, or all its sizes; None: by a model of what access costs (`windowloader.convert.layout`).
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
        Replace a file or a Zarr store of that name when the new one is whole. On this machine at once, and it may be
        the source. In a bucket it is gone while the new one is copied into its place.
    storage_options : mapping, optional
        Of the bucket, as `windowloader.open` takes them; also used to open ``source``, unless that is a `Series`.
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
    place = place_of(destination, storage_options)
    place.check(overwrite=overwrite)
    series = _series(source, storage_options)
    place.check_source(series)
    targets: tuple[ArrayTarget, ...]
    if place.npy:
        if chunks is not None or shards:
            raise ConversionError(
                "a .npy file has neither chunks nor shards. Leave them out, or convert to Zarr."
            )
        targets = (npy_target(series, dtype=dtype),)
    else:
        access = Access(span=_at_least_one("span", span))
        targets = zarr_targets(series, dtype=dtype, chunks=chunks, shards=shards, access=access)
        codecs_of(compression, np.dtype(np.float32))  # a wrong name is an error now
    sizing = size_pieces(targets, memory=budget, threads=_threads(threads), copies=place.copies)
    head = json.dumps([FORM, compression, [target.describe() for target in targets]])
    if restart:
        place.restart()
    store = place.store(targets, compression)
    with place.journal(_identity(series, targets, head)) as journal:
        done = next((record for record in journal.records[::-1] if "done" in record), None)
        if place.taken():
            if done is not None and place.holds(done["mark"]):  # killed between the new name and the end
                place.clear()
                journal.remove()
                return told(done["done"], began)
            if not overwrite:
                if not journal.records:
                    journal.remove()
                raise exists(place.name)
        work = Work(targets, store, journal, sizing, progress)
        work.run(verify=verify)
        store.finish(series.clock)
        made = report(place.name, series, work, head, began)
        journal.write({"done": made.to_dict(), "mark": place.mark()})
        place.publish(journal, overwrite=overwrite, check=work.check if verify else None)
        place.clear()
        journal.remove()
    return made


def _series(source: Any, storage_options: Mapping[str, Any] | None) -> Series:
    if not isinstance(source, Series):
        from windowloader.series.opening import open as open_series

        source = open_series(source, storage_options=storage_options or {})
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


def _identity(series: Series, targets: Sequence[ArrayTarget], head: str) -> str:
    labels = [
        (dim, digest(found.astype(str).tolist()))
        for target in targets
        for dim, found in target.labels.items()
    ]
    marks = [str(target.encoding.mark) for target in targets]
    attributes = [sorted(target.attributes.items()) for target in targets]
    return digest(JOURNAL, series.fingerprint(), head, labels, marks, attributes)


def place_of(destination: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> Place:
    """Return the place that a path or URL names.

    Raises
    ------
    ConversionError
        For a name that says nothing that can be made, or a store that takes no writes.
    """
    text = os.fspath(destination)
    if (typed := ONE_SLASH.match(text)) is not None:
        raise ConversionError(f"{text!r}: a URL has two slashes, {typed[1]}://…")
    if "://" in text and not text.startswith("file://"):
        from .bucket_place import bucket_place

        return bucket_place(text, storage_options)
    path = Path(text.removeprefix("file://")).expanduser().absolute()
    if path.suffix not in SUFFIXES:
        raise unknown_kind(text, path.suffix)
    return LocalPlace(path)
