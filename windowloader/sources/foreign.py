"""Files that are not what their name says: pointers, archives, web pages, pictures.

In: a path that could not be opened, or whatever is being opened. Out: what its first bytes are, and what to do.
"""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from windowloader.errors import CorruptDataError, GraphError, SourceFormatError, SourceNotFoundError
from windowloader.hiding import hide_secrets

from .failures import Asked, Guard

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check_head", "check_table", "foreign", "guarded"]

P = ParamSpec("P")
T = TypeVar("T")

READ = 4096
RUNS = "a pickle, which can run code. If you trust it, open it yourself (pandas.read_pickle), and pass what it holds"
# First bytes, what a file with them is and what to do, and the names that say so themselves.
HEADS: tuple[tuple[bytes, str, tuple[str, ...]], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the data. Run 'git lfs pull' where it was cloned", ()),
    (b"\x1f\x8b", "compressed with gzip. Unpack it with gunzip, or add .gz to the name of a table", (".gz",)),
    (b"BZh", "compressed with bzip2. Unpack it with bunzip2, or add .bz2 to the name of a table", (".bz2",)),
    (b"\xfd7zXZ\0", "compressed with xz. Unpack it with unxz, or add .xz to the name of a table", (".xz",)),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard. Unpack it with unzstd, or add .zst to the name of a table",
     (".zst",)),
    (b"PK\x03\x04", "a zip archive. Unpack it; where numpy.savez wrote it, name it .npz; where a spreadsheet program "
     "did, pass what pandas.read_excel returns", (".npz", ".zip", ".xlsx", ".xls", ".ods", ".pt")),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet or text of an office program. Save it as CSV", (".xls",)),
    (b"PAR1", "a Parquet file. Name it .parquet", (".parquet", ".pq")),
    (b"ARROW1", "an Arrow (Feather) file. Name it .feather, or pass what pandas.read_feather returns",
     (".feather", ".arrow", ".ipc")),
    (b"\x0e\x03\x13\x01", "an HDF 4 file, which is another format than HDF5. Convert it by h4toh5", ()),
    (b"MATLAB 5.0", "a MATLAB file. Pass what scipy.io.loadmat returns, or save it with -v7.3", (".mat",)),
    (b"\x89PNG", "a PNG picture, which has no time", ()),
    (b"\xff\xd8\xff", "a JPEG picture, which has no time", ()),
    (b"II*\0", "a TIFF picture, which has no time. Join several in xarray, along a time of your own", ()),
    (b"MM\0*", "a TIFF picture, which has no time. Join several in xarray, along a time of your own", ()),
    (b"%PDF", "a PDF document. Take the data from where it was made", ()),
    (b"\x89HDF\n", "an HDF5 file whose line ends were changed in transfer. Copy it again, as binary", ()),
    (b"\x89HDF\r\r\n", "an HDF5 file whose line ends were changed in transfer. Copy it again, as binary", ()),
)  # fmt: skip
KNOWN = (
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".nc",
    ".nc4",
    ".csv",
    ".tsv",
    ".txt",
    ".parquet",
    ".pq",
    ".pkl",
    ".pickle",
)
PICKLE = re.compile(
    rb"\x80(?:[\x04\x05]\x95|[\x02\x03][\](}cXK])|\(*[ld]p\d+\r?\n|c[a-z_.]+\r?\n[a-z_]+\r?\n"
)
CHANGED = re.compile(rb"(?:multiarray|copyreg|copy_reg|builtins|__builtin__|[ld]p\d+)\r\n")
PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
TITLE = re.compile(rb"<(?:title|code|message)>\s*([^<]{1,80}?)\s*</", re.IGNORECASE)
XML = re.compile(rb"\s*<(?:\?xml|error>|[a-z]+:?[a-z]+ xmlns)", re.IGNORECASE)
JSON = re.compile(rb'\s*(?:\{\s*["}]|\[\s*[\[{"\]])')


def foreign(path: str | os.PathLike[str]) -> str | None:
    """Say what a file is, by its first bytes, where its name says something else; None where they do not tell.

    Examples
    --------
    >>> foreign("nothing.npy")
    """
    if not os.path.isfile(path):  # opening a pipe would wait for who writes
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(READ)
    except OSError:
        return None
    name = os.fspath(path).lower()
    if head and not head.strip(b"\0") and name.endswith(KNOWN):
        return "filled with bytes of 0, as a download that broke off leaves it. Restore it from its origin"
    for start, told, names in HEADS:
        if head.startswith(start):
            return None if name.endswith(names) else told
    if PICKLE.match(head):
        if CHANGED.search(head):
            return (
                "a pickle whose line ends were changed in transfer (\\r\\n for \\n). Copy it again, as binary"
            )
        return None if name.endswith((".pkl", ".pickle", ".pt")) else RUNS
    return None if name.endswith((".json", ".xml", ".html")) else _answer(head)


def check_table(path: str) -> None:
    """Raise `SourceFormatError` for a table whose bytes are not what its name says: it would be read as text."""
    if os.path.isdir(path):
        return
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith((b"PAR1", b"ARROW1")) and not path.lower().endswith((".csv", ".tsv", ".txt")):
        return  # told by its bytes
    told = foreign(path)
    for start, _told, names in HEADS:
        if start in (b"PAR1", b"ARROW1") and path.lower().endswith(names) and not head.startswith(start):
            told = told or f"no file of the kind that its name says: it begins with {head!r}, not {start!r}"
    if told is not None:
        raise SourceFormatError(f"{path!r} is {told}.")


def check_head(name: str, head: bytes) -> None:
    """Raise `SourceFormatError` where the first bytes of an object are those of something that is not opened."""
    told = next((told for start, told, _ in HEADS if head.startswith(start)), None) or _answer(head)
    if told is not None:
        raise SourceFormatError(f"{hide_secrets(name)!r} is {told}.")


def _answer(head: bytes) -> str | None:
    """Say what kind of answer of a web server some bytes are."""
    page = PAGE.match(head)
    if page or XML.match(head):
        found = TITLE.search(head)
        title = f" ({found[1].decode('utf-8', 'replace')!r})" if found else ""
        kind = "a web page" if page else "an XML document"
        return f"{kind}{title}, as a server sends it for a log-in or an error. Download the file again"
    if JSON.match(head):
        begun = head[:60].decode("utf-8", "replace")
        return (
            f"JSON text, which begins with {begun!r}. Download the file again, or pass an array made from it"
        )
    return None


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function that opens or describes its first argument raise errors of this package alone.

    Parameters
    ----------
    function : callable
        Its first argument is a path or URL, or anything else that can be opened.

    Raises
    ------
    WindowLoaderError
        For what any library raises: see `Guard`. For a local file whose bytes are not what its name says, with what
        they are.
    """

    @functools.wraps(function)
    def guard(*given: P.args, **options: P.kwargs) -> T:
        target = given[0] if given else options.get("target", options.get("path"))
        path = str(os.fspath(target)) if isinstance(target, str | os.PathLike) else None
        try:
            with Guard(Asked(type(target).__name__ if path is None else path, doing="opened")):
                return function(*given, **options)
        except (SourceFormatError, SourceNotFoundError, CorruptDataError, GraphError) as error:
            told = None if path is None else foreign(path)
            if told is None and path is not None and "://" in path and _last(path) not in str(error):
                raise type(error)(f"{path!r}: {error}") from error.__cause__
            if told is None or told in str(error):
                raise
            kind = GraphError if isinstance(error, GraphError) else SourceFormatError
            raise kind(f"{path!r} is {told}.") from error

    return guard


def _last(path: str) -> str:
    """Return the last part of a path or URL, by which messages know it."""
    return path.partition("?")[0].rstrip("/").rpartition("/")[2]
