"""Scalers as text: JSON from which the same numbers come back, to the bit.

In: the name of a scaler's class and what it holds; or text. Out: the other. Knows no scaler.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import ScalerError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["from_text", "not_a_scaler", "to_text"]

VERSION = 1


def to_text(
    kind: str,
    statistics: Mapping[str, Mapping[str, np.ndarray]],
    *,
    per: str,
    rounding: str,
    missing: Mapping[str, float],
    options: Mapping[str, Any],
) -> str:
    """Write a scaler.

    Examples
    --------
    >>> to_text("StandardScaler", {}, per="feature", rounding="divide", missing={}, options={})[:44]
    '{"scaler": "StandardScaler", "version": 1, "'
    """
    table = {
        feature: {
            name: [[_plain(x) for x in row] for row in array.tolist()] for name, array in arrays.items()
        }
        for feature, arrays in statistics.items()
    }
    content = {
        "scaler": kind,
        "version": VERSION,
        "per": per,
        "rounding": rounding,
        "options": dict(options),
        "missing": {feature: _plain(value) for feature, value in missing.items()},
        "statistics": table,
    }
    return json.dumps(content, allow_nan=False)


def from_text(text: str) -> tuple[str, dict[str, Any]]:
    """Read the name of a scaler's class, and what it holds by the names of `to_text`; `ScalerError` for other text."""
    try:
        content = json.loads(text)
        statistics = {
            feature: {
                name: np.array([[float(x) for x in row] for row in rows]) for name, rows in table.items()
            }
            for feature, table in content["statistics"].items()
        }
        missing = {feature: float(value) for feature, value in content["missing"].items()}
        held = {name: content[name] for name in ("per", "rounding", "options")}
        return content["scaler"], {"statistics": statistics, "missing": missing, **held}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise not_a_scaler(text, repr(error)) from error


def not_a_scaler(text: str, reason: str) -> ScalerError:
    """Say that a text is no scaler's."""
    return ScalerError(f"this is no scaler as to_json writes it: {text[:80]!r} … ({reason})")


def _plain(value: float) -> float | str:
    """Return what JSON can hold; Python writes the shortest text that reads back to the same bits."""
    return value if np.isfinite(value) else str(value)
