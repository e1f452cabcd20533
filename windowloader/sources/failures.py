"""What libraries raise, as errors of this package that say what to do.

In: an exception of any library, and what was being opened or read. Out: an error of this package. Never retries: that
happened before, within bounds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from windowloader.errors import (
    CorruptDataError,
    CredentialsError,
    MissingExtraError,
    SourceChangedError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourceTimeoutError,
    WindowLoaderError,
)
from windowloader.hiding import hide_secrets

from .received import LEAST

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REDIRECT", "Asked", "Guard", "explain", "explained", "late", "stalled"]

T = TypeVar("T")

STATUS = re.compile(
    r"\b(NOT_FOUND|PERMISSION_DENIED|UNAUTHENTICATED|DATA_LOSS|FAILED_PRECONDITION|OUT_OF_RANGE|ABORTED|UNAVAILABLE|"
    r"DEADLINE_EXCEEDED|INVALID_ARGUMENT|UNIMPLEMENTED|RESOURCE_EXHAUSTED|INTERNAL)\b"
)
CHUNK = re.compile(r"chunk \{([\d, ]+)\}|[\"/]c/(\d+(?:/\d+)*)\"|/(\d+(?:[./]\d+)*)\"|\"(\d+(?:[./]\d+)*)\"")
CREDENTIALS = re.compile(
    r"credentials|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|TokenRefreshRequired|"
    r"NoCredentials|Unable to locate", re.IGNORECASE,
)  # fmt: skip
REGION = re.compile(r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|AuthorizationQuery|"
                    r"\bregion\b.*(wrong|expect)", re.IGNORECASE)  # fmt: skip
STALL = re.compile(r"too slow|timed out|timeout was reached|DEADLINE_EXCEEDED", re.IGNORECASE)
CORRUPT = re.compile(
    r"digest|checksum|crc32|blosc|zstd|gzip|zlib|inflate|decompress|not enough data|truncat|invalid shard|"
    r"uncompressed|expected (?:length|size)|unexpected end|is not valid|was not satisfied|of size|incomplete|"
    r"buffer (?:size|is)|corrupt|filter returned failure", re.IGNORECASE,
)  # fmt: skip
REDIRECT = re.compile(r"(?:HTTP code |http_response_code=')30[12378]\b")
# What TensorStore quotes whole: its specification with headers, and an answer that may repeat all that was asked.
QUOTED = r"\s*\[{}='((?:[^'\\]|\\.)*)(?:'\]|$)"
SPEC = re.compile(QUOTED.format("tensorstore_spec"), re.DOTALL)
BODY = re.compile(QUOTED.format("http_response_body"), re.DOTALL)
CODE = re.compile(r"<Code>\w+</Code>")
UNSUPPORTED = (
    "It is damaged, or holds something that is not supported. Open it with the library that wrote it, and pass what "
    "that returns; where that works and this does not, please report it."
)
REFUSED = (
    "Retries are used up; the store may be down or busy. Try again, or raise storage_options={'retries': …}."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was being read, for the message.

    Parameters
    ----------
    name : str
        The array's path or URL.
    rows : tuple of int or None
        First row and the end of the range.
    locate : callable, optional
        Rows that a chunk's indices (in storage order) hold, as text.
    doing : {"read", "written", "opened"}
        What was asked.
    """

    name: str
    rows: tuple[int, int] | None = None
    locate: Callable[[tuple[int, ...]], str] | None = None
    doing: str = "read"

    def __str__(self) -> str:
        return f"{self.name!r}" + (f", rows {self.rows[0]}–{self.rows[1] - 1}" if self.rows else "")

    def chunk(self, text: str) -> str:
        """Name the chunk that a message of the storage speaks of, with its rows."""
        match = CHUNK.search(text)
        if match is None:
            return ""
        indices = tuple(int(part) for part in re.findall(r"\d+", next(filter(None, match.groups()))))
        where = self.locate(indices) if self.locate else ""
        return f" (chunk {', '.join(map(str, indices))}{'; ' + where if where else ''})"


def explain(error: BaseException, asked: Asked) -> WindowLoaderError:
    """Return the error of this package for one of a storage library.

    Parameters
    ----------
    error : exception
        As caught; its text is kept at the end of the message, without what may hold secrets.
    asked : Asked
        What was being read.

    Returns
    -------
    WindowLoaderError
        To be raised without the original as its cause or context, whose text may hold secrets: see `explained`.

    Examples
    --------
    >>> print(explain(ValueError("NOT_FOUND: chunk {3,0} stored at 'c/3/0' is missing"), Asked("a.zarr", (0, 9))))
    'a.zarr', rows 0–8: a chunk is missing (chunk 3, 0). If absent chunks mean ... Storage said: NOT_FOUND: ...
    """
    if isinstance(error, WindowLoaderError):
        return error
    whole = SPEC.sub("", f"{error}")
    text = BODY.sub(_code_of, whole)
    status = match.group(1) if (match := STATUS.search(text)) else ""
    said = f"{'Cause' if asked.doing == 'opened' else 'Storage said'}: {_short(_named(error, status, text))}"
    kinds = [_corrupt, _unreachable, _builtin]
    if asked.doing != "opened" or "://" in asked.name:
        kinds = [_missing, _credentials, _refused, _timeout, _unknown, *kinds]
    for kind in kinds:
        part = whole if kind in (_missing, _credentials) else text  # what else an answer says is any text
        if found := kind(error, status, part, asked):
            cls, message = found
            return cls(f"{asked}: {message} {said}")
    if asked.doing != "opened" or isinstance(error, OSError):
        return SourceError(f"{asked}: cannot be {asked.doing}. {said}")
    return SourceFormatError(f"{asked}: cannot be opened. {UNSUPPORTED} {said}")


def _named(error: BaseException, status: str, text: str) -> str:
    """Put the class of an error before its text, unless the text has the status of a storage library."""
    return text if status else f"{type(error).__name__}: {text}" if text else type(error).__name__


def explained(asked: Asked, call: Callable[[], T]) -> T:
    """Return what a call of a storage library returns; its error becomes one of this package, which stands alone.

    Parameters
    ----------
    asked : Asked
        For messages.
    call : callable
        Calls the library.

    Raises
    ------
    WindowLoaderError
        As `explain` says.
    """
    try:
        return call()
    except Exception as error:
        failed = explain(error, asked)
    raise failed


@dataclass(frozen=True, slots=True)
class Guard:
    """Raises what a library raises within ``with`` as an error of this package, from the original.

    Errors of this package and warnings that were made errors pass as they are. An original whose text may hold secrets
    is left out.

    Parameters
    ----------
    asked : Asked
        For messages.

    Examples
    --------
    >>> with Guard(Asked("a.npy", doing="opened")):
    ...     {}["shape"]
    Traceback (most recent call last):
    windowloader.errors.SourceFormatError: 'a.npy': cannot be opened. ... Cause: KeyError: 'shape'
    """

    asked: Asked

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Replace an error of a library."""
        if not isinstance(error, Exception) or isinstance(error, WindowLoaderError | Warning):
            return
        found = explain(error, self.asked)
        cause = error if _shows_nothing(error) else None
        try:
            raise found from cause
        finally:
            found.__context__ = cause


def _shows_nothing(error: BaseException | None) -> bool:
    """Whether neither an error nor those it came from have text with passwords, queries or specifications."""
    while error is not None:
        text = str(error)
        if hide_secrets(text) != text or SPEC.search(text) or BODY.search(text):
            return False
        error = error.__cause__ or error.__context__
    return True


def stalled(asked: Asked, seconds: float) -> SourceTimeoutError:
    """Return the error for a read that made no progress.

    Examples
    --------
    >>> print(stalled(Asked("a.zarr"), 25))
    'a.zarr': for 25 s no read of this store finished, and less than 64 KiB arrived. The connection may be stalled; ...
    """
    return SourceTimeoutError(
        f"{asked}: for {seconds:g} s no read of this store finished, and less than {LEAST >> 10} KiB arrived. The "
        "connection may be stalled; try again, or where answers do take that long, pass "
        f"storage_options={{'timeout': {2 * seconds:g}}}."
    )


def late(asked: Asked, seconds: float) -> SourceTimeoutError:
    """Return the error for a read that the caller did not wait for any longer.

    Examples
    --------
    >>> print(late(Asked("a.zarr", (0, 9)), 2))
    'a.zarr', rows 0–8: not read within 2 s; wait for the result again.
    """
    return SourceTimeoutError(f"{asked}: not read within {seconds:g} s; wait for the result again.")


_Found = tuple[type[WindowLoaderError], str] | None


def _missing(error: BaseException, status: str, text: str, asked: Asked) -> _Found:
    if re.search(r"NoSuchBucket|bucket.*(?:not exist|not found)", text, re.IGNORECASE):
        return (
            SourceNotFoundError,
            "the bucket does not exist at this endpoint; check its name and endpoint_url.",
        )
    if status != "NOT_FOUND":
        return None
    if "chunk" in text or CHUNK.search(text):
        return CorruptDataError, (
            f"a chunk is missing{asked.chunk(text)}. If absent chunks mean the fill value, pass fill_missing=True; "
            "else the store is incomplete: write it again."
        )
    return SourceNotFoundError, "nothing is there; check the path, and variables= if any were asked for."


def _credentials(error: BaseException, status: str, text: str, asked: Asked) -> _Found:
    if REGION.search(text):
        return CredentialsError, (
            "the bucket is in another region; pass storage_options={'region': …} or set AWS_REGION."
        )
    if "RequestTimeTooSkewed" in text:
        return (
            CredentialsError,
            "the clock of this machine is wrong, so the signature is refused; set the clock.",
        )
    if status in ("PERMISSION_DENIED", "UNAUTHENTICATED") or (
        CREDENTIALS.search(text) and "ABORTED" not in text
    ):
        wrong = (
            "are wrong"
            if re.search("InvalidAccessKeyId|SignatureDoesNotMatch", text)
            else "are absent or not enough"
        )
        wrong = "have expired" if "Expired" in text else wrong
        return CredentialsError, f"credentials {wrong}. {_ways_in(asked.name)}"
    return None


def _ways_in(name: str) -> str:
    """Say how to give credentials to the store that a name belongs to."""
    scheme = name.partition("://")[0] if "://" in name else ""
    if scheme in ("http", "https"):
        return "The web server asks who reads; pass a URL that it lets anybody read, such as a signed one."
    if scheme in ("gs", "gcs"):
        return (
            "Set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run 'gcloud auth application-default login'; for a "
            "public bucket pass storage_options={'anon': True}."
        )
    if scheme in ("", "s3", "s3a", "file"):
        return (
            "Pass storage_options={'key': …, 'secret': …}, {'profile': …} or, for a public bucket, {'anon': True}; or "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    return f"Pass them as storage_options={{…}}, in the words of fsspec's file system for {scheme}://."


def _refused(error: BaseException, status: str, text: str, asked: Asked) -> _Found:
    """Tell a web server that sends something else than the bytes that were asked for."""
    if REDIRECT.search(text):
        return SourceError, (
            "the server redirects to another URL, which is not followed: it may be valid for a short time only. Pass "
            "the URL that it leads to, or copy the data; a page to log in asks for storage_options={'headers': …}."
        )
    if "was ignored by server" in text:
        return SourceError, (
            "the server ignores Range: it sends the whole object where a part was asked. Read from a server that "
            "answers ranges (206), or copy the data here."
        )
    return None


def _timeout(error: BaseException, status: str, text: str, asked: Asked) -> _Found:
    if STALL.search(text):
        return SourceTimeoutError, (
            "the store accepted requests and did not answer. It may be overloaded; try again, or raise "
            "storage_options={'timeout': …}."
        )
    return None


def _unknown(error: BaseException, status: str, text: str, asked: Asked) -> _Found:
    """Tell metadata that TensorStore does not take, such as those of a codec it does not have."""
    parsed = status == "FAILED_PRECONDITION" and "Error opening" in text and "Error parsing" in text
    if parsed or (
        status == "DATA_LOSS" and "Invalid JSON" in text
    ):  # NaN among attributes is no JSON, but common
        return SourceFormatError, "TensorStore does not know a codec or a word of the array's metadata."
    return None


def _corrupt(error: BaseException, status: str, text: str, asked: Asked) -> _Found:
    if status == "ABORTED":
        return None
    if status in ("DATA_LOSS", "OUT_OF_RANGE") or (
        status in ("FAILED_PRECONDITION", "INVALID_ARGUMENT", "INTERNAL", "") and CORRUPT.search(text)
    ):
        return CorruptDataError, (
            f"stored bytes are not what was written{asked.chunk(text)}. Restore the object from its origin, or "
            "write it again."
        )
    if status == "FAILED_PRECONDITION" and "mismatch" in text.lower():
        return SourceChangedError, "the store changed since it was opened; open it again."
    return None


def _unreachable(error: BaseException, status: str, text: str, asked: Asked) -> _Found:
    if "not connect" in text or "resolve host" in text.lower():
        return SourceError, "the store cannot be reached; check endpoint_url and the network."
    if status in ("ABORTED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        return SourceError, REFUSED
    if status in ("INVALID_ARGUMENT", "UNIMPLEMENTED"):
        return (
            SourceFormatError,
            "this array cannot be opened as it is; its metadata or codec is not supported.",
        )
    return None


def _builtin(error: BaseException, status: str, text: str, asked: Asked) -> _Found:
    if "rotocol not known" in text:
        return SourceFormatError, (
            "its scheme is not known. There are s3://, gs://, http://, https://, file:// and fsspec's, some of which "
            "need their package (adlfs for abfs://, sshfs for ssh://)."
        )
    if isinstance(error, ImportError):
        package = error.name or "a package"
        return MissingExtraError, f"it needs {package}, which is not installed: pip install {package}."
    if isinstance(error, FileNotFoundError) or _names_it(error, asked.name):
        return SourceNotFoundError, "nothing is there; check the path, and variables= if any were asked for."
    if isinstance(error, PermissionError):
        return CredentialsError, "reading is not allowed; check the credentials or the file's permissions."
    if isinstance(error, TimeoutError):
        return SourceTimeoutError, "the store did not answer in time."
    if isinstance(error, MemoryError):
        return SourceError, (
            "more memory was needed than there is. Where its shape is not what was written, it is damaged; else open a "
            "part of it, or convert it to Zarr in a place with more memory."
        )
    if isinstance(error, RecursionError | UnicodeError | EOFError):
        return CorruptDataError, "its metadata or text cannot be read: restore it from its origin."
    return None


def _names_it(error: BaseException, name: str) -> bool:
    """Whether an error is a `KeyError` for what was asked; for a field of its metadata it means something else."""
    key = str(error.args[0]).strip("/") if isinstance(error, KeyError) and error.args else ""
    return bool(key) and name.rstrip("/").endswith(key)


def _code_of(quoted: re.Match[str]) -> str:
    found = CODE.search(quoted[1])
    return f" [{found[0]}]" if found else ""


def _short(text: str, limit: int = 600) -> str:
    text = hide_secrets(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
