"""Float16 as bits: every word, every tie and its neighbours, by both implementations, against NumPy."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from windowloader.batch import kernels
from windowloader.util.jit import kernel
from windowloader.util.machine import HALVES

WORDS = np.arange(1 << 16, dtype=np.uint16)
NAN = 0x7E00
BY_PROCESSOR = pytest.mark.skipif(not HALVES, reason="this processor has no float16")
WAYS = ["arithmetic", pytest.param("processor", marks=BY_PROCESSOR)]


@kernel
def each(function, values, out):
    for j in range(values.size):
        out[j] = function(values[j])


def rounded(way, values):
    words = np.empty(values.size, np.uint16)
    each(getattr(kernels, f"_round_by_{way}"), values, words)
    return words


def hardest():
    """All float16, all ties between neighbours, and the float64 and float32 next to each, of both signs."""
    finite = WORDS[:0x7C00].view(np.float16).astype(np.float64)
    ends = np.append(finite, 65536.0)  # what would come after the largest: half way there lies 65520
    exact = np.concatenate([ends, (ends[1:] + ends[:-1]) / 2])
    near = [exact]
    for dtype in (np.float64, np.float32):
        near += [np.nextafter(exact.astype(dtype), dtype(to)).astype(np.float64) for to in (0.0, np.inf)]
    far = [5e-324, 2.0**-1022, 1e-300, 1e-46, 1e-45, 1e-40, 2.0**-25, 1e5, 3e38, 3.5e38, 1e300, np.inf]
    values = np.concatenate([*near, far])
    return np.concatenate([values, -values])


@pytest.mark.parametrize("way", WAYS)
def test_rounds_once_to_nearest_even(way):
    values = hardest()
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(rounded(way, values), expected)


@pytest.mark.parametrize("way", WAYS)
def test_rounds_any_bits_as_numpy_does(way):
    bits = np.random.default_rng(4).integers(0, 1 << 63, 200_000).astype(np.uint64)
    near = np.uint64((1023 - 26) << 52) + bits % np.uint64(44 << 52)  # of exponents that float16 has
    values = np.concatenate([near, near | np.uint64(1 << 63), bits << np.uint64(1)]).view(np.float64)
    values = values[values == values]
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(rounded(way, values), expected)


@pytest.mark.parametrize("way", WAYS)
def test_nan_keeps_its_sign_and_no_payload(way):
    payloads = np.array([1, 1 << 28, 1 << 29, 1 << 41, 1 << 42, 1 << 50, 1 << 51, (1 << 52) - 1], np.uint64)
    bits = payloads | np.uint64(0x7FF << 52)
    np.testing.assert_array_equal(rounded(way, bits.view(np.float64)), NAN)
    np.testing.assert_array_equal(rounded(way, (bits | np.uint64(1 << 63)).view(np.float64)), NAN | 0x8000)


@pytest.mark.parametrize("way", WAYS)
def test_reads_every_word(way):
    values = np.empty(WORDS.size, np.float64)
    each(getattr(kernels, f"_decode_by_{way}"), WORDS, values)
    expected = WORDS.view(np.float16).astype(np.float64)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.signbit(values), np.signbit(expected))


def test_a_processor_without_float16_does_it_by_arithmetic(tmp_path):
    program = """
import numpy as np
from windowloader.batch import kernels as halves
from windowloader.util.machine import HALVES
assert not HALVES
assert halves.to_float16(2049.0) == 0x6800
assert halves.decode_float16(np.uint16(0x0001)) == 2.0**-24
"""
    chosen = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=chosen, check=True)
