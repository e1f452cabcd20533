"""What of a conversion into a bucket is done, in the bucket, so that a killed one goes on, here or elsewhere.

In: records of finished work. Out: the same records after a kill. A head says what is being made, by which run; each
record is an object of its own, written only where there is none of its number: of two processes that go on with the
same run, the second to write one is stopped. Never says that something is done before its bytes are.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from typing import TYPE_CHECKING, Any

from windowloader.errors import ConversionError

from .journal import other_conversion

if TYPE_CHECKING:
    from types import TracebackType

    from .objects import Objects

__all__ = ["HEAD", "BucketJournal", "read_head", "remove_records"]

HEAD = "conversion.json"
AT_ONCE = 64  # records read at a time
RECORD = re.compile(r"[0-9a-f]{32}/[0-9]{10}\.json")


def read_head(objects: Objects) -> dict[str, Any] | None:
    """Return what is being made below a prefix, or None."""
    (found,) = objects.get([HEAD])
    return None if found is None else dict(json.loads(found))


def remove_records(objects: Objects) -> None:
    """Delete records below a prefix, and nothing else that lies there."""
    objects.delete(*(key for key in objects.list() if RECORD.fullmatch(key)))


class BucketJournal:
    """Records beside what is being made.

    Parameters
    ----------
    objects : Objects
        Of the prefix that holds the journal.
    identity : str
        What is being made from what; a journal of something else is refused.
    staged : bool
        Whether a conversion that begins is written aside; one that goes on stays where it was.

    Attributes
    ----------
    records : list of dict
        What was written before.
    staged : bool

    Raises
    ------
    ConversionError
        Where it is of another conversion, or another process goes on with it.
    """

    def __init__(self, objects: Objects, identity: str, *, staged: bool) -> None:
        self.objects = objects
        self._lock = threading.Lock()
        self._writer = uuid.uuid4().hex
        head = read_head(objects)
        if head is None:
            remove_records(objects)  # of one that was killed while it removed them
            head = {"identity": identity, "run": uuid.uuid4().hex, "staged": staged}
            if not objects.put_new(HEAD, json.dumps(head).encode()):
                raise self._another()
        elif head["identity"] != identity:
            raise other_conversion(objects.name)
        self.staged: bool = head["staged"]
        self._head = json.dumps(head).encode()
        self._records = objects.below(head["run"])
        self.records = self._read()
        self._next = len(self.records)

    def _read(self) -> list[dict[str, Any]]:
        names = self._records.list()
        found: list[dict[str, Any]] = []
        for start in range(0, len(names), AT_ONCE):
            values = self._records.get(names[start : start + AT_ONCE])
            if None in values:
                raise self._another()
            found += [json.loads(value)["record"] for value in values if value is not None]
        return found

    def write(self, record: dict[str, Any]) -> None:
        """Add a record, in the bucket when this returns. What it tells of must be there already."""
        with self._lock:
            self.hold()
            text = json.dumps({"writer": self._writer, "record": record}).encode()
            if not self._records.put_new(f"{self._next:010d}.json", text):
                raise self._another()
            self._next += 1

    def hold(self) -> None:
        """Raise where the run is not ours any more: ended, or begun anew by another process."""
        if self.objects.get([HEAD]) != [self._head]:
            raise self._another()

    def remove(self) -> None:
        """Delete it, the head first: the conversion is over."""
        self.objects.delete(HEAD)
        remove_records(self.objects)

    def close(self) -> None:
        """Do nothing: nothing is held that outlives a write."""

    def __enter__(self) -> BucketJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _another(self) -> ConversionError:
        return ConversionError(
            f"another process is at work on the conversion under {self.objects.name!r}, or has ended it. Wait for it, "
            "or choose another name."
        )
