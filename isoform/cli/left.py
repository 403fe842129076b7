"""What a command that was cut off has left, in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isoform.engine.status import Status

_WORDS = {"absent": "not there", "created": "made but not running"}


def left(service: str, seen: Sequence[Status], go_on: str) -> str:
    """Return what is there of a service that was being changed, and what to run.

    Args:
        go_on: the command that would finish the change; "" where taking the service down is the only way on.
    """
    way = f"`{go_on}` goes on" if go_on else ""
    away = f"`isoform down {service}` removes it" if seen or not go_on else ""
    if go_on and not any(status.state != "absent" for status in seen):
        return f"interrupted: nothing of {service} is there yet; {way}"
    if not go_on:
        away = f"`isoform down {service}` goes on"
    counts = Counter(_state(status) for status in seen)
    there = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "little but its links"
    return f"interrupted: {service} is left with {there}; " + ", ".join(filter(None, (way, away)))


def _state(status: Status) -> str:
    if status.state == "running":
        return "ready" if status.ready else "running, not ready"
    return _WORDS.get(status.state, status.state)
