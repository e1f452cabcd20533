"""Damaged headers and metadata: opening and iterating either works or raises an error of the package."""

from __future__ import annotations

import contextlib
import json
import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import windowloader as wl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALUES = np.random.default_rng(0).uniform(20, 70, (60, 4)).astype("f4")
ODD = (None, -1, 0, 1.5, "", "x", [], {}, [None], True, 10**20, "NaN", [-1, 2], [[1]], {"name": "x"}, 10**9)
TURNS = 25


def dataset() -> Any:
    import pandas
    import xarray

    times = pandas.date_range("2012-03-01", periods=60, freq="5min")
    return xarray.Dataset({"speed": (("time", "node"), VALUES)}, coords={"time": times, "node": np.arange(4)})


def netcdf(path: Path) -> None:
    dataset().to_netcdf(path, engine="h5netcdf")


def netcdf3(path: Path) -> None:
    dataset().to_netcdf(path, engine="scipy")


def parquet(path: Path) -> None:
    dataset().speed.to_pandas().rename(columns=str).to_parquet(path)


def table(path: Path) -> None:
    dataset().speed.to_pandas().to_csv(path)


FILES = {  # how a file is written, and how many of its first bytes are damaged
    "a.npy": (lambda path: np.save(path, VALUES), 100),
    "a.npz": (lambda path: np.savez(path, VALUES), 300),
    "a.nc": (netcdf, 4000),
    "b.nc": (netcdf3, 400),
    "a.parquet": (parquet, 100_000),
    "a.csv": (table, 100_000),
}


def use(target: object, **options: Any) -> None:
    """Open something and iterate over all of it; what is no error of the package is one of the test."""
    with warnings.catch_warnings(), contextlib.suppress(wl.WindowLoaderError):
        warnings.simplefilter("ignore")
        windows = wl.WindowSet(wl.open(target, **options), wl.WindowSpec(lookback=3, horizon=2))
        with wl.WindowLoader(windows, batch_size=16, fill=0.0) as loader:
            for _batch in loader:
                pass


def damaged(raw: bytes, rng: random.Random, head: int) -> bytes:
    """Change, leave out or add some of the first bytes."""
    found = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(found), head))
        match rng.randrange(3):
            case 0:
                found[place] = rng.randrange(256)
            case 1:
                del found[place : place + rng.randint(1, 8)]
            case _:
                found[place:place] = rng.randbytes(rng.randint(1, 4))
    return bytes(found)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


def altered(text: str, rng: random.Random) -> str:
    """Leave out or replace one value of a JSON document."""
    document = json.loads(text)
    if not document:
        return rng.choice(["", "null", "[]", "7"])
    inside, key = rng.choice(list(places(document)))
    if isinstance(inside, dict) and rng.random() < 0.3:
        del inside[key]
    else:
        inside[key] = rng.choice(ODD)
    return json.dumps(document)


# h5netcdf closes a file that it could not open to its end, which raises.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function File.close:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    write, head = FILES[name]
    write(tmp_path / name)
    raw, rng = (tmp_path / name).read_bytes(), random.Random(name)
    for _ in range(TURNS):
        (tmp_path / name).write_bytes(damaged(raw, rng, head))
        use(tmp_path / name)


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_damaged_metadata_of_stores(form: int, consolidated: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    dataset().to_zarr(path, zarr_format=form, consolidated=consolidated)
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
    documents = sorted(file for file in path.rglob("*") if file.name in names)
    rng = random.Random(form)
    for turn in range(TURNS):
        document = documents[turn % len(documents)]
        whole = document.read_text()
        document.write_text(altered(whole, rng))
        use(path)
        use(path, variables=["speed"])
        document.write_text(whole)
    assert wl.open(path, variables=["speed"]).num_steps == 60


def test_damaged_references(tmp_path: Path) -> None:
    VALUES.tofile(tmp_path / "values.bin")
    array = {"zarr_format": 2, "shape": [60, 4], "chunks": [60, 4], "dtype": "<f4", "compressor": None,
             "fill_value": None, "filters": None, "order": "C"}  # fmt: skip
    whole = {
        "version": 1,
        "refs": {
            ".zgroup": '{"zarr_format": 2}',
            "speed/.zarray": json.dumps(array),
            "speed/.zattrs": '{"_ARRAY_DIMENSIONS": ["time", "node"]}',
            "speed/0.0": [str(tmp_path / "values.bin"), 0, VALUES.nbytes],
        },
    }
    rng, file = random.Random(0), tmp_path / "references.json"
    for _ in range(TURNS):
        file.write_text(altered(json.dumps(whole), rng))
        use("reference://", variables=["speed"], storage_options={"fo": str(file)})


def test_chunks_of_more_bytes_than_can_be_addressed(tmp_path: Path) -> None:
    said = {
        "zarr_format": 2,
        "shape": [100, 10**9, 7],
        "chunks": [3 * 10**9, 1000, 7],
        "dtype": "<f4",
        "order": "C",
    }
    (tmp_path / "a.zarr").mkdir()
    document = {**said, "compressor": None, "filters": None, "fill_value": 0}
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(document))
    with pytest.raises(wl.errors.SourceFormatError, match="a row of chunks"):
        wl.open(tmp_path / "a.zarr")
