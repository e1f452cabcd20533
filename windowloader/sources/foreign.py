"""Files that are not what their name says: pointers, archives, web pages, pictures.

In: a path that could not be opened, or whatever is being opened. Out: what its first bytes are, and what to do.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from windowloader.errors import CorruptDataError, GraphError, SourceFormatError, SourceNotFoundError

from .failures import Asked, Guard

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check_head", "check_table", "foreign", "guarded"]

P = ParamSpec("P")
T = TypeVar("T")

READ = 4096
RUNS = "a pickle, which can run code. If you trust it, open it yourself (pandas.read_pickle), and pass what it holds"
ENDS = "line ends were changed in transfer"
PACKED = "compressed with {0}. Unpack it with {1}, or add {2} to the name of a table"
# First bytes, what a file with them is and what to do, and the names that say so themselves.
HEADS: tuple[tuple[bytes | tuple[bytes, ...], str, tuple[str, ...]], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the data. Run 'git lfs pull' where it was cloned", ()),
    (b"\x1f\x8b", PACKED.format("gzip", "gunzip", ".gz"), (".gz",)),
    (b"BZh", PACKED.format("bzip2", "bunzip2", ".bz2"), (".bz2",)),
    (b"\xfd7zXZ\0", PACKED.format("xz", "unxz", ".xz"), (".xz",)),
    (b"\x28\xb5\x2f\xfd", PACKED.format("Zstandard", "unzstd", ".zst"), (".zst",)),
    (b"PK\x03\x04", "a zip archive. Unpack it; where numpy.savez wrote it, name it .npz; where a spreadsheet program "
     "did, pass what pandas.read_excel returns", (".npz", ".zip", ".xlsx", ".xls", ".ods", ".pt")),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet or text of an office program. Save it as CSV", (".xls",)),
    (b"PAR1", "a Parquet file. Name it .parquet", (".parquet", ".pq")),
    (b"ARROW1", "an Arrow (Feather) file. Name it .feather, or pass what pandas.read_feather returns",
     (".feather", ".arrow", ".ipc")),
    (b"\x0e\x03\x13\x01", "an HDF 4 file, which is another format than HDF5. Convert it by h4toh5", ()),
    (b"MATLAB 5.0", "a MATLAB file. Pass what scipy.io.loadmat returns, or save it with -v7.3", ()),
    ((b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"%PDF"), "a picture (PNG, JPEG, TIFF) or a PDF document, which "
     "has no time. Join several pictures in xarray, along a time of your own", ()),
    ((b"\x89HDF\n", b"\x89HDF\r\r\n"), f"an HDF5 file whose {ENDS}. Copy it again, as binary", ()),
)  # fmt: skip
KNOWN = (".npy", ".npz", ".h5", ".hdf5", ".nc", ".nc4", ".csv", ".tsv", ".txt", ".parquet", ".pq", ".pkl",
         ".pickle")  # fmt: skip
PICKLE = re.compile(
    rb"\x80(?:[\x04\x05]\x95|[\x02\x03][\](}cXK])|\(*[ld]p\d+\r?\n|c[a-z_.]+\r?\n[a-z_]+\r?\n"
)
CHANGED = re.compile(rb"(?:multiarray|copyreg|copy_reg|builtins|__builtin__|[ld]p\d+)\r\n")
PAGE = re.compile(
    rb"\s*<(?:(!doctype\s+html|html|head|body)\b|\?xml|error>|[a-z]+:?[a-z]+ xmlns)", re.IGNORECASE
)
TITLE = re.compile(rb"<(?:title|code|message)>\s*([^<]{1,80}?)\s*</", re.IGNORECASE)
JSON = re.compile(rb'\s*(?:\{\s*["}]|\[\s*[\[{"\]])')


def foreign(path: str | os.PathLike[str]) -> str | None:
    """Say what a file is, by its first bytes, where its name says something else; None where they do not tell.

    Examples
    --------
    >>> foreign("nothing.npy")
    """
    return _told(os.fspath(path), _head(path))


def _head(path: str | os.PathLike[str]) -> bytes:
    """Return the first bytes of a file; none of what is no file: opening a pipe would wait for who writes."""
    with contextlib.suppress(OSError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(READ)
    return b""


def _told(name: str, head: bytes) -> str | None:
    name = name.lower()
    if head and not head.strip(b"\0") and name.endswith(KNOWN):
        return "filled with bytes of 0, as a download that broke off leaves it. Restore it from its origin"
    for start, told, names in HEADS:
        if head.startswith(start):
            return None if name.endswith(names) else told
    if PICKLE.match(head):
        if CHANGED.search(head):
            return f"a pickle whose {ENDS} (\\r\\n for \\n). Copy it again, as binary"
        return None if name.endswith((".pkl", ".pickle", ".pt")) else RUNS
    if name.endswith((".json", ".xml", ".html")):
        return None
    if page := PAGE.match(head):
        found = TITLE.search(head)
        title = f" ({found[1].decode('utf-8', 'replace')!r})" if found else ""
        kind = "a web page" if page[1] else "an XML document"
        return f"{kind}{title}, as a server sends it for a log-in or an error. Download the file again"
    if JSON.match(head):
        begun = head[:60].decode("utf-8", "replace")
        return (
            f"JSON text, which begins with {begun!r}. Download the file again, or pass an array made from it"
        )
    return None


def check_head(name: str, head: bytes) -> None:
    """Raise `SourceFormatError` where the first bytes of an object are those of something that is not opened."""
    if told := _told(name, head):
        raise SourceFormatError(f"{name!r} is {told}.")


def check_table(path: str) -> None:
    """Raise `SourceFormatError` for a table whose bytes are not what its name says: it would be read as text."""
    name, head = path.lower(), _head(path)
    text = name.endswith((".csv", ".tsv", ".txt"))
    if head.startswith((b"PAR1", b"ARROW1")) and not text:
        return  # told by its bytes
    check_head(path, head)
    if head and name.endswith((".parquet", ".pq", ".feather", ".arrow", ".ipc")):
        raise SourceFormatError(
            f"{path!r} is no file of the kind that its name says: it begins with {head[:8]!r}."
        )


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
        path = str(os.fspath(target)) if isinstance(target, str | os.PathLike) else ""
        try:
            with Guard(Asked(path or type(target).__name__, doing="opened")):
                return function(*given, **options)
        except (SourceFormatError, SourceNotFoundError, CorruptDataError, GraphError) as error:
            told, said = foreign(path), str(error)
            if told and told not in said:
                kind = GraphError if isinstance(error, GraphError) else SourceFormatError
                raise kind(f"{path!r} is {told}.") from error
            if "://" in path and os.path.basename(path.partition("?")[0].rstrip("/")) not in said:
                raise type(error)(f"{path!r}: {error}") from error.__cause__
            raise

    return guard
