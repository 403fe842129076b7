"""One writer per home at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isoform.errors import WrongState


@contextmanager
def one_writer(path: Path, verb: str) -> Iterator[None]:
    """Hold the home's write lock for the body; the kernel frees it however we end.

    Raises: WrongState at once if another process holds it, naming its pid and what it does.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another isoform process"
            raise WrongState(
                f"another change is under way in {path.parent}",
                why=f"{holder} holds the lock",
                fix="wait for it to end, or stop it with Ctrl-C and run this again",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} (isoform {verb})".encode(), 0)
        yield
    finally:
        os.close(fd)
