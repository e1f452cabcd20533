"""Float16: every word, every tie and its neighbours, and on any processor, against NumPy."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from windowloader.batch.kernels import rows_of
from windowloader.batch.vectors import KernelOptions

WORDS = np.arange(1 << 16, dtype=np.uint16)
NAN = 0x7E00


def converted(values, source, out):
    """Values as one row of a batch has them; float16 as bits, in and out."""
    found = np.empty(values.size, np.uint16 if out == "float16" else out)
    zero = np.zeros(1, np.int64)
    rows_of(KernelOptions(source, out))(
        values, zero, zero, 0, 1, found, found, found.reshape(-1, 1), zero, zero,
        0, 0, 0, 0, values.size, zero, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, zero.ctypes.data, values.size,
    )  # fmt: skip
    return found


def rounded(values):
    return converted(values, "float64", "float16")


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


def test_rounds_once_to_nearest_even():
    values = hardest()
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(rounded(values), expected)


def test_rounds_any_bits_as_numpy_does():
    bits = np.random.default_rng(4).integers(0, 1 << 63, 200_000).astype(np.uint64)
    near = np.uint64((1023 - 26) << 52) + bits % np.uint64(44 << 52)  # of exponents that float16 has
    values = np.concatenate([near, near | np.uint64(1 << 63), bits << np.uint64(1)]).view(np.float64)
    values = values[values == values]
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(rounded(values), expected)


def test_nan_keeps_its_sign_and_no_payload():
    payloads = np.array([1, 1 << 28, 1 << 29, 1 << 41, 1 << 42, 1 << 50, 1 << 51, (1 << 52) - 1], np.uint64)
    bits = payloads | np.uint64(0x7FF << 52)
    np.testing.assert_array_equal(rounded(bits.view(np.float64)), NAN)
    np.testing.assert_array_equal(rounded((bits | np.uint64(1 << 63)).view(np.float64)), NAN | 0x8000)


def test_reads_every_word():
    values = converted(WORDS, "float16", "float64")
    expected = WORDS.view(np.float16).astype(np.float64)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.signbit(values), np.signbit(expected))


def test_a_processor_without_float16_delivers_it_too(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_half_kernels as tests
tests.test_rounds_once_to_nearest_even()
tests.test_reads_every_word()
"""
    chosen = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=chosen, check=True)
