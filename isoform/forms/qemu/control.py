"""The one-way line on which the host asks the guest's init for something."""

from __future__ import annotations

import os
from pathlib import Path

from isoform.errors import WrongState


def ring(folder: Path, *words: object) -> None:
    """Send one line to init; it is read as soon as the guest gets to it. Raises: WrongState where QEMU is gone."""
    try:
        fd = os.open(folder / "main.in", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise WrongState("the machine does not run", why=str(error)) from error
    try:
        os.write(fd, f"{' '.join(map(str, words))}\n".encode())
    except BlockingIOError as error:
        raise WrongState("the guest does not listen", why="64 KiB of requests wait for it already") from error
    finally:
        os.close(fd)
