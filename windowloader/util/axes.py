"""Axes as letters, in and out (``t`` time, ``n`` space, ``f`` feature, ``b`` batch), and checks of shapes and dtypes.

In: a string of letters, a shape, perhaps dimension names. Out: a canonical ``[time, node, feature]`` view, and the
shape and order of a batch. Never reads values.
"""

from __future__ import annotations

import math
import operator
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windowloader.errors import AxesError, SourceFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

__all__ = [
    "Layout",
    "canonical",
    "check_axes",
    "check_dtype",
    "check_shape",
    "default_axes",
    "dimension_role",
    "pieces",
    "sizes",
]

TIME_NAMES = frozenset(
    {"time", "t", "date", "datetime", "timestamp", "time_counter", "valid_time", "step_time"}
)
FEATURE_NAMES = frozenset(
    {"feature", "features", "f", "variable", "variables", "channel", "channels", "band", "bands", "level", "levels",
     "lev", "plev", "height", "depth", "pressure", "pressure_level", "isobaricinhpa", "number", "member", "members",
     "ensemble", "ensemble_member", "realization", "quantile"}
)  # fmt: skip
LEAD_NAMES = frozenset({"step", "lead", "lead_time", "leadtime", "lead_hour", "lead_day", "forecast_period",
                        "forecast_hour", "prediction_timedelta"})  # fmt: skip
ISSUE_NAMES = frozenset({"forecast_reference_time", "init_time", "issue_time", "initialization_time"})
SPACE_SAID = ("latitude", "longitude", "grid_latitude", "grid_longitude", "projection_x_coordinate",
              "projection_y_coordinate", "degrees_north", "degrees_east")  # fmt: skip


def dimension_role(name: str, attributes: Mapping[str, Any]) -> str:
    """Name that `default_axes` knows for a dimension whose coordinate says by CF attributes what it is.

    Parameters
    ----------
    name : str
        Of the dimension.
    attributes : mapping
        Of its coordinate: ``axis``, ``standard_name``, ``units``, ``positive``.

    Returns
    -------
    str
        ``level``, ``member``, ``forecast_period`` or ``space``; else the name.

    Examples
    --------
    >>> dimension_role("z", {"positive": "up"}), dimension_role("y", {"units": "m"})
    ('level', 'y')
    """
    said = [str(attributes.get(key, "")).lower() for key in ("standard_name", "units", "axis")]
    lower = name.lower()
    if lower in LEAD_NAMES:
        return name
    if said[0] == "forecast_period" or str(attributes.get("dtype", "")).startswith("timedelta64"):
        return "forecast_period"
    if lower in FEATURE_NAMES and (said[2] in ("x", "y") or not {*said[:2]}.isdisjoint(SPACE_SAID)):
        return "space"
    if lower not in FEATURE_NAMES | TIME_NAMES and (said[2] == "z" or "positive" in attributes):
        return "level"
    return "member" if said[0] == "realization" else name


def default_axes(
    ndim: int, dims: Sequence[str] | None = None, name: str = "array", shape: Sequence[int] | None = None
) -> str:
    """Letters for an array that came without any.

    Parameters
    ----------
    ndim : int
        Number of dimensions.
    dims : sequence of str, optional
        Dimension names as xarray, netCDF and Zarr keep them: a time name becomes ``t``, a name of
        levels, members or channels ``f``, anything else ``n``.
    name : str
        What to call the array in an error.
    shape : sequence of int, optional
        A lead time of size 1 is no archive of forecasts.

    Returns
    -------
    str
        One letter an axis.

    Raises
    ------
    AxesError
        Without dimension names where ``ndim`` is neither 2 (``tn``) nor 3 (``tnf``), where the
        names hold no single time, and for forecasts of several lead times.

    Examples
    --------
    >>> default_axes(3, ("time", "latitude", "longitude"))
    'tnn'
    >>> default_axes(2)
    'tn'
    """
    if dims is not None:
        letters = [_letter(str(dim)) for dim in dims]
        if "width" in (lower := [str(dim).lower() for dim in dims]) and "height" in lower:
            letters[lower.index("height")] = "n"  # rows of an image
        _refuse_forecasts(dims, letters, name, shape)
        times = letters.count("t") + letters.count("i")
        if times == 1:
            return "".join({"i": "t", "l": "f"}.get(letter, letter) for letter in letters)
        if any(not str(dim).startswith(("dim_", "phony_dim_")) for dim in dims):
            raise AxesError(
                f"the dimensions {tuple(dims)} of {name!r} have {times or 'no'} time axes by name. Pass the letter of "
                f"each: t time, n space, f feature, e.g. axes='{'t' + 'n' * (len(dims) - 1)}'."
            )
    if ndim in (2, 3):
        return "tnf"[:ndim]
    if ndim == 1:
        return "t"
    raise AxesError(
        f"{name!r} has {ndim} dimensions, and only [time, node] and [time, node, feature] are taken without asking. "
        f"Say which letter each axis is, e.g. axes='{'tf' + 'n' * max(ndim - 2, 0)}' (t time, n space, f feature)."
    )


def _letter(dim: str) -> str:
    """Letter of a dimension by its name: t time, i issue time, l lead time, f feature, n anything else."""
    kinds = {"t": TIME_NAMES, "i": ISSUE_NAMES, "l": LEAD_NAMES, "f": FEATURE_NAMES}
    return next((letter for letter, names in kinds.items() if dim.lower() in names), "n")


def _refuse_forecasts(
    dims: Sequence[str], letters: Sequence[str], name: str, shape: Sequence[int] | None
) -> None:
    """Raise `AxesError` where a time comes with several lead times, or with issue times."""
    sizes = [2] * len(dims) if shape is None else shape
    found = {
        letter: dim
        for letter, dim, size in zip(letters, dims, sizes, strict=True)
        if letter in "ti" or (letter == "l" and size != 1)
    }
    if len(found) < 2:
        return
    what = f"{found['l']!r} is the lead time" if "l" in found else f"{found['i']!r} is the issue time"
    raise AxesError(
        f"{name!r} of dimensions {tuple(dims)} is an archive of forecasts: {what}, which is neither space nor a time "
        f"that windows can run along. Choose one lead time by xarray, e.g. wl.open(dataset.isel("
        f"{found.get('l', 'step')}=0)), or pass the letter of each axis, e.g. axes='{'t' + 'n' * (len(dims) - 1)}'."
    )


def check_axes(
    axes: str, ndim: int, *, name: str = "array", need_time: bool = True, dims: Sequence[str] | None = None
) -> str:
    """Return ``axes`` if it fits an array of ``ndim`` dimensions, else raise `AxesError`."""
    if set(axes) - set("tnf") or len(axes) != ndim or (axes.count("t") != 1 and (need_time or "t" in axes)):
        raise AxesError(
            f"axes={axes!r} names {len(axes)} axes of {name!r}, which has {ndim} dimensions. One letter per axis: "
            "t (time), n (space), f (feature), with t exactly once."
        )
    pairs = zip(dims or (), axes, strict=False)
    leads = [dim for dim, axis in pairs if axis == "n" and _letter(str(dim)) == "l"]
    if leads and "t" in axes:
        raise AxesError(
            f"axes={axes!r} of {name!r} takes {leads[0]!r} for space, and lead times of forecasts are no places. Give "
            f"it the letter f, or choose one by xarray, e.g. wl.open(dataset.isel({leads[0]}=0))."
        )
    return axes


def sizes(axes: str, shape: Sequence[int], letter: str) -> tuple[int, ...]:
    """Sizes of the axes called ``letter``, in order.

    Examples
    --------
    >>> sizes("tfnn", (9, 2, 33, 49), "n")
    (33, 49)
    """
    return tuple(int(size) for axis, size in zip(axes, shape, strict=True) if axis == letter)


def pieces(borders: np.ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """Group neighbouring parts into pieces of at most ``rows`` rows; a longer part is a piece by itself.

    Yields
    ------
    first, last : int
        A piece has the parts ``[first, last)``.

    Examples
    --------
    >>> import numpy as np
    >>> list(pieces(np.array([0, 3, 5, 90, 91]), 10))
    [(0, 2), (2, 3), (3, 4)]
    """
    first = 0
    while first < len(borders) - 1:
        last = max(int(borders.searchsorted(borders[first] + rows, "right")) - 1, first + 1)
        yield first, last
        first = last


def canonical(array: np.ndarray, axes: str) -> np.ndarray | None:
    """View an array as ``[time, node, feature]`` without copying.

    Parameters
    ----------
    array : ndarray
        One axis a letter of ``axes``.
    axes : str
        Letters; a letter that is absent becomes an axis of size 1.

    Returns
    -------
    ndarray, shape (time, node, feature), or None
        A view; None where the strides forbid one (space axes with another axis between them).
    """
    order = [i for letter in "tnf" for i, axis in enumerate(axes) if axis == letter]
    shape = tuple(math.prod(sizes(axes, array.shape, letter)) for letter in "tnf")
    moved = array.transpose(order)
    try:
        return moved.reshape(shape, copy=False)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of a batch's axes, as letters.

    Parameters
    ----------
    letters : str
        A permutation of ``b``, ``t``, ``n``, ``f``; a letter may be left out where its size is 1.
        ``n`` stands for all space axes, kept apart and in order.

    Examples
    --------
    >>> Layout("btfn").shape(batch=64, steps=12, space=(33, 49), features=2)
    (64, 12, 2, 33, 49)
    """

    letters: str = "btnf"

    def __post_init__(self) -> None:
        if (
            set(self.letters) - set("btnf")
            or len(set(self.letters)) != len(self.letters)
            or "b" not in self.letters
        ):
            raise AxesError(
                f"layout={self.letters!r} is not an order of b (batch), t (time), n (space), f (feature), each at most "
                "once and b always, e.g. 'btnf' or 'bfnt'."
            )

    def check(self, *, steps: int, nodes: int, features: int, role: str = "inputs") -> None:
        """Raise `AxesError` where a letter was left out whose size is not 1."""
        for letter, size in (("t", steps), ("n", nodes), ("f", features)):
            if letter not in self.letters and size != 1:
                raise AxesError(
                    f"layout={self.letters!r} leaves out {letter!r}, but the {role} have size {size} there; "
                    "only an axis of size 1 can be left out."
                )

    def flat(self, *, batch: int, steps: int, nodes: int, features: int) -> tuple[int, ...]:
        """Shape with all space axes as one."""
        size = {"b": batch, "t": steps, "n": nodes, "f": features}
        return tuple(size[letter] for letter in self.letters)

    def shape(self, *, batch: int, steps: int, space: Sequence[int], features: int) -> tuple[int, ...]:
        """Shape with the space axes apart."""
        size = {"b": (batch,), "t": (steps,), "n": tuple(space), "f": (features,)}
        return tuple(part for letter in self.letters for part in size[letter])


def check_dtype(dtype: np.dtype, name: str) -> np.dtype:
    """Native form of a dtype that can be delivered, else `SourceFormatError`.

    Examples
    --------
    >>> import numpy as np
    >>> check_dtype(np.dtype(">f4"), "x.npy")
    dtype('float32')
    """
    if dtype.kind in "fiub" and dtype.itemsize <= 8:
        return dtype.newbyteorder("=")
    raise SourceFormatError(
        f"{name!r} has dtype {dtype}; real, integer and boolean arrays of up to 8 bytes per value can be opened. "
        "Save text and objects as float32 (nothing is unpickled), pass times as timestamps=, durations as numbers, "
        "complex numbers as two features, records field by field, extended precision as float64."
    )


def check_shape(
    shape: Any, itemsize: int, name: str, *, what: str = "shape", least: int = 0
) -> tuple[int, ...]:
    """Sizes as integers, else `SourceFormatError`: damaged metadata and typing errors give any.

    Examples
    --------
    >>> import numpy as np
    >>> check_shape((288, np.int64(207)), 4, "x.npy")
    (288, 207)
    """
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        sizes = (-1,)
    if min(sizes, default=least) < least or math.prod(max(size, 1) for size in sizes) * itemsize >= 1 << 63:
        raise SourceFormatError(
            f"{name!r} has {what}={reprlib.repr(shape)} of {itemsize} bytes each; sizes are whole numbers of {least} "
            "or more, of fewer than 2**63 bytes together. Its metadata are damaged, or it was not what was meant."
        )
    return sizes
