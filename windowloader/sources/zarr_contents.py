"""Which arrays a Zarr store holds and what they mean: zarr-python reads the metadata, xarray interprets them.

In: a path, a URL, or a store, group or array of zarr-python. Out: `ZarrContents`. Metadata are read once: in two or
three requests if they are consolidated, else those of the arrays that are named, else of all, by listing folders.
Never reads the chunks of a variable.
"""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import StorePath

from windowloader.errors import SourceFormatError, SourceNotFoundError, WindowLoaderError, hide_secrets
from windowloader.util.axes import check_shape

from .base import digest
from .bounded import bounded
from .description import Contents, opened, split_path
from .failures import Asked, explained
from .handles import Stamp
from .options import locate, supported
from .packing import plain
from .processes import tensorstore
from .remote_objects import check_bucket, own_headers_stay, wait_for
from .zarr_stores import TensorStoreStore, check_grids, fsspec_store, store_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .options import Location

__all__ = ["Place", "ZarrContents", "open_tensorstore", "place_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """A node of a store, below which arrays are looked for; called, it opens them.

    Parameters
    ----------
    node : zarr.storage.StorePath
        What zarr-python reads.
    name : str
        For messages.
    key : tuple
        Equal for the same place.
    location : Location or None
        Of the node, if TensorStore reads the store.
    """

    node: Any = field(compare=False)
    name: str
    key: tuple[Any, ...] = field(repr=False)
    location: Location | None = field(default=None, compare=False)

    def __call__(self) -> ZarrContents:
        """Open what is below."""
        return ZarrContents(self)

    def parent(self) -> tuple[Place, str]:
        """Return the node one step up, and the name of this one in it; no name if there is none."""
        key, above = (*self.key, ".."), self.location and self.location.parent()
        path, name = split_path(self.node.path if self.location is None else self.location.path)
        store = self.node.store if above is None else store_of(above)
        node = StorePath(store, path if above is None else "")
        return Place(node, self.name.removesuffix(f"/{name}"), key, above), name


def place_of(target: Any, storage_options: Mapping[str, Any] | None = None) -> Place:
    """Return where a path, URL, or object of zarr-python points."""
    if isinstance(target, zarr.Array | zarr.Group | Store):
        node = StorePath(target) if isinstance(target, Store) else target.store_path
        name = str(node).rstrip("/")
        name = f"<{type(target).__name__}>" if " object at " in name else name
        return Place(node, name, (id(node.store), node.path))
    key = (os.fspath(target), repr(storage_options))
    if supported(target):
        location = locate(target, storage_options)
        return Place(StorePath(store_of(location)), location.url, key, location)
    options, name = own_headers_stay(storage_options), str(target)
    store = explained(Asked(name), lambda: fsspec_store(name, options))
    return Place(StorePath(store), hide_secrets(name).rstrip("/"), key)


class ZarrContents(Contents):
    """The arrays below a place.

    Dimensions without a name, and those of an array that disagrees with the sizes of others of the same name, are
    called ``phony_dim_…``: they carry no meaning.

    Parameters
    ----------
    place : Place

    Attributes
    ----------
    nodes : dict of str to dict
        Metadata by path below the place, of Zarr 2 with the attributes; the path is empty for the place itself.
    arrays : dict of str to zarr.Array
        By path.
    problems : dict of str to WindowLoaderError
        Why an array cannot be opened, by path.
    form : int or None
        Version of the Zarr format, if the place has metadata of its own.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place.name, {})
        self.place, self._listed = place, False
        self.form: int | None = None
        self.nodes: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, Any] = {}
        self.problems: dict[str, WindowLoaderError] = {}
        self._values: dict[str, np.ndarray] = {}

    @classmethod
    def of(cls, place: Place, variable: str | None = None) -> ZarrContents:
        """Return the contents of a place, the same ones throughout one opening; see `find`."""
        with opened(place) as contents:
            contents.find(variable)
        return contents

    def beside(self) -> tuple[str, ZarrContents]:
        """Return the path of a lone array in the folder above, and the contents of that if something labels it there.

        Metadata of the folder itself are not asked for.
        """
        above, name = self.place.parent()
        if not name or not self.dimensions(""):
            return "", self
        with opened(above) as contents:
            contents.nodes.setdefault(name, self.nodes[""])
            contents.form = contents.form or self.form
            contents.find(name)
        return (name, contents) if len(contents.arrays) > 1 else ("", self)

    @property
    def single(self) -> bool:
        """Whether the place is an array."""
        return "" in self.arrays or "" in self.problems

    def find(self, variable: str | None) -> None:
        """Read the metadata of an array and of what labels it; None: of all arrays.

        Raises
        ------
        SourceNotFoundError
            If there are no metadata at all.
        """
        path = None if variable is None else variable.strip("/")
        if self._listed if path is None else path in self.arrays or path in self.problems:
            return
        location, asked = self.place.location, Asked(self.name, doing="opened")
        if location is not None and location.local is not None:
            Stamp.of(location.local)  # a clear error if it does not exist
        explained(asked, lambda: sync(self._find(path)))
        if not self.nodes:
            store = self.place.node.store
            if isinstance(store, TensorStoreStore) and store.refused is not None:
                raise store.refused
            if location is not None:
                check_bucket(location)
            raise SourceNotFoundError(
                f"{self.name!r} holds no Zarr metadata (none of zarr.json, .zmetadata, .zarray, .zgroup). Check the "
                "path; is it the store itself, and was it written to its end?"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # codecs and types without a settled form
            explained(asked, self._describe)

    async def _find(self, path: str | None) -> None:
        await StorePath.open(self.place.node.store, "")
        if not self.nodes:
            await self._head()
        if path is None:
            if self.nodes and not self._listed:
                await self._below("")
            self._listed = True
        elif not (self._listed and path in self.nodes):
            await self._named(path)

    async def _head(self) -> None:
        """Read what the place itself has: all there is, if that is consolidated, or an array."""
        for form, keys in ((3, ["zarr.json"]), (2, [".zmetadata"]), (2, [".zarray", ".zattrs", ".zgroup"])):
            self.nodes = await self._documents(keys)
            if self.nodes:
                self.form = form
                break
        root = self.nodes.get("") or {}
        inner = (root.get("consolidated_metadata") or root).get("metadata")
        if inner is not None:
            self.nodes = _nodes(inner) if self.form == 2 else {**self.nodes, **inner}
        self._listed = inner is not None or _is_array(root)

    async def _documents(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the metadata that some keys below the place have, by path, asked for at once."""
        node, keys = self.place.node, list(dict.fromkeys(keys))
        found = zip(keys, await asyncio.gather(*((node / key).get() for key in keys)), strict=True)
        try:
            return _nodes({key: json.loads(one.to_bytes()) for key, one in found if one is not None})
        except (ValueError, RecursionError) as error:
            raise SourceFormatError(
                f"metadata of {self.name!r} are not JSON ({error}); was the store written to its end?"
            ) from error

    async def _read(self, paths: Iterable[str]) -> None:
        """Read the metadata of some nodes."""
        names = ("zarr.json", ".zarray", ".zattrs")
        known: tuple[str, ...] = {2: names[1:], 3: names[:1]}.get(self.form or 0, names)
        self.nodes |= await self._documents(f"{path}/{name}" for path in paths for name in known)

    async def _named(self, path: str) -> None:
        """Read the metadata of an array and of what its dimensions and attributes name, here or above."""
        if path not in self.nodes:
            await self._read([path])
        node = self.nodes.get(path, {})
        self.form = self.form or node.get("zarr_format")
        attributes, parts = node.get("attributes") or {}, path.split("/")[:-1]
        dims = node.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS") or []
        folders = ["/".join([*parts[:count], ""]) for count in range(len(parts), -1, -1)]
        beside = [f"{folder}{dim}" for folder in folders for dim in dims if isinstance(dim, str) and dim]
        beside += [f"{folders[0]}{name}" for name in str(attributes.get("coordinates", "")).split()]
        await self._read(one for one in beside if one not in self.nodes)

    async def _below(self, folder: str) -> None:
        """Read the metadata of all nodes below a folder: listed folder by folder, never into arrays."""
        node = self.place.node / folder
        names = [name.rstrip("/") async for name in node.store.list_dir(node.path)]
        paths = [f"{folder}{name}" for name in names if name and name[0] != "." and name != "zarr.json"]
        await self._read(paths)
        # A folder without a document is a group of Zarr 2, or of something else.
        inner = [path for path in paths if path in self.nodes or self.form == 2]
        await asyncio.gather(
            *(self._below(f"{path}/") for path in inner if not _is_array(self.nodes.get(path)))
        )

    def _describe(self) -> None:
        """Open the arrays that are new, then show those of each group as xarray has them."""
        import xarray

        members: dict[str, list[str]] = {}
        for path in [path for path, node in self.nodes.items() if _is_array(node)]:
            if path not in self.arrays and path not in self.problems:
                try:
                    self.arrays[path] = self._open(path)
                except WindowLoaderError as error:
                    self.problems[path] = error
                except Exception as error:  # an unknown codec must not hide the other arrays
                    cause = f"{type(error).__name__}: {hide_secrets(' '.join(f'{error}'.split()))[:400]}"
                    self.problems[path] = SourceFormatError(
                        f"{self._title(path)!r}: zarr-python cannot open the array ({cause}). Install the package of "
                        "its codec or dtype, or write the array again without."
                    )
            if path in self.arrays:
                members.setdefault(split_path(path)[0], []).append(path)
        for group, paths in sorted(members.items()):
            names = {split_path(path)[1]: path for path in paths}
            own = {name: path for name, path in names.items() if self.dimensions(path) == (name,)}
            sizes = {name: self.arrays[path].shape[0] for name, path in own.items()}
            made = {name: self._variable(path, sizes) for name, path in names.items()}
            index = xarray.Coordinates({name: made.pop(name) for name in own}, indexes={})
            self.groups[group] = xarray.Dataset(made, index)

    def _title(self, path: str) -> str:
        return f"{self.name}/{path}".rstrip("/")

    def _open(self, path: str) -> Any:
        document, name = self.nodes[path], self._title(path)
        if document.get("data_type") == "bfloat16":  # which TensorStore alone knows
            document = {**document, "data_type": "uint16", "fill_value": 0}
        array = zarr.Array.from_dict(self.place.node / path, document)
        dict(array.attrs)  # which raises if they are no mapping
        check_shape(array.shape, array.dtype.itemsize, name)
        for grid in (array.chunks, array.shards or ()):
            check_shape(grid, array.dtype.itemsize, name, what="chunks", least=1)
        return array if array.dtype.kind in "OT" else bounded(array)  # text of any length has no bound

    def _variable(self, path: str, sizes: dict[str, int]) -> Any:
        """Return an array as xarray has it, lazy; ``sizes`` are those of the dimensions of its group so far."""
        import xarray
        from xarray.backends import zarr as backend

        array = self.arrays[path]
        values, dims = backend.ZarrArrayWrapper(array), self.dimensions(path)  # type: ignore[no-untyped-call]
        if dims is None or any(
            sizes.setdefault(dim, size) != size for dim, size in zip(dims, array.shape, strict=True)
        ):
            dims = tuple(f"phony_dim_{path}_{place}" for place in range(array.ndim))
        if self.nodes[path].get("data_type") == "bfloat16":
            values.dtype = np.dtype(np.float32)
        return xarray.Variable(dims, xarray.core.indexing.LazilyIndexedArray(values), self._attributes(path))

    def _attributes(self, path: str) -> dict[str, Any]:
        """Attributes of an array, of which `_FillValue` marks missing cells.

        That is the attribute, else the fill value of a Zarr 2 array, which is where xarray writes it; but not 0, which
        zarr-python writes unasked.
        """
        array, found = self.arrays[path], dict(self.arrays[path].attrs)
        mark, written = plain(found, array.dtype).get("_FillValue"), self.driver(path) == "zarr"
        if mark is None and written and self.dimensions(path) and array.dtype.kind in "iuf":
            mark = array.fill_value or None
        found.pop("_ARRAY_DIMENSIONS", None)
        return found if mark is None else {**found, "_FillValue": mark}

    def dimensions(self, path: str) -> tuple[str, ...] | None:
        """Names of an array's dimensions, all different; else None."""
        array, node = self.arrays[path], self.nodes[path]
        third = self.driver(path) == "zarr3"
        names: Any = node.get("dimension_names") if third else array.attrs.get("_ARRAY_DIMENSIONS")
        good = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return tuple(names) if good and len(set(names)) == len(names) == array.ndim else None

    def driver(self, path: str) -> str:
        """TensorStore's word for the format of an array."""
        return "zarr3" if self.arrays[path].metadata.zarr_format == 3 else "zarr"

    def identity(self, path: str) -> str:
        """Text that changes when the metadata of an array do, and on this machine when a chunk does."""
        files = []
        if (location := self.place.location) is not None and location.local is not None:
            # The folder changes when a chunk is replaced: those are written aside and renamed.
            folder = location.local / path
            files = [file for file in (folder, folder / "zarr.json", folder / ".zarray") if file.exists()]
        return digest(self.nodes[path], *(file.stat().st_mtime_ns for file in files))

    def variables(self) -> tuple[str, ...]:
        """Paths of the arrays of numbers along time; if there are none, of those with more than one dimension."""
        found = super().variables()
        many = [path for path in found if self.dimensions(path) or self.arrays[path].ndim > 1]
        return tuple(many) or found

    def choose(self, variable: str | None) -> str:
        """Return the path of the array asked for, or of the only one along time.

        Raises
        ------
        SourceFormatError
            If there are several, or none, or the one asked for is not numbers, or cannot be opened.
        SourceNotFoundError
            If there is none of that name.
        """
        path = None if variable is None else variable.strip("/")
        if path is None and (self.single or not self.arrays):
            path = next(iter({**self.arrays, **self.problems}), None)
        if path is None:
            return super().choose(None)
        if (error := self.problems.get(path)) is not None:
            raise error
        if path not in self.arrays:
            listed = f"there are {', '.join(map(repr, self.variables() or self.arrays)) or 'nothing'}."
            alone = "it is a single array. Leave variables= out, and name its features with features=[…]."
            raise SourceNotFoundError(
                f"{self.name!r} has no array {variable!r}: {alone if self.single else listed}"
            )
        return path

    def array(self, path: str, *, load: bool = False) -> Any:
        """Return a variable with its coordinates; see `Contents.array`."""
        self.find(path)
        return super().array(path, load=load)

    def load(self, path: str) -> None:
        """Read a coordinate, once and all chunks together."""
        if path not in self._values:
            self._values[path] = explained(Asked(self._title(path)), lambda: self._coordinate(path))
        self.raw(path).data = self._values[path]

    def _coordinate(self, path: str) -> np.ndarray:
        array, location = self.arrays[path], self.place.location
        many = array.nchunks > 1 and array.dtype.kind in "biuf"
        if many and location is not None and location.local is None:
            where = location.child(path)
            where = replace(where, timeout=where.timeout * max(1, array.nchunks // 1000))
            with suppress(SourceFormatError):  # zarr-python reads what TensorStore does not know
                grids = array.shape, array.chunks, array.shards or array.chunks
                store = open_tensorstore(where, self.driver(path), grids, fill_missing=True)
                return np.asarray(wait_for(store.read(), where))
        return np.asarray(array[...])


def _is_array(node: Any) -> bool:
    return isinstance(node, dict) and node.get("node_type") == "array"


def _nodes(documents: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata by path; of an array of Zarr 2 in one document, as Zarr 3 has it."""
    found: dict[str, Any] = {}
    for key, document in documents.items():
        path, _, name = key.rpartition("/")
        if name == ".zarray" and isinstance(document, dict):
            attributes = documents.get(f"{path}/.zattrs".lstrip("/"), {})
            found[path] = {**document, "node_type": "array", "attributes": attributes}
        elif name != ".zattrs":
            found.setdefault(path, document)
    return found


def open_tensorstore(
    location: Location,
    driver: str,
    grids: Sequence[Sequence[int]],
    *,
    fill_missing: bool,
    cache_bytes: int = 0,
) -> Any:
    """Return an array as TensorStore has it open.

    Parameters
    ----------
    location : Location
        Of the array.
    driver : str
        TensorStore's word for the format.
    grids : sequence of sequence of int
        Shapes of the array, of a chunk, and of what has a key: as consolidated metadata have them, for example.
    fill_missing, cache_bytes :
        See `chunked.open_chunked` and `Location`.

    Raises
    ------
    SourceFormatError
        If TensorStore does not support the metadata.
    SourceChangedError
        If the metadata that it reads have other shapes. It would abort the process for want of a chunk's memory.
    """
    spec = {
        "driver": driver,
        "kvstore": location.store(),
        "recheck_cached_metadata": "open",
        "recheck_cached_data": "open",
        "fill_missing_data_reads": fill_missing,
    }
    context = location.resources(cache_bytes=cache_bytes)
    future = explained(Asked(location.url), lambda: tensorstore().open(spec, read=True, context=context))
    store = wait_for(future, location)
    layout = store.chunk_layout
    check_grids(location.url, grids, (store.shape, layout.read_chunk.shape, layout.write_chunk.shape))
    return store
