"""Quantities as users write them ("512Mi", "30s") and as code counts them (bytes, seconds)."""

from __future__ import annotations

import re

_BYTES = {
    "": 1,
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str | int) -> int:
    """Return the number of bytes that `text` names.

    Args:
        text: a count of bytes, or a number with a suffix of Kubernetes' quantities: k, M, G, T (powers of
            1000) or Ki, Mi, Gi, Ti (powers of 1024).
    Raises: ValueError if it is not such a quantity.
    """
    match = _NUMBER.fullmatch(str(text))
    unit = match and (match[2][:-1] if match[2].endswith("B") else match[2])
    if match is None or unit not in _BYTES:
        raise ValueError(f"{text!r} is not a size; write for example 512Mi, 2Gi or 100M")
    number = match[1]
    return int(number) * _BYTES[unit] if number.isdigit() else int(float(number) * _BYTES[unit])


def parse_seconds(text: str | int | float) -> float:
    """Return the seconds that `text` names: a number of seconds, or one with ms, s, m, h or d.

    Raises: ValueError if it is not such a quantity.
    """
    match = _NUMBER.fullmatch(str(text))
    unit = match and (match[2] or "s")
    if match is None or unit not in _SECONDS:
        raise ValueError(f"{text!r} is not a time; write for example 500ms, 30s or 2m")
    return float(match[1]) * _SECONDS[unit]


def format_bytes(count: int) -> str:
    """Return `count` bytes as people read it: "512B", "1.5Mi", "20Mi"."""
    for unit, size in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if count >= size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 10 or value == int(value) else f"{value:.1f}{unit}"
    return f"{count}B"


def format_seconds(seconds: float) -> str:
    """Return a duration as people read it: "0.21s", "12s", "3m20s", "2h05m", "3d04h"."""
    if seconds < 10:
        return f"{seconds:.2f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
