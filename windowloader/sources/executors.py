"""Pieces of work on any executor: threads, processes, the workers of a cluster.

In: a function of one piece, the pieces, a `concurrent.futures.Executor`. Out: results as they finish. A job for other
processes travels as bytes that hold no keys, and each process loads it once. Never orders results.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from windowloader.errors import CredentialsError, SourceError, hide_secrets
from windowloader.util.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["check_executor", "pickled", "run"]

P = TypeVar("P")
R = TypeVar("R")
SECRETS = {"secret", "token", "password", "headers", "account_key", "sas_token", "connection_string", "auth",
           "aws_secret_access_key", "aws_session_token", "client_secret"}  # fmt: skip
LARGEST_JOB = 64 << 20  # bytes that are sent with every piece


def check_executor(executor: Any, carried: Any = None) -> None:
    """Raise `TypeError` for what is no executor; `CredentialsError` if it would carry keys to other processes."""
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor={executor!r} is no concurrent.futures.Executor. Pass e.g. ProcessPoolExecutor(4), or "
            "client.get_executor() of a Dask client."
        )
    if executor is not None and not isinstance(executor, ThreadPoolExecutor):
        pickled(carried)


def run(
    work: Callable[[P], R], pieces: Iterable[P], *, executor: Executor | None, at_once: int
) -> Iterator[tuple[P, R]]:
    """Yield each piece with its result as it finishes; the first error ends all.

    Parameters
    ----------
    work : callable
        Called with a piece; for an executor other than of threads, it and its results pickle.
    pieces : iterable
    executor : Executor or None
        None: threads of this process.
    at_once : int
        Pieces that are under way at a time at most.

    Raises
    ------
    CredentialsError
        Where ``work`` would carry keys to another process.
    SourceError
        Where a worker died.
    """
    if executor is None:
        with ThreadPoolExecutor(at_once, "windowloader-run") as threads:
            yield from run(work, pieces, executor=threads, at_once=at_once)
        return
    job = work if isinstance(executor, ThreadPoolExecutor) else _Shipped(pickled(work))
    waiting = iter(pieces)
    futures = {executor.submit(job, piece): piece for piece in islice(waiting, at_once)}
    try:
        while futures:
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                piece, result = futures.pop(future), future.result()
                futures |= {executor.submit(job, following): following for following in islice(waiting, 1)}
                yield piece, result
    except BrokenExecutor as error:
        raise SourceError(
            f"a worker of the executor ended before its work was done: {error} Look at what it printed, and at its "
            "memory. Work that is recorded in storage is kept."
        ) from error
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


@dataclass(frozen=True, slots=True)
class _Shipped:
    """A pickled job, called in another process."""

    job: bytes

    def __call__(self, piece: Any) -> Any:
        return _loaded(self.job)(piece)


@functools.lru_cache(maxsize=2)
def _loaded(job: bytes) -> Callable[[Any], Any]:
    found: Callable[[Any], Any] = pickle.loads(job)
    return found


class _WithoutKeys(pickle.Pickler):
    """Pickles, and raises at a key, password or signed URL."""

    def persistent_id(self, value: Any) -> None:
        """Look at every value on its way."""
        found: Any = None
        if isinstance(value, dict):
            found = next((name for name in value if name in SECRETS and _is_key(value[name])), None)
        elif isinstance(value, str) and (
            value.startswith("[windowloader]\n") or (":/" in value and hide_secrets(value) != value)
        ):
            found = "key"
        if found is not None:
            raise CredentialsError(
                f"the storage was opened with {found!r} by value, which is not sent to other processes. Give it where "
                "workers find it too: by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "GOOGLE_APPLICATION_CREDENTIALS) or as profile=; or pass a ThreadPoolExecutor."
            )


def _is_key(value: Any) -> bool:
    """Whether an option is a secret, and not the path of a file or the name of a way."""
    return bool(value) and not (
        isinstance(value, str) and (value in ("anon", "cloud", "google_default") or os.path.isfile(value))
    )


def pickled(work: Any) -> bytes:
    """Pickle a job for other processes; `CredentialsError` where it holds keys."""
    buffer = io.BytesIO()
    _WithoutKeys(buffer, protocol=5).dump(work)
    if buffer.tell() > LARGEST_JOB:
        raise SourceError(
            f"the job for each worker has {format_bytes(buffer.tell())}, as the series is in memory. Save it by "
            "windowloader.convert or numpy.save and open the file, as workers then do; or pass a ThreadPoolExecutor."
        )
    return buffer.getvalue()
