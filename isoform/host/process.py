"""Running host commands: one way, with a deadline, an error that shows the command, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from isoform.errors import HostLacks, StepFailed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    argv: tuple[str, ...]
    code: int  # exit status; negative: the signal that ended it
    out: str
    err: str


async def wait(child: subprocess.Popen[bytes], deadline_s: float | None = None) -> int:
    """Return the exit status of `child` once it has ended, woken by the kernel (pidfd), not by polling.

    Raises: TimeoutError when the deadline passes; the child goes on.
    """
    fd = os.pidfd_open(child.pid)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), deadline_s)
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return child.wait()


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill `child` and its process group and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


async def attempt(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    deadline_s: float | None = 60.0,
) -> Result:
    """Run a command to its end and return how it ended, whatever its exit status.

    The command gets a process group of its own, which is killed when the deadline passes or the caller is
    cancelled. Its output goes through files, so a grandchild that stays (conmon, QEMU) does not keep us waiting.

    Raises: HostLacks if the command is not installed; StepFailed when the deadline passes.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as into:
        source: IO[bytes] | int = subprocess.DEVNULL
        if stdin is not None:
            into.write(stdin)
            into.seek(0)
            source = into
        try:
            child = subprocess.Popen(  # noqa: ASYNC220  vfork: a millisecond, less than a thread costs
                argv, stdin=source, stdout=out, stderr=err, env=env, cwd=cwd, pass_fds=pass_fds, process_group=0
            )
        except FileNotFoundError as error:
            raise HostLacks(f"{argv[0]} is not installed", why=str(error), fix="run: isoform doctor") from error
        try:
            code = await wait(child, deadline_s)
        except TimeoutError as error:
            end(child)
            raise StepFailed(f"{argv[0]} did not end within {deadline_s:g} s", why=shlex.join(argv)) from error
        except BaseException:
            end(child)
            raise
        out.seek(0)
        err.seek(0)
        result = Result(tuple(argv), code, out.read().decode(errors="replace"), err.read().decode(errors="replace"))
    log.debug("command ended", extra={"argv": shlex.join(argv), "code": code})
    return result


async def run(argv: Sequence[str], **options: object) -> Result:
    """Run a command that must succeed. Options and errors as for `attempt`, and:

    Raises: StepFailed with the command and the last lines of its stderr if the exit status is not 0.
    """
    result = await attempt(argv, **options)  # type: ignore[arg-type]
    if result.code != 0:
        said = (result.err.strip() or result.out.strip()).splitlines()[-8:]
        raise StepFailed(
            f"{argv[0]} failed with exit status {result.code}", why="\n       ".join([*said, shlex.join(argv)])
        )
    return result
