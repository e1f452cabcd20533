"""Convert a series to Zarr or ``.npy``, laid out for windows.

In: a `Series`, or anything `windowloader.open` takes. Out: a store under its final name, whole and checked, and
`Conversion`, which says what it cost. Never leaves half a result under the final name; a killed conversion goes on.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import ConversionError
from windowloader.series.series import Series
from windowloader.sources.base import digest
from windowloader.sources.executors import check_executor
from windowloader.util.units import parse_bytes

from .places import destination_of
from .report import ArrayReport, Conversion, report
from .stores import ZarrStore, codecs_of
from .targets import npy_target, zarr_targets
from .work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from .targets import ArrayTarget

__all__ = ["ArrayReport", "Conversion", "convert"]

FORM = 1  # of checksums


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
    executor: Executor | None = None,
    verify: bool = True,
    restart: bool = False,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Conversion:
    """Write a series to a Zarr 3 store or a ``.npy`` file.

    Killed at any moment, the same call goes on: chunks that exist are read back and kept if they are whole. At the end
    everything is read back; then a local result is renamed at once, and one in a bucket gets the documents
    (``zarr.json``) without which readers do not find it.

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
        Pieces that are read and written at a time. None: up to 4; with an executor one for each CPU of this machine.
    executor : concurrent.futures.Executor, optional
        What works on the pieces: processes, or a cluster's workers, which open source and destination by themselves
        and need the package and the same paths. None: threads of this process. The result is the same to the bit.
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
    place = destination_of(destination, storage_options)
    series = _series(source, storage_options)
    place.check(series, overwrite=overwrite)
    if place.npy:
        if chunks is not None or shards:
            raise ConversionError(
                "a .npy file has neither chunks nor shards. Leave them out, or convert to Zarr."
            )
        targets: Sequence[ArrayTarget] = (npy_target(series, dtype=dtype),)
    else:
        span = _at_least_one("span", span)
        targets = zarr_targets(series, dtype=dtype, span=span, chunks=chunks, shards=shards)
        codecs_of(compression, np.dtype(np.float32))  # a wrong name is an error now
    check_executor(executor, (targets, place.objects))
    cores = os.cpu_count() or 1
    default = min(4, cores) if executor is None else cores
    at_once = default if threads is None else _at_least_one("threads", threads)
    work = Work(targets, parse_bytes(memory), at_once, place.copies, executor, progress)
    head = json.dumps([FORM, compression, [target.describe() for target in targets]])
    mark = f".windowloader-{_identity(series, targets, head)}"
    with place.begin(mark, restart=restart) as resumes:
        store = place.store(compression)
        work.run(store, resumes=resumes)
        if verify:
            work.check(store)
        documents = store.finish(work.targets, series.clock)
        again = (lambda objects: work.check(ZarrStore(objects, compression))) if verify else None
        place.publish(documents, mark, overwrite=overwrite, check=again)
    return report(place.name, series, work, head, began)


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


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ConversionError(f"{name}={value}: must be 1 or more.")
    return int(value)


def _identity(series: Series, targets: Sequence[ArrayTarget], head: str) -> str:
    labels = [
        (dim, digest(found.astype(str).tolist()))
        for target in targets
        for dim, found in target.labels.items()
    ]
    marks = [str(target.encoding.mark) for target in targets]
    attributes = [sorted(target.attributes.items()) for target in targets]
    return digest(series.fingerprint(), head, labels, marks, attributes)
