"""Arrays as people store them: a plan that kinds of encodings change, and writers that use the real libraries.

A `Plan` holds raw values with their attributes, as they are to lie in a file. A kind (`KINDS`) is a function that draws
one way to encode and changes the plan. A format (`FORMATS`) writes a plan, and reads it back with the library's own
reader. Nothing here knows of the package.
"""

from __future__ import annotations

import itertools
import json
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h5py
import numcodecs
import numpy as np
import xarray as xr
import zarr
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DTYPES = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "f2", "f4", "f8")
MISSING = {"f": (np.nan, -9999.0, 1e20), "i": (-99, -1), "u": (255, 0)}
STAMPS = {
    "standard": "2000-02-27T18:00",
    "noleap": "2001-02-27",
    "360_day": "2001-02-29",
    "julian": "1900-02-28",
}


@dataclass
class Plan:
    """Raw arrays by name, each with dimensions and attributes; the variable asked for is ``v``."""

    draw: Any
    form: str
    rows: int
    space: list[tuple[str, Any]]  # name of the dimension, its labels or None
    dtype: np.dtype = field(default_factory=lambda: np.dtype("f4"))
    attrs: dict[str, Any] = field(default_factory=dict)
    marks: list[Any] = field(default_factory=list)  # raw values that are missing cells
    order: list[str] = field(default_factory=list)  # dimensions of v; default: time first
    time: str = "time"  # its dimension
    times: tuple[Any, dict[str, Any]] | None = None
    label_attrs: dict[str, Any] = field(default_factory=dict)
    more: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = field(default_factory=dict)
    group: str = ""
    unlimited: bool = False
    chunks: tuple[int, ...] | None = None
    layout: dict[str, Any] = field(default_factory=dict)  # what the writer of the format takes
    ask: list[str] = field(default_factory=lambda: ["v"])
    two: bool = False
    by_name: bool = False
    consolidated: bool = True

    def __post_init__(self) -> None:
        step = self.draw(st.sampled_from([1, 6]))
        self.times = (np.arange(self.rows, dtype="i8") * step, {"units": "hours since 2000-01-01"})
        self.order = [self.time, *[name for name, _ in self.space]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``v`` as stored."""
        sizes = {self.time: self.rows, **{name: size for name, size, _ in self.sizes}}
        return tuple(sizes[name] for name in self.order)

    @property
    def sizes(self) -> list[tuple[str, int, Any]]:
        return [
            (name, labels if isinstance(labels, int) else len(labels), labels) for name, labels in self.space
        ]

    def values(self, seed: int = 0) -> np.ndarray:
        """Raw values in the stored dtype, marks among them."""
        rng = np.random.default_rng([seed, self.rows, *self.shape])
        kind = self.dtype.kind
        low, high = (-90, 120) if kind in "if" else (2 if kind == "b" else 1, 250)
        found = rng.integers(0, 2, self.shape) if kind == "b" else rng.integers(low, high, self.shape)
        found = found.astype("f8") + (rng.integers(0, 8, self.shape) / 8 if kind == "f" else 0)
        found = found.astype(self.dtype.newbyteorder("="))
        for place, mark in enumerate(self.marks):
            found.reshape(-1)[1 + place :: 5 + place] = mark
        return found.astype(self.dtype)

    def arrays(self) -> dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]:
        """All arrays of the file."""
        made = {"v": (tuple(self.order), self.values(), dict(self.attrs))}
        if self.two:
            made["w"] = (tuple(self.order), self.values(1), dict(self.attrs))
        if self.times is not None and self.time not in self.more:
            made.setdefault(self.time, ((self.time,), *self.times))
        for name, _, labels in self.sizes:
            if not isinstance(labels, int):
                made[name] = ((name,), np.asarray(labels), dict(self.label_attrs))
        return {**made, **self.more}

    def dataset(self) -> xr.Dataset:
        """Raw arrays as an xarray object: its writers keep values and attributes as they are."""
        arrays = self.arrays()
        coords = {name: one for name, one in arrays.items() if one[0] == (name,)}
        return xr.Dataset({name: one for name, one in arrays.items() if name not in coords}, coords)


# --- kinds of encodings -------------------------------------------------------------------------------------------


def dtypes(plan: Plan) -> None:
    """Every dtype that the format has."""
    allowed = {
        "netcdf3": ("i1", "i2", "i4", "f4", "f8"),
        "netcdf4": tuple(one for one in DTYPES if one != "f2"),
    }
    plan.dtype = np.dtype(plan.draw(st.sampled_from(allowed.get(plan.form, DTYPES))))


def numbers(value: float) -> list[Any]:
    """One number in the types that it may have as an attribute."""
    return [float(value), np.float32(value), np.float64(value), np.array([value])]


def packed(plan: Plan) -> None:
    """Integers with a scale, an offset or both, in Python's and NumPy's types; one-element arrays."""
    plan.dtype = np.dtype(plan.draw(st.sampled_from(["i1", "i2", "i4"])))
    which = plan.draw(st.sampled_from([("scale_factor",), ("add_offset",), ("scale_factor", "add_offset")]))
    for name in which:
        value = plan.draw(st.sampled_from([0.01, 0.1, 0.5, 273.15, -1.25]))
        plan.attrs[name] = plan.draw(st.sampled_from(numbers(value)))


def packed_by_integers(plan: Plan) -> None:
    """A scale of an integer type, without missing marks (xarray refuses it with them)."""
    plan.dtype = np.dtype(plan.draw(st.sampled_from(["i1", "i2", "f4"])))
    plan.attrs["scale_factor"] = plan.draw(st.sampled_from([2, np.int16(2), np.int32(-3)]))


def packed_floats(plan: Plan) -> None:
    """Floats with a scale and a mark."""
    plan.dtype = np.dtype(plan.draw(st.sampled_from(["f4", "f8"])))
    plan.attrs["scale_factor"] = plan.draw(st.sampled_from([0.1, np.float32(0.1), np.float64(0.1)]))
    one_mark(plan)


def one_mark(plan: Plan) -> None:
    """``_FillValue`` or ``missing_value``, of the stored dtype."""
    plan.marks = [plan.draw(st.sampled_from(MISSING[plan.dtype.kind]))]
    name = plan.draw(st.sampled_from(["_FillValue", "missing_value"]))
    plan.attrs[name] = plan.dtype.newbyteorder("=").type(plan.marks[0])


def packed_with_mark(plan: Plan) -> None:
    """Packed integers with one mark: what most archives hold."""
    packed(plan)
    one_mark(plan)


def two_marks(plan: Plan) -> None:
    """``_FillValue`` and another ``missing_value``."""
    plan.dtype = np.dtype(plan.draw(st.sampled_from(["i2", "f4", "f8"])))
    kind = plan.dtype.newbyteorder("=").type
    first, second = {"i": (-99, -98), "f": (-9999.0, 1e20)}[plan.dtype.kind]
    plan.marks = [first, second]
    plan.attrs |= {"_FillValue": kind(first), "missing_value": kind(second)}
    if plan.draw(st.booleans()):
        plan.attrs["scale_factor"] = 0.5


def unsigned(plan: Plan) -> None:
    """``_Unsigned``: signed integers that mean unsigned ones, or the other way round."""
    plan.dtype = np.dtype(plan.draw(st.sampled_from(["i1", "i2"])))
    plan.attrs["_Unsigned"] = "true"
    if plan.draw(st.booleans()):
        plan.attrs |= {"scale_factor": np.float32(0.05), "add_offset": np.float32(92.7)}
    if plan.draw(st.booleans()):
        plan.marks = [-1]
        plan.attrs["_FillValue"] = plan.dtype.type(-1)


def valid_range(plan: Plan) -> None:
    """``valid_range``, which xarray leaves alone."""
    plan.dtype = np.dtype("i2")
    plan.attrs["valid_range"] = np.array([0, 50], "i2")


def big_endian(plan: Plan) -> None:
    """Bytes in the other order."""
    plan.dtype = np.dtype(plan.draw(st.sampled_from([">i2", ">i4", ">f4", ">f8"])))
    if plan.draw(st.booleans()):
        one_mark(plan)


def dimension_order(plan: Plan) -> None:
    """Time in the middle or last."""
    if len(plan.order) == 1:
        plan.space, plan.order = [("station", 3)], [plan.time, "station"]
    plan.order = plan.draw(st.permutations(plan.order).filter(lambda order: order[0] != plan.time))


def grid(plan: Plan) -> None:
    """Two space axes, with coordinates."""
    plan.space = [("lat", np.array([60.5, 60.25, 60.0])), ("lon", np.array([-1.0, 0.0]))]
    plan.order = [plan.time, "lat", "lon"]


def labels(plan: Plan) -> None:
    """Labels of text or numbers."""
    given = plan.draw(
        st.sampled_from([["b", "a", "é7"], ["0042", "042", "42"], [400017, 400001, 3], [1.5, -2.25, 0.0]])
    )
    plan.space, plan.order = [("station", np.array(given))], [plan.time, "station"]


def packed_labels(plan: Plan) -> None:
    """A coordinate of space that is packed itself."""
    plan.space, plan.order = [("lat", np.array([21, 41, 61], "i2"))], [plan.time, "lat"]
    plan.label_attrs = {"scale_factor": 0.5, "add_offset": 1.0}


def time_units(plan: Plan) -> None:
    """Integers since some moment: days, hours, minutes, seconds, milliseconds; odd moments."""
    units, step = plan.draw(
        st.sampled_from(
            [
                ("days since 2000-01-01", 1),
                ("hours since 1900-01-01 00:00:0.0", 6),
                ("minutes since 2000-02-27 12:30", 5),
                ("seconds since 1970-01-01T00:00:00Z", 300),
                ("seconds since 2000-1-1 0:0:0", 1),
                ("milliseconds since 2020-12-31 23:59:59", 250),
                ("days since 0001-01-01", 1),
                ("hours since 1-1-1 00:00:0.0", 24),
            ]
        )
    )
    first = {"days since 0001-01-01": 730000, "hours since 1-1-1 00:00:0.0": 17540000}.get(units, 3)
    dtype = "i4" if plan.form == "netcdf3" else plan.draw(st.sampled_from(["i4", "i8", "f8"]))
    plan.times = ((first + step * np.arange(plan.rows)).astype(dtype), {"units": units})


def packed_times(plan: Plan) -> None:
    """Times that are packed."""
    plan.times = (
        np.arange(plan.rows, dtype="i4") * 120,
        {"units": "minutes since 2000-01-01", "scale_factor": 0.5},
    )


def calendars(plan: Plan) -> None:
    """Calendars of climate models, over the end of a February."""
    calendar = plan.draw(st.sampled_from(["noleap", "365_day", "360_day", "proleptic_gregorian", "julian"]))
    start = {"360_day": "2001-02-27", "julian": "1900-02-26"}.get(calendar, "2004-02-26")
    unit, step = plan.draw(st.sampled_from([("days", 1), ("hours", 12)]))
    attrs = {"units": f"{unit} since {start}", "calendar": calendar}
    plan.times = (step * np.arange(plan.rows, dtype="i4"), attrs)


def float_days(plan: Plan) -> None:
    """Days as floats: steps of five minutes, or of an hour."""
    parts = plan.draw(st.sampled_from([24, 288]))
    first = plan.draw(st.sampled_from([0.0, 44000.0]))
    plan.times = (first + np.arange(plan.rows) / parts, {"units": "days since 1900-01-01"})


def text_times(plan: Plan) -> None:
    """Times written as ISO text."""
    form = plan.draw(st.sampled_from(["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]))
    index = xr.date_range("2000-02-28T20:00", periods=plan.rows, freq="h")
    plan.times = (index.strftime(form).to_numpy().astype("U20"), {})


def zone_units(plan: Plan) -> None:
    """A zone in the units."""
    plan.times = (np.arange(plan.rows, dtype="i4"), {"units": "hours since 2000-01-01 00:00:00 +02:00"})


def no_times(plan: Plan) -> None:
    """No coordinate of time."""
    plan.times = None


def jumps(plan: Plan) -> None:
    """Times with a hole, and of no regular step."""
    steps = plan.draw(st.lists(st.integers(1, 9), min_size=plan.rows - 1, max_size=plan.rows - 1))
    plan.times = (np.cumsum([0, *steps]).astype("i4"), {"units": "hours since 2000-01-01"})


def auxiliary(plan: Plan) -> None:
    """Auxiliary and scalar coordinates, bounds, a variable of text."""
    grid(plan)
    plan.more["height"] = ((), np.float32(2), {"units": "m"})
    plan.more["area"] = (("lat", "lon"), np.ones((3, 2), "f4"), {})
    plan.more["time_bnds"] = ((plan.time, "b"), np.zeros((plan.rows, 2)), {})
    plan.attrs["coordinates"] = "height area"
    values, attrs = plan.times
    plan.times = (values, {**attrs, "bounds": "time_bnds"})


def auxiliary_time(plan: Plan) -> None:
    """Dates in an auxiliary coordinate; the dimension's own is a number without units (NEMO)."""
    values, attrs = plan.times
    plan.more["time_centered"] = (
        (plan.time,), values, {**attrs, "standard_name": "time"},
    )  # fmt: skip
    plan.times = None
    plan.attrs["coordinates"] = "time_centered"


def named(plan: Plan) -> None:
    """A variable that is asked for by name, though there is no other."""
    plan.by_name = True


def groups(plan: Plan) -> None:
    """Variables in a group."""
    plan.by_name = True
    plan.group = plan.draw(st.sampled_from(["met", "met/low"]))


def unlimited(plan: Plan) -> None:
    """An unlimited dimension of time."""
    plan.unlimited = True


def two_variables(plan: Plan) -> None:
    """Two variables, joined along features."""
    plan.by_name = plan.two = True
    plan.ask = ["v", "w"]
    if plan.draw(st.booleans()):
        packed_with_mark(plan)


def chunks(plan: Plan) -> None:
    """Chunks that do not divide the shape; one row a chunk; shards where the format has them."""
    plan.chunks = tuple(plan.draw(st.integers(1, size)) for size in plan.shape)
    if plan.form == "zarr3" and plan.draw(st.booleans()):
        plan.layout["shards"] = tuple(size * plan.draw(st.integers(1, 3)) for size in plan.chunks)
    if plan.form == "zarr2":
        plan.layout["order"] = plan.draw(st.sampled_from("CF"))


def filters(plan: Plan) -> None:
    """Compressors, filters, checksums."""
    chunks(plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Zarr 3: its specification lacks numcodecs' codecs
        choices = FILTERS[plan.form]()
    plan.layout |= plan.draw(st.sampled_from(choices))


def unconsolidated(plan: Plan) -> None:
    """A Zarr store without consolidated metadata; asked for by name, as a web server lists nothing."""
    plan.consolidated, plan.by_name = False, True


def stored_datetimes(plan: Plan) -> None:
    """Times in an array of datetime64."""
    unit = plan.draw(st.sampled_from(["ns", "us", "s"]))
    times = np.datetime64("2000-02-28T20:00", "ns") + np.arange(plan.rows) * np.timedelta64(1, "h")
    plan.times = (times.astype(f"M8[{unit}]"), {})


def hdf5_filters() -> list[dict[str, Any]]:
    """What every h5py can write."""
    return [
        {"zlib": True, "complevel": 4},
        {"zlib": True, "shuffle": True},
        {"zlib": True, "shuffle": True, "fletcher32": True},
        {"fletcher32": True},
        {"compression": "lzf"},
    ]


def zarr2_filters() -> list[dict[str, Any]]:
    """Codecs of Zarr 2, with those that TensorStore lacks."""
    return [
        {"compressors": None},
        {"compressors": numcodecs.Zlib(3)},
        {"compressors": numcodecs.GZip(3)},
        {"compressors": numcodecs.BZ2(3)},
        {"compressors": numcodecs.Blosc("lz4", 3, numcodecs.Blosc.BITSHUFFLE)},
        {"compressors": numcodecs.Zstd(3)},
        {"compressors": numcodecs.Zstd(3, checksum=True)},
        {"compressors": numcodecs.LZ4()},
        {"compressors": numcodecs.LZMA()},
        {"filters": [numcodecs.Shuffle(4)]},
        {"filters": [numcodecs.Delta("<f4")]},
    ]


def zarr3_filters() -> list[dict[str, Any]]:
    """Codecs of Zarr 3, with those that TensorStore lacks."""
    from zarr import codecs
    from zarr.codecs import numcodecs as others

    return [
        {"compressors": None},
        {"compressors": codecs.GzipCodec(level=3)},
        {"compressors": codecs.BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=4)},
        {"compressors": codecs.ZstdCodec(level=3)},
        {"compressors": codecs.ZstdCodec(level=3, checksum=True)},
        {"compressors": [codecs.Crc32cCodec()]},
        {"compressors": others.LZ4()},
        {"compressors": others.Zlib(level=3)},
        {"compressors": [others.Shuffle(elementsize=4), others.Zlib(level=3)]},
        {"filters": [others.Delta(dtype="<f4")]},
    ]


FILTERS = {
    "netcdf4": hdf5_filters,
    "hdf5": hdf5_filters,
    "zarr2": zarr2_filters,
    "zarr3": zarr3_filters,
}


# --- formats ------------------------------------------------------------------------------------------------------


def write_netcdf4(plan: Plan, folder: Path, engine: str = "h5netcdf") -> Path:
    """Write by xarray's own writer."""
    path = folder / "a.nc"
    how = dict(plan.layout)
    if plan.chunks:
        how["chunksizes"] = plan.chunks
    dataset = plan.dataset()
    encoding = {name: dict(how) for name in plan.ask}
    for name in dataset.variables:  # xarray adds a mark of its own to floats
        if "_FillValue" not in dataset[name].attrs:
            encoding.setdefault(name, {})["_FillValue"] = None
    more = {"unlimited_dims": [plan.time]} if plan.unlimited else {}
    dataset.to_netcdf(path, engine=engine, group=plan.group or None, encoding=encoding, **more)
    return path


def write_netcdf3(plan: Plan, folder: Path) -> Path:
    """Write by xarray and scipy."""
    path = folder / "a.nc"
    form = plan.draw(st.sampled_from(["NETCDF3_CLASSIC", "NETCDF3_64BIT"]))
    dataset = plan.dataset()
    encoding = {
        name: {"_FillValue": None} for name in dataset.variables if "_FillValue" not in dataset[name].attrs
    }
    more = {"unlimited_dims": [plan.time]} if plan.unlimited and plan.order[0] == plan.time else {}
    dataset.to_netcdf(path, engine="scipy", format=form, encoding=encoding, **more)
    return path


def write_hdf5(plan: Plan, folder: Path) -> Path:
    """Write plain HDF5 with CF attributes, without scales of dimensions."""
    path = folder / "a.h5"
    how = {
        name: value for name, value in plan.layout.items() if name in ("shuffle", "fletcher32", "compression")
    }
    if plan.layout.get("zlib"):
        how["compression"] = "gzip"
    if plan.chunks:
        how["chunks"] = plan.chunks
    if plan.unlimited:
        how["maxshape"] = tuple(
            None if dim == plan.time else size for dim, size in zip(plan.order, plan.shape, strict=True)
        )
    with h5py.File(path, "w") as file:
        group = file.require_group(plan.group) if plan.group else file
        for name in plan.ask:
            _, values, attrs = plan.arrays()[name]
            group.create_dataset(name, data=values, **how).attrs.update(attrs)
    return path


def write_zarr(plan: Plan, folder: Path, form: int) -> Path:
    """Write by zarr-python; attributes as xarray writes them."""
    path = folder / "a.zarr"
    root = zarr.create_group(path, zarr_format=form)
    group = root.require_group(plan.group) if plan.group else root
    for name, (dims, values, attrs) in plan.arrays().items():
        how: dict[str, Any] = {}
        if name in plan.ask:
            how = {"chunks": plan.chunks or "auto", **plan.layout}
        values = np.asarray(values)
        if values.dtype.kind == "U" and form == 3:
            values = values.astype(np.dtypes.StringDType())
        said = {key: _json(value, form if key == "_FillValue" else 2) for key, value in attrs.items()}
        if form == 2:
            said["_ARRAY_DIMENSIONS"] = list(dims)
            how["fill_value"] = None
        else:
            how["dimension_names"] = dims
        group.create_array(name, data=values, attributes=said, config={"write_empty_chunks": True}, **how)
    if plan.consolidated:
        zarr.consolidate_metadata(path)
    return path


def _json(value: Any, form: int) -> Any:
    """An attribute as xarray's own writer puts it into JSON."""
    if form == 3:
        from xarray.backends.zarr import FillValueCoder

        return FillValueCoder.encode(value, np.asarray(value).dtype)
    found = np.asarray(value).tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return json.loads(json.dumps(found))


def read_netcdf4(path: Path, plan: Plan, name: str) -> xr.DataArray:
    """Read by xarray over h5netcdf."""
    with xr.open_dataset(path, engine="h5netcdf", group=plan.group or None, phony_dims="sort") as dataset:
        return dataset[name].load()


def read_netcdf3(path: Path, plan: Plan, name: str) -> xr.DataArray:
    """Read by xarray over scipy."""
    with xr.open_dataset(path, engine="scipy") as dataset:
        return dataset[name].copy(deep=True).load()


def read_zarr(path: Path, plan: Plan, name: str) -> xr.DataArray:
    """Read by xarray over zarr-python. Arrays of Zarr 2 have no fill value here, so that attributes alone mark."""
    group = zarr.open_group(path, mode="r", path=plan.group or None)
    store = xr.backends.ZarrStore(
        group, mode="r", use_zarr_fill_value_as_mask=group.metadata.zarr_format == 2
    )
    raw = xr.open_dataset(store, decode_cf=False)
    for variable in raw.variables.values():  # a list of one number as a scale is that number
        for key in ("scale_factor", "add_offset"):
            if key in variable.attrs:
                variable.attrs[key] = np.asarray(variable.attrs[key]).reshape(()).item()
    return xr.decode_cf(raw)[name].load()


@dataclass(frozen=True)
class Format:
    """Writes a plan, and reads it by the library's own reader."""

    writer: Callable[[Plan, Path], Path]
    reader: Callable[..., xr.DataArray]
    lacks: tuple[Callable[[Plan], None], ...] = ()  # kinds that it cannot hold

    def write(self, plan: Plan, folder: Path) -> Path:
        """Write a plan; libraries warn of some of what people store."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.writer(plan, folder)

    def read(self, path: Path, plan: Plan, name: str) -> xr.DataArray:
        """Read a variable back, by the library's own reader."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.reader(path, plan, name)


FORMATS = {
    "netcdf4": Format(write_netcdf4, read_netcdf4, (unconsolidated, stored_datetimes)),
    "netcdf3": Format(
        write_netcdf3, read_netcdf3, (big_endian, groups, chunks, filters, unconsolidated, stored_datetimes)
    ),
    "hdf5": Format(
        write_hdf5,
        read_netcdf4,
        (
            labels,
            packed_labels,
            time_units,
            packed_times,
            calendars,
            float_days,
            text_times,
            zone_units,
            no_times,
            jumps,
            auxiliary,
            auxiliary_time,
            unconsolidated,
            stored_datetimes,
        ),
    ),
    "zarr2": Format(lambda plan, folder: write_zarr(plan, folder, 2), read_zarr, (unlimited,)),
    "zarr3": Format(lambda plan, folder: write_zarr(plan, folder, 3), read_zarr, (unlimited,)),
}
KINDS = {
    kind.__name__: kind
    for kind in (
        dtypes, packed, packed_by_integers, packed_floats, one_mark, packed_with_mark, two_marks, unsigned, valid_range,
        big_endian, dimension_order, grid, labels, packed_labels, time_units, packed_times, calendars, float_days,
        text_times, zone_units, no_times, jumps, auxiliary, auxiliary_time, named, groups, unlimited, two_variables,
        chunks, filters, unconsolidated, stored_datetimes,
    )
}  # fmt: skip


CASES = [
    (form, kind) for form, kind in itertools.product(FORMATS, KINDS) if KINDS[kind] not in FORMATS[form].lacks
]


def plan_for(draw: Any, form: str, *kinds: Callable[[Plan], None]) -> Plan:
    """Draw a plan of a format, changed by kinds."""
    space = draw(st.sampled_from([[], [("station", 3)], [("station", np.array(["b", "a", "c"]))]]))
    plan = Plan(draw, form, draw(st.integers(5, 9)), list(space))
    for kind in kinds:
        kind(plan)
    return plan
