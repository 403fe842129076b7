"""Processes that outlive us: a PID alone may be another's tomorrow, a PID with its start time may not."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path


def start_time(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None if there is none, or only a zombie."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return None


def parse_stat(text: str) -> int | None:
    """Return field 22 of /proc/PID/stat, or None where its state is that of a dead process.

    Source: proc_pid_stat(5). The name, field 2, may itself hold spaces and brackets.
    """
    fields = text[text.rindex(")") + 2:].split()
    return None if fields[0] in "ZXx" else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Return whether the process that started at `started` (see `start_time`) still runs under this PID."""
    return pid > 0 and start_time(pid) == started


def _held(pid: int, started: int) -> int | None:
    """Return a pidfd of that very process, or None if it is gone."""
    if pid <= 0:
        return None
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if is_alive(pid, started):  # asked after opening: the descriptor cannot pass to another process any more
        return fd
    os.close(fd)
    return None


def end(pid: int, started: int, number: int = signal.SIGKILL) -> bool:
    """Send the signal `number` to that very process; return False if it is gone already."""
    fd = _held(pid, started)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


async def ended(pid: int, started: int, deadline_s: float) -> bool:
    """Wait until that very process has ended, woken by the kernel; return False if the deadline passes first."""
    fd = _held(pid, started)
    if fd is None:
        return True
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, gone.set)
    try:
        await asyncio.wait_for(gone.wait(), deadline_s)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return True
