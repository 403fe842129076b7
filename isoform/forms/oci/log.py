"""conmon's log of a container ("k8s-file"): lines of time, stream, tag and text."""

from __future__ import annotations

import asyncio
import calendar
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

from isoform.model import LogLine

EXIT = "exit"  # the stream of a line that tells the exit status, where a guest has no other way to tell it
_BLOCK_BYTES = 1 << 20
_TURN_S = 0.05  # how soon a follower sees a new line
_LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d) (\w+) ([PF]) ?(.*)", re.DOTALL)


class Lines:
    """Puts the pieces of a k8s-file log together. Feed it bytes as they come, take whole lines.

    A line that the container wrote in pieces, or that is longer than conmon's buffer, comes as several pieces tagged
    P (partial), the last one F (full); the pieces of stdout and stderr may alternate.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._parts: dict[str, tuple[float | None, list[bytes]]] = {}

    def feed(self, data: bytes) -> list[LogLine]:
        """Return the lines that `data` completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line for raw in whole if raw for line in self._piece(raw)]

    def end(self) -> list[LogLine]:
        """Return what the container left without a newline at its end."""
        lines = self.feed(b"\n") if self._rest else []
        for stream, (at, parts) in sorted(self._parts.items()):
            lines.append(LogLine(b"".join(parts).decode(errors="replace"), stream, at))
        self._parts.clear()
        return lines

    def _piece(self, raw: bytes) -> list[LogLine]:
        found = _LINE.fullmatch(raw)
        if found is None:  # not conmon's: show it rather than lose it
            return [LogLine(raw.decode(errors="replace"))]
        stream, text = found[4].decode(), found[6]
        at, parts = self._parts.pop(stream, (_seconds(found), []))
        parts.append(text)
        if found[5] == b"P":
            self._parts[stream] = (at, parts)
            return []
        return [LogLine(b"".join(parts).removesuffix(b"\r").decode(errors="replace"), stream, at)]


def _seconds(found: re.Match[bytes]) -> float:
    whole = calendar.timegm(time.strptime(found[1].decode(), "%Y-%m-%dT%H:%M:%S"))
    zone = found[3].decode()
    east_s = 0 if zone == "Z" else (1 if zone[0] == "+" else -1) * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
    return whole - east_s + float(found[2] or 0)


def ending(path: Path, begin: int = 0) -> tuple[int, str] | None:
    """Return exit status and reason that the log's last lines tell (see EXIT), None where they tell none.

    Args:
        begin: where in the file the container's log begins, bytes.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - 4096))
            tail = file.read()
    except FileNotFoundError:
        return None
    told = re.findall(rb"^\S+ exit F (\d+) ?(.*)$", tail, re.MULTILINE)
    return (int(told[-1][0]), told[-1][1].decode()) if told else None


async def read(path: Path, follow: bool, gone: Callable[[], bool], begin: int = 0) -> AsyncIterator[LogLine]:
    """Yield the lines of the log at `path`, oldest first.

    Args:
        follow: go on until `gone`, and then to the end of the file.
        gone: whether nobody will write to the log any more.
        begin: where in the file to begin, bytes.
    """
    lines = Lines()
    file: IO[bytes] | None = None
    try:
        while True:
            last = not follow or gone()  # asked before reading: what was written until then is read
            file = _current(path, file, begin)
            while file is not None and (data := file.read(_BLOCK_BYTES)):
                for line in lines.feed(data):
                    if line.stream != EXIT:
                        yield line
                await asyncio.sleep(0)
            if last:
                break
            await asyncio.sleep(_TURN_S)
        for line in lines.end():
            yield line
    finally:
        if file is not None:
            file.close()


def _current(path: Path, file: IO[bytes] | None, begin: int) -> IO[bytes] | None:
    """Return the log, opened anew if conmon has replaced it because it had grown too long."""
    try:
        inode = path.stat().st_ino
        if file is not None:
            if os.fstat(file.fileno()).st_ino == inode:
                return file
            file.close()
            begin = 0
        opened = path.open("rb")
    except FileNotFoundError:
        return file
    opened.seek(begin)
    _skip_hole(opened)
    return opened


def _skip_hole(file: IO[bytes]) -> None:
    """Go on to the first whole line after the hole that a log of a machine's begins with once it was cut."""
    begin = file.tell()
    try:
        data = os.lseek(file.fileno(), begin, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing follows
        data = begin
    file.seek(data)
    if data > begin:
        file.readline()
