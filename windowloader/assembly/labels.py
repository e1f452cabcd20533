"""Labels of nodes and features: sensor ids, latitudes, levels, as files have them.

In: arrays of numbers or text. Out: the same labels in one form, and where one set lies in another. Sensor
773869 is the same label as a number, as text and as bytes. Never matches labels that only resemble each
other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import SeriesError

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 255  # characters of a label: an array of text takes the longest one's room for each

__all__ = ["as_labels", "difference", "listed", "positions", "text_of", "texts"]


def text_of(label: object) -> str:
    """One label as text.

    Examples
    --------
    >>> text_of(500.0), text_of(b"773869"), text_of(np.float32(2.5))
    ('500', '773869', '2.5')
    """
    if isinstance(label, bytes):
        return label.decode("utf-8", "replace")
    if isinstance(label, (float, np.floating)):
        return str(int(label)) if float(label).is_integer() else str(label)
    return str(label)


def texts(labels: Iterable[object]) -> list[str]:
    """Labels as text, in order."""
    return [text_of(label) for label in labels]


def as_labels(
    values: Any, *, size: int | None, what: str, error: type[Exception] = SeriesError
) -> np.ndarray:
    """Labels as a one-dimensional array: whole numbers as int64, everything else as text.

    Parameters
    ----------
    values : array-like, shape (size,)
        Numbers, text or bytes, each once.
    size : int, optional
        How many there must be.
    what : str
        What they label, for an error.
    error : type
        What to raise.

    Examples
    --------
    >>> as_labels([b"a", "b"], size=2, what="nodes")
    array(['a', 'b'], dtype='<U1')
    """
    if isinstance(values, (list, tuple)):
        longest = max((len(label) for label in values if isinstance(label, (str, bytes))), default=0)
        if longest > LONGEST:
            raise error(f"{what}= has a label of {longest} characters; labels have {LONGEST} at most.")
    array = np.asarray(values)
    if array.ndim != 1 or (size is not None and len(array) != size):
        wanted = "one label each" if size is None else f"{size} labels"
        raise error(f"{what}= has shape {array.shape}; {wanted} in one dimension are needed.")
    whole = array.dtype.kind in "iu"
    array = array.astype(np.int64) if whole else np.array(texts(array.tolist()), dtype=np.str_)
    found, counts = np.unique(array, return_counts=True)
    if len(found) < len(array):
        raise error(
            f"{what}= has the label {found[counts > 1][0]} {counts.max()} times; labels tell apart, each "
            "once."
        )
    return array


def positions(labels: np.ndarray, wanted: Iterable[object]) -> tuple[np.ndarray, list[str]]:
    """Where each wanted label is, and those that are nowhere.

    Returns
    -------
    found : ndarray, shape (wanted,), int64
        Positions in ``labels``; -1 where there is none.
    missing : list of str

    Examples
    --------
    >>> positions(np.array(["a", "b"]), ["b", "c"])
    (array([ 1, -1]), ['c'])
    """
    place = {text: number for number, text in enumerate(texts(labels.tolist()))}
    asked = texts(wanted)
    found = np.array([place.get(text, -1) for text in asked], np.int64)
    return found, [text for text in asked if text not in place]


def difference(left: np.ndarray, right: np.ndarray) -> tuple[list[str], list[str]]:
    """Labels of the left that the right lacks, and of the right that the left lacks."""
    return positions(right, left.tolist())[1], positions(left, right.tolist())[1]


def listed(names: Iterable[object], limit: int = 8) -> str:
    """Name a few for a message.

    Examples
    --------
    >>> listed(range(100), limit=3)
    "'0', '1', '2' and 97 more"
    """
    shown = texts(names)
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(repr(name) for name in shown[:limit]) + more
