"""One array's folder among the mirrors of a node: how it is made, what it says of itself.

In: a folder, the form of an array. Out: its files, made or removed; `Entry`. Never locks:
who makes or removes has the lock of the whole folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import digest
from .mirror_form import SLOT

if TYPE_CHECKING:
    from pathlib import Path

    from .mirror_form import Form

__all__ = [
    "FORMAT",
    "Entry",
    "about_of",
    "allocated",
    "in_use",
    "is_left_over",
    "is_whole",
    "make",
    "read_about",
    "read_entry",
    "remove",
    "slug",
]

FORMAT = 1
ABOUT = "about.json"
FILES = ("values", "blocks", "claims", "used")
NAME = re.compile(r"-[0-9a-f]{16}-[0-9a-f]{16}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One array of a folder of mirrors.

    Attributes
    ----------
    path : str
        Its folder.
    name : str
        Path or URL of the array.
    shape : tuple of int
    dtype : str
    bytes, bytes_held : int
        Of the whole array, and of the blocks that are there.
    blocks, blocks_held : int
        How many there are, and how many of them are whole.
    used : float
        When it was last opened, seconds since 1970.
    in_use : bool
        Whether a process has it open.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    bytes_held: int
    blocks: int
    blocks_held: int
    used: float
    in_use: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


def slug(name: str) -> str:
    """Part of a name that people recognise, fit for a file name."""
    words = re.sub(r"[^A-Za-z0-9._]+", "_", name.rstrip("/").rpartition("://")[2]).strip("_.")
    return words[-48:] or "array"


def about_of(form: Form) -> dict[str, Any]:
    """Describe what an entry holds."""
    return {
        "format": FORMAT,
        "name": form.name,
        "shape": list(form.shape),
        "dtype": form.dtype.str,
        "blocks": form.num_blocks,
        "edges": digest(form.edges.tobytes()),
        "salt": str(form.salt),
    }


def read_about(folder: Path) -> dict[str, Any] | None:
    """Read what an entry says it holds; None where it was not made to its end, or by another version."""
    try:
        found = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def _sizes(form: Form) -> dict[str, int]:
    return {"values": form.nbytes, "blocks": form.num_blocks * SLOT.itemsize, "claims": 0, "used": 0}


def is_whole(folder: Path, form: Form, about: dict[str, Any]) -> bool:
    """Whether an entry is there, made to its end, and its files are as long as they were made."""
    if read_about(folder) != about:
        return False
    try:
        return all((folder / name).stat().st_size == size for name, size in _sizes(form).items())
    except OSError:
        return False


def make(folder: Path, form: Form, about: dict[str, Any]) -> bool:
    """Make an entry's files, unless they are there; whether this process may write them."""
    if is_whole(folder, form, about):
        return all(os.access(folder / name, os.W_OK) for name in FILES[:3])
    remove(folder)  # whoever has the files open keeps them, and sees that they are gone
    folder.mkdir(exist_ok=True)
    for name, size in _sizes(form).items():
        with open(folder / name, "xb") as file:  # never one that somebody has mapped
            file.truncate(size)
    # Written last: without it the entry does not exist.
    with open(folder / ABOUT, "w") as file:
        json.dump(about, file)
        file.flush()
        os.fsync(file.fileno())
    return True


def remove(folder: Path) -> None:
    """Remove an entry; one whose removal was interrupted is no entry any more."""
    (folder / ABOUT).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def is_left_over(folder: Path) -> bool:
    """Whether a folder is an entry whose making or removal was interrupted."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return bool(NAME.search(folder.name)) and ABOUT not in names and names <= set(FILES)


def in_use(folder: Path) -> bool:
    """Whether a process has an entry open."""
    try:
        number = os.open(folder / "used", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(number)
    return False


def allocated(folder: Path) -> int:
    """Bytes of the device that an entry takes."""
    with contextlib.suppress(OSError):
        return (folder / "values").stat().st_blocks * 512
    return 0


def read_entry(folder: Path) -> Entry | None:
    """Look at an entry; None where a folder is none."""
    about = read_about(folder)
    if about is None:
        return None
    try:
        table = np.fromfile(folder / "blocks", SLOT)
        used = (folder / "used").stat().st_mtime
        size = (folder / "values").stat().st_size
    except OSError:
        return None
    held = int(np.count_nonzero(table["seal"]))
    return Entry(
        path=str(folder),
        name=about["name"],
        shape=tuple(about["shape"]),
        dtype=np.dtype(about["dtype"]).name,
        bytes=size,
        bytes_held=min(allocated(folder), size),
        blocks=about["blocks"],
        blocks_held=held,
        used=used,
        in_use=in_use(folder),
    )
