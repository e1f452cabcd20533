"""Turns what libraries raise into errors of this package that name a remedy.

In: an exception of any library, and what was being opened or read. Out: an error of this package. Never retries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING, Literal, TypeVar

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
    hide_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REDIRECT", "Asked", "Guard", "explain", "explained"]

T = TypeVar("T")

STATUS = re.compile(
    r"\b(NOT_FOUND|PERMISSION_DENIED|UNAUTHENTICATED|DATA_LOSS|FAILED_PRECONDITION|OUT_OF_RANGE|ABORTED|UNAVAILABLE|"
    r"DEADLINE_EXCEEDED|INVALID_ARGUMENT|UNIMPLEMENTED|RESOURCE_EXHAUSTED|INTERNAL)\b"
)
CHUNK = r"chunk \{([\d, ]+)\}|[\"/]c/(\d+(?:/\d+)*)\"|/(\d+(?:[./]\d+)*)\"|\"(\d+(?:[./]\d+)*)\""
REDIRECT = re.compile(r"(?:HTTP code |http_response_code=')30[12378]\b")
# What TensorStore quotes: its specification with headers, and an answer that may repeat the whole request.
QUOTED = r"\s*\[{}='((?:[^'\\]|\\.)*)(?:'\]|$)"
SPEC = re.compile(QUOTED.format("tensorstore_spec"), re.DOTALL)
BODY = re.compile(QUOTED.format("http_response_body"), re.DOTALL)
CODE = re.compile(r"<Code>\w+</Code>")

S3 = "Pass storage_options={'key': …, 'secret': …}, or {'anon': True} for a public bucket, or set AWS_ACCESS_KEY_ID."
GS = "Set GOOGLE_APPLICATION_CREDENTIALS or, for a public bucket, pass storage_options={'anon': True}."
HTTP = "The web server asks for credentials; pass a URL that needs none, such as a signed one."
CREDENTIALS = {"": S3, "s3": S3, "s3a": S3, "file": S3, "gs": GS, "gcs": GS, "http": HTTP, "https": HTTP}

# Rules, of which the first that matches counts: the error, a pattern, and what to do, where $chunk names the chunk.
# The pattern is searched in "STATUS CLASSES: text": TensorStore's status or NONE, and the classes of the exception.
Rules = tuple[tuple[type[WindowLoaderError], str, str], ...]
CLASS = r"\A[^:]*\b"
NOTHING = "nothing is there; check the path, and variables= if any were asked for."
ABSENT = "credentials are absent or not enough. $credentials"
DAMAGED = (
    "stored bytes are not what was written$chunk. Restore the object from its origin, or write it again."
)
# Access to a store, and existence of what is in it.
ACCESS: Rules = (
    (SourceNotFoundError, r"NoSuchBucket|bucket[^\n]*(?:not exist|not found)",
     "the bucket does not exist at this endpoint; check its name and endpoint_url."),
    (CorruptDataError, rf"\ANOT_FOUND.*(?:chunk|{CHUNK})",
     "a chunk is missing$chunk. If absent chunks mean the fill value, pass fill_missing=True; else write it again."),
    (SourceNotFoundError, r"\ANOT_FOUND", NOTHING),
    (CredentialsError, r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|AuthorizationQuery|"
     r"\bregion\b[^\n]*(?:wrong|expect)",
     "the bucket is in another region; pass storage_options={'region': …} or set AWS_REGION."),
    (CredentialsError, "RequestTimeTooSkewed", "the clock of this machine is wrong; set it."),
    (CredentialsError, r"ExpiredToken|\A(?:PERMISSION_DENIED|UNAUTHENTICATED).*(?-i:Expired)",
     "credentials have expired. $credentials"),
    (CredentialsError, "InvalidAccessKeyId|SignatureDoesNotMatch", "credentials are wrong. $credentials"),
    (CredentialsError, r"\A(?:PERMISSION_DENIED|UNAUTHENTICATED)", ABSENT),
    (CredentialsError, r"\A(?!.*ABORTED).*(?:credentials|InvalidToken|TokenRefreshRequired|Unable to locate)", ABSENT),
)  # fmt: skip
FAULTS: Rules = (
    (SourceError, REDIRECT.pattern,
     "the server redirects to another URL, which is not followed. Pass that URL; a page to log in asks for "
     "storage_options={'headers': …}."),
    (SourceError, "was ignored by server",
     "the server ignores Range: it sends the whole object where a part was asked. Copy the data here."),
    (SourceTimeoutError, CLASS + r"TimeoutError|too slow|timed out|timeout was reached|DEADLINE_EXCEEDED",
     "the store did not answer. Try again, or raise storage_options={'timeout': …}."),
    # Metadata that TensorStore does not accept; NaN among attributes is not JSON, but common.
    (SourceFormatError, r"\AFAILED_PRECONDITION(?=.*Error opening).*Error parsing|\ADATA_LOSS.*Invalid JSON",
     "TensorStore does not support a codec or a word of the array's metadata."),
    (CorruptDataError, r"\A(?:DATA_LOSS|OUT_OF_RANGE)", DAMAGED),
    (CorruptDataError, r"\A(?:FAILED_PRECONDITION|INVALID_ARGUMENT|INTERNAL|NONE)\b.*(?:digest|checksum|"
     r"crc32|blosc|zstd|gzip|zlib|inflate|decompress|not enough data|truncat|invalid shard|uncompressed|"
     r"expected (?:length|size)|unexpected end|is not valid|was not satisfied|of size|incomplete|buffer (?:size|is)|"
     r"corrupt|filter returned failure)", DAMAGED),
    (SourceChangedError, r"\AFAILED_PRECONDITION.*mismatch", "the store changed since it was opened; open it again."),
    (SourceError, "not connect|resolve host", "the store cannot be reached; check endpoint_url and the network."),
    (SourceError, r"\A(?:ABORTED|UNAVAILABLE|RESOURCE_EXHAUSTED)",
     "Retries are used up; the store may be down or busy. Try again, or raise storage_options={'retries': …}."),
    (SourceFormatError, r"\A(?:INVALID_ARGUMENT|UNIMPLEMENTED)", "its metadata or codec is not supported."),
    (SourceFormatError, "protocol not known",
     "its scheme is not known. There are s3://, gs://, http://, https://, file:// and those of fsspec's packages."),
    (MissingExtraError, CLASS + "ImportError", "it needs $package, which is not installed: pip install $package."),
    (SourceNotFoundError, CLASS + "FileNotFoundError", NOTHING),
    (CredentialsError, CLASS + "PermissionError", "reading is not allowed; check credentials and permissions."),
    (SourceError, CLASS + "MemoryError",
     "more memory was needed than there is. Open a part of it; if its shape is wrong, it is damaged."),
    (CorruptDataError, CLASS + "(?:RecursionError|UnicodeError|EOFError)",
     "its metadata or text cannot be read: restore it from its origin."),
    (SourceError, CLASS + "OSError", "cannot be $doing."),
    (SourceFormatError, "", "cannot be opened: it is damaged or not supported. Open it with the library that wrote it, "
     "and pass what that returns."),
)  # fmt: skip


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
        """Name the chunk in a message of the storage, with its rows."""
        match = re.search(CHUNK, text)
        if match is None:
            return ""
        # of a damaged file: Python converts no number of thousands of digits
        indices = tuple(int(part[:18]) for part in re.findall(r"\d+", next(filter(None, match.groups()))))
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
    answer = SPEC.sub("", str(error))
    text = BODY.sub(_code_of, answer)  # the rest of an answer may be any text
    status = STATUS.search(text)
    kinds = [status[0] if status else "NONE", *(one.__name__ for one in type(error).__mro__)]
    remote = "://" in asked.name
    if asked.doing != "opened":
        remote, kinds = True, [*kinds, "OSError"]
    tried = [*((rule, answer) for rule in ACCESS if remote), *((rule, text) for rule in FAULTS)]
    cls, advice = next(
        (cls, advice)
        for (cls, words, advice), shown in tried
        if re.search(words, f"{' '.join(kinds)}: {shown}", re.IGNORECASE | re.DOTALL)
    )
    scheme = asked.name.partition("://")[0] if "://" in asked.name else ""
    other = f"Pass them as storage_options={{…}}, in the words of fsspec's file system for {scheme}://."
    advice = Template(advice).substitute(
        chunk=asked.chunk(text),
        credentials=CREDENTIALS.get(scheme, other),
        doing=asked.doing,
        package=getattr(error, "name", None) or "a package",
    )
    shown = text if status else f"{type(error).__name__}: {text}" if text else type(error).__name__
    shown = hide_secrets(" ".join(shown.split()))
    source = "Cause" if asked.doing == "opened" else "Storage said"
    return cls(f"{asked}: {advice} {source}: {shown if len(shown) <= 600 else shown[:599] + '…'}")


def _code_of(quoted: re.Match[str]) -> str:
    found = CODE.search(quoted[1])
    return f" [{found[0]}]" if found else ""


def explained(asked: Asked, call: Callable[[], T]) -> T:
    """Return what a call of a storage library returns; raise its error as `Guard` does."""
    with Guard(asked):
        return call()


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
    windowloader.errors.SourceFormatError: 'a.npy': cannot be opened: ... Cause: KeyError: 'shape'
    """

    asked: Asked

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> Literal[False]:
        """Replace an error of a library."""
        if not isinstance(error, Exception) or isinstance(error, WindowLoaderError | Warning):
            return False
        found = explain(error, self.asked)
        cause = error if _is_public(error) else None
        try:
            raise found from cause
        finally:
            found.__context__ = cause


def _is_public(error: BaseException | None) -> bool:
    """Whether neither an error nor its causes have text with passwords, queries or specifications."""
    while error is not None:
        text = str(error)
        if hide_secrets(text) != text or SPEC.search(text) or BODY.search(text):
            return False
        error = error.__cause__ or error.__context__
    return True
