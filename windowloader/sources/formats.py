"""What a path names and what a file is: URLs, patterns, formats by suffix and by first bytes.

In: a path, URL or pattern. Out: the files that match, the format of a file, or what a file is that cannot be opened.
Never opens more than the first bytes.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from windowloader.errors import SourceFormatError, hide_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["by_bytes", "by_name", "foreign", "format_of", "is_pattern", "is_url", "matching", "natural"]

READ = 4096
HDF5 = b"\x89HDF\r\n\x1a\n"
GRIB = (".grib", ".grib2", ".grb", ".grb2")
TEXT = (".csv", ".tsv", ".txt")
PACKERS = (".gz", ".bz2", ".xz", ".zst")


class Format(NamedTuple):
    """A file format.

    Parameters
    ----------
    name : str
        For messages.
    kind : str, optional
        Key of `windowloader.sources.registry.KINDS`; None: it cannot be opened.
    heads : tuple of bytes
        First bytes of its files.
    suffixes : tuple of str
        Ends of the names of its files.
    advice : str
        What a file with these first bytes and another name is, and what to do about it.
    """

    name: str
    kind: str | None
    heads: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()
    advice: str = ""


def _packed(name: str, head: bytes, command: str, suffix: str) -> Format:
    advice = f"compressed with {name}. Unpack it with {command}, or add {suffix} to the name of a table"
    return Format(name, None, (head,), (suffix,), advice)


FORMATS = (
    Format("npy", "npy", (b"\x93NUMPY",), (".npy",)),
    Format("npz", "npz", (), (".npz",)),
    Format("HDF5", "hdf5", (HDF5,), (".h5", ".hdf5", ".hdf", ".he5", ".mat")),
    Format("netCDF", "hdf5", (b"CDF", b"GRIB"), (".nc", ".nc4", ".cdf", ".netcdf", ".nc3", *GRIB)),
    Format("Parquet", "table", (b"PAR1",), (".parquet", ".pq"), "a Parquet file. Name it .parquet"),
    Format("Feather", "table", (b"ARROW1",), (".feather", ".arrow", ".ipc"), "a Feather file. Name it .feather"),
    Format("Excel", "table", (), (".xlsx", ".xls", ".ods")),
    Format("CSV", "table", (), (*TEXT, *(name + packed for name in TEXT for packed in PACKERS))),
    _packed("gzip", b"\x1f\x8b", "gunzip", ".gz"),
    _packed("bzip2", b"BZh", "bunzip2", ".bz2"),
    _packed("xz", b"\xfd7zXZ\0", "unxz", ".xz"),
    _packed("Zstandard", b"\x28\xb5\x2f\xfd", "unzstd", ".zst"),
    Format("zip", None, (b"PK\3\4",), (".npz", ".zip", ".xlsx", ".xls", ".ods", ".pt"),
           "a zip archive. Unpack it; where numpy.savez wrote it, name it .npz; where a spreadsheet program did, pass "
           "what pandas.read_excel returns"),
    Format("Git LFS", None, (b"version https://git-lfs",), (),
           "a Git LFS pointer, not the data. Run 'git lfs pull' where it was cloned"),
    Format("HDF4", None, (b"\x0e\x03\x13\x01",), (), "an HDF 4 file, not HDF5. Convert it by h4toh5"),
    Format("MATLAB", None, (b"MATLAB 5.0",), (),
           "a MATLAB file. Pass what scipy.io.loadmat returns, or save it with -v7.3"),
    Format("picture", None, (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"%PDF"), (),
           "a picture (PNG, JPEG, TIFF) or a PDF document, which has no time axis. Join several pictures in xarray"),
    Format("damaged HDF5", None, (b"\x89HDF\n", b"\x89HDF\r\r\n"), (),
           "an HDF5 file whose line ends were changed in transfer. Copy it again, as binary"),
)  # fmt: skip
BINARY = (".npy", ".npz", ".h5", ".hdf5", ".nc", ".nc4", *TEXT, ".parquet", ".pq", ".pkl", ".pickle")
PICKLE = re.compile(
    rb"\x80(?:[\x04\x05]\x95|[\x02\x03][\](}cXK])|\(*[ld]p\d+\r?\n|c[a-z_.]+\r?\n[a-z_]+\r?\n"
)
CHANGED = re.compile(rb"(?:multiarray|copyreg|copy_reg|builtins|__builtin__|[ld]p\d+)\r\n")
PAGE = re.compile(
    rb"\s*<(?:(!doctype\s+html|html|head|body)\b|\?xml|error>|[a-z]+:?[a-z]+ xmlns)", re.IGNORECASE
)
TITLE = re.compile(rb"<(?:title|code|message)>\s*([^<]{1,80}?)\s*</", re.IGNORECASE)
JSON = re.compile(rb'\s*(?:\{\s*["}]|\[\s*[\[{"\]])')


def _head_of(path: str | os.PathLike[str]) -> bytes:
    """Return the first bytes of a file; none of a pipe or device, where reading would wait."""
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(READ)
    return b""


def by_bytes(head: bytes) -> Format | None:
    """Format with these first bytes, of those that can be opened."""
    return next((one for one in FORMATS if one.kind and one.heads and head.startswith(one.heads)), None)


def format_of(path: str) -> Format | None:
    """Format of a local file by its first bytes; None where they are not known.

    Raises
    ------
    SourceFormatError
        For a file that cannot be opened, such as a web page, and for a binary table that is named like text.
    """
    head = _head_of(path)
    found = by_bytes(head)
    if found is None and head and _has_user_block(path):
        return next(one for one in FORMATS if one.kind == "hdf5")
    checked = found is None or (found.advice and path.lower().endswith(TEXT))
    if checked and (advice := foreign(path, head)):
        raise SourceFormatError(f"{path!r} is {advice}.")
    return found


def _has_user_block(path: str) -> bool:
    """Whether an HDF5 file begins after a block of other bytes, as MATLAB writes it."""
    with open(path, "rb") as file:
        for place in (512 << step for step in range(12)):
            file.seek(place)
            if file.read(8) == HDF5:
                return True
    return False


def by_name(path: str) -> Format | None:
    """Format by the suffix of a name, of those that can be opened.

    Examples
    --------
    >>> by_name("pems.csv.gz").kind, by_name("https://host/pems.npy?version=2").kind, by_name("pems")
    ('table', 'npy', None)
    """
    name = path.lower().partition("?")[0]
    return next((one for one in FORMATS if one.kind and name.endswith(one.suffixes)), None)


def foreign(path: str | os.PathLike[str], head: bytes | None = None) -> str | None:
    """Return what a file is and what to do, where its first bytes are not those of its name; else None.

    Parameters
    ----------
    path : path-like
        The file, or the name of an object.
    head : bytes, optional
        Its first bytes; default: they are read.

    Examples
    --------
    >>> foreign("speed.csv", b"version https://git-lfs.github.com/spec/v1")
    "a Git LFS pointer, not the data. Run 'git lfs pull' where it was cloned"
    """
    name = os.fspath(path).lower()
    head = _head_of(path) if head is None else head
    if head and not head.strip(b"\0") and name.endswith(BINARY):
        return "filled with bytes of 0, as an interrupted download leaves it. Restore it from its origin"
    if other := next((one for one in FORMATS if one.advice and head.startswith(one.heads)), None):
        return None if name.endswith(other.suffixes) else other.advice
    if PICKLE.match(head):
        if CHANGED.search(head):
            return "a pickle whose line ends were changed in transfer. Copy it again, as binary"
        return None if name.endswith((".pkl", ".pickle", ".pt")) else PICKLED
    if name.endswith((".json", ".xml", ".html")):
        return None
    if page := PAGE.match(head):
        found, what = TITLE.search(head), "a web page" if page[1] else "an XML document"
        title = f" ({found[1].decode('utf-8', 'replace')!r})" if found else ""
        return f"{what}{title}, such as a log-in page or an error. Download the file again"
    if JSON.match(head):
        return (
            f"JSON text: {head[:60].decode('utf-8', 'replace')!r}. Download the file again, or pass an array"
        )
    return None


PICKLED = (
    "a pickle. Pickles can run code and are never opened. If you trust it, open it yourself (pandas.read_pickle, "
    "pickle.load) and pass the frame or array"
)


def is_url(target: Any) -> bool:
    """Whether a path names a place other than this machine's files."""
    return isinstance(target, str) and "://" in target and not target.startswith(("file://", "local://"))


def is_pattern(target: Any) -> bool:
    """Whether a target is a pattern; in URLs only ``*`` makes one, as ``?`` begins a query."""
    if not isinstance(target, str):
        return False
    return "*" in target if is_url(target) else glob.has_magic(target) and not os.path.exists(target)


def natural(name: str) -> tuple[list[int | str], str]:
    """Return a sort key that compares the numbers in names by value.

    Examples
    --------
    >>> sorted(["part_10", "part_2"], key=natural)
    ['part_2', 'part_10']
    """
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def matching(pattern: str, storage_options: Mapping[str, Any]) -> list[str]:
    """Paths or URLs that match, in natural order.

    Raises
    ------
    SourceFormatError
        Where there is none, and for web servers, which do not list files.
    """
    found = _listed(pattern, storage_options) if is_url(pattern) else glob.glob(pattern)
    if not found:
        raise SourceFormatError(f"no file matches {hide_secrets(pattern)!r}.")
    return sorted(found, key=natural)


def _listed(pattern: str, storage_options: Mapping[str, Any]) -> list[str]:
    """List the matching objects of a bucket; a folder such as a Zarr store is one match."""
    import fsspec

    from .failures import Asked, explained
    from .options import locate, scheme_of, supported
    from .processes import tensorstore
    from .remote_objects import open_store, own_headers_stay, wait_for

    def globbed() -> list[str]:
        system, path = fsspec.core.url_to_fs(pattern, **options)
        return [system.unstrip_protocol(name) for name in system.glob(path)]

    if scheme_of(pattern) in ("http", "https"):
        raise SourceFormatError(
            f"{hide_secrets(pattern)!r}: web servers do not list their files. Pass a list of URLs."
        )
    if not supported(pattern):
        options = own_headers_stay(storage_options)
        options.pop("timeout", None)
        return explained(Asked(hide_secrets(pattern)), globbed)
    folder, _, begin = pattern.partition("*")[0].rpartition("/")
    wanted, location = pattern[len(folder) + 1 :], locate(folder, storage_options)
    below = tensorstore().KvStore.KeyRange(begin, f"{begin}\U0010ffff" if begin else "")
    keys = wait_for(open_store(location).list(below), location)
    depth = wanted.count("/") + 1
    found = {"/".join(key.decode().split("/")[:depth]) for key in keys}
    return [f"{folder}/{name}" for name in found if PurePosixPath(name).match(wanted)]
