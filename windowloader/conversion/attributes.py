"""What files say of their arrays beside the numbers: units, names, titles.

In: a source. Out: its attributes as JSON has them. Never raises where there are none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.sources.description import StoreDescription

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["attributes_of"]

# What concerns the form of storage, or arrays that are not taken along.
LEFT_OUT = {
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "_ARRAY_DIMENSIONS", "coordinates",
    "grid_mapping", "bounds", "cell_measures", "ancillary_variables", "CLASS", "NAME", "DIMENSION_LIST",
    "REFERENCE_LIST",
    "_Netcdf4Dimid", "_Netcdf4Coordinates", "_nc3_strict", "valid_min", "valid_max", "valid_range", "actual_range",
}  # fmt: skip


def attributes_of(source: Any) -> dict[str, Any]:
    """Attributes of the array a source reads; those of the first of several files."""
    parts = getattr(source, "parts", None)
    found = _found(parts[0] if parts else source)
    return {
        str(key): value
        for key, item in found.items()
        if (value := _json(item)) is not None and key not in LEFT_OUT
    }


def _found(source: Any) -> Mapping[str, Any]:
    if hasattr(source, "stored"):  # Zarr
        return dict(source.stored().attrs)
    if isinstance(source.description, StoreDescription):  # by xarray
        return source.description.attributes()
    return {}


def _json(value: Any) -> Any:
    """Return a value as JSON has it; None for what has no such form."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
        return _json(value) if isinstance(value, bytes) else value
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else None
