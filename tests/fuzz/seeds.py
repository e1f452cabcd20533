"""Small sound files of each format, by the libraries that people use, and what those libraries read from them."""

from __future__ import annotations

import gzip
import io
import json
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS, NODES = 40, 6
VALUES = np.random.default_rng(12).normal(50, 20, (ROWS, NODES)).round(3).astype("<f4")
TIMES = np.datetime64("2012-03-01", "s") + np.arange(ROWS) * np.timedelta64(300, "s")
PACKING = {
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "_Unsigned",
    "units",
    "calendar",
    "dtype",
}


@dataclass(frozen=True)
class Seed:
    """A sound input: its files by path, which of them is opened how, and how each is damaged."""

    name: str
    files: dict[str, bytes]
    target: str
    oracle: Callable[[Path], np.ndarray | None]
    mutate: Callable[[str], str] = lambda _path: "bytes"
    options: dict[str, Any] = field(default_factory=dict)
    places: tuple[str, ...] = ("disk", "disk", "memory", "http")


def seeds(folder: Path) -> dict[str, list[Seed]]:
    """Write all seeds below a folder and return them by format."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        return {
            "npy": _npy(),
            "raw": _raw(),
            "npz": _npz(),
            "zarr": _zarr(folder),
            "kerchunk": _kerchunk(folder),
            "hdf5": _hdf5(folder),
            "netcdf": _netcdf(folder),
            "csv": _csv(),
            "parquet": _parquet(),
        }


def _first(array: Any) -> np.ndarray:
    """First rows of what a library opened, without reading the rest."""
    return np.asarray(array[: min(array.shape[0], 16)])


# -- arrays of NumPy ---------------------------------------------------------------------------------------------------


def _saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def _npy() -> list[Seed]:
    def oracle(path: Path) -> np.ndarray:
        return _first(np.load(path, mmap_mode="r", allow_pickle=False))

    arrays = {
        "c": _saved(VALUES),
        "fortran": _saved(np.asfortranarray(VALUES)),
        "big": _saved(VALUES.astype(">f8"), (2, 0)),
        "int": _saved(VALUES.astype("i2")[:, :, None]),
    }
    return [Seed(f"npy-{k}", {"a.npy": data}, "a.npy", oracle, lambda _: "npy") for k, data in arrays.items()]


def _raw() -> list[Seed]:
    """What is damaged is the options: a shape, a dtype, an offset."""
    return [Seed("raw", {"a.bin": VALUES.tobytes()}, "a.bin", lambda _: None, options={"raw": True})]


def _npz() -> list[Seed]:
    def oracle(path: Path) -> np.ndarray:
        with np.load(path, allow_pickle=False) as archive:
            return _first(archive[archive.files[0]])

    made = []
    for name, save in (("stored", np.savez), ("deflated", np.savez_compressed)):
        file = io.BytesIO()
        save(file, VALUES)
        made.append(Seed(f"npz-{name}", {"a.npz": file.getvalue()}, "a.npz", oracle, lambda _: "npz"))
    return made


def rezip(data: bytes, change: Callable[[bytes], bytes], twice: bool) -> bytes:
    """Change the members of an archive, not the archive; ``twice``: and add one of the same name, and odd names."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:

        def write(name: str, inner: bytes, how: int = zipfile.ZIP_DEFLATED) -> None:
            new.writestr(zipfile.ZipInfo(name), inner, how)  # of a date that is not now

        for name in old.namelist():
            write(name, change(old.read(name)))
            if twice:
                new.fp.flush()  # type: ignore[union-attr]
                new.NameToInfo.pop(name)
                write(name, old.read(name), zipfile.ZIP_STORED)
                write("../../escaped.npy", old.read(name))
                write("/tmp/escaped.npy", old.read(name))
    return made.getvalue()


# -- stores ------------------------------------------------------------------------------------------------------------


def _tree(folder: Path, name: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    }


def _store_mutation(path: str) -> str:
    return (
        "json" if Path(path).name in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata") else "bytes"
    )


def _zarr_rows(path: Path) -> np.ndarray | None:
    import zarr

    found = zarr.open(str(path), mode="r")
    array = found if isinstance(found, zarr.Array) else found["speed"]
    if PACKING & set(array.attrs) or array.shape[1:] != (NODES,):
        return None
    rows = _first(array)
    if array.metadata.zarr_format == 2 and array.fill_value is not None:
        rows = rows.astype("f8")
        rows[rows == array.fill_value] = np.nan
    return rows


def _zarr(folder: Path) -> list[Seed]:
    import pandas as pd
    import xarray as xr
    import zarr
    from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec

    def array(name: str, **how: Any) -> str:
        zarr.create_array(str(folder / name), data=VALUES, chunks=how.pop("chunks", (10, NODES)), **how)
        return name

    v2 = zarr.codecs if False else __import__("numcodecs")
    made = [
        array("v2.zarr", zarr_format=2, compressors=v2.Zlib(1), fill_value=None),
        array("v2blosc.zarr", zarr_format=2, compressors=v2.Blosc("lz4"), fill_value=None),
        array(
            "v2filter.zarr", zarr_format=2, filters=[v2.Shuffle(4)], compressors=v2.Zstd(), fill_value=None
        ),
        array("v3.zarr", zarr_format=3, compressors=ZstdCodec()),
        array("v3blosc.zarr", zarr_format=3, compressors=BloscCodec(cname="zstd")),
        array("v3gzip.zarr", zarr_format=3, compressors=GzipCodec(), serializer=BytesCodec(endian="big")),
        array("v3shards.zarr", zarr_format=3, chunks=(5, NODES), shards=(20, NODES), compressors=ZstdCodec()),
    ]
    frame = xr.Dataset(
        {"speed": (("time", "node"), VALUES)},
        {"time": pd.DatetimeIndex(TIMES), "node": np.arange(NODES)},
    )
    how = {"speed": {"chunks": (10, NODES), "_FillValue": None}}
    for form in (2, 3):
        name = f"grouped{form}.zarr"
        frame.to_zarr(folder / name, zarr_format=form, consolidated=True, encoding=how)
        made.append(name)
    frame.to_zarr(folder / "loose2.zarr", zarr_format=2, consolidated=False, encoding=how)
    packed = {"speed": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1, "chunks": (10, NODES)}}
    frame.to_zarr(folder / "packed3.zarr", zarr_format=3, consolidated=False, encoding=packed)
    return [
        Seed(f"zarr-{name}", _tree(folder, name), name, _zarr_rows, _store_mutation)
        for name in [*made, "loose2.zarr", "packed3.zarr"]
    ]


def _kerchunk(folder: Path) -> list[Seed]:
    """References to chunks of a file beside them; the file stays whole, or is damaged too."""
    import zarr

    zarr.create_array(str(folder / "refs.zarr"), name="speed", data=VALUES, chunks=(10, NODES), zarr_format=2,
                      compressors=None, fill_value=None)  # fmt: skip
    tree = _tree(folder / "refs.zarr", ".")
    references: dict[str, Any] = {".zgroup": '{"zarr_format": 2}', "speed/.zattrs": "{}"}
    references["speed/.zarray"] = tree["speed/.zarray"].decode()
    chunk = 10 * NODES * 4
    references |= {f"speed/{number}.0": ["{{where}}", number * chunk, chunk] for number in range(ROWS // 10)}
    document = json.dumps({"version": 1, "refs": references}).encode()

    files = {"a.json": document, "a.bin": VALUES.tobytes()}
    inline = json.dumps(
        {
            ".zgroup": '{"zarr_format": 2}',
            "speed/.zarray": tree["speed/.zarray"].decode(),
            **{
                f"speed/{n}.0": "base64:" + _base64(VALUES.tobytes()[n * chunk :][:chunk])
                for n in range(ROWS // 10)
            },
        }
    ).encode()

    table = {
        "a.parq/.zmetadata": json.dumps(
            {"metadata": {".zgroup": {"zarr_format": 2}, "speed/.zarray": json.loads(references["speed/.zarray"]),
                          "speed/.zattrs": {}}, "record_size": 10}
        ).encode(),
        "a.parq/speed/refs.0.parq": _references(chunk),
    }  # fmt: skip

    def mutate(path: str) -> str:
        name = Path(path).name
        return {"a.json": "kerchunk", ".zmetadata": "json"}.get(name, "bytes")

    return [
        Seed("kerchunk-v1", files, "a.json", lambda _: None, mutate, {"references": True}, ("disk",)),
        Seed("kerchunk-v0", {"a.json": inline}, "a.json", lambda _: None, mutate, {"references": True}, ("disk",)),
        Seed("kerchunk-parquet", {**table, "a.bin": VALUES.tobytes()}, "a.parq", lambda _: None, mutate,
             {"references": True}, ("disk",)),
    ]  # fmt: skip


def _references(chunk: int) -> bytes:
    """References of an array in the columns of kerchunk's Parquet form, to a file beside them."""
    import pandas as pd

    count = ROWS // 10
    columns = {"path": pd.Series(["a.bin"] * count, dtype="str"), "offset": [n * chunk for n in range(count)]}
    columns |= {"size": [chunk] * count, "raw": pd.Series([None] * count, dtype=object)}
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


# -- HDF5 and netCDF ---------------------------------------------------------------------------------------------------


def _hdf5_rows(path: Path) -> np.ndarray | None:
    import h5py

    with h5py.File(path, "r") as file:
        array = file["speed"]
        return None if PACKING & set(array.attrs) or array.shape[1:] != (NODES,) else _first(array)


def _hdf5(folder: Path) -> list[Seed]:
    import h5py

    made = []
    for name, version, how in (
        ("plain", ("earliest", "v108"), {}),
        ("latest", ("latest", "latest"), {}),
        ("chunked", ("earliest", "v108"), {"chunks": (10, NODES), "compression": "gzip", "shuffle": True}),
        ("checked", ("latest", "latest"), {"chunks": (10, NODES), "compression": "gzip", "fletcher32": True}),
        ("bare", ("latest", "latest"), {"chunks": (10, 3)}),
    ):
        with h5py.File(folder / f"{name}.h5", "w", libver=version) as file:
            file.create_dataset("speed", data=VALUES, **how)
        data = (folder / f"{name}.h5").read_bytes()
        made.append(Seed(f"hdf5-{name}", {"a.h5": data}, "a.h5", _hdf5_rows))
    return made


def _netcdf(folder: Path) -> list[Seed]:
    import pandas as pd
    import xarray as xr

    def oracle(path: Path) -> np.ndarray | None:
        with xr.open_dataset(path, decode_cf=False, cache=False) as frame:
            array = frame["speed"]
            if PACKING & set(array.attrs) or array.shape[1:] != (NODES,):
                return None
            return array[:16].values

    frame = xr.Dataset(
        {"speed": (("time", "node"), VALUES)}, {"time": pd.DatetimeIndex(TIMES), "node": np.arange(NODES)}
    )
    plain = {"speed": {"_FillValue": None}}
    chunked = {"speed": {"_FillValue": None, "chunksizes": (10, NODES), "zlib": True}}
    packed = {"speed": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}}
    made = []
    for name, engine, encoding, form, unlimited in (
        ("4", "h5netcdf", plain, None, None),
        ("4chunked", "h5netcdf", chunked, None, None),
        ("4packed", "h5netcdf", packed, None, None),
        ("3", "scipy", plain, "NETCDF3_CLASSIC", None),
        ("3records", "scipy", plain, "NETCDF3_64BIT", ["time"]),
    ):
        path = folder / f"{name}.nc"
        frame.to_netcdf(path, engine=engine, encoding=encoding, format=form, unlimited_dims=unlimited)
        places = ("disk", "disk", "memory", "http") if name.startswith("4") else ("disk",)
        made.append(Seed(f"netcdf-{name}", {"a.nc": path.read_bytes()}, "a.nc", oracle, places=places))
    return made


# -- tables ------------------------------------------------------------------------------------------------------------


def _frame() -> Any:
    import pandas as pd

    return pd.DataFrame(VALUES, columns=list("abcdef"), index=pd.DatetimeIndex(TIMES, name="time"))


def _csv() -> list[Seed]:
    text = _frame().to_csv().encode()
    bare = _frame().to_csv(index=False).encode()
    long = _frame().reset_index().melt("time", var_name="id").to_csv(index=False).encode()

    def none(_path: Path) -> None:
        return None

    def csv(_path: str) -> str:
        return "csv"

    return [
        Seed("csv-time", {"a.csv": text}, "a.csv", none, csv),
        Seed("csv-bare", {"a.csv": bare}, "a.csv", none, csv),
        Seed("csv-long", {"a.csv": long}, "a.csv", none, csv, {"entity": "id", "time": "time"}, ("disk",)),
        Seed("csv-gz", {"a.csv.gz": gzip.compress(text, mtime=0)}, "a.csv.gz", none),
    ]


def _parquet() -> list[Seed]:
    def oracle(path: Path) -> np.ndarray | None:
        import pandas as pd

        frame = pd.read_parquet(path)
        return _first(frame.to_numpy("f8")) if list(frame.columns) == list("abcdef") else None

    made = []
    for how in ("snappy", "zstd", None):
        file = io.BytesIO()
        _frame().to_parquet(file, compression=how)
        made.append(Seed(f"parquet-{how}", {"a.parquet": file.getvalue()}, "a.parquet", oracle))
    return made
