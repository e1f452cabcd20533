"""Writes arrays by zarr-python 2, in an environment of its own: ``python write_zarr2.py FOLDER``."""

import sys

import numcodecs
import numpy as np
import zarr

COMPRESSORS = {
    "none": None, "zlib": numcodecs.Zlib(1), "gzip": numcodecs.GZip(1), "bz2": numcodecs.BZ2(1),
    "lzma": numcodecs.LZMA(), "lz4": numcodecs.LZ4(), "zstd": numcodecs.Zstd(1),
    "blosc": numcodecs.Blosc("zstd", 3, numcodecs.Blosc.SHUFFLE),
}  # fmt: skip
FILTERS = {
    "delta": [numcodecs.Delta("<f4")], "shuffle": [numcodecs.Shuffle(4)],
    "rounded": [numcodecs.FixedScaleOffset(0, 4, "<f4", "<i2")],
}  # fmt: skip


def write(folder, name, values, times="hours since 2000-01-01", attrs=None, **how):
    """Write a group of v and time."""
    group = zarr.open_group(f"{folder}/{name}.zarr", mode="w")
    group.array("v", values, chunks=(4, 2), **how).attrs.update(
        {"_ARRAY_DIMENSIONS": ["time", "x"], **(attrs or {})}
    )
    group.array("time", np.arange(len(values))).attrs.update({"_ARRAY_DIMENSIONS": ["time"], "units": times})
    zarr.consolidate_metadata(group.store)


def main(folder):
    """Write them all."""
    assert zarr.__version__.startswith("2.")
    values = (np.random.default_rng(1).integers(1, 400, (9, 3)) / 4).astype("f4")
    for name, compressor in COMPRESSORS.items():
        write(folder, name, values, compressor=compressor)
    for name, filters in FILTERS.items():
        write(folder, name, values, filters=filters)
    write(folder, "order", values, order="F")
    write(folder, "nested", values, dimension_separator="/")
    write(folder, "big", values.astype(">f4"))
    write(
        folder,
        "packed",
        (values * 4).astype("i2"),
        attrs={"scale_factor": 0.25, "add_offset": 1.0},
        fill_value=None,
    )
    marked = np.where(values > 80, -1, values * 4).astype("i2")
    write(folder, "marked", marked, attrs={"scale_factor": 0.25, "_FillValue": -1}, fill_value=None)


if __name__ == "__main__":
    main(sys.argv[1])
