"""Which arrays a Zarr or N5 store holds, from its metadata alone.

In: `Keys`. Out: `ArrayInfo` for each array: shape, dtype, grid, dimension names, attributes; and the one that is
meant. Never reads values.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.axes import TIME_NAMES
from windowloader.errors import SourceFormatError, SourceNotFoundError

from .cf import is_time
from .handles import nearby

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .keys import Keys, Value

__all__ = ["ArrayInfo", "Catalog", "read_catalog"]

DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zmetadata", ".zgroup", "attributes.json")


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """One array as its metadata describe it.

    Parameters
    ----------
    path : str
        Below the store; empty where the store is the array.
    driver : str
        ``zarr``, ``zarr3`` or ``n5``: TensorStore's words.
    shape : tuple of int
    dtype : numpy.dtype or None
        As delivered, native byte order; None where values are no numbers.
    chunks : tuple of int
        What is read at once: the inner chunk of a shard.
    shards : tuple of int or None
        What is one object where that is larger than a chunk.
    itemsize : int
        Bytes of a stored number.
    exact : bool
        Whether a chunk's stored size is known: nothing is compressed.
    dims : tuple of str or None
    attributes : mapping
    fill_value : number, text or None
        What cells hold that were never written.
    identity : str
        Changes when the metadata do.
    """

    path: str
    driver: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    itemsize: int = 0
    exact: bool = False
    dims: tuple[str, ...] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    fill_value: Any = None
    identity: str = ""

    @property
    def mark(self) -> Any:
        """Fill value where it stands for "nothing here": in Zarr 2, where xarray alone names dimensions."""
        return self.fill_value if self.driver == "zarr" and self.dims else None


@dataclass(frozen=True, slots=True)
class Catalog:
    """The arrays of a store.

    Parameters
    ----------
    name : str
        Of the store.
    arrays : mapping of str to ArrayInfo
        By path.
    single : bool
        Whether the store is one array.
    """

    name: str
    arrays: Mapping[str, ArrayInfo]
    single: bool

    def coordinate(self, array: ArrayInfo, dim: str) -> ArrayInfo | None:
        """Return the one-dimensional array that labels a dimension: the nearest of that name."""
        folder = array.path
        while folder:
            folder = folder.rpartition("/")[0]
            found = self.arrays.get(f"{folder}/{dim}" if folder else dim)
            if found is not None and len(found.shape) == 1 and found is not array:
                return found
        return None

    def times(self, array: ArrayInfo, dim: str) -> ArrayInfo | None:
        """Return the array with the times along a dimension: that of its name, else another that CF knows as time."""
        named, folder = self.coordinate(array, dim), array.path.rpartition("/")[0]
        if named is not None and (named.dtype is None or is_time(named.attributes)):
            return named
        beside = [
            found
            for path, found in self.arrays.items()
            if found.dims == (dim,) and path.rpartition("/")[0] == folder and is_time(found.attributes)
        ]
        return next((found for found in beside if found.attributes.get("standard_name") == "time"), named)

    def dims(self, array: ArrayInfo) -> tuple[str, ...] | None:
        """Return dimension names, with ``time`` for the one whose coordinate counts time, whatever it is called."""
        if array.dims is None or any(dim.lower() in TIME_NAMES for dim in array.dims):
            return array.dims
        coordinates = [self.coordinate(array, dim) for dim in array.dims]
        times = [found is not None and is_time(found.attributes) for found in coordinates]
        if sum(times) != 1:
            return array.dims
        return tuple("time" if hit else dim for dim, hit in zip(array.dims, times, strict=True))

    def variables(self) -> tuple[str, ...]:
        """Return paths of the arrays that can be windows' values: numbers along time, no coordinates.

        Examples
        --------
        >>> speed = ArrayInfo("speed", "zarr3", (9, 4), np.dtype("f4"), (3, 4), dims=("time", "sensor"))
        >>> time = ArrayInfo("time", "zarr3", (9,), np.dtype("i8"), (9,), dims=("time",))
        >>> Catalog("a.zarr", {"speed": speed, "time": time}, single=False).variables()
        ('speed',)
        """
        numbers = {path: array for path, array in self.arrays.items() if array.dtype is not None}
        labels = {coordinate for array in self.arrays.values() for coordinate in _coordinates(array)}
        values = {
            path: array
            for path, array in numbers.items()
            if path.rpartition("/")[2] not in (array.dims or ()) and path.rpartition("/")[2] not in labels
        }
        timed = [path for path, array in values.items() if "time" in _lower(self.dims(array))]
        timed = timed or [
            path for path, array in values.items() if set(_lower(self.dims(array))) & TIME_NAMES
        ]
        plain = [path for path, array in values.items() if len(array.shape) > 1]
        return tuple(timed or [path for path in plain if values[path].dims is None] or plain)

    def choose(self, variable: str | None) -> ArrayInfo:
        """Return the array asked for, or the only one along time.

        Raises
        ------
        SourceFormatError
            Where there are several, or none, or the one asked for is not numbers.
        SourceNotFoundError
            Where there is none of that name.
        """
        found = self.variables()
        if variable is None:
            if self.single:
                return self._numbers(self.arrays[""])
            if len(found) == 1:
                return self.arrays[found[0]]
            listed = ", ".join(map(repr, found or self.arrays)) or "nothing"
            raise SourceFormatError(
                f"{self.name!r} holds {len(found) or 'no'} arrays along time: {listed}. "
                "Choose one or several with variables=[…] in wl.open (one, with variable=, where a source is opened by "
                "itself)."
            )
        path = variable.strip("/")
        if path in self.arrays:
            return self._numbers(self.arrays[path])
        listed = ", ".join(map(repr, found or self.arrays)) or "no arrays"
        raise SourceNotFoundError(f"{self.name!r} has no array {variable!r}; there are {listed}.")

    def _numbers(self, array: ArrayInfo) -> ArrayInfo:
        if array.dtype is None:
            raise SourceFormatError(
                f"{self.name!r}: {array.path or 'the array'} holds no numbers; windows are made of numbers."
            )
        return array


def _lower(dims: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(dim.lower() for dim in dims or ())


def _coordinates(array: ArrayInfo) -> list[str]:
    named = [
        str(array.attributes.get(key, "")) for key in ("coordinates", "bounds", "grid_mapping", "climatology")
    ]
    return " ".join(named).split()


def read_catalog(keys: Keys, variable: str | None = None) -> Catalog:
    """Return the arrays of a store.

    Parameters
    ----------
    keys : Keys
        Of the store.
    variable : str, optional
        The array that is asked for: then a store without consolidated metadata need not be listed.

    Returns
    -------
    Catalog

    Raises
    ------
    SourceNotFoundError
        Where there is no metadata at all.
    """
    documents = dict(zip(DOCUMENTS, keys.get(DOCUMENTS), strict=True))
    if (single := _array("", documents)) is not None:
        return Catalog(keys.name, {"": single}, single=True)
    if not any(documents.values()):
        check = getattr(keys, "check_bucket", None)
        if check is not None:
            check()
        if os.path.isabs(keys.name) and not os.path.exists(keys.name):
            raise SourceNotFoundError(f"{keys.name!r} does not exist. {nearby(keys.name)}")
        raise SourceNotFoundError(
            f"{keys.name!r} holds no Zarr or N5 metadata (none of {', '.join(DOCUMENTS)}). Check the path; "
            "is it the store itself, and was it written to its end?"
        )
    arrays = _consolidated(documents)
    if arrays is None or (variable is not None and variable.strip("/") not in arrays):
        arrays = {**(arrays or {}), **_listed(keys, variable)}
    return Catalog(keys.name, arrays, single=False)


def _listed(keys: Keys, variable: str | None) -> dict[str, ArrayInfo]:
    """Read nodes one by one: the variable, then what labels its dimensions; or all there are."""
    if variable is None:
        return _nodes(keys, keys.nodes())
    path = variable.strip("/")
    found = _nodes(keys, [path])
    if path not in found:
        return {}
    folder = path.rpartition("/")[0]
    dims = found[path].dims or ()
    return found | _nodes(keys, [f"{folder}/{dim}" if folder else dim for dim in dims])


def _nodes(keys: Keys, paths: Sequence[str]) -> dict[str, ArrayInfo]:
    names = ("zarr.json", ".zarray", ".zattrs", "attributes.json")
    values = keys.get([f"{path}/{name}".lstrip("/") for path in paths for name in names])
    found = {}
    for number, path in enumerate(paths):
        documents = dict(zip(names, values[number * 4 : number * 4 + 4], strict=True))
        if (array := _array(path, documents)) is not None:
            found[path] = array
    return found


def _consolidated(documents: Mapping[str, Value | None]) -> dict[str, ArrayInfo] | None:
    """Arrays by the group's own list of all metadata, or None where it has none."""
    found = {}
    if (value := documents.get("zarr.json")) is not None:
        inner = (_json(value).get("consolidated_metadata") or {}).get("metadata")
        if inner is None:
            return None
        for path, node in inner.items():
            if node.get("node_type") == "array":
                found[path] = _zarr3(path, node, _identity(value, path))
        return found
    if (value := documents.get(".zmetadata")) is None:
        return None
    inner = _json(value)["metadata"]
    for key, node in inner.items():
        path, _, name = key.rpartition("/")
        if name == ".zarray":
            attributes = inner.get(f"{path}/.zattrs" if path else ".zattrs", {})
            found[path] = _zarr2(path, node, attributes, _identity(value, path))
    return found


def _array(path: str, documents: Mapping[str, Value | None]) -> ArrayInfo | None:
    if (value := documents.get("zarr.json")) is not None:
        node = _json(value)
        return _zarr3(path, node, _identity(value)) if node.get("node_type") == "array" else None
    if (value := documents.get(".zarray")) is not None:
        attributes = documents.get(".zattrs")
        return _zarr2(path, _json(value), _json(attributes) if attributes else {}, _identity(value))
    if (value := documents.get("attributes.json")) is not None and "dimensions" in (node := _json(value)):
        return _n5(path, node, _identity(value))
    return None


def _json(value: Value) -> dict[str, Any]:
    try:
        document = json.loads(value.data)
    except ValueError as error:
        raise SourceFormatError(
            f"metadata are not JSON ({error}); was the store written to its end?"
        ) from error
    return document if isinstance(document, dict) else {}


def _identity(value: Value, *more: str) -> str:
    parts = repr((value.data, value.generation, more)).encode()
    return hashlib.blake2b(parts, digest_size=8).hexdigest()


def _number_type(name: object) -> tuple[np.dtype | None, int]:
    """Dtype as delivered, and stored bytes; bfloat16, which numpy lacks, is delivered as float32."""
    if name == "bfloat16":
        return np.dtype(np.float32), 2
    try:
        dtype = np.dtype(name)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return None, 1
    known = dtype.kind in "biuf" and dtype.itemsize <= 8
    return (dtype.newbyteorder("=") if known else None), dtype.itemsize


def _zarr3(path: str, node: Mapping[str, Any], identity: str) -> ArrayInfo:
    dtype, itemsize = _number_type(node["data_type"]) if isinstance(node["data_type"], str) else (None, 1)
    grid = node.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape") or node["shape"]
    chunks, shards = tuple(grid), None
    codecs = node.get("codecs", [])
    for codec in codecs:
        if codec.get("name") == "sharding_indexed":
            shards, chunks = chunks, tuple(codec["configuration"]["chunk_shape"])
            codecs = codec["configuration"].get("codecs", [])
    plain = all(codec.get("name") in ("bytes", "endian", "transpose", "crc32c") for codec in codecs)
    dims = node.get("dimension_names")
    named = None if not dims or None in dims else tuple(dims)
    attributes = node.get("attributes") or {}
    return ArrayInfo(path, "zarr3", tuple(node["shape"]), dtype, chunks, shards, itemsize, plain, named, attributes,
                     node.get("fill_value"), identity)  # fmt: skip


def _zarr2(path: str, node: Mapping[str, Any], attributes: Mapping[str, Any], identity: str) -> ArrayInfo:
    dtype, itemsize = _number_type(node["dtype"]) if isinstance(node["dtype"], str) else (None, 1)
    dims = attributes.get("_ARRAY_DIMENSIONS")
    plain = node.get("compressor") is None and not node.get("filters")
    fill = node.get("fill_value")
    named = tuple(dims) if dims else None
    return ArrayInfo(path, "zarr", tuple(node["shape"]), dtype, tuple(node["chunks"]), None, itemsize, plain, named,
                     attributes, fill, identity)  # fmt: skip


def _n5(path: str, node: Mapping[str, Any], identity: str) -> ArrayInfo:
    dtype, itemsize = _number_type(node["dataType"])
    axes = node.get("axes")
    plain = (node.get("compression") or {}).get("type") == "raw"
    named = tuple(axes) if axes and all(axes) else None
    return ArrayInfo(path, "n5", tuple(node["dimensions"]), dtype, tuple(node["blockSize"]), None, itemsize, plain,
                     named, node, None, identity)  # fmt: skip


def chunk_bytes(array: ArrayInfo) -> int:
    """Bytes of one chunk as decoded; with `ArrayInfo.exact`, about as stored.

    Examples
    --------
    >>> chunk_bytes(ArrayInfo("", "zarr3", (9, 4), np.dtype("f4"), (3, 4), itemsize=4))
    48
    """
    return math.prod(array.chunks) * array.itemsize
