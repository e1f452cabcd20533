"""Stored numbers become what xarray makes of them, bit for bit: values in every packing, times in every calendar."""

from __future__ import annotations

import base64
import pickle
import struct
import warnings
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import SeriesError, SourceFormatError
from windowloader.sources.coordinates import time_units, times_of
from windowloader.sources.packing import packing
from windowloader.util.calendars import Times, calendar_of

if TYPE_CHECKING:
    from pathlib import Path

STORED = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
FORMS = (float, np.float32, np.float64, int, lambda number: [number], lambda number: np.array([number]))


def scalar(value: Any) -> Any:
    """Take a list or an array of one as what it holds: the one thing that is not left to xarray."""
    if isinstance(value, list | np.ndarray) and len(value) == 1:
        return value[0]
    return value


def decoded_by_xarray(raw: np.ndarray, attributes: dict[str, Any]) -> Any:
    """Return the values as xarray decodes them, or its error."""
    said = {key: scalar(value) for key, value in attributes.items()}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            variable = xr.Variable(("x",), raw, said)
            return xr.conventions.decode_cf_variable("v", variable, decode_times=False).values
        except Exception as error:
            return error


@st.composite
def encodings(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw stored numbers and attributes of every kind and type."""
    dtype = np.dtype(draw(st.sampled_from("=<>")) + draw(st.sampled_from(STORED)))
    native = dtype.newbyteorder("=")
    attributes: dict[str, Any] = {}
    for key, numbers in (
        ("scale_factor", (0.01, 0.1, 2.0, 1.0, 1e-40)),
        ("add_offset", (0.0, 273.15, -7.0, 1e6)),
    ):
        if draw(st.booleans()):
            attributes[key] = draw(st.sampled_from(FORMS))(draw(st.sampled_from(numbers)))
    info = np.finfo(native) if native.kind == "f" else np.iinfo(native)
    marks = [0, 1, 99, info.max, info.min]
    marks += [float("nan"), 1e20, -999.9] if native.kind == "f" else [float("nan")]
    for key in ("_FillValue", "missing_value"):
        if draw(st.booleans()):
            some = draw(
                st.lists(st.sampled_from(marks), min_size=1, max_size=1 + 2 * (key == "missing_value"))
            )
            with np.errstate(all="ignore"):
                typed = [
                    one if one != one else draw(st.sampled_from([native.type, lambda x: x]))(one)
                    for one in some
                ]
            attributes[key] = typed[0] if len(typed) == 1 else draw(st.sampled_from([list, np.array]))(typed)
    if draw(st.integers(0, 3)) == 0:
        attributes["_Unsigned"] = draw(st.sampled_from(["true", "false"]))
    if draw(st.integers(0, 9)) == 0:
        attributes["dtype"] = "bool"
    attributes |= draw(
        st.sampled_from([{}, {"valid_range": np.array([0, 9]), "units": "K"}, {"units": "days"}])
    )
    bits = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, 60 * native.itemsize, np.uint8)
    with np.errstate(all="ignore"):
        some = [one for key in ("_FillValue", "missing_value") for one in np.ravel(attributes.get(key, []))]
        kept = [one for one in some if native.kind == "f" or (one == one and info.min <= one <= info.max)]
        raw = np.concatenate((bits.view(native), np.array(kept).astype(native), np.arange(9).astype(native)))
    return raw.astype(dtype), attributes


@given(encodings())
@settings(max_examples=80, deadline=None)
def test_packed_values_are_those_of_xarray(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    raw, attributes = case
    right = decoded_by_xarray(raw, attributes)
    if isinstance(right, Exception):
        with pytest.raises(SourceFormatError, match="mask_and_scale=False"):
            packing(raw.dtype, attributes)
        return
    packed = packing(raw.dtype, attributes)
    found = raw.astype(raw.dtype.newbyteorder("="))
    if packed is not None:
        packed = pickle.loads(pickle.dumps(packed))
        found = np.empty((len(raw), 2), packed.dtype)[:, 1]
        packed.unpack(raw, found)
    assert found.dtype == right.dtype
    nan = np.isnan(right) if right.dtype.kind == "f" else np.zeros(right.shape, bool)
    assert np.array_equal(nan, np.isnan(found) if right.dtype.kind == "f" else nan)
    assert found[~nan].tobytes() == right[~nan].tobytes()


def test_one_byte_and_two_byte_numbers_are_proven_whole() -> None:
    for dtype in ("i1", "u1", "i2", ">i2", "u2", "f2"):
        width = np.dtype(dtype).itemsize
        raw = np.arange(256**width, dtype=f"u{width}").view(dtype)
        attributes = {
            "scale_factor": 0.1,
            "add_offset": np.float32(3),
            "_FillValue": 7,
            "missing_value": [3, 9],
        }
        right = decoded_by_xarray(raw, attributes)
        packed = packing(raw.dtype, attributes)
        assert packed is not None
        assert packed.marks is not None  # by arithmetic
        assert len(pickle.dumps(packed)) < 1000
        found = np.empty(raw.shape, packed.dtype)
        packed.unpack(raw, found)
        np.testing.assert_array_equal(found.view("u1"), right.view("u1"))


@pytest.mark.parametrize("mark", [-999.9, 1e20, float("nan")])
def test_marks_of_zarr_3_are_base64(mark: float) -> None:
    raw = np.array([1.5, mark, 3], "f4")
    text = base64.standard_b64encode(struct.pack("<d", float(np.float32(mark)))).decode()
    packed = packing(raw.dtype, {"_FillValue": text})
    assert (packed is None) == np.isnan(mark)
    if packed is not None:
        out = np.empty(3, packed.dtype)
        packed.unpack(raw, out)
        np.testing.assert_array_equal(out, np.array([1.5, np.nan, 3], "f4"))


def test_blocks_of_several_axes_and_any_strides() -> None:
    """More values than are decoded at once, from and to arrays that are not contiguous."""
    raw = np.arange(3 * 90_000, dtype=">i2").reshape(3, 300, 300).transpose(2, 0, 1)
    attributes = {"scale_factor": np.float32(0.25), "add_offset": np.float32(-9), "_FillValue": np.int16(99)}
    packed = packing(raw.dtype, attributes)
    assert packed is not None
    out = np.empty((300, 3, 600), packed.dtype)[..., ::2]
    packed.unpack(raw, out)
    np.testing.assert_array_equal(out, decoded_by_xarray(raw.ravel(), attributes).reshape(raw.shape))


CALENDARS = (
    "standard",
    "gregorian",
    "proleptic_gregorian",
    "noleap",
    "365_day",
    "360_day",
    "all_leap",
    "julian",
    "",
)
UNITS = (
    "days",
    "hours",
    "minutes",
    "seconds",
    "milliseconds",
    "microseconds",
    "d",
    "hr",
    "h",
    "Days",
    "months",
)
DATES = ("1970-01-01", "1900-1-1 0:0:0", "2000-02-28 06:30", "1850-01-01T00:00:00Z", "0001-01-01", "1582-10-15",
         "1999-12-30 23:59:30.5", "2262-04-01", "1677-09-22", "the flood", "2000-01-01 00:00 +02:00")  # fmt: skip


@st.composite
def time_axes(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw numbers since a date, near enough that some fit and some do not."""
    unit, date = draw(st.sampled_from(UNITS)), draw(st.sampled_from(DATES))
    attributes: dict[str, Any] = {"units": f"{unit} since {date}"}
    if calendar := draw(st.sampled_from(CALENDARS)):
        attributes["calendar"] = calendar
    steps = draw(st.lists(st.integers(0, 400), min_size=1, max_size=9))
    day = {"d": 1, "h": 24, "m": 1440, "s": 86400}.get(unit[0].lower(), 1)
    day = {"milliseconds": 86400_000, "microseconds": 86400_000_000, "months": 1}.get(unit, day)
    years = 1985 if date.startswith("0001") else draw(st.sampled_from([0, 0, 0, -300, 300, 3000]))
    values = np.cumsum(steps) * draw(st.sampled_from([1, day])) + years * 365 * day
    kind = draw(st.sampled_from(["i4", "i8", "u8", "f4", "f8", "i8", "f8"]))
    values = np.clip(
        values, *((-(2**31), 2**31 - 1) if kind == "i4" else (0 if kind == "u8" else -(2**62), 2**62))
    )
    values = values.astype(kind)
    if kind[0] == "f":
        values = values + np.float32(draw(st.sampled_from([0, 0.25, 1 / 288, 0.1])))
        if draw(st.integers(0, 3)) == 0:
            values[draw(st.integers(0, len(values) - 1))] = np.nan
    if draw(st.integers(0, 4)) == 0:
        attributes["_FillValue"] = values[draw(st.integers(0, len(values) - 1))]
    if draw(st.integers(0, 9)) == 0:
        attributes["scale_factor"] = 0.5
    return values, attributes


def times_by_xarray(values: np.ndarray, attributes: dict[str, Any]) -> np.ndarray | None:
    """Return times as xarray decodes them, None where it does not."""
    coder = xr.coders.CFDatetimeCoder(time_unit="ns")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            variable = xr.Variable(("t",), values, attributes)
            return xr.conventions.decode_cf_variable("t", variable, decode_times=coder).values
        except (ValueError, OverflowError, TypeError):
            return None


@given(time_axes())
@settings(max_examples=80, deadline=None)
@pytest.mark.filterwarnings("ignore:the times of")
def test_times_are_those_of_xarray(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    values, attributes = case
    said = {
        **attributes,
        "units": attributes["units"].lower() if "D" in attributes["units"] else attributes["units"],
    }
    packed = {key: value for key, value in said.items() if key not in ("units", "calendar")}
    known = ~np.isnan(decoded_by_xarray(values, packed))
    whole, right = times_by_xarray(values, said), times_by_xarray(values[known], said)
    own = attributes.get("calendar") in ("noleap", "365_day", "360_day", "all_leap", "julian")
    if own and right is not None and right.dtype.kind == "O":
        counted = cftime.date2num(right, "microseconds since 1970-01-01", calendar=attributes["calendar"])
        fits = np.all(np.abs(counted.astype(object) * 1000) < 2**63)
        right = (counted * 1000).astype("M8[ns]") if fits else None
    if known.any() and (right is None or right.dtype.kind == "O"):
        with pytest.raises(SourceFormatError, match=r"1678–2262"):
            times_of(values, attributes, name="t")
        return
    found = times_of(values, attributes, name="t")
    assert found is not None
    assert isinstance(found, Times) == own
    assert found.dtype == np.dtype("M8[ns]")
    assert np.isnat(np.asarray(found)[~known]).all()
    if known.any():
        np.testing.assert_array_equal(np.asarray(found)[known], right)
    if whole is not None and whole.dtype.kind == "M":
        decoded = (
            ~np.isnat(whole) & known
        )  # beside a NaN xarray drops dates before 1970, and reads a packed mark as 0
        np.testing.assert_array_equal(found[decoded], whole[decoded])


@given(
    rows=st.integers(5, 5000),
    step=st.integers(1, 10**5),
    first=st.integers(-(10**9), 10**9),
    unit=st.sampled_from(["days", "hours", "minutes", "seconds", "milliseconds"]),
    calendar=st.sampled_from(["standard", "noleap", "360_day"]),
    bad=st.integers(0, 4999),
)
@settings(max_examples=30, deadline=None)
def test_whole_numbers_counted_are_decoded_alike(
    rows: int, step: int, first: int, unit: str, calendar: str, bad: int
) -> None:
    """Long axes of whole numbers, also one that does not rise: as floats of the same numbers, which xarray decodes."""
    seconds = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1, "milliseconds": 0.001}[unit]
    values = np.arange(rows) * step + first
    values = values[np.abs(values * seconds) < 2e9]
    if len(values) < 5:
        return
    values[bad % len(values)] = 0
    attributes = {"units": f"{unit} since 1970-01-01", "calendar": calendar}
    found, right = (times_of(values.astype(kind), attributes, name="t") for kind in ("i8", "f8"))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(right))


@pytest.mark.parametrize("zone", ["", "+02:00", "Z"])
def test_times_that_are_text_keep_their_zone(zone: str) -> None:
    index = pd.date_range("2020-03-28", periods=48, freq="h")
    found = times_of(np.array([f"{one:%Y-%m-%dT%H:%M}{zone}" for one in index]), {}, name="t")
    right = pd.to_datetime([f"{one:%Y-%m-%dT%H:%M}{zone}" for one in index], utc=True).tz_convert(None)
    np.testing.assert_array_equal(np.asarray(found), right.to_numpy().astype("M8[ns]"))
    assert calendar_of(found) == ("UTC+02:00" if zone == "+02:00" else "")


def test_non_time_numbers_warn() -> None:
    assert not time_units({"units": "day as %Y%m%d.%f"})
    assert not time_units({"units": "days"})
    with pytest.warns(UserWarning, match=r"no timestamps.*timestamps="):
        assert times_of(np.array([20200101, 20200102]), {"units": "day as %Y%m%d.%f"}, name="t") is None


@given(encodings())
@settings(max_examples=60, deadline=None)
def test_where_arithmetic_is_not_proven_xarray_decodes_each_block(
    case: tuple[np.ndarray, dict[str, Any]],
) -> None:
    raw, attributes = case
    right = decoded_by_xarray(raw, attributes)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # xarray's, of several marks
        if isinstance(right, Exception) or (packed := packing(raw.dtype, attributes)) is None:
            return
        packed = pickle.loads(pickle.dumps(replace(packed, work=raw.dtype, marks=None)))
        found = np.empty(raw.shape, packed.dtype)
        packed.unpack(raw.astype(raw.dtype.newbyteorder("=")), found)
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "fill", "said"),
    [
        ("f4", 0, {}),
        ("f4", -999, {}),
        ("i2", 0, {}),
        ("i2", -1, {"scale_factor": 0.5}),
        ("i2", -1, {"scale_factor": 0.5, "_FillValue": -1}),
        ("f8", float("nan"), {}),
    ],
)
def test_the_fill_value_of_the_array_marks_what_is_missing_where_it_is_said(
    zarr_format: int, dtype: str, fill: float, said: dict[str, Any], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(1, 90, (20, 3)).astype(dtype)
    gone = np.random.default_rng(1).random(values.shape) < 0.3
    values[gone] = fill
    array = zarr.create_array(
        tmp_path / "a.zarr", data=values, fill_value=fill, zarr_format=zarr_format, attributes=said
    )
    assert array.fill_value == fill or fill != fill
    whole = f"file://{tmp_path}/a.zarr"
    for target, options in ((str(tmp_path / "a.zarr"), {}), (whole, {"cache_dir": str(tmp_path / "cache")})):
        marked = wl.open(target, missing="fill_value", **options)
        scan = wl.scan(marked)
        assert scan.missing == {"value": gone.sum()}
        windows = wl.WindowSet(marked, wl.WindowSpec(lookback=1, horizon=0))
        with wl.WindowLoader(windows, batch_size=20, fill=-5.0) as loader:
            [batch] = list(loader)
            np.testing.assert_array_equal(np.array(batch.input_mask)[:, 0, :, 0], ~gone)
            right = values.astype("f8") * said.get("scale_factor", 1)
            np.testing.assert_array_equal(np.array(batch.inputs)[:, 0, :, 0], np.where(gone, -5.0, right))
        if fill == 0 and dtype == "f4":  # a number like any other, unless it is said
            assert wl.scan(wl.open(target, missing=float("nan"))).missing == {"value": 0}
    twice = wl.open([whole, whole], missing={"value": "fill_value"})
    assert wl.scan(twice).missing == {"value": 2 * gone.sum()}
    labelled = wl.Series(
        values[:, ::-1], nodes=["c", "b", "a"], covariates={"w": whole}, missing={"w": "fill_value"}
    )
    assert wl.scan(labelled).missing == {"w": gone.sum()}
    with pytest.raises(SeriesError, match=r"fill_value.*where the array has one"):
        wl.Series(values, missing="fill_value")


KEYS = (
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "_Unsigned",
    "dtype",
    "units",
    "calendar",
)
STRANGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    attributes=st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, STRANGE)),
    dtype=st.sampled_from(("i1", "u2", ">i4", "i8", "f4", "f8", "?", "U9", "c8")),
    date=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_damaged_attributes_are_errors_of_the_package(
    attributes: dict[str, Any], dtype: str, date: bool
) -> None:
    values = np.arange(6).astype(dtype)
    said = {**attributes, "units": "days since 2000-01-01"} if date else attributes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(SourceFormatError):
            packed = packing(values.dtype, attributes)
            if packed is not None:
                packed.unpack(values, np.empty(6, packed.dtype))
        with suppress(SourceFormatError):
            times_of(values, said, name="t")


@pytest.mark.campaign
@given(encodings())
@settings(max_examples=3000, deadline=None)
def test_thousands_of_encodings(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    test_packed_values_are_those_of_xarray.hypothesis.inner_test(case)


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore:the times of")
@given(time_axes())
@settings(max_examples=3000, deadline=None)
def test_thousands_of_time_axes(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    test_times_are_those_of_xarray.hypothesis.inner_test(case)
