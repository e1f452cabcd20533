"""What every source of the package passes; for sources of your own too.

In: a source and the array it should hold. Out: nothing, or an `AssertionError` that says what differs. Never changes
the data.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from .sources import Source
from .sources.box import box_shape, within
from .sources.selected import SelectedSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .sources.box import Box

__all__ = ["check_source"]

REFUSALS = (IndexError, ValueError, OSError)  # what a source may raise for rows that are not there


def check_source(
    source: Source,
    expected: np.ndarray,
    *,
    timestamps: np.ndarray | None = None,
    changed: Source | None = None,
    pickled_bytes: int | None = 4096,
    fork: bool = True,
) -> None:
    """Hold a source against the `windowloader.sources.Source` protocol.

    Parameters
    ----------
    source : Source
        What is tested.
    expected : ndarray
        All of its rows, time first, in the dtype it delivers.
    timestamps : ndarray of datetime64[ns], shape (time,), optional
        What `Source.timestamps` should return; None: nothing.
    changed : Source, optional
        The same source over other data, whose fingerprint must differ.
    pickled_bytes : int, optional
        The most that a pickle may take; None for arrays in memory, whose values travel with them.
    fork : bool
        Whether a forked child reads too.

    Raises
    ------
    AssertionError
        Where the source differs from the protocol or from ``expected``.

    Examples
    --------
    >>> from windowloader.sources.memory import ArraySource
    >>> values = np.arange(6.0).reshape(3, 2)
    >>> check_source(ArraySource(values), values, pickled_bytes=None)
    """
    _check_form(source, expected, timestamps)
    _check_array(source, expected)
    _check_reads(source, expected)
    _check_refusals(source)
    _check_storage(source)
    _check_boxes(source, expected)
    _check_threads(source, expected)
    _check_pickle(source, expected, pickled_bytes)
    if fork:
        _check_fork(source, expected)
    before = source.fingerprint()
    source.close()
    _expect(source, expected, 0, len(expected), "after close()")
    _that(source.fingerprint() == before, f"the fingerprint of {source.name!r} is another after close()")
    if changed is not None:
        _that(
            changed.fingerprint() != before, f"other data have the fingerprint of {source.name!r}, {before}"
        )
    source.close()


def _that(holds: Any, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _check_form(source: Source, expected: np.ndarray, timestamps: np.ndarray | None) -> None:
    _that(isinstance(source, Source), f"{source!r} does not derive from windowloader.Source")
    _that(isinstance(source.name, str) and source.name, "the name is empty, and errors need it")
    _that(source.shape == expected.shape, f"shape {source.shape}, expected {expected.shape}")
    _that(all(type(size) is int for size in source.shape), f"sizes of {source.shape} are not all int")
    _that(source.dtype == expected.dtype, f"dtype {source.dtype}, expected {expected.dtype}")
    _that(source.dtype.isnative, f"dtype {source.dtype.str} is not in the machine's byte order")
    _that(len(source.axes) == len(source.shape), f"axes {source.axes!r} do not fit shape {source.shape}")
    _that(source.axes[0] == "t" or "t" not in source.axes, f"axes {source.axes!r} do not begin with t")
    for axis, size in enumerate(source.shape):
        labels = source.labels(axis)
        _that(
            labels is None or len(labels) == size, f"axis {axis} has {size} places and other labels: {labels}"
        )
    found = source.timestamps()
    if timestamps is None:
        _that(found is None, f"timestamps {found} where there are none")
    else:
        _that(found is not None and found.dtype == "datetime64[ns]", f"timestamps are {found}")
        np.testing.assert_array_equal(found, timestamps)


def _check_array(source: Source, expected: np.ndarray) -> None:
    array = source.array()
    if array is not None:
        _that(
            array.dtype == source.dtype and array.shape == source.shape,
            f"array() is {array.dtype} {array.shape}",
        )
        np.testing.assert_array_equal(array, expected)


def _ranges(rows: int) -> Iterator[tuple[int, int]]:
    """Ranges worth a try: none, one, all, and some from within."""
    marks = sorted({0, 1, rows // 3, rows // 2, rows - 1, rows} & set(range(rows + 1)))
    return itertools.combinations_with_replacement(marks, 2)


def _outs(shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Arrays to read into: packed, with gaps, in Fortran order, with its axes turned, backwards."""
    yield np.empty(shape, dtype)
    yield np.empty((*shape[:-1], shape[-1] * 2 + 1), dtype)[..., 1::2]
    yield np.empty((shape[0] * 3, *shape[1:]), dtype)[::3]
    yield np.empty(shape, dtype, order="F")
    yield np.empty(shape[::-1], dtype).transpose()
    yield np.empty(shape, dtype)[::-1]


def _expect(
    source: Source, expected: np.ndarray, start: int, stop: int, when: str, out: np.ndarray | None = None
) -> None:
    rows = np.empty((stop - start, *source.shape[1:]), source.dtype) if out is None else out
    rows[...] = np.ones((), source.dtype)  # what was there before must not show
    _count(source, start, stop, None, source.read(start, stop, rows))
    np.testing.assert_array_equal(rows, expected[start:stop], err_msg=f"rows [{start}, {stop}) {when}")


def _check_reads(source: Source, expected: np.ndarray) -> None:
    for start, stop in _ranges(len(expected)):
        _expect(source, expected, start, stop, "by read()")
        rows = np.ones((stop - start, *source.shape[1:]), source.dtype)
        pending = source.submit(start, stop, rows)
        _count(source, start, stop, None, pending.result())
        _that(pending.done(), "done() is False after result()")
        np.testing.assert_array_equal(
            rows, expected[start:stop], err_msg=f"rows [{start}, {stop}) by submit()"
        )
    start, stop = len(expected) // 3, len(expected)
    for out in _outs((stop - start, *source.shape[1:]), source.dtype):
        _expect(source, expected, start, stop, f"into strides {out.strides}", out)
    asked = list(_ranges(len(expected)))
    outs = [np.ones((stop - start, *source.shape[1:]), source.dtype) for start, stop in asked]
    pendings = [source.submit(*rows, out) for rows, out in zip(asked, outs, strict=True)]
    for (start, stop), out, pending in reversed(list(zip(asked, outs, pendings, strict=True))):
        pending.result()
        np.testing.assert_array_equal(
            out, expected[start:stop], err_msg=f"rows [{start}, {stop}) of many reads at once"
        )


def _check_refusals(source: Source) -> None:
    rows = source.shape[0]
    for start, stop in ((-1, 1), (0, rows + 1), (rows + 1, rows + 2)):
        _refuses(source, start, stop, np.empty((stop - start, *source.shape[1:]), source.dtype))
    if rows:
        _refuses(source, 0, rows, np.empty((0, *source.shape[1:]), source.dtype))


def _refuses(source: Source, start: int, stop: int, out: np.ndarray) -> None:
    for how in ("read()", "submit()"):
        try:
            if how == "read()":
                source.read(start, stop, out)
            else:
                source.submit(start, stop, out).result()
        except REFUSALS as error:
            _that(str(error), f"the error for rows [{start}, {stop}) by {how} says nothing")
        else:
            raise AssertionError(f"rows [{start}, {stop}) into shape {out.shape} by {how} raised nothing")


def _count(source: Source, start: int, stop: int, box: Box | None, size: object) -> None:
    """Hold the bytes that a read says it took against what `Source.storage` says it takes."""
    if not isinstance(size, int):
        raise AssertionError(f"a read returned {size!r}, not the bytes that it took")  # noqa: TRY004
    if start == stop or 0 in source.shape or source.tier == "cached":  # which may have it here
        return
    told = int(source.storage(box).cost([start], [stop]).bytes[0])
    _that(
        size == told, f"rows [{start}, {stop}), box {box}: the read took {size} bytes, storage() says {told}"
    )


def _check_storage(source: Source) -> None:
    storage = source.storage()
    size = math.prod(source.shape[1:]) * source.dtype.itemsize
    _that(
        storage.row_bytes == max(size, 1), f"storage() has {storage.row_bytes} bytes a row; a row has {size}"
    )
    if source.chunks is not None:
        _that(len(source.chunks) == len(source.shape), f"chunks {source.chunks} do not fit {source.shape}")
    if (edges := storage.edges) is not None:
        _that(edges.dtype == np.int64, f"edges are {edges.dtype}")
        _that(edges[0] == 0 and edges[-1] == source.shape[0], f"edges run from {edges[0]} to {edges[-1]}")


def _check_boxes(source: Source, expected: np.ndarray) -> None:
    """Read parts of the axes after the first: as the source takes them, and picked from what it reads."""
    sizes = expected.shape[1:]
    if "t" not in source.axes or not sizes or 0 in expected.shape:
        return
    boxes: list[Box] = []
    if source.boxes != "whole":
        boxes.append(tuple(slice(size // 3, size) for size in sizes))
        boxes.append((*(slice(0, size) for size in sizes[:-1]), slice(0, 1)))
    if source.boxes == "indices":
        boxes.append(tuple(np.arange(size - 1, -1, -2, dtype=np.int64)[::-1] for size in sizes))
    start, stop = len(expected) // 3, len(expected)
    for box in boxes:
        rows = np.ones((stop - start, *box_shape(box)), source.dtype)
        _count(source, start, stop, box, source.read(start, stop, rows, box))
        np.testing.assert_array_equal(rows, within(expected[start:stop], box), err_msg=f"box {box}")
        source.submit(start, stop, rows, box).result()
    picked = {axis: [size - 1, 0] for axis, size in enumerate(sizes, 1)}
    part = SelectedSource(source, along=picked)
    rows = np.empty((stop - start, *part.shape[1:]), source.dtype)
    part.read(start, stop, rows)
    np.testing.assert_array_equal(rows, expected[start:stop][np.ix_(range(stop - start), *picked.values())])


def _check_threads(source: Source, expected: np.ndarray) -> None:
    source.close()  # so that threads race to open it, too
    ranges = [rows for rows in _ranges(len(expected)) if rows[0] < rows[1]] * 2
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(_expect, source, expected, *rows, "from several threads") for rows in ranges]
        for read in reads:
            read.result()


def _check_pickle(source: Source, expected: np.ndarray, pickled_bytes: int | None) -> None:
    data = pickle.dumps(source)
    if pickled_bytes is not None:
        _that(
            len(data) <= pickled_bytes,
            f"{source.name!r} pickles to {len(data)} bytes; {pickled_bytes} would do",
        )
    copy = pickle.loads(data)
    _that(copy.fingerprint() == source.fingerprint(), "the fingerprint is another after pickling")
    _expect(copy, expected, 0, len(expected), "after pickling")
    copy.close()


def _check_fork(source: Source, expected: np.ndarray) -> None:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_expect, args=(source, expected, 0, len(expected), "after a fork"))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # threads of libraries; what may go wrong is the test
        child.start()
    child.join(60)
    if child.exitcode is None:
        child.kill()
        child.join()
    code = child.exitcode
    child.close()
    _that(code == 0, f"a forked child that read {source.name!r} ended with exit code {code}")
