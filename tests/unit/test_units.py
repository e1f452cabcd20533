"""Amounts of memory, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windowloader.errors import LoaderError
from windowloader.util.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1GiB", 2**30),
        ("1 gib", 2**30),
        ("2G", 2 * 10**9),
        ("512MB", 512 * 10**6),
        ("1.5KiB", 1536),
        (7, 7),
        (1e3, 1000),
    ],
)
def test_amounts_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "12 parsecs", "-1GB", "0", 0, None, "1GiB per rank"])
def test_anything_else_is_refused_by_name(text):
    with pytest.raises(LoaderError, match="cache="):
        parse_bytes(text, name="cache")


@given(st.integers(1, 10**15))
def test_written_amounts_read_back_to_three_digits(size):
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.006)
