"""Labels of nodes and features: sensor ids, latitudes, levels, as files have them.

In: arrays of numbers or text. Out: the same labels in one comparable form, and where some lie among others. Sensor
773869 is the same label as a number, as text and as bytes; ``"0042"`` is 42 beside numbers, and another label than
``"42"`` beside text. Never matches by position, nor the nearest label.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from windowloader.errors import SeriesError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NUMBER", "as_labels", "counts", "find", "listed", "locate", "order", "tells", "text_of", "texts"]

LONGEST = 255  # characters of a label: an array of text reserves the longest one's size for each
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


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


def listed(names: Iterable[object], limit: int = 8) -> str:
    """Name a few for a message.

    Examples
    --------
    >>> listed(range(100), limit=3)
    "'0', '1', '2' and 97 more"
    """
    shown = texts(names)
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(repr(name) for name in shown[:limit]) or "none") + more


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
        Name of the argument, for the error.
    error : type
        Exception to raise.

    Examples
    --------
    >>> as_labels([b"a", "b"], size=2, what="nodes")
    array(['a', 'b'], dtype='<U1')
    """
    array = np.asarray(values, object if isinstance(values, (list, tuple)) else None)
    if array.ndim != 1 or (size is not None and len(array) != size):
        wanted = "one label each" if size is None else f"{size} labels"
        raise error(f"{what}= has shape {array.shape}; {wanted} in one dimension are needed.")
    found = array.tolist()
    if all(isinstance(label, (int, np.integer)) and not isinstance(label, bool) for label in found):
        labels = np.array(found, np.int64)
    else:
        found = texts(found)
        if max(map(len, found)) > LONGEST:
            raise error(f"{what}= has a label longer than {LONGEST} characters.")
        labels = np.array(found, np.str_)
    if twice := [label for label, times in Counter(found).items() if times > 1]:
        raise error(f"{what}= repeats the labels {listed(twice)}; each node needs a label of its own.")
    return labels


def _keys(labels: Any, wanted: Any) -> tuple[list[Any], list[Any]]:
    """Two sets of labels in a form that compares: as numbers where either holds numbers, else as text."""
    sides = np.asarray(labels), np.asarray(wanted)
    kind = _number if any(side.dtype.kind in "iuf" for side in sides) else str
    have, want = ([kind(text) for text in texts(side.tolist())] for side in sides)
    return have, want


def _number(text: str) -> Any:
    """Return the number that a text writes, else the text; NaN stays text, so that it equals itself."""
    for kind in (int, float) if NUMBER.fullmatch(text) else ():
        with suppress(ValueError):
            return kind(text)
    return text


def counts(labels: Iterable[object]) -> bool:
    """Whether labels are 0, 1, 2 … in order, and so identify nothing."""
    return all(text == str(number) for number, text in enumerate(texts(labels)))


def tells(labels: np.ndarray | None) -> TypeGuard[np.ndarray]:
    """Whether labels identify nodes: each occurs once, and they are not only 0, 1, 2 …."""
    found = [] if labels is None else texts(np.asarray(labels).tolist())
    return len(set(found)) == len(found) and not counts(found)


def find(labels: Any, wanted: Any) -> tuple[np.ndarray, list[str]]:
    """Where each wanted label is, and those that are missing.

    Returns
    -------
    found : ndarray, shape (wanted,), int64
        Positions in ``labels``; -1 where there is none.
    missing : list of str

    Examples
    --------
    >>> find(np.array(["a", "b"]), ["b", "c"])
    (array([ 1, -1]), ['c'])
    """
    have, want = _keys(labels, wanted)
    place = {key: number for number, key in enumerate(have)}
    found = np.array([place.get(key, -1) for key in want], np.int64)
    return found, [str(key) for key in want if key not in place]


def locate(
    labels: Any, wanted: Any, what: str, whose: str = "the series", error: type = SeriesError, hint: str = ""
) -> np.ndarray:
    """Where each wanted label is among ``labels``; an error where one is missing or occurs twice.

    Parameters
    ----------
    labels, wanted : array-like, shape (node,)
        Text is compared with numbers as a number (``"0042"`` is 42), with text as it stands. Numbers must be equal.
    what, whose : str
        What ``labels`` and ``wanted`` belong to, for the error.
    error : type
        Exception to raise.
    hint : str
        What to do, for the error.

    Returns
    -------
    ndarray, shape (wanted,), int64

    Examples
    --------
    >>> locate(["c", "a", "b"], ["a", "c"], "the covariate").tolist()
    [1, 0]
    """
    have, want = _keys(labels, wanted)
    for side, found in ((what, have), (whose, want)):
        if twice := [key for key, times in Counter(found).items() if times > 1]:
            raise error(
                f"the labels {listed(twice)} of {side} repeat, so {what} and {whose} cannot be aligned by label. "
                "Name each once."
            )
    places, missing = find(labels, wanted)
    if missing:
        more = set(have) - set(want)
        raise error(
            f"{what} lacks {len(missing)} of the {len(want)} labels of {whose}: {len(missing)} only in {whose}: "
            f"{listed(missing)}; {len(more)} only in {what}: {listed(key for key in have if key in more)}. Labels must "
            f"be equal, also numbers. {hint}"
        )
    return places


def order(labels: Any, wanted: Any, *names: Any) -> np.ndarray | None:
    """Where each wanted label is among ``labels``, as `locate` finds it; None where nothing has to move.

    That is where both are the same, where a side has no labels, and where one side's labels only count 0, 1, 2 … and
    the other side has none of them.
    """
    if labels is None or wanted is None:
        return None
    have, want = _keys(labels, wanted)
    apart = (counts(have) or counts(want)) and set(have).isdisjoint(want)
    return None if have == want or apart else locate(labels, wanted, *names)
