"""Locks that end with their owner: the kernel frees them when a process dies, so kill -9 leaves none held."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.1


def _try(path: Path, flags: int) -> int | None:
    """Open and lock `path`; None if another holds it or it was removed meanwhile."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == path.stat().st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock file `path` through the body; other tasks and other processes wait for it.

    The file is removed before it is let go: who waited for it sees that and opens a new one.
    """
    pause_s = FIRST_PAUSE_S
    while (fd := _try(path, os.O_RDWR | os.O_CREAT)) is None:
        await asyncio.sleep(pause_s)  # a thread in flock(2) could not be cancelled
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(fd)


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[tuple[Path, int]]:
    """Give the body a folder of its own below `folder`, gone afterwards, and the descriptor that locks it.

    Commands started in it inherit the descriptor, so that it counts as owned until the last of them has ended.
    """
    while True:
        path = Path(tempfile.mkdtemp(dir=folder))  # mode 0700: setuid files and devices of images pass through here
        fd = _try(path, os.O_RDONLY | os.O_DIRECTORY)
        if fd is not None:
            break  # else a sweep took it between the two calls
    try:
        yield path, fd
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def sweep(folder: Path) -> int:
    """Remove the workplaces below `folder` whose owners are dead and return how many those were."""
    swept = 0
    for path in folder.iterdir():
        fd = _try(path, os.O_RDONLY | os.O_DIRECTORY)
        if fd is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(fd)
            swept += 1
    return swept


def sweep_locks(folder: Path) -> None:
    """Remove the lock files below `folder` that nobody holds."""
    for path in folder.iterdir():
        fd = _try(path, os.O_RDWR)
        if fd is not None:
            path.unlink()
            os.close(fd)
