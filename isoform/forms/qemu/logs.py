"""The log that QEMU writes: reading it, and keeping it from filling the disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from isoform.host import run
from isoform.model import LogLine

_POLL_S, _CHUNK = 0.1, 1 << 20
KEPT_BYTES = 16 << 20  # of the end of a log; it is cut once it holds twice as much


async def bound(path: Path, kept_bytes: int = KEPT_BYTES) -> None:
    """Give the disk back the beginning of a long log, as a hole: QEMU goes on writing where it is. Raises: StepFailed.

    Nothing happens to a log that holds less than twice `kept_bytes`.
    """
    try:
        held = path.stat()
    except FileNotFoundError:
        return
    if held.st_blocks * 512 >= 2 * kept_bytes:
        length = (held.st_size - kept_bytes) & ~4095
        await run(["fallocate", "--punch-hole", "--offset", "0", "--length", str(length), str(path)])


def _beginning(path: Path) -> int:
    """Return where the first whole line after the hole begins, 0 where there is none."""
    with path.open("rb") as file:
        try:
            begun = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        except OSError:  # ENXIO: it is empty
            return 0
        if begun:
            file.seek(begun)
            begun += len(file.readline())
        return begun


async def log_lines(path: Path, follow: bool, lives: Callable[[], bool]) -> AsyncIterator[LogLine]:
    """Yield the lines of a log, and with `follow` those to come, until its writer lives no more or it is gone."""
    try:
        begun, rest = _beginning(path), b""
    except FileNotFoundError:
        return
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
