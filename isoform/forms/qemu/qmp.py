"""QEMU's monitor, through the QEMU project's own client. One client at a time, so each visit is short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from isoform.errors import StepFailed

DEADLINE_S = 20.0  # a machine under load answers late; another visitor leaves soon


class Refused(StepFailed):
    """QEMU understood the command and said no."""


class Monitor:
    """The monitor of one running QEMU."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[Any]:
        from qemu.qmp import QMPClient

        client = QMPClient("isoform")
        try:
            async with asyncio.timeout(DEADLINE_S):
                await client.connect(str(self._socket))
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
