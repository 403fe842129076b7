from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoform.units import format_bytes, format_seconds, parse_bytes, parse_seconds


@pytest.mark.parametrize(("text", "count"), [
    ("512Mi", 512 << 20), ("2Gi", 2 << 30), ("1Ti", 1 << 40), ("64Ki", 64 << 10), ("1.5Gi", 3 << 29),
    ("100M", 100_000_000), ("1k", 1000), ("3G", 3 * 10**9), ("2T", 2 * 10**12), ("7", 7), (4096, 4096),
    (" 16 Mi ", 16 << 20), ("128MiB", 128 << 20), ("10MB", 10**7), ("5B", 5), ("0", 0), (1e9, 10**9),
])
def test_bytes(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "Mi", "-1Mi", "1Xi", "1 2", "1m", "1mi", "1,5Gi", "0x10", "1e3", "٣Mi", "1MiBB"])
def test_not_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [
    ("500ms", 0.5), ("30s", 30), ("2m", 120), ("1.5h", 5400), ("1d", 86400), ("7", 7), (7, 7), (0.25, 0.25),
    (" 3 s", 3),
])
def test_seconds(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "1 hour", "1:30", "inf", "nan"])
def test_not_seconds(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_seconds(text)


@pytest.mark.parametrize(("count", "text"), [
    (0, "0B"), (512, "512B"), (1023, "1023B"), (1024, "1Ki"), (1536, "1.5Ki"), (20 << 20, "20Mi"), (1 << 30, "1Gi"),
    (3 << 29, "1.5Gi"), (5 << 40, "5Ti"),
])
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0.213, "0.21s"), (9.99, "9.99s"), (12.4, "12s"), (59.4, "59s"), (200, "3m20s"), (7500, "2h05m"), (273600, "3d04h"),
])
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@given(st.integers(0, 1 << 50))
def test_what_is_formatted_is_read_back_within_a_tenth(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.1)


@given(st.integers(0, 10**9), st.sampled_from(["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"]))
def test_whole_numbers_are_exact(number: int, unit: str) -> None:
    factor = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}.get(unit) or \
        1 << 10 * (1 + ["Ki", "Mi", "Gi", "Ti"].index(unit))
    assert parse_bytes(f"{number}{unit}") == number * factor
