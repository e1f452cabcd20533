"""What files say of their arrays beside the numbers: units, names, titles.

In: a source. Out: its attributes as JSON has them. Never raises where there are none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from windowloader.sources import Source

__all__ = ["attributes_of"]

# What concerns the form of storage, or arrays that are not taken along.
LEFT_OUT = {
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "_ARRAY_DIMENSIONS", "coordinates",
    "grid_mapping", "bounds", "cell_measures", "ancillary_variables", "CLASS", "NAME", "DIMENSION_LIST",
    "REFERENCE_LIST",
    "_Netcdf4Dimid", "_Netcdf4Coordinates", "_nc3_strict", "valid_min", "valid_max", "valid_range", "actual_range",
}  # fmt: skip


def attributes_of(source: Source) -> dict[str, Any]:
    """Attributes of the array a source reads; those of the first of several files."""
    return {
        str(key): value
        for key, item in source.origins[0].attributes().items()
        if (value := _json(item)) is not None and key not in LEFT_OUT
    }


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
