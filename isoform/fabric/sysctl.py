"""Network settings of the namespace that the calling thread is in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping


def write(values: Mapping[str, str]) -> None:
    """Set each setting (its path below /proc/sys/net) to its value; what this kernel does not have is left out."""
    for name, value in values.items():
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
