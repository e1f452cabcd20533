"""Bare arrays at every place: in memory, ``.npy``, raw; of every dtype, order of bytes, order of axes and layout."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conformance import Expected, Places, every, holds
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import windowloader as wl

DTYPES = ["?", "i1", "u1", "<i2", ">i2", "<u2", "<i4", ">i4", "<i8", "<f2", "<f4", ">f4", "<f8", ">f8"]
SETTINGS = settings(
    max_examples=every(3, 200),
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def drawn(draw):
    """Draw an array as stored, its axes, and what must come out: [time, node …, feature]."""
    axes = draw(st.sampled_from(["t", "tn", "tnf", "tf", "tnn", "nt", "nft", "ntn", "ftn"]))
    sizes = [draw(st.integers(4, 8)) if letter == "t" else draw(st.integers(1, 3)) for letter in axes]
    values = np.random.default_rng(sizes).integers(0, 2 if draw(st.booleans()) else 100, sizes)
    stored = values.astype(draw(st.sampled_from(DTYPES)))
    stored = np.asfortranarray(stored) if draw(st.booleans()) else np.ascontiguousarray(stored)
    order = [axes.index("t"), *[at for at, one in enumerate(axes) if one == "n"]]
    order += [at for at, one in enumerate(axes) if one == "f"]
    right = stored.astype("f8").transpose(order)
    if "f" not in axes:
        return stored, axes, Expected(right[..., None], ("value",))
    names = (
        tuple(f"value.{number}" for number in range(right.shape[-1])) if right.shape[-1] > 1 else ("value",)
    )
    return stored, axes, Expected(right, names)


def scattered(stored, axes, form):
    """Whether rows of time lie apart: a request each is refused with the way out, and never made in silence."""
    before = [size for letter, size in zip(axes, stored.shape, strict=True) if size > 1 or letter == "t"]
    first = axes.index("t") == 0 or all(size == 1 for size in stored.shape[: axes.index("t")])
    return not first or (form == "npy" and stored.flags.fnc and len(before) > 1)


@SETTINGS
@given(data=st.data())
def test_in_memory(data):
    stored, axes, right = drawn(data.draw)
    holds(stored, right, axes=axes)


@pytest.mark.parametrize("where", Places.ALL)
@pytest.mark.parametrize("form", ["npy", "raw", "npz"])
@SETTINGS
@given(data=st.data())
def test_in_a_file(places, form, where, data):
    stored, axes, right = drawn(data.draw)
    folder, options = Path(tempfile.mkdtemp()), {"axes": axes}
    try:
        path = folder / {"npy": "a.npy", "raw": "a.bin", "npz": "a.npz"}[form]
        if form == "npy":
            np.save(path, stored)
        elif form == "npz":
            np.savez_compressed(path, value=stored)
        else:
            path.write_bytes(b"header" + stored.tobytes(order="C"))
            options |= {"shape": stored.shape, "dtype": stored.dtype, "offset": 6}
        target, more = places.put(where, path)
        if where != "disk" and form != "npz" and scattered(stored, axes, form):
            with pytest.raises(wl.errors.SourceFormatError, match=r"convert|ascontiguousarray"):
                wl.open(target, **options, **more)
        else:
            holds(target, right, **options, **more)
    finally:
        shutil.rmtree(folder)
