"""Translates a URL and ``storage_options`` of fsspec into TensorStore's specification.

In: a path or URL, and options (``endpoint_url``, ``key``, ``secret``, ``token``, ``anon``, ``profile``, ``region``,
…), completed from the environment and the profiles of AWS, as in boto3. Out: a `Location`: key-value
store, context, limits. Never opens anything, never sends a request, never shows a secret.
"""

from __future__ import annotations

import configparser
import contextlib
import difflib
import functools
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from windowloader.errors import SourceFormatError

from .processes import PerProcess, tensorstore

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DECODERS", "Location", "locate", "scheme_of", "supported"]

SCHEMES = {"": "file", "file": "file", "local": "file", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs",
           "http": "http", "https": "http"}  # fmt: skip
DECODERS = 4  # chunks decoded at a time at most: what is being decoded takes its bytes once more
LIMITS = ("request_limit", "retries", "timeout")
KNOWN: dict[str, tuple[str, ...]] = {
    "file": (),
    "s3": ("anon", "key", "secret", "token", "profile", "region", "endpoint_url", "requester_pays"),
    "gcs": ("anon", "token", "project", "endpoint_url", "requester_pays"),
    "http": ("headers",),
}
ALSO = {"region_name": "region", "aws_access_key_id": "key", "aws_secret_access_key": "secret",
        "aws_session_token": "token"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Location:
    """Where bytes are and how they are requested.

    Parameters
    ----------
    url : str
        For messages and names; without credentials and query.
    scheme : str
        ``file``, ``s3``, ``gcs`` or ``http``.
    kvstore : mapping
        TensorStore's specification of the store, without its path.
    path : str
        Key, or prefix ending in ``/``, within it.
    context : mapping
        TensorStore's resources: credentials, retries, limits.
    secret : str
        Text of an AWS credentials file with the key given by the user, or empty.
    options : mapping
        The user's options, by the first names of `KNOWN`.
    timeout : float
        Seconds after which a read fails in which none finished and hardly anything arrived.
    cache_bytes : int or None
        Size of TensorStore's own cache; None: 0, or 16 MiB for sharded arrays, whose index is then read once.
    """

    url: str
    scheme: str
    kvstore: Mapping[str, Any] = field(repr=False)
    path: str = field(repr=False)
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 25.0
    cache_bytes: int | None = None

    def child(self, name: str) -> Location:
        """Return the location of ``name`` below this one.

        Examples
        --------
        >>> locate("s3://bucket/store.zarr").child("speed").url
        's3://bucket/store.zarr/speed'
        """
        if not name:
            return self
        url, path = (f"{base.rstrip('/')}/{name}" if base else name for base in (self.url, self.path))
        return replace(self, url=url, path=path)

    def parent(self) -> Location:
        """Return the location one step up.

        Examples
        --------
        >>> locate("s3://bucket/store.zarr/speed").parent().url
        's3://bucket/store.zarr'
        """
        url, path = (text.rstrip("/").rpartition("/")[0] for text in (self.url, self.path))
        return replace(self, url=url, path=path)

    @property
    def local(self) -> Path | None:
        """The path on this machine, or None."""
        return Path(self.path) if self.scheme == "file" else None

    def store(self) -> dict[str, Any]:
        """TensorStore's specification of a folder of keys."""
        return {**self.kvstore, "path": f"{self.path.rstrip('/')}/" if self.path else ""}

    def resources(self, *, cache_bytes: int = 0) -> Any:
        """Return this process's TensorStore context: one for all sources with the same options and cache."""
        cell = _CONTEXTS.setdefault(self._key(cache_bytes), PerProcess())
        return cell.get(lambda: self._context(cache_bytes))

    def renew(self, *, cache_bytes: int = 0) -> None:
        """Have a new context from the next call of `resources` on.

        In the old one a read of the same chunk joins a request that is never answered, and abandoned requests
        count against the limit.
        """
        _CONTEXTS.pop(self._key(cache_bytes), None)

    def _key(self, cache_bytes: int) -> str:
        return repr((self.context, self.secret, cache_bytes))

    def _context(self, cache_bytes: int) -> Any:
        spec = {**self.context, "cache_pool": {"total_bytes_limit": cache_bytes}}
        spec["data_copy_concurrency"] = {"limit": min(DECODERS, len(os.sched_getaffinity(0)))}
        if self.secret:
            files = {"credentials_file": _memory_file(self.secret), "config_file": os.devnull}
            spec["aws_credentials"] = {"type": "profile", "profile": "windowloader", **files}
        return tensorstore().Context(spec)


_CONTEXTS: dict[str, PerProcess[Any]] = {}


@functools.cache
def _memory_file(text: str) -> str:
    """Write text that TensorStore reads only from a file to one in memory."""
    number = os.memfd_create("windowloader-credentials")
    os.write(number, text.encode())
    return f"/proc/self/fd/{number}"


def scheme_of(target: str | os.PathLike[str]) -> str:
    """Return the scheme of a URL; a path has none.

    Examples
    --------
    >>> scheme_of("S3://bucket/a.zarr"), scheme_of("folder/a.zarr"), scheme_of("C:/a.zarr")
    ('s3', '', '')
    """
    begin, separator, _ = os.fspath(target).partition("://")
    return begin.lower() if separator or "::" in begin else ""  # a chain of fsspec's: simplecache::s3://


def supported(target: str | os.PathLike[str]) -> bool:
    """Whether TensorStore has a store for this URL; the others are read through fsspec.

    Examples
    --------
    >>> supported("gs://bucket/a.zarr"), supported("abfs://container/a.zarr")
    (True, False)
    """
    return scheme_of(target) in SCHEMES


def locate(target: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Location:
    """Return where a URL or path points.

    Parameters
    ----------
    target : str or path
        ``s3://``, ``gs://``, ``http(s)://``, ``file://`` or a path.
    storage_options : mapping, optional
        As for fsspec: ``anon``, ``key``, ``secret``, ``token``, ``profile``, ``region``, ``endpoint_url``,
        ``headers``, ``client_kwargs``; and for all stores ``request_limit`` (32), ``retries`` (12),
        ``timeout`` (25 seconds without progress), ``cache_bytes``. The usual ``AWS_*`` variables hold too.

    Returns
    -------
    Location

    Raises
    ------
    SourceFormatError
        For a scheme or an option that is not known.

    Examples
    --------
    >>> where = locate("s3://bucket/a.zarr", {"endpoint_url": "http://localhost:9000", "anon": True})
    >>> where.url, where.kvstore["endpoint"]
    ('s3://bucket/a.zarr', 'http://localhost:9000')
    """
    text = os.fspath(target)
    scheme = SCHEMES.get(scheme_of(text))
    if scheme is None:
        known = ", ".join(sorted(filter(None, SCHEMES)))
        raise SourceFormatError(f"{text!r} has the scheme {scheme_of(text)!r}; TensorStore reads {known}.")
    options = _checked(scheme, storage_options or {})
    limits = {name: options.pop(name) for name in ("timeout", "cache_bytes") if name in options}
    limit, retries = int(options.pop("request_limit", 32)), int(options.pop("retries", 12))
    made = {"file": _file, "s3": _s3, "gcs": _gcs, "http": _http}[scheme](text, options)
    prefix = "file_io" if made.scheme == "file" else f"{made.scheme}_request"
    context = {**made.context, f"{prefix}_concurrency": {"limit": limit}}
    if made.scheme != "file":
        context[f"{prefix}_retries"] = {"max_retries": retries, "initial_delay": "100ms", "max_delay": "2s"}
    return replace(made, context=context, options=options, **limits)


def _checked(scheme: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Unfold ``client_kwargs`` and refuse unknown options: a misspelt ``anon`` would ask for credentials."""
    options = {**(given.get("client_kwargs") or {}), **given}
    options.pop("client_kwargs", None)
    options = {ALSO.get(name, name): value for name, value in options.items()}
    known = {*KNOWN[scheme], *LIMITS, "cache_bytes"}
    if scheme == "file":  # covariates of a bucket's values may be local: its options do not matter then
        options = {name: options[name] for name in set(options) - set().union(*KNOWN.values())}
    if unknown := sorted(set(options) - known):
        close = {name: difflib.get_close_matches(name, known, 1) for name in unknown}
        shown = [f"{name} (meant: {found[0]}?)" if found else name for name, found in close.items()]
        listed = f"{', '.join(shown)}, which is not known. Known are {', '.join(sorted(known))}."
        raise SourceFormatError(f"storage_options of {scheme!r} has {listed}")
    for name in LIMITS:
        value = options.get(name, 1)
        if not isinstance(value, int | float) or value < 0 or (value == 0 and name != "retries"):
            raise SourceFormatError(f"storage_options[{name!r}]={value!r} must be a number above 0.")
    return options


def _file(text: str, options: dict[str, Any]) -> Location:
    path = str(Path(text.partition("://")[2] or text).expanduser().absolute())
    return Location(path, "file", {"driver": "file"}, path)


def _bucket(text: str) -> tuple[str, str]:
    """Bucket and key of a URL, which has no user."""
    bucket, _, path = text.partition("://")[2].partition("/")
    if "@" in bucket or re.search(r"\?[\w.~+-]+=", path):
        raise SourceFormatError(
            f"{text!r} has a user or a query. Pass keys in storage_options; a signed URL begins with https://."
        )
    return bucket, path


def _s3(text: str, options: dict[str, Any]) -> Location:
    bucket, path = _bucket(text)
    env = os.environ.get
    endpoint = options.get("endpoint_url") or env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL") or ""
    region = options.get("region") or env("AWS_REGION") or env("AWS_DEFAULT_REGION")
    # What MinIO and Ceph take; without any, TensorStore asks AWS for it first.
    region = region or ("us-east-1" if endpoint else "")
    kvstore = {"driver": "s3", "bucket": bucket, "endpoint": endpoint.rstrip("/"), "aws_region": region,
               "requester_pays": bool(options.get("requester_pays"))}  # fmt: skip
    kvstore = {name: value for name, value in kvstore.items() if value}
    key, secret, token = (options.get(name) for name in ("key", "secret", "token"))
    if bool(key) != bool(secret):
        have, lack = ("key", "secret") if key else ("secret", "key")
        raise SourceFormatError(f"storage_options has {have!r} without {lack!r}; give both, or anon=True.")
    where = Location(f"s3://{bucket}/{path}", "s3", kvstore, path)
    if options.get("anon") or not key:
        return replace(where, context={"aws_credentials": _credentials(options)})
    lines = {"aws_access_key_id": key, "aws_secret_access_key": secret, "aws_session_token": token}
    text = "".join(f"{name} = {value}\n" for name, value in lines.items() if value)
    return replace(where, secret=f"[windowloader]\n{text}")


def _credentials(options: Mapping[str, Any]) -> dict[str, str]:
    """Return TensorStore's credentials specification; it needs the paths of both files of profiles."""
    if options.get("anon"):
        return {"type": "anonymous"}
    files = {}
    for kind, variable in (("credentials", "AWS_SHARED_CREDENTIALS_FILE"), ("config", "AWS_CONFIG_FILE")):
        path = Path(os.environ.get(variable) or f"~/.aws/{kind}").expanduser()
        files[f"{kind}_file"] = str(path) if path.is_file() else os.devnull
    profile = options.get("profile")
    if not profile and not os.environ.get("AWS_ACCESS_KEY_ID"):
        profile = os.environ.get("AWS_PROFILE")
        if not profile and not os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
            kept = configparser.ConfigParser(default_section="", interpolation=None, strict=False)
            with contextlib.suppress(OSError, ValueError, configparser.Error):
                kept.read(files["credentials_file"], encoding="utf-8")
            profile = "default" if kept.has_option("default", "aws_access_key_id") else None
    return {"type": "profile", "profile": profile, **files} if profile else {"type": "default"}


def _gcs(text: str, options: dict[str, Any]) -> Location:
    bucket, path = _bucket(text)
    endpoint = options.get("endpoint_url") or os.environ.get("STORAGE_EMULATOR_HOST")
    url, token = f"gs://{bucket}/{path}", options.get("token")
    if options.get("anon") or token == "anon":
        # A public bucket is a web server; TensorStore's own driver would look for credentials first.
        base = (endpoint or "https://storage.googleapis.com").rstrip("/")
        return Location(url, "http", {"driver": "http", "base_url": base}, f"/{bucket}/{path}")
    if endpoint:
        _set("TENSORSTORE_GCS_HTTP_URL", endpoint.rstrip("/"), "endpoint_url")
    if token and token not in ("google_default", "cloud"):
        if not os.path.isfile(token):
            raise SourceFormatError(
                "storage_options['token'] of a gs:// URL must be the path of a JSON file, or 'anon'."
            )
        _set("GOOGLE_APPLICATION_CREDENTIALS", os.fspath(token), "token (the path of a JSON file)")
    payer = {"gcs_user_project": {"project_id": options["project"]}} if options.get("requester_pays") else {}
    return Location(url, "gcs", {"driver": "gcs", "bucket": bucket}, path, payer)


def _set(name: str, value: str, option: str) -> None:
    """Set a variable that TensorStore reads once for the whole process; raise if it has another value."""
    if os.environ.setdefault(name, value) != value:
        raise SourceFormatError(
            f"storage_options {option}: {value!r} asked, but {name} is {os.environ[name]!r} for the whole process."
        )


def _http(text: str, options: dict[str, Any]) -> Location:
    try:
        parts = urlsplit(text)
        readable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        readable = False
    if not readable:
        raise SourceFormatError(
            "an http(s) URL was given whose host and port cannot be read. In a user name or password /, ?, #, @, [ "
            "and ] are written %2F, %3F, %23, %40, %5B and %5D."
        )
    headers = [f"{name}: {value}" for name, value in dict(options.get("headers") or {}).items()]
    for header in headers:  # a library would repeat a wrong one in its error
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+: .*", header, re.ASCII) or not header.isprintable():
            raise SourceFormatError(
                f"storage_options['headers'][{header.partition(':')[0]!r}] cannot be sent: a name has no blanks, and a "
                "value no line breaks; .strip() takes off the one at the end of a file that holds a token."
            )
    kvstore: dict[str, Any] = {"driver": "http", "base_url": parts._replace(path="", fragment="").geturl()}
    kvstore |= {"headers": headers} if headers else {}
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return Location(shown, "http", kvstore, parts.path or "/")
