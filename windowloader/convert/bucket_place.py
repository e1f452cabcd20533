"""A destination in a bucket, where no name can be given to many objects at once.

In: a URL and options. Out: a `Place`. A store exists for readers by its documents (``zarr.json``); they are written
last, when all else has been read back. Where a store is replaced, the new one is made whole beside it first. Never
leaves documents of one store over chunks of another.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from windowloader.errors import ConversionError
from windowloader.sources.base import digest
from windowloader.sources.options import locate, supported
from windowloader.sources.remote_objects import check_bucket

from .bucket_journal import HEAD, BucketJournal, read_head, remove_records
from .bucket_store import DOCUMENT, BucketStore
from .objects import Objects
from .places import SUFFIXES, exists, unknown_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from windowloader.series.series import Series

    from .journal import Records
    from .targets import ArrayTarget

__all__ = ["BucketPlace", "bucket_place"]

ROOTS = (DOCUMENT, ".zgroup", ".zarray")  # any of them makes a store
DOCUMENTS = (*ROOTS, ".zmetadata", ".zattrs")


def bucket_place(text: str, storage_options: Mapping[str, Any] | None) -> BucketPlace:
    """Return the place of a URL.

    Raises
    ------
    ConversionError
        Where nothing can be written, or not piece by piece.
    """
    suffix = PurePosixPath(text.partition("://")[2]).suffix
    if suffix not in SUFFIXES:
        raise unknown_kind(text, suffix)
    if not supported(text) or (location := locate(text.rstrip("/"), storage_options)).scheme not in (
        "s3",
        "gcs",
    ):
        raise ConversionError(
            f"{text!r}: conversions write to paths, s3:// and gs:// (with credentials). Convert to a local path, "
            "then copy the store, its zarr.json files last."
        )
    if suffix == ".npy":
        raise ConversionError(
            f"{text!r}: a .npy file is one object, which a bucket takes only whole. Convert to Zarr, or convert to a "
            "local path, then copy the file."
        )
    if not location.path:
        raise ConversionError(
            f"{text!r} is a whole bucket. Name a store in it: {text.rstrip('/')}/NAME.zarr."
        )
    return BucketPlace(Objects(location))


class BucketPlace:
    """A prefix of a bucket.

    Parameters
    ----------
    objects : Objects
        Of the prefix.
    """

    npy = False
    copies = 5  # as given, encoded, as bytes, in the request, and in one tried again

    def __init__(self, objects: Objects) -> None:
        self.final = objects
        location = objects.location
        self.aside = Objects(location.parent().child(f"{location.path.rpartition('/')[2]}.partial"))
        self.staged = False
        self._store: BucketStore | None = None

    @property
    def name(self) -> str:
        """The URL."""
        return self.final.name

    def check(self, *, overwrite: bool) -> None:
        """Raise where the bucket cannot be used, or the name is taken."""
        check_bucket(self.final.location)
        head, taken = read_head(self.aside), self.taken()
        self.staged = taken if head is None else head["staged"]
        if taken and head is None and not overwrite:
            remove_records(self.aside)  # of one that was killed when all was done but this
            raise exists(self.name)
        if head is None and not taken and (found := self.final.list()):
            raise ConversionError(
                f"{self.name!r} holds {len(found):,} objects that are no Zarr store, {found[0]!r} first. Remove them, "
                "or choose another name."
            )

    def check_source(self, series: Series) -> None:
        """Raise where the source is the destination: it is gone before the new one stands."""
        for url in _urls(series):
            if f"{url.rstrip('/')}/".startswith(f"{self.name}/"):
                raise ConversionError(
                    f"{url!r} would be replaced by what is made from it. In a bucket that cannot be done at once: "
                    "convert to another name."
                )

    def store(self, targets: Sequence[ArrayTarget], compression: str) -> BucketStore:
        """Return the objects, under the name itself or, where that is taken, beside it."""
        place = self.aside.below("store") if self.staged else self.final
        self._store = BucketStore(place, targets, compression)
        return self._store

    def restart(self) -> None:
        """Throw away what an earlier conversion has done."""
        head = read_head(self.aside)
        if head is not None and not head["staged"] and not self.taken():
            self.final.clear()
        self.clear()
        self.aside.delete(HEAD)
        remove_records(self.aside)
        self.staged = self.taken()

    def journal(self, identity: str) -> BucketJournal:
        """Return the journal beside the name."""
        return BucketJournal(self.aside, identity, staged=self.staged)

    def taken(self) -> bool:
        """Whether a store has the name."""
        return any(value is not None for value in self.final.get(ROOTS))

    def mark(self) -> str:
        """Return a digest of the group's document."""
        assert self._store is not None
        return digest(self._store.root.decode())

    def holds(self, mark: Any) -> bool:
        """Whether that document has the name."""
        (found,) = self.final.get([DOCUMENT])
        return found is not None and digest(found.decode()) == mark

    def publish(self, journal: Records, *, overwrite: bool, check: Callable[[], None] | None) -> None:
        """Write the documents last; before that, where something is replaced, remove it and copy the new one."""
        assert self._store is not None
        assert isinstance(journal, BucketJournal)
        journal.hold()
        del overwrite  # a store that is there was found when this began
        if self.staged:
            self._replace(check)
        elif self.taken():
            raise ConversionError(
                f"{self.name!r} was made by somebody else while this conversion was under way, and their objects "
                "lie among its own. Choose another name, or begin anew: restart=True, overwrite=True (--restart "
                "--overwrite)."
            )
        self._store.show()

    def _replace(self, check: Callable[[], None] | None) -> None:
        """Take the old store away, its documents first, and copy the new one: its documents come later."""
        assert self._store is not None
        staged = self._store.objects
        self.final.delete(*DOCUMENTS)
        self.final.clear()
        staged.copy([key for key in staged.list() if key.rpartition("/")[2] != DOCUMENT], self.final)
        self._store.move(self.final)
        if check is not None:
            check()

    def clear(self) -> None:
        """Remove what was made beside the name."""
        self.aside.below("store").clear()


def _urls(series: Series) -> Iterator[str]:
    for variable in series.variables:
        yield from (source.name for source in variable.source.origins)
