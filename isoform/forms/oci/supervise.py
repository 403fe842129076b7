"""Starting conmon on this host, and what it says of the container that it made."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Sequence

from isoform.errors import HostLacks, StepFailed
from isoform.host import process

_DEADLINE_S = 60.0


async def supervise(argv: Sequence[str], label: str, place: str) -> int:
    """Run conmon; return the PID of the container's first process once the runtime has created it.

    Args:
        label: what the user calls the instance.
        place: conmon's working folder, where it may leave files.
    Raises: StepFailed with the runtime's own words, HostLacks.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        try:
            child = subprocess.Popen(  # noqa: ASYNC220  vfork: a millisecond, less than a thread costs
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place,
                env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "_OCI_SYNCPIPE": str(writer)},
                pass_fds=[writer], start_new_session=True,
            )
        except FileNotFoundError as error:
            raise HostLacks(f"{argv[0]} is not installed", why=str(error), fix="run: isoform doctor") from error
        finally:
            os.close(writer)
        try:
            said = await asyncio.wait_for(_first_line(reader), _DEADLINE_S)
            await process.wait(child, _DEADLINE_S)
        except BaseException:
            process.end(child)
            raise
    except TimeoutError as error:
        raise StepFailed(f"{label}: the OCI runtime did not answer within {_DEADLINE_S:g} s") from error
    finally:
        os.close(reader)
    return _pid(said, label)


async def _first_line(reader: int) -> bytes:
    loop, said, ready = asyncio.get_running_loop(), b"", asyncio.Event()
    loop.add_reader(reader, ready.set)
    try:
        while b"\n" not in said:
            await ready.wait()
            ready.clear()
            with contextlib.suppress(BlockingIOError):
                data = os.read(reader, 65536)
                if not data:
                    break
                said += data
    finally:
        loop.remove_reader(reader)
    return said


def _pid(said: bytes, label: str) -> int:
    try:
        answer = json.loads(said)
        pid = int(answer.get("pid", answer.get("data", -1)))
    except (ValueError, AttributeError) as error:
        raise StepFailed(f"{label}: the container could not be created",
                         why=f"conmon said: {said.decode(errors='replace').strip() or 'nothing'}") from error
    if pid <= 0:
        raise StepFailed(f"{label}: the container could not be created", why=_words(str(answer.get("message", ""))))
    return pid


def _words(message: str) -> str:
    """Return the runtime's message without what its logger puts around it."""
    said = []
    for line in message.strip().splitlines():
        with contextlib.suppress(ValueError, AttributeError):
            line = json.loads(line).get("msg", line)
        if line.startswith("time=") and 'msg="' in line:
            line = line.split('msg="', 1)[1].rstrip('"').replace('\\"', '"')
        said.append(line)
    return "; ".join(dict.fromkeys(said)) or "the runtime gave no reason"
