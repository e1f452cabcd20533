"""Damaged files of every format: no error but the package's, no crash, no hang, no process above 1 GB, no wrong values.

``FUZZ=50000`` runs as many inputs as the whole campaign has, ``FUZZ_SEED`` others.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

PLAIN, CAMPAIGN = 300, 3000


@pytest.fixture(scope="module")
def campaign():
    name = "fuzz_campaign"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("campaign.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def check(campaign, results, seed):
    found = campaign.failures(results)
    lines = [f"{len(ones)} × {what}: {campaign.replay(seed, ones[0])}" for what, ones in found.items()]
    assert not found, "\n".join([f"{sum(map(len, found.values()))} of {len(results)} inputs", *lines])


def test_sound_files_are_read_and_their_values_are_right(campaign):
    """Else damage would prove nothing."""
    sound = campaign.count_sound()
    results = campaign.campaign(0, -sound, sound, 1)
    check(campaign, results, 0)
    refused = {(one["seed"], one["place"]) for one in results if one["kind"] != "read"}
    assert refused == campaign.NOT_READ


def test_values_that_are_wrong_would_be_seen(campaign, tmp_path):
    seeds = campaign.sound.seeds(tmp_path / "sound")
    seen = collections.Counter()
    for family, ones in seeds.items():
        for one in ones:
            campaign.written(tmp_path / "input", one.files, "")
            right = campaign.sound.VALUES[:3].astype("i2" if one.name == "npy-int" else "f4").astype("f4")
            assert campaign.compare(one, tmp_path / "input" / one.target, [(0, right)]) is None
            wrong = right.copy()
            wrong[1, 2] = np.nextafter(wrong[1, 2], np.float32(99))
            differs = campaign.compare(one, tmp_path / "input" / one.target, [(0, wrong)])
            seen[family] += differs is not None
    assert {family for family, count in seen.items() if count} == {
        "npy",
        "npz",
        "zarr",
        "hdf5",
        "netcdf",
        "parquet",
    }


def test_an_input_is_a_function_of_its_seed_and_number(campaign, tmp_path):
    seeds = campaign.sound.seeds(tmp_path / "sound")
    first, second = (
        [repr(campaign.damaged(seeds, 5, number)[1:]) for number in range(200)] for _ in range(2)
    )
    assert first == second


def test_damaged_files(campaign):
    check(campaign, campaign.campaign(1, 0, PLAIN, 2), 1)


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_many_damaged_files(campaign, tmp_path):
    seed, count = int(os.environ.get("FUZZ_SEED", "1")), int(os.environ.get("FUZZ", CAMPAIGN))
    kept = Path(os.environ.get("FUZZ_KEEP", tmp_path))
    check(campaign, campaign.campaign(seed, 0, count, len(os.sched_getaffinity(0)), kept), seed)
