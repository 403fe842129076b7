"""The QEMU process of one machine: started in the background, known again by a later isoform, ended for certain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isoform.errors import StepFailed
from isoform.forms.qemu.argv import RUNNING
from isoform.forms.qemu.qmp import reached
from isoform.host import pid, run

_END_S = 10.0  # for the kernel to take down a process that was killed
_ANSWER_S, _POLL_S = 60.0, 0.004
_INTO_BACKGROUND = 'echo $$ >"$0/qemu.pid"; exec "$@" </dev/null >/dev/null 2>"$0/qemu.err"'


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be taken for a later one of the same PID."""

    pid: int
    started: int  # see isoform.host.pid.start_time

    @property
    def alive(self) -> bool:
        """Whether that very process runs."""
        return pid.is_alive(self.pid, self.started)


def kept(folder: Path) -> Identity | None:
    """Return the machine's process as `start` wrote it down, or None where it did not get that far."""
    try:
        noted = json.loads((folder / "qemu.json").read_text())
    except (OSError, ValueError):
        return None
    return Identity(noted["pid"], noted["started"])


async def start(folder: Path, argv: Sequence[str], descriptors: Sequence[int]) -> int:
    """Start QEMU as nobody's child and return its PID once it answers. Raises: StepFailed, with QEMU's own words."""
    await run(["setsid", "--fork", "sh", "-c", _INTO_BACKGROUND, str(folder), *argv], pass_fds=descriptors,
              cwd=str(folder))
    async with asyncio.timeout(_ANSWER_S):
        while not await _answers(folder / "qmp.sock"):
            number = _number(folder)
            if number and pid.start_time(number) is None:
                said = (folder / "qemu.err").read_text(errors="replace").strip()
                raise StepFailed("QEMU did not start", why=said or "it ended without a word")
            await asyncio.sleep(_POLL_S)
    return _number(folder)


async def _answers(socket: Path) -> bool:
    """Return whether QEMU has made all its devices: it greets before, but carries out a command only after."""
    try:
        with reached(socket) as path:
            reader, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    try:
        writer.write(b'{"execute":"qmp_capabilities"}{"execute":"query-status"}')
        return all([await reader.readline() for _ in range(3)])  # greeting, capabilities, status; empty: it ended
    except ConnectionError:
        return False
    finally:
        writer.close()


def _number(folder: Path) -> int:
    try:
        return int((folder / "qemu.pid").read_text())
    except (OSError, ValueError):  # not there yet, or not yet written
        return 0


def note(folder: Path, number: int) -> None:
    """Write down the process, as the last act of making a machine. Raises: StepFailed if it is gone already."""
    started = pid.start_time(number)
    if started is None:
        raise StepFailed("QEMU ended as soon as it had started")
    beside = folder / "qemu.json.new"
    beside.write_text(json.dumps({"pid": number, "started": started}))
    beside.replace(folder / "qemu.json")


def _strays(folder: Path) -> list[Identity]:
    """Return processes that work in `folder`: a QEMU that a cut-off `start` left without a note."""
    found, mark = [], f"{folder}/{RUNNING}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        started = pid.start_time(int(entry.name))
        try:
            words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended between the listing and the reading
        if started is not None and mark in words:
            found.append(Identity(int(entry.name), started))
    return found


async def end(folder: Path) -> None:
    """Kill the machine's QEMU, noted or not, and wait until it is gone. Raises: StepFailed."""
    known = kept(folder)
    for process in [known] if known else _strays(folder):
        pid.end(process.pid, process.started, signal.SIGKILL)
        if not await pid.ended(process.pid, process.started, _END_S):
            raise StepFailed(f"QEMU (PID {process.pid}) does not end", why="it was killed, and the kernel keeps it")


def anonymous_bytes(number: int) -> int:
    """Return the memory that a process has to itself: not what it shares with other machines, such as QEMU's code."""
    try:
        fields = Path(f"/proc/{number}/statm").read_text().split()  # pages: size resident shared …; proc_pid_statm(5)
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


async def gone(folder: Path, deadline_s: float) -> bool:
    """Wait until the machine's QEMU has ended; return False if the deadline passes first."""
    known = kept(folder)
    return known is None or await pid.ended(known.pid, known.started, deadline_s)
