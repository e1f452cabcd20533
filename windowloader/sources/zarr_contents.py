"""Which arrays a Zarr store holds and what they mean: zarr-python reads the metadata, xarray says what they say.

In: a path, a URL, or a store, group or array of zarr-python. Out: `ZarrContents`. Metadata are read once: in two or
three requests where they are consolidated, else those of the arrays that are named, else of all, by listing folders.
"""

from __future__ import annotations

import base64
import math
import os
import struct
import time
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SourceFormatError, SourceNotFoundError, WindowLoaderError
from windowloader.hiding import hide_secrets

from .base import digest
from .blobs import own_headers_stay
from .coordinates import time_dimension
from .description import Contents, opened, split_path
from .failures import Asked, explained
from .handles import nearby
from .kvstore import check_bucket
from .options import locate, supported
from .processes import tensorstore
from .reads import Progress, wait
from .zarr_documents import Reader, array_document, array_paths, grouped, holds, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .options import Location

__all__ = ["Place", "ZarrContents", "attributes_of", "dimensions", "open_tensorstore", "place_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """A node of a store, below which arrays are looked for; called, it opens them.

    Parameters
    ----------
    store : zarr.abc.store.Store
        What zarr-python reads.
    name : str
        For messages.
    root : str
        Path of the node in the store; empty, or ending in a slash.
    location : Location or None
        Of the node, where TensorStore reads the store.
    key : tuple
        Equal for what is the same place.
    form : int or None
        Version of the Zarr format, where it is known of a node that may have no metadata of its own: what lies above
        an array that was opened by itself. Arrays are then asked for by name alone.
    """

    store: Any = field(compare=False)
    name: str
    root: str = ""
    location: Location | None = field(default=None, compare=False)
    key: tuple[Any, ...] = field(default=(), repr=False)
    form: int | None = None

    def __call__(self) -> ZarrContents:
        """Open what is below."""
        return ZarrContents(self)

    def parent(self, form: int) -> tuple[Place, str]:
        """Return the node one step up, and the name of this one in it; no name where there is none."""
        if self.location is not None:
            from .kvzarr import store_of

            above, name = self.location.parent(), self.location.path.rstrip("/").rpartition("/")[2]
            return Place(store_of(above), above.url, "", above, (*self.key, ".."), form), name
        folder, _, name = self.root.rstrip("/").rpartition("/")
        return replace(self, root=f"{folder}/" if folder else "", key=(*self.key, ".."), form=form), name


def place_of(target: Any, storage_options: Mapping[str, Any] | None = None) -> Place:
    """Return where a path, URL, or object of zarr-python points."""
    import zarr
    from zarr.abc.store import Store

    if isinstance(target, zarr.Array | zarr.Group):
        path = target.store_path
        root = f"{path.path}/" if path.path else ""
        return Place(path.store, str(path).rstrip("/"), root, key=(id(path.store), root))
    if isinstance(target, Store):
        name = str(target).rstrip("/")
        name = f"<{type(target).__name__}>" if " object at " in name else name
        return Place(target, name, key=(id(target), ""))
    key = (os.fspath(target), repr(storage_options))
    if supported(target):
        from .kvzarr import store_of

        location = locate(target, storage_options)
        return Place(store_of(location), location.url, "", location, key)
    from .references import open_store

    options = own_headers_stay(storage_options)
    store = explained(Asked(str(target)), lambda: open_store(str(target), options))
    return Place(store, hide_secrets(str(target)).rstrip("/"), key=key)


class ZarrContents(Contents):
    """The arrays below a place.

    Parameters
    ----------
    place : Place

    Attributes
    ----------
    documents : dict of str to bytes
        Metadata by key below the place.
    arrays : dict of str to zarr.Array
        By path; the path is empty where the place is an array.
    problems : dict of str to Exception
        Why an array cannot be opened, by path.
    form : int
        Version of the Zarr format.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place.name, {})
        self.place, self.complete = place, False
        self.form: Any = place.form
        self.documents: dict[str, bytes] = {}
        self.arrays: dict[str, Any] = {}
        self.problems: dict[str, Exception] = {}
        self._values: dict[str, np.ndarray] = {}

    @classmethod
    def of(cls, place: Place, variable: str | None = None) -> ZarrContents:
        """Return the contents of a place, the same ones throughout one opening; see `find`."""
        with opened(place) as contents:
            contents.find(variable)
        return contents

    @property
    def single(self) -> bool:
        """Whether the place is an array."""
        return "" in self.arrays or "" in self.problems

    def find(self, variable: str | None) -> None:
        """Read the metadata of an array and of what labels it; None: of all arrays.

        Raises
        ------
        SourceNotFoundError
            Where there are no metadata at all.
        """
        from .kvzarr import run

        path = None if variable is None else variable.strip("/")
        if self.complete and (path is None or path in self.arrays or path in self.problems):
            return
        location = self.place.location
        if location is not None and location.local is not None and not location.local.exists():
            raise SourceNotFoundError(f"{self.name!r} does not exist. {nearby(self.name)}")
        before = dict(self.documents)
        explained(Asked(self.name), lambda: run(self.place.store, partial(self._find, path=path)))
        if not self.documents:
            self._nothing()
        if self.documents != before:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # codecs and types without a settled form
                explained(Asked(self.name), self._open_groups)

    async def _find(self, store: Any, prototype: Any, *, path: str | None) -> None:
        reader = Reader(store, prototype, self.place.root)
        if self.form is None:
            self.documents, self.form, self.complete = await reader.head()
            if not self.documents:
                return
        if self.complete and (path is None or holds(self.documents, path)):
            return
        if path is not None:
            self.documents |= await reader.named(path, self.form, self.documents)
        else:
            self.documents |= await reader.below("", self.form)
            self.complete = True

    def _nothing(self) -> None:
        if (refused := getattr(self.place.store, "refused", None)) is not None:
            raise refused
        if self.place.location is not None:
            check_bucket(self.place.location)
        raise SourceNotFoundError(
            f"{self.name!r} holds no Zarr metadata (none of zarr.json, .zmetadata, .zarray, .zgroup). Check the path; "
            "is it the store itself, and was it written to its end?"
        )

    def _open_groups(self) -> None:
        """Open the arrays, then those of each group as xarray has them."""
        import xarray
        import zarr

        from .kvzarr import Documents

        members: dict[str, dict[str, Any]] = {}
        for path in array_paths(self.documents):
            if path not in self.arrays and path not in self.problems:
                try:
                    self.arrays[path] = self._open_array(path)
                except Exception as error:  # a codec that nobody knows must not hide the other arrays
                    self.problems[path] = error
            if path and path in self.arrays:
                members.setdefault(split_path(path)[0], {})[path] = self.arrays[path]
        self.groups = {}
        for group, arrays in sorted(members.items()):
            if not (named := _agreeing(arrays)):
                continue
            shown = Documents(self.place.store, grouped(self.documents, named, self.form, self.place.root))
            whole = f"{self.place.root}{group}".rstrip("/")
            opened = zarr.open_group(
                shown, path=whole, mode="r", zarr_format=self.form, use_consolidated=False
            )
            store = xarray.backends.ZarrStore(opened, mode="r", use_zarr_fill_value_as_mask=True)
            raw = xarray.open_dataset(store, decode_cf=False, create_default_indexes=False, cache=False)
            for name, variable in raw.variables.items():
                mark = attributes_of(store.members[str(name)]).get("_FillValue")
                variable.attrs.pop("_FillValue", None)
                variable.attrs.update({} if mark is None else {"_FillValue": mark})
            self.groups[group] = raw

    def _open_array(self, path: str) -> Any:
        import zarr

        whole = f"{self.place.root}{path}".rstrip("/")
        place = zarr.storage.StorePath(self.place.store, whole)
        array = zarr.Array.from_dict(place, array_document(self.documents, path, self.form))
        dict(array.attrs)  # which raises where they are no mapping
        grid = array.shards or array.chunks
        sizes = math.prod(map(abs, array.shape)), math.prod(grid)
        if (
            min(array.shape, default=0) < 0
            or min((*grid, *array.chunks), default=1) < 1
            or max(sizes) >= 2**60
        ):
            name = f"{self.name}/{path}".rstrip("/")
            raise SourceFormatError(
                f"{name!r} has the shape {array.shape} and chunks of the shape {grid}. Its metadata are damaged: "
                "restore them from their origin."
            )
        return array

    def dtype(self, path: str) -> np.dtype:
        """Dtype of an array as delivered, native byte order."""
        name = "zarr.json" if self.form == 3 else ".zarray"
        if parsed(self.documents[f"{path}/{name}".lstrip("/")]).get("data_type") == "bfloat16":
            return np.dtype(np.float32)
        dtype: np.dtype = self.arrays[path].dtype.newbyteorder("=")
        return dtype

    def identity(self, path: str) -> str:
        """Text that changes when the metadata of an array do, and on this machine when a chunk beside them does."""
        start, location = f"{path}/" if path else "", self.place.location
        names = (f"{start}{name}" for name in ("zarr.json", ".zarray", ".zattrs"))
        found: list[Any] = [self.documents.get(name) for name in names]
        if location is not None and location.local is not None:
            # The folder changes when a chunk is replaced: those are written aside and renamed.
            folder = location.local / path
            files = [folder, *(folder / name for name in ("zarr.json", ".zarray"))]
            found += [file.stat().st_mtime_ns for file in files if file.exists()]
        return digest(*found)

    def described(self, path: str) -> bool:
        """Whether xarray describes an array: it has names for its dimensions."""
        group, name = split_path(path)
        return group in self.groups and name in self.groups[group].variables

    def variables(self) -> tuple[str, ...]:
        """Paths of the arrays of numbers along time; where there are none, of those without names for dimensions."""
        named = super().variables()
        if any(time_dimension(self.array(path)) is not None for path in named[:1]):
            return named
        bare = [path for path, array in self.arrays.items() if array.ndim > 1 and array.dtype.kind in "biuf"]
        return tuple(path for path in bare if path and not self.described(path)) or named

    def choose(self, variable: str | None) -> str:
        """Return the path of the array asked for, or of the only one along time.

        Raises
        ------
        SourceFormatError
            Where there are several, or none, or the one asked for is not numbers, or cannot be opened.
        SourceNotFoundError
            Where there is none of that name.
        """
        path = None if variable is None else variable.strip("/")
        if path is None and self.single:
            path = ""
        if path is not None and path in self.problems:
            self._refuse(path)
        if path is not None and path in self.arrays:
            if self.arrays[path].dtype.kind not in "biuf" or self.arrays[path].dtype.itemsize > 8:
                raise SourceFormatError(
                    f"{self.name!r}: {path or 'the array'} holds no numbers (its dtype is {self.arrays[path].dtype}); "
                    "windows are made of numbers."
                )
            return path
        found = self.variables()
        listed = ", ".join(map(repr, found or self.arrays)) or "nothing"
        if path is not None and self.single:
            raise SourceNotFoundError(
                f"{self.name!r} has no array {variable!r}: it is a single array. Leave variables= out, and name its "
                "features with features=[…]."
            )
        if path is not None:
            raise SourceNotFoundError(f"{self.name!r} has no array {variable!r}; there are {listed}.")
        if len(found) == 1:
            return found[0]
        if not self.arrays and self.problems:
            self._refuse(next(iter(self.problems)))
        raise SourceFormatError(
            f"{self.name!r} holds {len(found) or 'no'} arrays along time: {listed}. Choose one or several with "
            "variables=[…] in wl.open (one, with variable=, where a source is opened by itself)."
        )

    def _refuse(self, path: str) -> None:
        error = self.problems[path]
        if isinstance(error, WindowLoaderError | ImportError):
            raise error
        said = f"{type(error).__name__}: {hide_secrets(' '.join(f'{error}'.split()))[:400]}"
        name = f"{self.name}/{path}".rstrip("/")
        raise SourceFormatError(
            f"{name!r}: zarr-python cannot open the array ({said}). Install the package of its codec or dtype, or "
            "write the array again without."
        )

    def array(self, path: str, *, load: bool = False) -> Any:
        """Return a variable with its coordinates; see `Contents.array`."""
        self.find(path)
        return super().array(path, load=load)

    def load(self, path: str) -> None:
        """Read a coordinate, once and all chunks together."""
        if path not in self._values:
            self._values[path] = explained(Asked(f"{self.name}/{path}"), lambda: self._read(path))
        self.raw(path).data = self._values[path]

    def _read(self, path: str) -> np.ndarray:
        array, location = self.arrays[path], self.place.location
        if (
            location is not None
            and location.local is None
            and array.nchunks > 1
            and array.dtype.kind in "biuf"
        ):
            try:
                store = open_tensorstore(location.child(path), self.form, fill_missing=True)
                asked, progress = Asked(location.child(path).url), Progress(location.renew)
                limit = location.timeout * max(1, array.nchunks // 1000)
                future = store.read()
                found = wait(
                    future, asked, since=time.monotonic(), limit=limit, progress=progress, timeout=None
                )
                return np.asarray(found)
            except SourceFormatError:
                pass  # zarr-python reads what TensorStore does not know
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(array[...])


def dimensions(array: Any) -> tuple[str, ...] | None:
    """Names of a zarr-python array's dimensions, all different; else None."""
    third = array.metadata.zarr_format == 3
    names = array.metadata.dimension_names if third else array.attrs.get("_ARRAY_DIMENSIONS")
    good = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if good and len(set(names)) == len(names) == array.ndim else None


def _agreeing(arrays: Mapping[str, Any]) -> list[str]:
    """Paths of the arrays with named dimensions, those of one name of one size: xarray takes no others together."""
    names = {path: dims for path, array in arrays.items() if (dims := dimensions(array)) is not None}
    own = {path: (split_path(path)[1],) for path in names}
    sizes = {own[path][0]: arrays[path].shape[0] for path, dims in names.items() if dims == own[path]}
    return [
        path
        for path, dims in names.items()
        if all(
            sizes.setdefault(dim, size) == size for dim, size in zip(dims, arrays[path].shape, strict=True)
        )
    ]


def attributes_of(array: Any) -> dict[str, Any]:
    """Attributes of a zarr-python array, of which `_FillValue` says what marks a missing cell.

    That is the attribute, else the fill value of a Zarr 2 array, which is where xarray writes it; but not 0, which
    zarr-python writes unasked.
    """
    found = dict(array.attrs)
    mark, written = found.get("_FillValue"), array.metadata.zarr_format == 2 and dimensions(array) is not None
    if mark is None and written and array.dtype.kind in "iuf" and array.fill_value:
        found["_FillValue"] = array.fill_value
    if isinstance(mark, str) and array.dtype.kind == "f":
        try:
            found["_FillValue"] = float(mark)
        except ValueError:  # as xarray writes it into Zarr 3
            [found["_FillValue"]] = struct.unpack("<d", base64.standard_b64decode(mark))
    return found


def open_tensorstore(location: Location, form: int, *, fill_missing: bool, cache_bytes: int = 0) -> Any:
    """Return an array as TensorStore has it open; `SourceFormatError` where its metadata are not known to it."""
    asked, since, progress = Asked(location.url), time.monotonic(), Progress(location.renew)
    spec = {
        "driver": "zarr3" if form == 3 else "zarr",
        "kvstore": location.store(),
        "recheck_cached_metadata": "open",
        "recheck_cached_data": "open",
        "fill_missing_data_reads": fill_missing,
    }
    context = location.resources(cache_bytes=cache_bytes)
    future = explained(asked, lambda: tensorstore().open(spec, read=True, context=context))
    return wait(future, asked, since=since, limit=location.timeout, progress=progress, timeout=None)
