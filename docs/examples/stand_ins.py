"""Small files in the forms that the examples read, for a first try without data of one's own."""

import numpy as np


def daily(rows, columns, per_day, rng):
    """Numbers that come back every day, with noise, shape (rows, columns)."""
    angle = np.arange(rows)[:, None] * 2 * np.pi / per_day + rng.uniform(0, 1, columns)
    return np.sin(angle) + rng.normal(0, 0.2, (rows, columns))


def traffic(days=4, nodes=12):
    """Write speeds as ``DataFrame.to_hdf`` does, with zeros where nothing was measured, and a road graph."""
    import h5py

    rng, rows = np.random.default_rng(0), days * 288
    speeds = 55 + 8 * daily(rows, nodes, 288, rng)
    speeds[rng.random(speeds.shape) < 0.08] = 0
    times = np.datetime64("2012-03-01", "ns") + np.arange(rows) * np.timedelta64(5, "m")
    with h5py.File("speeds.h5", "w") as file:
        file.create_group("df").attrs.update(pandas_type="frame", nblocks=1)
        for name in ("axis0", "block0_items"):
            file[f"df/{name}"] = np.array([f"77{number:04}" for number in range(nodes)], "S6")
        file["df/axis1"], file["df/block0_values"] = times.view("i8"), speeds
        file["df/axis1"].attrs["kind"] = "datetime64"
    np.save("roads.npy", np.eye(nodes) + 0.6 * np.eye(nodes, k=1))
    return "speeds.h5", "roads.npy"


def weather(steps=600, levels=(500, 850), grid=(6, 8)):
    """Write a Zarr store as xarray does: t on pressure levels, t2m and tp on the surface, every six hours."""
    import xarray as xr

    rng, (lats, lons) = np.random.default_rng(0), grid
    coords = {
        "time": np.datetime64("2020-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h"),
        "level": list(levels),
        "latitude": np.linspace(60, 50, lats),
        "longitude": np.linspace(0, 10, lons),
    }
    surface, cells = (steps, lats, lons), lats * lons
    aloft = 260 + 9 * daily(steps, cells * len(levels), 4, rng).reshape(steps, len(levels), lats, lons)
    ground = 283 + 7 * daily(steps, cells, 4, rng).reshape(surface)
    data = {
        "t": (list(coords), aloft.astype("f4")),
        "t2m": (["time", "latitude", "longitude"], ground.astype("f4")),
        "tp": (["time", "latitude", "longitude"], rng.gamma(0.3, 2.0, surface).astype("f4")),
    }
    xr.Dataset(data, coords).to_zarr("weather.zarr", mode="w", consolidated=False)
    return "weather.zarr"


def readings(meters=200):
    """Write one row a reading, in no order: hourly loads of meters that began at different times."""
    import pandas as pd

    rng, parts = np.random.default_rng(0), []
    for meter in range(meters):
        hours = int(rng.integers(120, 240))
        time = pd.Timestamp("2024-01-11") - pd.to_timedelta(np.arange(hours)[::-1], "h")
        warm = 10 + 5 * daily(hours, 1, 24, rng)[:, 0]
        load = rng.uniform(0.5, 50) * (20 - warm + rng.normal(0, 1, hours))
        parts.append(pd.DataFrame({"meter": f"m{meter:03}", "utc": time, "load": load, "temperature": warm}))
    pd.concat(parts).sample(frac=1, random_state=0).to_parquet("meters.parquet", index=False)
    return "meters.parquet"


def mobility(days=61, regions=20):
    """Write daily cases and, for each day, who travelled from where to where, as PGT's england_covid.json has it."""
    import json

    rng = np.random.default_rng(0)
    edges = [rng.integers(0, regions, (2, int(rng.integers(40, 80)))) for _ in range(days)]
    mapping = {
        "edge_index": {str(day): pairs.T.tolist() for day, pairs in enumerate(edges)},
        "edge_weight": {
            str(day): rng.uniform(1, 900, pairs.shape[1]).tolist() for day, pairs in enumerate(edges)
        },
    }
    cases = rng.poisson(20 + 8 * daily(days, regions, 7, rng))
    with open("mobility.json", "w") as file:
        json.dump({"y": cases.tolist(), "edge_mapping": mapping, "time_periods": days}, file)
    return "mobility.json"
