"""The arrays that a conversion writes: names, dimensions, labels, attributes and dtypes.

In: a `Series` and how to store it. Out: `ArrayTarget`, one per variable for a Zarr store, a single one for a ``.npy``
file. Reads labels and attributes; never values.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windowloader.errors import AxesError, ConversionError
from windowloader.util.axes import TIME_NAMES, default_axes

from .layout import Access, ArrayLayout, choose_layout
from .values import Encoding, encoding_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from windowloader.series.series import Series
    from windowloader.series.variable import Variable
    from windowloader.sources import Source

    Chunks = int | Sequence[int] | bool | None
    Known = dict[str, tuple[int, np.ndarray | None]]  # size and labels of each dimension

__all__ = ["ArrayTarget", "npy_target", "zarr_targets"]

FEATURE_WORDS = ("feature", "channel", "level", "band", "variable", "member")  # all in FEATURE_NAMES
NPY_UNIT = 1 << 20
# Attributes of storage, or that refer to arrays which are not converted.
LEFT_OUT = {
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "_ARRAY_DIMENSIONS", "coordinates",
    "grid_mapping", "bounds", "cell_measures", "ancillary_variables", "CLASS", "NAME", "DIMENSION_LIST",
    "REFERENCE_LIST",
    "_Netcdf4Dimid", "_Netcdf4Coordinates", "_nc3_strict", "valid_min", "valid_max", "valid_range", "actual_range",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ArrayTarget:
    """An array to write.

    Parameters
    ----------
    name : str
    dims : tuple of str
    shape : tuple of int
        Rows first.
    layout : ArrayLayout
    encoding : Encoding
    variables : tuple of Variable
        Source variables; several are concatenated along the last axis.
    labels : mapping of str to ndarray
        Labels by dimension.
    attributes : mapping
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    layout: ArrayLayout
    encoding: Encoding
    variables: tuple[Variable, ...]
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as stored, before compression."""
        return math.prod(self.shape[1:]) * self.encoding.dtype.itemsize

    @property
    def source_row_bytes(self) -> int:
        """Bytes of a row of the source."""
        return sum(variable.row_bytes for variable in self.variables)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Read rows ``[start, stop)`` in the dtype of the source, C-contiguous; and the bytes taken from it."""
        out = np.empty((stop - start, *self.shape[1:]), self.encoding.source)
        if len(self.variables) == 1:
            return out, self.variables[0].source.read(start, stop, out)
        flat, place, taken = out.reshape(stop - start, -1, self.shape[-1]), 0, 0
        for variable in self.variables:
            rows = np.empty((*flat.shape[:2], variable.num_features), variable.dtype)
            taken += variable.read(start, stop, rows)
            flat[:, :, place : place + variable.num_features] = rows
            place += variable.num_features
        return out, taken

    def describe(self) -> dict[str, Any]:
        """Return what identifies the array, for JSON, without the scale."""
        chunks, shards = self.layout.chunks, self.layout.shards
        return {"name": self.name, "dims": self.dims, "shape": self.shape, "dtype": self.encoding.dtype.name,
                "chunks": chunks, "shards": shards}  # fmt: skip


def zarr_targets(
    series: Series, *, dtype: str | None, span: int, chunks: Chunks, shards: Chunks
) -> tuple[ArrayTarget, ...]:
    """Return one array per variable, on shared dimensions."""
    known: Known = {"time": (series.num_steps, None)}
    made: dict[str, ArrayTarget] = {}
    for variable in series.variables:
        source = variable.source
        if not variable.has_time:
            raise ConversionError(
                f"covariate {variable.name!r} does not change with time, and is not converted. Leave it out of the "
                "series, and open it from where it is."
            )
        dims = _dimensions(series, variable, known)
        name = variable.features[0] if variable.num_features == 1 else variable.name
        name = name.strip("/").replace("/", "_")
        name = f"{name}_values" if name in known or name in made else name
        encoding = encoding_for(name, variable.dtype, dtype, variable.missing)
        layout = choose_layout(
            source.shape, encoding.dtype.itemsize, chunks=chunks, shards=shards, access=Access(span=span)
        )
        labels = {dim: found for dim in dims if (found := known[dim][1]) is not None}
        made[name] = ArrayTarget(
            name, dims, source.shape, layout, encoding, (variable,), labels, _attributes(source)
        )
    return tuple(made.values())


def _dimensions(series: Series, variable: Variable, known: Known) -> tuple[str, ...]:
    """Choose dimension names that imply the same axes, shared where size and labels agree."""
    source = variable.source
    names = _own_names(source) or ("",) * len(source.axes)
    dims = ["time"]
    for axis in range(1, len(source.axes)):
        size, found = source.shape[axis], _labels(series, variable, axis)
        words: tuple[str, ...] = FEATURE_WORDS
        if source.axes[axis] == "n":
            word = "node" if source.axes.count("n") == 1 else f"node_{axis}"
            words = (word, f"{word}_{variable.name}_{axis}")
        candidates = [name for name in (names[axis], *words) if name]
        free = (name for name in candidates if name not in dims and _fits(known, name, size, found))
        if (dim := next(free, None)) is None:
            raise ConversionError(
                f"axis {axis} of {variable.name!r} has no free name: {candidates} are used by axes of other sizes or "
                "labels. Convert the variables separately."
            )
        known[dim] = (size, found)
        dims.append(dim)
    return tuple(dims)


def _own_names(source: Source) -> tuple[str, ...] | None:
    """Return the file's dimension names, if they imply the same axes."""
    dims = ("time", *(source.origins[0].dims or ())[1:])
    with contextlib.suppress(AxesError):
        if len(set(dims)) == len(source.axes) and default_axes(len(dims), dims) == source.axes:
            return dims
    return None


def _fits(known: Known, name: str, size: int, labels: np.ndarray | None) -> bool:
    """Whether a name is free, or of an axis of the same size and labels."""
    there, found = known.get(name, (size, labels))
    same = found is labels or np.array_equal(found, labels)  # type: ignore[arg-type]
    return name.lower() not in TIME_NAMES and there == size and same


def _labels(series: Series, variable: Variable, axis: int) -> np.ndarray | None:
    source = variable.source
    if source.axes[axis] == "n" and source.axes.count("n") == 1 and series.nodes is not None:
        return series.nodes
    if source.axes[axis] == "f" and source.axes.count("f") == 1 and variable.num_features > 1:
        names = [name.removeprefix(f"{variable.name}.") for name in variable.features]
        if names != [str(number) for number in range(len(names))]:
            found = source.labels(axis)
            same = found is not None and [str(x) for x in found.tolist()] == names
            return found if same else np.array(names)
    return source.labels(axis)


def npy_target(series: Series, *, dtype: str | None) -> ArrayTarget:
    """Return all variables as one array: a single one as stored, several as [time, space …, feature]."""
    if dtype == "int16":
        raise ConversionError(
            "dtype='int16' is scaled, and a .npy file has no place for the scale. Convert to Zarr, or take float16."
        )
    own = series.variables
    for variable in own:
        if not variable.has_time or variable.space_shape != own[0].space_shape:
            raise ConversionError(
                f"{variable.name!r} does not lie on the time and the nodes of {own[0].name!r}, and a .npy file is one "
                "array. Convert to Zarr, or one variable at a time."
            )
    if len({variable.missing for variable in own}) > 1:
        raise ConversionError("the variables mark missing values in different ways; convert to Zarr instead.")
    shape, dims = own[0].source.shape, _own_names(own[0].source) or tuple(own[0].source.axes)
    if len(own) > 1:
        shape = (series.num_steps, *own[0].space_shape, len(series.features))
        dims = ("time", *(f"node_{axis}" for axis in range(len(own[0].space_shape))), "feature")
    common = np.result_type(*[variable.dtype for variable in own])
    encoding = encoding_for(series.name, common, dtype, own[0].missing)
    row = max(1, math.prod(shape[1:]) * encoding.dtype.itemsize)
    unit = min(max(1, NPY_UNIT // row), max(shape[0], 1))
    return ArrayTarget("array", dims, shape, ArrayLayout((unit, *shape[1:])), encoding, own)


def _attributes(source: Source) -> dict[str, Any]:
    """Attributes of the array a source reads; those of the first of several files."""
    return {
        str(key): value
        for key, item in source.origins[0].attributes().items()
        if (value := _json(item)) is not None and key not in LEFT_OUT
    }


def _json(value: Any) -> Any:
    """Return a value as JSON has it; None for what has no such form."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else None
