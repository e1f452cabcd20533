"""Opens a path, URL, array or collection of them as a series.

In: whatever `windowloader.sources` can open. Out: `Series`. Reads no values, except to sort a long table by
entity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from windowloader.errors import SeriesError
from windowloader.sources.processes import sharing
from windowloader.sources.registry import guarded

from .series import Series
from .variable import Opener

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

__all__ = ["open"]


@guarded
@sharing()
def open(
    target: Any,
    *,
    axes: str | Mapping[str, str] | None = None,
    variables: str | Sequence[str] | None = None,
    features: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    timestamps: Any = None,
    covariates: Mapping[str, Any] = {},
    graph: Any = None,
    segments: Any = None,
    missing: float | str | Mapping[str, float | str] | None = None,
    storage_options: Mapping[str, Any] = {},
    cache_dir: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
    entity: str | None = None,
    time: str | Sequence[str] | None = None,
    static: str | Sequence[str] = (),
    nodes: Any = None,
    **options: Any,
) -> Series:
    """Open a series from a path, a URL, arrays or frames.

    Parameters
    ----------
    target : path, URL, array, source, mapping or list
        A ``.npy``, raw, Zarr, HDF5, netCDF, npz, CSV, Parquet, Feather or Excel file, a folder or URL of such, an
        array, a frame of pandas, polars or Arrow, or an ``xarray`` object. A mapping of name to target is joined along
        features, by labels and times; a list or pattern of files along time, in the order of their times where all
        have some.
    axes : str or mapping of variable to str, optional
        One letter an axis: ``t`` time, ``n`` space (any number), ``f`` features (any number, folded into
        one). Default: dimension names, else ``tn`` or ``tnf``.
    variables : str or sequence of str, optional
        Which arrays of a store or mapping, joined along features in this order; or the name of a single array.
    features : sequence of str, or mapping of variable to such, optional
        Names of the features; default the variable's name, with the label of each where there are several.
    timestamps : array-like of moments, or tuple (start, freq), optional
        Time of each row, e.g. ``("2012-03-01", "5min")``; default: the timestamps of the file. Times are converted to
        UTC; the time zone of a pandas index is kept for the clock features.
    covariates : mapping of name to target or (target, axes)
        Arrays on axes of their own: ``tnf``, ``tn``, ``tf``, ``t``, ``nf``, ``n``. They are aligned by labels and
        times where both sides have some, else by position. Those without time are never scaled.
    graph : Graph, DynamicGraph, path, frame or square matrix, optional
        Aligned to the series' nodes where both have labels: re-ordered, other nodes left out.
    segments : array-like of int, shape (segment + 1,), optional
        First row of each segment, and the end: ``[0, …, num_steps]``. Windows cross none. Default: where time jumps
        (`Clock.jumps`); ``[0, num_steps]`` for none.
    missing : float, or mapping of variable to float, optional
        Value that marks missing cells: NaN or a sentinel; ``"fill_value"``: that of the array in its store. A single
        number applies to the series' own variables only.
    storage_options : mapping
        For the file system or bucket.
    cache_dir : path, optional
        Folder on this node, best on its fastest disk, to cache what is read from paths and URLs: each block is
        fetched once for all processes of the node, and later epochs read the cache. Files that can be mapped are
        not copied.
    cache_size : str or int, optional
        Limit for all arrays in ``cache_dir`` together, e.g. "200GB"; the least recently used are removed first.
        None: the free space of the disk.
    entity, time : str, optional
        Columns of a long table (CSV, Parquet) with the entity and the time of each reading. For other tables
        ``time`` is the column of timestamps, or several that form them: ``["date", "time"]``. Parquet files may be
        larger than memory: they are sorted by entity into a file, which stays in ``cache_dir`` or is temporary.
    static : str or sequence of str
        Columns of a long table that do not change within an entity, numbers or text: `Series.static`.
    nodes : array-like, optional
        Labels of the nodes; default: those of the file.
    **options
        Options of the kind of source: ``shape=``, ``dtype=``, ``offset=`` of raw files, ``member=`` of an npz; of
        tables ``time_format=``, ``time_unit=``, ``columns=``, and those of pandas: ``sep=``, ``header=``,
        ``decimal=``, ``thousands=``, ``encoding=``, ``dtype=``, ``na_values=``, ``sheet_name=`` and ``key=``.

    Returns
    -------
    Series

    Raises
    ------
    SourceFormatError
        For a target that is not an array; the message lists what can be opened.
    SourceNotFoundError
        Where nothing of that name exists.
    SeriesError, GraphError, AxesError
        Where parts do not fit; see `Series`.

    Examples
    --------
    >>> import numpy as np
    >>> open({"speed": np.zeros((9, 4)), "flow": np.ones((9, 4))}, timestamps=("2012-03-01", "5min"))
    Series('array': 9 steps × 4 nodes, features speed, flow; 2012-03-01T00:00:00 … 2012-03-01T00:40:00;
    memory)
    """
    entities = names = cache = folder = None
    fixed: Mapping[str, Any] = {}
    if cache_dir is not None:
        from windowloader.sources.disk_cache import DiskCache, check_folder
        from windowloader.util.units import parse_bytes

        folder = check_folder(cache_dir)
        limit = None if cache_size is None else parse_bytes(cache_size, name="cache_size")
        cache = DiskCache(folder, limit)
    elif cache_size is not None:
        raise SeriesError(f"cache_size={cache_size!r} limits cache_dir, which is not given.")
    if entity is not None:
        from windowloader.sources.table_long import open_long_table

        if time is None:
            raise SeriesError(
                f"entity={entity!r} opens a table of one reading per row, which needs the column of times too: time=…."
            )
        values = [variables] if isinstance(variables, str) else variables
        table = open_long_table(
            target, entity=entity, time=time, values=values, static=static, storage_options=storage_options,
            cache_dir=folder, **options,
        )  # fmt: skip
        target, entities, names, fixed = table
        variables, options = None, {}
    elif static:
        raise SeriesError(f"static={static!r} names columns of a long table, which needs entity= and time=.")
    elif time is not None:
        options["time"] = time
    return Series(
        target,
        axes=axes,
        variables=variables,
        features=features,
        timestamps=timestamps,
        covariates=covariates,
        graph=graph,
        segments=segments,
        missing=missing,
        nodes=nodes,
        entities=entities,
        entity_names=names,
        static=fixed,
        opener=Opener(storage_options, options, cache),
    )
