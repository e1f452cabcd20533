"""Every error of the package, in one tree.

Each class also inherits the built-in that a caller would catch, so ``except ValueError`` and
``except windowloader.WindowLoaderError`` both work:

    WindowLoaderError
    ├── SourceError (OSError)               the data cannot be read
    │   ├── SourceNotFoundError (FileNotFoundError)
    │   ├── CredentialsError (PermissionError)
    │   ├── CorruptDataError                checksum, truncated file or chunk, missing chunk
    │   ├── SourceChangedError              the object changed since it was opened
    │   └── SourceTimeoutError (TimeoutError)
    ├── SourceFormatError (ValueError)      the target cannot be opened as an array
    ├── MissingExtraError (ImportError)     an optional package is needed; the message has the pip command
    ├── AxesError (ValueError)              axes or layout letters that do not fit
    ├── SeriesError (ValueError)            timestamps, nodes, entities, covariates that do not fit
    │   └── FeatureNameError                an unknown feature, variable, covariate or clock
    ├── GraphError (ValueError)
    ├── WindowSpecError (ValueError)        a spec that is wrong in itself or for its series
    ├── MissingDataError (ValueError)       missing values where the policy forbids them
    ├── SplitError (ValueError)
    ├── ScalerError (ValueError)
    ├── ConversionError (ValueError)        a conversion that cannot be made, or whose result differs from its source
    ├── LoaderError (ValueError)            arguments of a loader
    │   └── MemoryBudgetError (MemoryError) a budget below what the data needs
    ├── RankError (ValueError)
    ├── StateError (ValueError)             a state of another run, dataset or version
    ├── NotSamplesError (TypeError)         a window set indexed or iterated over like a dataset
    ├── WeightsError (TypeError)            a weighted batch unpacked as a pair
    └── ClosedError (RuntimeError)          a loader used after close()
"""

from __future__ import annotations

import re

__all__ = [
    "AxesError",
    "ClosedError",
    "ConversionError",
    "CorruptDataError",
    "CredentialsError",
    "FeatureNameError",
    "GraphError",
    "LoaderError",
    "MemoryBudgetError",
    "MissingDataError",
    "MissingExtraError",
    "NotSamplesError",
    "RankError",
    "ScalerError",
    "SeriesError",
    "SourceChangedError",
    "SourceError",
    "SourceFormatError",
    "SourceNotFoundError",
    "SourceTimeoutError",
    "SplitError",
    "StateError",
    "WeightsError",
    "WindowLoaderError",
    "WindowSpecError",
]

SCHEME = r"\b(?!(?:file|local):)[a-z][a-z0-9+.-]+:/{1,3}"
INSIDE = r"(?:[^\s'\"<>]|'(?=[\w%&=/+~-]))"  # a quote that ends a name does not belong to its URL
# User and password, up to the last @ before the path; a password with an unescaped / ? or # goes up to the last @ of
# all, and is recognised by a port that is not a number. A single word before @ stays outside the web: abfs://container@account.
USER = re.compile(
    rf"({SCHEME})(?:[^\s/?#]*:[^\s/?#]*@|[^\s/?#:@\[]*:(?!\d*(?:[/?#\s'\"]|$))\S*@)", re.IGNORECASE
)
WEB_USER = re.compile(r"\b(https?:/{1,3})[^\s/?#]*@", re.IGNORECASE)
QUERY = re.compile(rf"({SCHEME}[^\s?'\"<>]*)\?{INSIDE}+", re.IGNORECASE)
PARAMETER = re.compile(
    rf"(?:[?&#]|%3f|%26)[\w.~+-]+(?:=|%3d){INSIDE}*", re.IGNORECASE
)  # also without its URL


def hide_secrets(text: str) -> str:
    """Remove passwords and queries from all URLs in a text.

    Parameters
    ----------
    text : str
        A URL, or a message with any number of URLs.

    Returns
    -------
    str
        ``https://host/path?…`` for ``https://user:password@host/path?signature=…``.

    Examples
    --------
    >>> hide_secrets("'https://me:hush@host/a.csv?sig=abc' cannot be read")
    "'https://host/a.csv?…' cannot be read"
    >>> hide_secrets("abfs://container@account/a.zarr")
    'abfs://container@account/a.zarr'
    """
    text = WEB_USER.sub(r"\1", USER.sub(r"\1", text))
    return PARAMETER.sub("?…", QUERY.sub(r"\1?…", text))


class WindowLoaderError(Exception):
    """Root of all errors of the package. Passwords and queries of URLs are removed from every message."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(hide_secrets(one) if isinstance(one, str) else one for one in args))


class SourceError(WindowLoaderError, OSError):
    """The data cannot be read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """No file, object, bucket, group or array under the given name."""


class CredentialsError(SourceError, PermissionError):
    """Credentials are absent, wrong or not enough."""


class CorruptDataError(SourceError):
    """Stored bytes are damaged: checksum, truncation, a missing chunk."""


class SourceChangedError(SourceError):
    """The data changed since it was opened."""


class SourceTimeoutError(SourceError, TimeoutError):
    """The storage did not answer within the configured time."""


class SourceFormatError(WindowLoaderError, ValueError):
    """The target cannot be opened as an array."""


class MissingExtraError(WindowLoaderError, ImportError):
    """An optional package is needed; the message names the extra."""


class AxesError(WindowLoaderError, ValueError):
    """Axes or layout letters that do not fit the array."""


class SeriesError(WindowLoaderError, ValueError):
    """Timestamps, nodes, entities or covariates that do not fit."""


class FeatureNameError(SeriesError):
    """A name that is not a feature, variable, covariate or clock of the series."""


class GraphError(WindowLoaderError, ValueError):
    """A graph that is wrong in itself or for its series."""


class WindowSpecError(WindowLoaderError, ValueError):
    """A window specification that is wrong in itself or for its series."""


class MissingDataError(WindowLoaderError, ValueError):
    """Missing values where the policy forbids them."""


class SplitError(WindowLoaderError, ValueError):
    """A split that cannot be made."""


class ScalerError(WindowLoaderError, ValueError):
    """A scaler that cannot be fitted or does not cover what is asked."""


class ConversionError(WindowLoaderError, ValueError):
    """A conversion that cannot be made, or whose result differs from its source."""


class LoaderError(WindowLoaderError, ValueError):
    """Arguments of a loader that do not fit."""


class MemoryBudgetError(LoaderError, MemoryError):
    """The memory budget is below what the data needs; the message names a sufficient one."""


class RankError(WindowLoaderError, ValueError):
    """An invalid rank or world size."""


class StateError(WindowLoaderError, ValueError):
    """A state that belongs to another run, dataset or version."""


class NotSamplesError(WindowLoaderError, TypeError):
    """A window set was indexed or iterated over like a dataset of samples."""


class WeightsError(WindowLoaderError, TypeError):
    """A weighted batch was unpacked as a pair."""


class ClosedError(WindowLoaderError, RuntimeError):
    """A loader was used after ``close()``."""
