"""QEMU's monitor, through the QEMU project's own client. One client at a time, so each visit is short."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from isoform.errors import StepFailed

DEADLINE_S = 20.0  # a machine under load answers late; another visitor leaves soon


class Refused(StepFailed):
    """QEMU understood the command and said no."""


@contextmanager
def reached(socket: Path) -> Iterator[str]:
    """Yield a path to `socket` that is short enough for connect(2), whatever that of its folder. Raises: OSError."""
    folder = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{socket.name}"
    finally:
        os.close(folder)


class Monitor:
    """The monitor of one running QEMU."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[Any]:
        from qemu.qmp import QMPClient

        client = QMPClient("isoform")
        try:
            with reached(self._socket) as path:
                async with asyncio.timeout(DEADLINE_S):
                    await client.connect(path)
            yield client
        finally:
            await client.disconnect()

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Carry out one command and return its answer. Raises: Refused; StepFailed where QEMU does not answer."""
        from qemu.qmp import ExecuteError, QMPError

        try:
            async with self._visit() as client, asyncio.timeout(DEADLINE_S):
                return await client.execute(command, dict(arguments or {}))
        except ExecuteError as error:
            raise Refused(f"QEMU refused {command}", why=str(error)) from error
        except (QMPError, OSError, TimeoutError) as error:
            raise StepFailed(f"QEMU did not carry out {command}", why=f"{type(error).__name__}: {error}") from error

    async def status(self) -> str:
        """Return QEMU's run state: "prelaunch", "running", "paused", … Raises: StepFailed."""
        return str((await self.execute("query-status"))["status"])
