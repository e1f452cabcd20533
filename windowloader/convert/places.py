"""Where a conversion goes: which names it uses, what may be there, and how the result gets its name.

In: a destination as typed. Out: a `Place`, on this machine or in a bucket. Never writes values.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Protocol

from windowloader.errors import ConversionError

from .journal import Journal
from .stores import NpyStore, ZarrStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from windowloader.series.series import Series

    from .journal import Records
    from .stores import Store
    from .targets import ArrayTarget

__all__ = ["SUFFIXES", "LocalPlace", "Place", "exists", "unknown_kind"]

SUFFIXES = (".npy", ".zarr", ".zarr3", "")


class Place(Protocol):
    """A destination."""

    @property
    def name(self) -> str:
        """Path or URL."""

    @property
    def npy(self) -> bool:
        """Whether a ``.npy`` file is made; else a Zarr store."""

    @property
    def copies(self) -> int:
        """Times that writing holds what is stored: as given, encoded, and on its way."""

    def check(self, *, overwrite: bool) -> None:
        """Raise where it is taken, or cannot be used."""

    def check_source(self, series: Series) -> None:
        """Raise where what is read lies in what would be replaced, and the place cannot bear it."""

    def store(self, targets: Sequence[ArrayTarget], compression: str) -> Store:
        """Return what the arrays are written to."""

    def restart(self) -> None:
        """Throw away what an earlier conversion has done."""

    def journal(self, identity: str) -> Any:
        """Return the journal, a context, as `Records`."""

    def taken(self) -> bool:
        """Whether something has the name."""

    def mark(self) -> Any:
        """Return what tells the result from another under the name, for JSON; before it is published."""

    def holds(self, mark: Any) -> bool:
        """Whether what has the name is the result with that mark."""

    def publish(self, journal: Records, *, overwrite: bool, check: Callable[[], None] | None) -> None:
        """Give the result its name; ``check`` reads it back where it had to be copied."""

    def clear(self) -> None:
        """Remove what was in the way to the result; not the journal."""


def unknown_kind(name: str, suffix: str) -> ConversionError:
    """Error for a name that says neither Zarr nor ``.npy``."""
    return ConversionError(
        f"{name!r}: what is made is told by the name, .zarr or .npy; {suffix!r} is neither."
    )


def exists(name: str) -> ConversionError:
    """Error for a name that is taken."""
    return ConversionError(
        f"{name!r} exists. Choose another name, or pass overwrite=True (--overwrite), which replaces it once the "
        "new one is whole."
    )


class LocalPlace:
    """A path on this machine: written under a temporary name, then renamed at once.

    Parameters
    ----------
    path : Path
        Absolute.
    """

    copies = 3

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f"{path.name}.partial")
        self.journal_path = path.with_name(f"{path.name}.partial.journal")
        self._store: NpyStore | ZarrStore | None = None

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def npy(self) -> bool:
        """Whether a ``.npy`` file is made."""
        return self.path.suffix == ".npy"

    def check(self, *, overwrite: bool) -> None:
        """Raise where there is no folder, or the name is taken."""
        if not self.path.parent.is_dir():
            raise ConversionError(
                f"{self.name!r}: there is no folder {str(self.path.parent)!r}. Make it first."
            )
        if self.taken() and not self.journal_path.exists() and not overwrite:
            raise exists(self.name)
        if self.taken() and overwrite:
            self._check_replaceable()

    def _check_replaceable(self) -> None:
        """Refuse to replace what no conversion would have made."""
        if self.npy:
            fits = self.path.is_file()
        else:
            names = ("zarr.json", ".zgroup", ".zarray")
            fits = self.path.is_dir() and any((self.path / name).exists() for name in names)
        if not fits:
            kind = "a file" if self.npy else "a Zarr store"
            raise ConversionError(
                f"{self.name!r} exists and is not {kind}, so it is not replaced. Remove it, or choose another name."
            )

    def check_source(self, series: Series) -> None:
        """Do nothing: what is read stays until the new one is whole."""

    def store(self, targets: Sequence[ArrayTarget], compression: str) -> NpyStore | ZarrStore:
        """Return the file or folder under the temporary name."""
        if self.npy:
            self._store = NpyStore(self.temporary, targets[0])
        else:
            self._store = ZarrStore(self.temporary, targets, compression)
        return self._store

    def restart(self) -> None:
        """Throw away what an earlier conversion has done, if none is at work."""
        if self.journal_path.exists():
            try:
                Journal(self.journal_path, "").close()  # held by a process that is at work?
            except ConversionError as error:
                if "another process" in str(error):
                    raise
            self.journal_path.unlink()
        self.clear()

    def journal(self, identity: str) -> Journal:
        """Return the journal beside the temporary name."""
        return Journal(self.journal_path, identity)

    def taken(self) -> bool:
        """Whether something has the name."""
        return self.path.exists()

    def mark(self) -> int:
        """Return the number that the file or folder keeps when it is renamed."""
        return self.temporary.stat().st_ino

    def holds(self, mark: Any) -> bool:
        """Whether that file or folder has the name."""
        return bool(self.path.stat().st_ino == mark)

    def publish(self, journal: Records, *, overwrite: bool, check: Callable[[], None] | None) -> None:
        """Rename; nothing was copied, so nothing is read back."""
        del journal, check
        assert self._store is not None
        _sync(self.path.parent)
        try:
            self._store.publish(self.path, overwrite=overwrite)
        except OSError as error:
            raise ConversionError(f"{self.name!r} cannot be given its name: {error}") from error
        _sync(self.path.parent)

    def clear(self) -> None:
        """Remove the temporary name."""
        if self.temporary.is_dir():
            shutil.rmtree(self.temporary)
        else:
            self.temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
