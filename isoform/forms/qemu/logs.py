"""Reading a log that QEMU writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from isoform.model import LogLine

_POLL_S, _CHUNK = 0.1, 1 << 20


async def log_lines(path: Path, follow: bool, lives: Callable[[], bool]) -> AsyncIterator[LogLine]:
    """Yield the lines of a log, and with `follow` those to come, until its writer lives no more or it is gone."""
    begun, rest = 0, b""
    while True:
        last = not (follow and lives())  # asked before reading: nothing is written after it
        while True:
            try:
                with path.open("rb") as file:
                    file.seek(begun)
                    data = file.read(_CHUNK)
            except FileNotFoundError:
                return
            if not data:
                break
            begun += len(data)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield _line(line)
        if last:
            break
        await asyncio.sleep(_POLL_S)
    if rest:
        yield _line(rest)


def _line(data: bytes) -> LogLine:
    return LogLine(data.rstrip(b"\r").decode(errors="replace"))
