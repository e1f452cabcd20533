"""Where converted arrays are written on this machine, under a temporary name until all is there.

In: `ArrayTarget` arrays and their values by rows. Out: a Zarr 3 store as xarray opens it, or a ``.npy`` file. What
`write` returns from is on disk. Never shows a result under its final name before `publish`.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import shutil
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from windowloader.errors import ConversionError

from .zarr_form import array_spec, write_coordinates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from windowloader.series.clock import Clock

    from .targets import ArrayTarget
    from .values import Encoding

__all__ = ["NpyStore", "Store", "ZarrStore", "exchange", "keys_of_rows"]


class Store(Protocol):
    """Something that arrays are written to by rows, in any order, by several threads."""

    @property
    def name(self) -> str:
        """Where it is, for messages."""

    def create(self, encodings: Sequence[Encoding]) -> None:
        """Make the arrays, or open those of a conversion that goes on."""

    def write(self, target: int, start: int, values: np.ndarray) -> int:
        """Write rows, which are kept when this returns; return the bytes they take there."""

    def read(self, target: int, start: int, stop: int) -> np.ndarray:
        """Read rows as they are stored; a ValueError or CorruptDataError where they are not what was written."""

    def finish(self, clock: Clock | None) -> None:
        """Add what belongs to the arrays; may be done again."""


class NpyStore:
    """One array in a ``.npy`` file.

    Parameters
    ----------
    temporary : Path
    target : ArrayTarget
    """

    def __init__(self, temporary: Path, target: ArrayTarget) -> None:
        self.temporary, self.target = temporary, target
        self._offset = 0

    @property
    def name(self) -> str:
        """The file."""
        return str(self.temporary)

    def create(self, encodings: Sequence[Encoding]) -> None:
        """Write the header, and reserve the room."""
        dtype, shape = encodings[0].dtype, self.target.shape
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        needed = math.prod(shape) * dtype.itemsize
        self.temporary.touch()
        with open(self.temporary, "r+b") as file:
            np.lib.format.write_array_header_2_0(file, header)
            self._offset = file.tell()
            there = os.fstat(file.fileno())
            free = shutil.disk_usage(self.temporary.parent).free
            if needed + self._offset - there.st_blocks * 512 > free:
                raise ConversionError(
                    f"{str(self.temporary.parent)!r} has {free:,} bytes free, and the array takes {needed:,}. Choose "
                    "another place, or a smaller dtype."
                )
            file.truncate(self._offset + needed)

    def write(self, target: int, start: int, values: np.ndarray) -> int:
        """Write rows at their place."""
        del target
        with open(self.temporary, "r+b", buffering=0) as file:
            place, data = self._offset + start * self.target.row_bytes, memoryview(values).cast("B")
            while len(data):
                done = os.pwrite(file.fileno(), data, place)
                place, data = place + done, data[done:]
            os.fdatasync(file.fileno())
        return values.nbytes

    def read(self, target: int, start: int, stop: int) -> np.ndarray:
        """Read rows."""
        del target
        out = np.empty((stop - start, *self.target.shape[1:]), self.target.encoding.dtype)
        with open(self.temporary, "rb", buffering=0) as file:
            file.seek(self._offset + start * self.target.row_bytes)
            into = memoryview(out).cast("B")
            while len(into) and (got := file.readinto(into)):
                into = into[got:]
        return out

    def finish(self, clock: Clock | None) -> None:
        """Do nothing: the file has no room for more."""

    def publish(self, path: Path, *, overwrite: bool = False) -> None:
        """Rename; an error where the name is taken meanwhile, unless that is to be replaced."""
        if overwrite:
            os.replace(self.temporary, path)
            return
        os.link(self.temporary, path)
        self.temporary.unlink()


class ZarrStore:
    """Arrays of a Zarr 3 group, with coordinates.

    Parameters
    ----------
    temporary : Path
    targets : sequence of ArrayTarget
    compression : str
        As `codecs_of` takes it.
    """

    def __init__(self, temporary: Path, targets: Sequence[ArrayTarget], compression: str) -> None:
        self.temporary, self.targets, self.compression = temporary, tuple(targets), compression
        self._arrays: list[Any] = []

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.temporary)

    def create(self, encodings: Sequence[Encoding]) -> None:
        """Make the arrays by TensorStore."""
        from windowloader.sources.processes import tensorstore

        for target, encoding in zip(self.targets, encodings, strict=True):
            kvstore = {"driver": "file", "path": f"{self.temporary / target.name}/"}
            spec = array_spec(target, encoding, self.compression, kvstore)
            self._arrays.append(tensorstore().open(spec, create=True, open=True).result())

    def write(self, target: int, start: int, values: np.ndarray) -> int:
        """Write whole chunks or shards, each to a file that is renamed when it is on disk."""
        store = self._arrays[target]
        try:
            store[start : start + len(values)].write(
                values, can_reference_source_data_indefinitely=True
            ).result()
        except ValueError as error:
            raise ConversionError(
                f"rows from {start} cannot be written to {str(self.temporary)!r}: {error}"
            ) from error
        folder = self.temporary / self.targets[target].name
        keys = keys_of_rows(self.targets[target], start, start + len(values))
        return sum(os.stat(folder / key).st_size for key in keys)

    def read(self, target: int, start: int, stop: int) -> np.ndarray:
        """Read rows as they are stored."""
        found: np.ndarray = self._arrays[target][start:stop].read(order="C").result()
        return found

    def finish(self, clock: Clock | None) -> None:
        """Write coordinates and a list of all metadata."""
        write_coordinates(str(self.temporary), self.targets, clock)

    def publish(self, path: Path, *, overwrite: bool = False) -> None:
        """Rename; an error where the name is taken meanwhile, unless that is to be replaced."""
        self._arrays.clear()
        if overwrite and path.exists():
            exchange(self.temporary, path)
            shutil.rmtree(self.temporary)
            return
        os.rename(self.temporary, path)


def keys_of_rows(target: ArrayTarget, start: int, stop: int) -> Iterator[str]:
    """Keys of the chunks or shards that hold rows, as Zarr 3 names them."""
    sizes = target.layout.shards or target.layout.chunks
    rows = range(start // sizes[0], -(-stop // sizes[0]))
    others = [range(-(-size // step)) for size, step in zip(target.shape[1:], sizes[1:], strict=True)]
    for place in itertools.product(rows, *others):
        yield "/".join(("c", *map(str, place)))


def exchange(one: Path, other: Path) -> None:
    """Let two folders change names, at once where the system can (Linux), else by way of a third name."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call is not None and call(here, os.fsencode(one), here, os.fsencode(other), swap) == 0:
        return
    aside = other.with_name(f"{other.name}.replaced")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)
