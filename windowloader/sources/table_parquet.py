"""Parquet files, single or in folders, here or in a bucket, read whole or by row groups.

In: a path or URL. Out: `ParquetPart`, one file with the columns that its folders name. pyarrow reads the files, through
fsspec where they lie in a bucket. Holds a batch of rows, and what pyarrow reads ahead in a row group.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from windowloader.errors import (
    MissingExtraError,
    SourceFormatError,
    SourceNotFoundError,
    WindowLoaderError,
    hide_secrets,
)

from .base import digest, optional
from .failures import Asked, explained
from .formats import is_url, natural
from .handles import Stamp
from .options import LIMITS, locate, supported
from .remote_objects import own_headers_stay
from .table_columns import PARTS, from_arrow, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["ParquetPart", "parquet_files", "parquet_parts", "reading"]

BATCH = 1 << 19  # rows that are in memory at once
BATCH_BYTES = 32 << 20  # of these rows, at eight bytes a value
MOST_FOLDERS = 10_000  # within a folder, that are looked into for Parquet files
AHEAD = 64 << 20  # bytes of a row group in a bucket that are read at once; of larger ones, column by column
SUFFIXES = (".parquet", ".pq")


@contextmanager
def reading(path: str, kind: str) -> Iterator[None]:
    """Raise what the libraries raise, which is of many classes, as one error."""
    try:
        yield
    except WindowLoaderError:
        raise
    except ImportError as error:
        raise MissingExtraError(f"{path!r}: {error} Mostly: pip install 'windowloader[tables]'.") from error
    except Exception as error:
        raise SourceFormatError(
            f"{path!r} cannot be read as {kind}: {str(error).strip().rstrip('.')}. Read it with pandas and pass the "
            "frame; of text in another encoding than UTF-8, say encoding='latin-1', 'cp1252' or 'utf-16'."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetPart:
    """One Parquet file.

    Parameters
    ----------
    path : str
        Of the file, or its name in ``system``.
    added : mapping of str to str
        Columns that are names of its folders, ``year=2020``.
    system : fsspec file system, optional
        Where the file lies; None: on this machine.
    """

    path: str
    added: Mapping[str, str]
    system: Any = None

    def identity(self) -> str:
        """Text that changes when the file does."""
        if self.system is None:
            return Stamp.of(self.path).identity()
        info = explained(Asked(self.path), lambda: self.system.info(self.path))
        return digest([info.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "size")])

    @contextmanager
    def opened(self, labels: Sequence[str] = ()) -> Iterator[Any]:
        """Open it as a ``pyarrow.parquet.ParquetFile`` that reads columns of ``labels`` as dictionaries."""
        optional("pyarrow", extra="parquet", purpose=f"opening {self.path!r}")
        from pyarrow.parquet import ParquetFile

        if self.system is None:
            with (
                reading(self.path, "Parquet"),
                ParquetFile(self.path, pre_buffer=False, read_dictionary=[*labels]) as file,
            ):
                yield file
            return
        raw = explained(Asked(self.path), lambda: self.system.open(self.path, "rb", cache_type="none"))
        with reading(self.path, "Parquet"), raw:
            metadata = ParquetFile(raw).metadata
            groups = [metadata.row_group(place).total_byte_size for place in range(metadata.num_row_groups)]
            ahead = max(groups, default=0) <= AHEAD
            yield ParquetFile(raw, metadata=metadata, pre_buffer=ahead, read_dictionary=[*labels])

    def table(self) -> Any:
        """Return the whole file as an Arrow table."""
        with self.opened() as file:
            return self._whole(file.read())

    def _whole(self, table: Any) -> Any:
        import pyarrow

        for name, text in self.added.items():
            table = table.append_column(name, pyarrow.array([text] * len(table)))
        return table

    def frames(self, columns: Sequence[str], labels: Sequence[str], skip: int) -> Iterator[tuple[int, Any]]:
        """Read row groups from ``skip`` on in batches: the number of the row group, and a pandas frame."""
        import pyarrow

        with self.opened(labels) as file:
            rows = max(min(BATCH, BATCH_BYTES // (8 * max(len(columns), 1))), 1)
            for group in range(skip, file.num_row_groups):
                for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                    yield group, from_arrow(self._whole(pyarrow.Table.from_batches([batch])))


def parquet_parts(
    path: str, named: Sequence[str] = (), storage_options: Mapping[str, Any] | None = None
) -> list[ParquetPart]:
    """List the files of a path or URL, which is a file or a folder, in natural order of their names.

    Parameters
    ----------
    path : str
    named : sequence of str
        Columns that names of folders may be.
    storage_options : mapping, optional
        For URLs.
    """
    system, root = _file_system(path, storage_options or {}) if is_url(path) else (None, path)
    files = parquet_files(root) if system is None else _remote_files(system, root, path)
    parts, left = [], dict[str, None]()
    for file in files:
        folders = PurePosixPath(file).parts[len(PurePosixPath(root).parts) : -1]
        pairs = dict(part.split("=", 1) for part in folders if "=" in part)
        left |= dict.fromkeys(name for name in pairs if name not in named)
        added = {name: unquote(text) for name, text in pairs.items() if name in named}
        parts.append(ParquetPart(path=file, added=added, system=system))
    if told := [name for name in left if name.lower() not in (*PARTS, "date")]:
        warnings.warn(
            f"the folders of {hide_secrets(path)!r} are named by {some(told)}, which is left out unless columns=, "
            "entity= or time= names it.",
            stacklevel=2,
        )
    return parts


def parquet_files(path: str) -> list[str]:
    """Return the Parquet files of a folder and the folders in it, in natural order; a file itself."""
    found = [] if os.path.isdir(path) else [path]
    for count, (folder, _, names) in enumerate(os.walk(path)):
        if count == MOST_FOLDERS:
            raise SourceFormatError(f"{path!r} has more than {MOST_FOLDERS} folders. Pass a list of files.")
        found += [os.path.join(folder, name) for name in names if _holds_data(name)]
    return sorted(found, key=natural)


def _holds_data(name: str) -> bool:
    return name.endswith(SUFFIXES) and name[0] not in "_."  # those of Spark are no data


def _remote_files(system: Any, root: str, url: str) -> list[str]:
    """List the files of a folder in a bucket, or the object itself."""
    if root.lower().endswith(SUFFIXES):
        return [root]
    found = explained(Asked(hide_secrets(url)), lambda: system.find(root))
    files = [name for name in found if _holds_data(name.rpartition("/")[2])]
    if not files:
        raise SourceNotFoundError(
            f"{hide_secrets(url)!r}: there are no Parquet files in it. Pass a file, or a list."
        )
    return sorted(files, key=natural)


def _file_system(url: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return fsspec's file system of a URL and the path in it, with the options that this package takes."""
    import fsspec

    options = own_headers_stay(storage_options)
    if supported(url):
        location = locate(url, storage_options)
        store = location.kvstore
        options = dict(location.options)
        if "endpoint" in store:
            options["endpoint_url"] = store["endpoint"]
        if options.pop("region", store.get("aws_region")):
            options["client_kwargs"] = {"region_name": store["aws_region"]}
    options = {name: value for name, value in options.items() if name not in (*LIMITS, "cache_bytes")}
    return explained(Asked(hide_secrets(url)), lambda: fsspec.core.url_to_fs(url, **options))  # type: ignore[no-any-return]
