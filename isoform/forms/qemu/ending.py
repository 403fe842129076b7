"""How a machine ended, from what its init reported and its console says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_REPORT = re.compile(r"isoform: end (\d+) ?(.*)$", re.MULTILINE)
_TAIL = 65536


@dataclass(frozen=True, slots=True)
class Ending:
    """An exit code, where the entrypoint had one, and a reason, where there is one to tell."""

    code: int | None
    reason: str


def parse(console: str) -> Ending:
    """Return how a machine ended, from the end of what its kernel printed, init's report among it."""
    if match := _REPORT.search(console):
        return Ending(int(match[1]), match[2].strip())
    if panic := re.search(r"Kernel panic - not syncing: (.*)", console):
        memory = "memory" in panic[1].lower()
        return Ending(None, "out of memory" if memory else f"kernel panic: {panic[1].strip()}")
    return Ending(None, "machine lost")


def ending(folder: Path) -> Ending:
    """Return how the machine with that folder ended."""
    return parse(_tail(folder / "console"))


def add(folder: Path, code: int) -> None:
    """Note in init's words how a machine ended whose init could not."""
    with (folder / "console").open("a") as console:
        console.write(f"\nisoform: end {code}\n")


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
