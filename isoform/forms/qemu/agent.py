"""The QEMU guest agent, over a pair of pipes. Many isoform processes may use one agent: each call takes a lock.

Source of the protocol: qemu/qga/qapi-schema.json. Pipes and not a socket: a socket without a client lets the agent
poll ten times a second.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from isoform.errors import StepFailed, WrongState
from isoform.forms.qemu.control import ring
from isoform.forms.qemu.qmp import Monitor, Refused
from isoform.host import Result

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1
_START_S = 60.0  # a guest that boots on a busy host without KVM


class Agent:
    """Runs commands in the guest's own root."""

    def __init__(self, folder: Path) -> None:
        """Take the machine's folder, which holds agent.in and agent.out."""
        self._folder = folder

    async def run(self, argv: Sequence[str], *, stdin: bytes | None = None, deadline_s: float = 60.0) -> Result:
        """Run a command to its end. Raises: WrongState where no machine runs, StepFailed when the deadline passes."""
        asked: dict[str, object] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if stdin is not None:
            asked["input-data"] = base64.b64encode(stdin).decode()
        pid = None
        try:
            async with asyncio.timeout(deadline_s):
                pid = (await self._ask("guest-exec", asked))["pid"]
                ended = await self._ended(pid)
        except TimeoutError as error:
            if pid is not None:
                await self._kill(pid)
            raise StepFailed(f"{argv[0]} did not end within {deadline_s:g} s in the guest",
                             why="its agent did not answer" if pid is None else "it was killed") from error
        code = -ended["signal"] if "signal" in ended else ended.get("exitcode", 0)
        out, err = (base64.b64decode(ended.get(name, "")).decode(errors="replace") for name in ("out-data", "err-data"))
        return Result(tuple(argv), code, out, err)

    async def _ended(self, pid: int) -> dict[str, Any]:
        pause_s = _FIRST_PAUSE_S
        while True:
            status: dict[str, Any] = await self._ask("guest-exec-status", {"pid": pid})
            if status["exited"]:
                return status
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)

    async def _kill(self, pid: int) -> None:
        with contextlib.suppress(StepFailed, WrongState, TimeoutError):
            async with asyncio.timeout(2):
                await self._ask("guest-exec", {"path": "/bin/busybox", "arg": ["kill", "-9", str(pid)]})

    async def _ask(self, command: str, arguments: dict[str, object]) -> Any:
        async with self._line() as line:
            await line.write({"execute": command, "arguments": arguments})
            answer = await line.read()
        if "error" in answer:
            raise StepFailed(f"the guest agent refused {command}", why=str(answer["error"].get("desc", "")))
        return answer["return"]

    @asynccontextmanager
    async def _line(self) -> AsyncIterator[_Line]:
        """Yield the line to the agent: ours alone, and nothing on it that another left there."""
        async with self._locked():
            line = _Line(self._folder)
            try:
                await self._called()
                async with asyncio.timeout(_START_S):
                    await line.sync()
                yield line
            finally:
                line.close()

    async def _called(self) -> None:
        """Plug in the agent's port and let init start it, at the first use: a machine that needs none saves 4 MiB."""
        called = self._folder / "agent.plugged"
        if called.exists():
            return
        backend = {"type": "pipe", "data": {"device": "agent"}}
        port = {"driver": "virtserialport", "id": "agent", "chardev": "agent", "name": "isoform.agent"}
        monitor = Monitor(self._folder / "qmp.sock")
        for command, arguments in (("chardev-add", {"id": "agent", "backend": backend}), ("device_add", port)):
            with contextlib.suppress(Refused):  # it is there: we were cut off before the note below
                await monitor.execute(command, arguments)
        ring(self._folder, "agent")
        called.touch()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        try:
            fd = os.open(self._folder / "agent.in", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise WrongState("the machine is not there", why=str(error)) from error
        try:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                await asyncio.sleep(_FIRST_PAUSE_S)
            yield
        finally:
            os.close(fd)


class _Line:
    """One JSON text per line, both ways."""

    def __init__(self, folder: Path) -> None:
        try:
            # O_WRONLY without waiting fails where QEMU, which reads it, is gone.
            self._to = os.open(folder / "agent.in", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._from = os.open(folder / "agent.out", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise WrongState("the machine does not run", why=str(error)) from error
        self._read = b""

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)

    async def sync(self) -> None:
        """Pass over whatever is left from calls that were cut off. The byte 0xff ends half a line of theirs."""
        number = secrets.randbelow(1 << 31)
        await self._send(b"\xff" + json.dumps({"execute": "guest-sync", "arguments": {"id": number}}).encode() + b"\n")
        while (await self.read()).get("return") != number:
            pass

    async def write(self, message: dict[str, object]) -> None:
        await self._send(json.dumps(message).encode() + b"\n")

    async def _send(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._to, data[:4096]):]
            except BlockingIOError:
                await self._until("add_writer", "remove_writer", self._to)

    async def read(self) -> dict[str, Any]:
        while b"\n" not in self._read:
            try:
                more = os.read(self._from, 65536)
            except BlockingIOError:
                await self._until("add_reader", "remove_reader", self._from)
                continue
            if not more:
                raise WrongState("the machine has stopped")
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        try:
            answer = json.loads(line.lstrip(b"\xff"))
        except ValueError:  # the rest of an answer that nobody read
            return {}
        return answer if isinstance(answer, dict) else {}

    async def _until(self, add: str, remove: str, fd: int) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        getattr(loop, add)(fd, ready.set)
        try:
            await ready.wait()
        finally:
            getattr(loop, remove)(fd)
