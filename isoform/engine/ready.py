"""Readiness: does an instance answer on the data plane, as a neighbour on its link would see it?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from isoform.engine.desired import Ready, Wish
from isoform.engine.infrastructure import Infrastructure
from isoform.errors import IsoformError, StepFailed
from isoform.fabric import Fabric
from isoform.model import ExecSpec, Observation

# Without a `ready:` check an instance counts as ready once it has run this long: long enough to see a command
# that is not there, or that ends on its first line.
_SETTLE_S = 0.25
_WATCH_S = 0.05  # between looks at whether the instance still runs
_ATTEMPT_S = 2.0  # one attempt's own limit: a SYN that was lost is sent again by the next attempt, not by TCP
_MOST_AT_ONCE = 16
_SHOWN_LINES = 12

Probe = Callable[[], Awaitable[bool]]


def pause_s(elapsed_s: float, interval_s: float) -> float:
    """Return how long to wait before the next attempt: a fiftieth of the time gone by, at most the interval.

    So a function that is ready at once is seen within milliseconds, and a slow one is not hammered.
    """
    return min(interval_s, max(0.002, elapsed_s / 50))


async def wait_until_ready(wish: Wish, infra: Infrastructure) -> int:
    """Wait until the instance proves that it serves, and return the pid that did.

    Raises: StepFailed if it ends first or the deadline passes; its last log lines are in the error.
    """
    watch = asyncio.ensure_future(_until_ended(wish, infra))
    proof = asyncio.ensure_future(_proof(wish, infra))
    try:
        await asyncio.wait((watch, proof), return_when=asyncio.FIRST_COMPLETED)
        if proof.done() and proof.result():
            seen = await infra.form_of(wish.instance).observe(wish.id)
            if seen.state == "running":
                return seen.pid
            raise await _ended(wish, infra, seen)
        if watch.done():
            raise await _ended(wish, infra, watch.result())
        raise await _late(wish, infra)
    finally:
        for task in (watch, proof):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, IsoformError):
                await task


async def _until_ended(wish: Wish, infra: Infrastructure) -> Observation:
    form = infra.form_of(wish.instance)
    while (seen := await form.observe(wish.id)).state in ("created", "running", "paused"):  # noqa: ASYNC110
        await asyncio.sleep(_WATCH_S)
    return seen


async def _proof(wish: Wish, infra: Infrastructure) -> bool:
    ready = wish.ready
    if ready is None:
        await asyncio.sleep(_SETTLE_S)
        return True
    deadline = time.monotonic() + ready.deadline_s
    if ready.kind == "exec":
        return await attempts(lambda: _exec_says_yes(ready, wish, infra), ready.interval_s, deadline, at_once=1)
    if ready.kind == "tcp":
        return await attempts(lambda: _connects(ready, wish, infra.fabric), ready.interval_s, deadline, _MOST_AT_ONCE)
    # What a function logs of our asking is kept short: a request is sent only where a connection stands.
    while await attempts(lambda: _connects(ready, wish, infra.fabric), ready.interval_s, deadline, _MOST_AT_ONCE):
        if await _any(_answers(ready, *place, infra.fabric) for place in _places(wish)):
            return True
        await asyncio.sleep(min(ready.interval_s, max(0.0, deadline - time.monotonic())))
    return False


async def attempts(probe: Probe, interval_s: float, deadline: float, at_once: int) -> bool:
    """Try `probe` again and again, up to `at_once` tries side by side, until one says yes or the deadline passes.

    Side by side, because a try against a port whose machine still boots hangs, and the moment the machine is up
    a fresh one is answered at once. Beyond `at_once` the oldest is given up.

    Args:
        deadline: on the monotonic clock, seconds.
    """
    began = time.monotonic()
    running: list[asyncio.Future[bool]] = []
    try:
        while (now := time.monotonic()) < deadline:
            pause = pause_s(now - began, interval_s)
            if at_once > 1 and len(running) == at_once:
                running.pop(0).cancel()
            if len(running) < at_once:
                running.append(asyncio.ensure_future(probe()))
            done, _ = await asyncio.wait(
                running, timeout=min(pause, deadline - now), return_when=asyncio.FIRST_COMPLETED)
            running = [task for task in running if task not in done]
            if any(task.result() for task in done):
                return True
            if done:  # an answer, but no yes: hold the pace
                await asyncio.sleep(pause)
        return False
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _places(wish: Wish) -> list[tuple[str, str]]:
    """Return (link's id, address) of each address of an instance."""
    service = wish.instance.service
    return [(f"{service}.{port.link}", one.split("/")[0]) for port in wish.instance.ports for one in port.addresses]


async def _any(answers: Iterable[Awaitable[bool]]) -> bool:
    return any(await asyncio.gather(*answers))


async def _connects(ready: Ready, wish: Wish, fabric: Fabric) -> bool:
    return await _any(_answers(replace(ready, kind="tcp"), *place, fabric) for place in _places(wish))


async def _answers(ready: Ready, link: str, address: str, fabric: Fabric) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with fabric.socket(family, socket.SOCK_STREAM, link) as connection:
            async with asyncio.timeout(_ATTEMPT_S):
                await asyncio.get_running_loop().sock_connect(connection, (address, ready.port))
                return ready.kind == "tcp" or await _http_says_yes(ready, address, connection)
    except (OSError, TimeoutError):
        return False


async def _http_says_yes(ready: Ready, address: str, connection: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    host = f"[{address}]" if ":" in address else address
    request = f"GET {ready.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: isoform\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    said = b""
    while b"\r\n" not in said and len(said) < 4096 and (more := await loop.sock_recv(connection, 1024)):
        said += more
    words = said.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1][:3].isdigit():
        return False
    status = int(words[1][:3])
    return status == ready.status if ready.status else 200 <= status < 400


async def _exec_says_yes(ready: Ready, wish: Wish, infra: Infrastructure) -> bool:
    form = infra.form_of(wish.instance)
    try:
        result = await form.run(wish.id, ExecSpec(ready.argv), deadline_s=max(ready.interval_s, ready.deadline_s))
    except IsoformError:
        return False  # a guest that does not answer yet
    return result.code == 0


async def _ended(wish: Wish, infra: Infrastructure, seen: Observation) -> StepFailed:
    how = f"with exit status {seen.exit_code}" if seen.exit_code is not None else "without an exit status"
    return StepFailed(
        f"{wish.instance.label} ended {how} before it was ready" + (f": {seen.reason}" if seen.reason else ""),
        why=await _last_lines(wish, infra),
        fix="mend its command, image or memory, then run `isoform up` again",
    )


async def _late(wish: Wish, infra: Infrastructure) -> StepFailed:
    ready = wish.ready
    assert ready is not None  # without a check nothing can be late
    asked = f"exec {' '.join(ready.argv)}" if ready.kind == "exec" else f"{ready.kind} port {ready.port}"
    return StepFailed(
        f"{wish.instance.label} was not ready within {ready.deadline_s:g} s ({asked} never said yes)",
        why=await _last_lines(wish, infra),
        fix="look at what it printed, or give `ready:` a longer deadline",
    )


async def _last_lines(wish: Wish, infra: Infrastructure) -> str:
    lines = [line.text async for line in infra.form_of(wish.instance).logs(wish.id, follow=False)]
    if not lines:
        return "it printed nothing"
    return "the last lines that it printed:\n" + "\n".join(f"    | {text}" for text in lines[-_SHOWN_LINES:])
