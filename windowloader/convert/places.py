"""Where a conversion goes: which names it uses, what may be there, and how the result gets its name.

In: a path or URL. Out: a `LocalDestination` or a `BucketDestination`. While a conversion is under way, a mark lies
among its objects, whose name says what is made from what. Objects without a mark belong to other programs, and are
neither used nor removed. The chunks that exist are the record of what is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from windowloader.errors import ConversionError
from windowloader.sources.executors import run
from windowloader.sources.options import locate, supported
from windowloader.sources.remote_objects import check_bucket

from .stores import DOCUMENT, NpyStore, Objects, ZarrStore, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from windowloader.series.series import Series

    Check = Callable[[Objects], None]

__all__ = ["BucketDestination", "LocalDestination", "destination_of"]

SUFFIXES = (".npy", ".zarr", ".zarr3", "")
ONE_SLASH = re.compile(r"(s3|gs|https?|file):/(?!/)")
ROOTS = (DOCUMENT, ".zgroup", ".zarray")  # any of them makes a store
DOCUMENTS = (*ROOTS, ".zmetadata", ".zattrs")
MARK = re.compile(r"\.windowloader-(?:[0-9a-f]{16}|replaced)")
COPIED = 8  # objects copied at a time
REPLACED = ".windowloader-replaced"  # on a store that has just lost its name


def destination_of(
    destination: str | os.PathLike[str], storage_options: Mapping[str, Any] | None
) -> LocalDestination | BucketDestination:
    """Return the destination that a path or URL names.

    Raises
    ------
    ConversionError
        For a name that says nothing that can be made, or a store that takes no writes.
    """
    text = os.fspath(destination)
    remote = "://" in text and not text.startswith("file://")
    suffix = PurePosixPath(text.partition("://")[2] if remote else text).suffix
    location = locate(text.rstrip("/"), storage_options) if remote and supported(text) else None
    problem = ""
    if (typed := ONE_SLASH.match(text)) is not None:
        problem = f"a URL has two slashes, {typed[1]}://…"
    elif suffix not in SUFFIXES:
        problem = f"the name decides what is made, .zarr or .npy; {suffix!r} is neither."
    elif remote and (location is None or location.scheme not in ("s3", "gcs")):
        problem = (
            "conversions write to paths, s3:// and gs:// (with credentials). Convert to a local path, then copy the "
            "store, its zarr.json files last."
        )
    elif remote and suffix == ".npy":
        problem = (
            "a .npy file is one object, which a bucket takes only whole. Convert to Zarr, or convert to a local path, "
            "then copy the file."
        )
    elif location is not None and not location.path:
        problem = f"this is a whole bucket. Name a store in it: {text.rstrip('/')}/NAME.zarr."
    if problem:
        raise ConversionError(f"{text!r}: {problem}")
    if location is not None:
        return BucketDestination(Objects(location))
    return LocalDestination(Path(text.removeprefix("file://")).expanduser().absolute())


def _exists(name: str) -> ConversionError:
    return ConversionError(
        f"{name!r} exists. Choose another name, or pass overwrite=True (--overwrite), which replaces it once the "
        "new one is whole."
    )


def _begin(objects: Objects, mark: str, *, restart: bool) -> bool:
    """Mark objects as those of a conversion; whether an earlier process had marked them so.

    Raises
    ------
    ConversionError
        Where they are of another conversion, or not of one.
    """
    keys = objects.list()
    marks = [key for key in keys if MARK.fullmatch(key)]
    if keys and not marks:
        raise ConversionError(
            f"{objects.name!r} holds {len(keys):,} objects that no conversion wrote, {keys[0]!r} first. Remove them, "
            "or choose another name."
        )
    if marks and (restart or REPLACED in marks):
        objects.clear()
        marks = []
    if marks not in ([], [mark]):
        raise ConversionError(
            f"{objects.name!r} is of a conversion with other data or other settings. Give the same again to go on with "
            "it, or restart=True (--restart) to begin anew."
        )
    objects.put({mark: b"A conversion is under way.\n"})
    return bool(marks)


class LocalDestination:
    """A path on this machine: a folder beside it is filled, then renamed at once.

    Parameters
    ----------
    path : Path
        Absolute.
    """

    copies = 3  # of what is stored, while it is written: as given, encoded, and on its way

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.npy = path, str(path), path.suffix == ".npy"
        self.partial = path.with_name(f"{path.name}.partial")
        self.objects = Objects(locate(str(self.partial)))

    def check(self, series: Series, *, overwrite: bool) -> None:
        """Raise where there is no folder, or the name is taken by what is not to be replaced."""
        if not self.path.parent.is_dir():
            raise ConversionError(
                f"{self.name!r}: there is no folder {str(self.path.parent)!r}. Make it first."
            )
        if not self.path.exists():
            return
        if not overwrite:
            raise _exists(self.name)
        store = self.path.is_dir() and any((self.path / name).exists() for name in ROOTS)
        if not (self.path.is_file() if self.npy else store):
            kind = "a file" if self.npy else "a Zarr store"
            raise ConversionError(
                f"{self.name!r} exists and is not {kind}, so it is not replaced. Remove it, or choose another name."
            )

    @contextlib.contextmanager
    def begin(self, mark: str, *, restart: bool) -> Iterator[bool]:
        """Hold the folder beside the path; whether an earlier process has begun the same."""
        with contextlib.ExitStack() as held:
            try:
                if self.partial.is_symlink():
                    raise FileExistsError("it is a link")
                self.partial.mkdir(exist_ok=True)
                number = os.open(self.partial, os.O_RDONLY)
                held.callback(os.close, number)
                fcntl.flock(
                    number, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # released with the process, however it ends
            except BlockingIOError:
                raise ConversionError(
                    f"another process is writing {self.name!r}. Wait for it, or choose another name."
                ) from None
            except OSError as error:
                raise ConversionError(
                    f"{self.name!r} is written under {self.partial.name!r} first: {error}."
                ) from error
            yield _begin(self.objects, mark, restart=restart)

    def store(self, compression: str) -> NpyStore | ZarrStore:
        """Return what the arrays are written to."""
        return NpyStore(self.partial / "array.npy") if self.npy else ZarrStore(self.objects, compression)

    def publish(
        self, documents: Mapping[str, bytes], mark: str, *, overwrite: bool, check: Check | None
    ) -> None:
        """Rename; nothing is copied, so nothing is read back."""
        show(self.objects, documents)
        replaces = overwrite and self.path.exists()
        try:
            if self.npy:
                made = self.partial / "array.npy"
                os.replace(made, self.path) if replaces else os.link(made, self.path)
            elif replaces:
                (self.path / REPLACED).touch()
                _exchange(self.partial, self.path)
            else:
                os.rename(self.partial, self.path)
        except OSError as error:
            raise ConversionError(f"{self.name!r} cannot be given its name: {error}") from error
        if replaces or self.npy:
            shutil.rmtree(self.partial)
        if not self.npy:
            (self.path / mark).unlink()
        number = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(number)
        os.close(number)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change names, at once where the system can (Linux), else by way of a third name."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    with contextlib.suppress(AttributeError):  # of another system
        if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0:
            return
    aside = other.with_name(f"{other.name}.replaced")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


class BucketDestination:
    """A prefix of a bucket, where no name can be given to many objects at once.

    A store exists for readers by its documents, which are written last. Where a store is replaced, the new one is made
    whole under another prefix first. Two processes that make the same write the same objects.

    Parameters
    ----------
    objects : Objects
        Of the prefix.
    """

    npy = False
    copies = 5  # as given, encoded, as bytes, in the request, and in one tried again

    def __init__(self, objects: Objects) -> None:
        self.final, self.objects, self.name = objects, objects, objects.name
        location = objects.location
        self.partial = Objects(location.parent().child(f"{location.path.rpartition('/')[2]}.partial"))

    def _taken(self) -> bool:
        return any(value is not None for value in self.final.get(ROOTS))

    def check(self, series: Series, *, overwrite: bool) -> None:
        """Raise where the bucket cannot be used, the name is taken, or the source would be gone before it is read."""
        check_bucket(self.final.location)
        begun = any(map(MARK.fullmatch, self.partial.list()))  # perhaps killed while it took the name
        taken = self._taken()
        if taken and not overwrite:  # a mark is of one that was killed at its very end
            self.final.delete(*filter(MARK.fullmatch, self.final.list()))
            raise _exists(self.name)
        self.objects = self.partial if taken or begun else self.final
        for url in (source.name for variable in series.variables for source in variable.source.origins):
            if f"{url.rstrip('/')}/".startswith(f"{self.name}/"):
                raise ConversionError(
                    f"{url!r} would be replaced by what is made from it. In a bucket that cannot be done at once: "
                    "convert to another name."
                )

    @contextlib.contextmanager
    def begin(self, mark: str, *, restart: bool) -> Iterator[bool]:
        """Mark the objects; whether an earlier process has begun the same."""
        yield _begin(self.objects, mark, restart=restart)

    def store(self, compression: str) -> ZarrStore:
        """Return what the arrays are written to."""
        return ZarrStore(self.objects, compression)

    def publish(
        self, documents: Mapping[str, bytes], mark: str, *, overwrite: bool, check: Check | None
    ) -> None:
        """Write the documents last; where a store is replaced, its documents go first, then the chunks are copied."""
        replaces = self.objects is self.partial
        if replaces:
            self.final.delete(*DOCUMENTS)
            keys = [key for key in self.partial.list() if key.rpartition("/")[2] != DOCUMENT and key != mark]
            self.final.delete(*sorted({*self.final.list()} - {*keys}))
            copy = functools.partial(self.partial.copy, self.final)
            for _ in run(copy, keys, executor=None, at_once=COPIED):
                pass
            if check is not None:
                check(self.final)
        elif self._taken():
            raise ConversionError(
                f"{self.name!r} was made by another program while this conversion was under way, whose objects "
                "lie among its own. Choose another name, or begin anew with restart=True, overwrite=True (--restart "
                "--overwrite)."
            )
        show(self.final, documents)
        if replaces:
            self.partial.clear()
        else:
            self.final.delete(mark)
