"""Conformance test for sources: holds a `windowloader.Source`, ours or yours, against the protocol and its values."""

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
from .sources.selected import SelectedSource
from .sources.storage import box_shape, within

if TYPE_CHECKING:
    from .sources.storage import Box

__all__ = ["check_source"]


def check_source(
    source: Source,
    expected: np.ndarray,
    *,
    timestamps: np.ndarray | None = None,
    changed: Source | None = None,
    pickled_bytes: int | None = 4096,
    fork: bool = True,
) -> None:
    """Check a source against the `windowloader.sources.Source` protocol.

    Parameters
    ----------
    source : Source
        The source under test.
    expected : ndarray
        All of its rows, time first, in the dtype it delivers.
    timestamps : ndarray of datetime64[ns], shape (time,), optional
        What `Source.timestamps` should return; None: nothing.
    changed : Source, optional
        The same source over other data, whose fingerprint must differ.
    pickled_bytes : int, optional
        Largest size of its pickle; None for arrays in memory, which are pickled with their values.
    fork : bool
        Whether to read in a forked child too.

    Raises
    ------
    AssertionError
        If the source differs from the protocol or from ``expected``.

    Examples
    --------
    >>> from windowloader.sources.memory import ArraySource
    >>> values = np.arange(6.0).reshape(3, 2)
    >>> check_source(ArraySource(values), values, pickled_bytes=None)
    """
    _check_form(source, expected, timestamps)
    rows = len(expected)
    marks = sorted({0, 1, rows // 3, rows // 2, rows - 1, rows} & set(range(rows + 1)))
    ranges = list(itertools.combinations_with_replacement(marks, 2))
    for (start, stop), by in itertools.product(ranges, ("read", "submit")):
        _read(source, expected, start, stop, by=by)
    third = (rows // 3, rows)
    shape = (rows - rows // 3, *expected.shape[1:])
    spaced = np.empty([2 * size for size in shape], source.dtype)[(slice(1, None, 2),) * len(shape)]
    for out in (spaced, np.empty(shape[::-1], source.dtype).transpose(), np.empty(shape, source.dtype)[::-1]):
        _read(source, expected, *third, out=out)
    for box, by in itertools.product(_boxes(source), ("read", "submit")):
        _read(source, expected, *third, box=box, by=by)
    if "t" in source.axes and expected.ndim > 1 and expected.size:
        places = {axis: [size - 1, 0] for axis, size in enumerate(expected.shape[1:], 1)}
        part = SelectedSource(source, along=places)
        _read(part, expected[np.ix_(range(rows), *places.values())], *third)
    outs = [np.empty((stop - start, *expected.shape[1:]), source.dtype) for start, stop in ranges]
    pending = [source.submit(*asked, out) for asked, out in zip(ranges, outs, strict=True)]
    for (start, stop), out, one in reversed(list(zip(ranges, outs, pending, strict=True))):
        one.result()
        _require(one.done(), "done() is False after result()")
        np.testing.assert_array_equal(out, expected[start:stop], err_msg="many reads at once")
    for start, stop in ((-1, 1), (0, rows + 1), (rows + 1, rows + 2)):
        _check_refusal(source, start, stop)
    source.close()  # threads now compete to open it
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda asked: _read(source, expected, *asked), ranges * 2))
    data = pickle.dumps(source)
    if pickled_bytes is not None:
        _require(len(data) <= pickled_bytes, f"it pickles to {len(data)} bytes, more than {pickled_bytes}")
    copy = pickle.loads(data)
    _require(copy.fingerprint() == source.fingerprint(), "pickling changes the fingerprint")
    _read(copy, expected, 0, rows)
    copy.close()
    if fork:
        _check_fork(source, expected)
    before = source.fingerprint()
    source.close()
    _read(source, expected, 0, rows)
    _require(source.fingerprint() == before, "close() changes the fingerprint")
    _require(changed is None or changed.fingerprint() != before, "other data have the same fingerprint")
    source.close()


def _require(holds: Any, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _check_form(source: Source, expected: np.ndarray, timestamps: np.ndarray | None) -> None:
    _require(isinstance(source, Source), f"{source!r} does not derive from windowloader.Source")
    _require(isinstance(source.name, str) and source.name, "the name is empty; error messages need it")
    _require(source.shape == expected.shape, f"shape {source.shape}, expected {expected.shape}")
    _require(source.dtype == expected.dtype, f"dtype {source.dtype}, expected {expected.dtype}")
    _require(len(source.axes) == len(source.shape), f"axes {source.axes!r} do not fit shape {source.shape}")
    _require(source.axes[0] == "t" or "t" not in source.axes, f"axes {source.axes!r} do not begin with t")
    for axis, size in enumerate(source.shape):
        labels = source.labels(axis)
        _require(labels is None or len(labels) == size, f"axis {axis} of size {size} has labels {labels}")
    found = source.timestamps()
    if timestamps is None:
        _require(found is None, f"timestamps {found} were not expected")
    else:
        _require(found is not None and found.dtype == "datetime64[ns]", f"timestamps are {found}")
        np.testing.assert_array_equal(found, timestamps)
    if (array := source.array()) is not None:
        np.testing.assert_array_equal(array, expected, err_msg="array()", strict=True)
    storage, row_bytes = source.storage(), math.prod(source.shape[1:]) * source.dtype.itemsize
    _require(
        storage.row_bytes == max(row_bytes, 1), f"storage().row_bytes is {storage.row_bytes}, not {row_bytes}"
    )
    if storage.edges is not None:
        edges = np.asarray(storage.edges)
        _require(edges.dtype == np.int64, f"edges of storage() are {edges.dtype}, not int64")
        _require(edges[0] == 0 and edges[-1] == len(expected), f"edges run from {edges[0]} to {edges[-1]}")


def _boxes(source: Source) -> list[Box]:
    """Return parts of the axes after the first that the source says it takes."""
    sizes = source.shape[1:]
    if "t" not in source.axes or not sizes or 0 in source.shape or source.boxes == "whole":
        return []
    boxes: list[Box] = [tuple(slice(size // 3, size) for size in sizes)]
    boxes.append((*(slice(0, size) for size in sizes[:-1]), slice(0, 1)))
    if source.boxes == "indices":
        boxes.append(tuple(np.arange(size - 1, -1, -2, dtype=np.int64)[::-1] for size in sizes))
    return boxes


def _read(
    source: Source,
    expected: np.ndarray,
    start: int,
    stop: int,
    *,
    box: Box | None = None,
    out: np.ndarray | None = None,
    by: str = "read",
) -> None:
    """Read rows, compare them, and compare the bytes that the read returns with those of ``storage()``."""
    sizes = source.shape[1:] if box is None else box_shape(box)
    rows = np.empty((stop - start, *sizes), source.dtype) if out is None else out
    rows[...] = np.ones((), source.dtype)  # former values must not pass for read ones
    asked = (start, stop, rows) if box is None else (start, stop, rows, box)
    size = source.read(*asked) if by == "read" else source.submit(*asked).result()
    where = f"rows [{start}, {stop}), box {box}, strides {rows.strides}, by {by}()"
    wanted = expected[start:stop] if box is None else within(expected[start:stop], box)
    np.testing.assert_array_equal(rows, wanted, err_msg=where)
    _require(isinstance(size, int), f"{where} returned {size!r}, not the bytes it read")
    if start < stop and 0 not in source.shape and source.tier != "cached":  # a cache may have them on disk
        cost = int(source.storage(box).cost([start], [stop]).bytes[0])
        _require(size == cost, f"{where} read {size} bytes; storage() says {cost}")


def _check_refusal(source: Source, start: int, stop: int) -> None:
    out = np.empty((stop - start, *source.shape[1:]), source.dtype)
    for read in (source.read, lambda *asked: source.submit(*asked).result()):
        try:
            read(start, stop, out)
        except (IndexError, ValueError, OSError) as error:
            _require(str(error), f"the error for rows [{start}, {stop}) has no message")
        else:
            raise AssertionError(
                f"rows [{start}, {stop}) of a source of {source.shape[0]} rows raised no error"
            )


def _check_fork(source: Source, expected: np.ndarray) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=_read, args=(source, expected, 0, len(expected))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is tested here
        child.start()
    child.join(60)
    code = child.exitcode
    child.kill()
    child.join()
    child.close()
    _require(code == 0, f"a forked child that read the source ended with exit code {code}")
