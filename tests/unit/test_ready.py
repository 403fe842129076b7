"""Readiness: paced tries, side by side where one may hang."""

from __future__ import annotations

import asyncio
import time

from isoform.engine.ready import attempts, pause_s


def test_the_pace_slows_with_the_time_gone_by_up_to_the_interval() -> None:
    assert pause_s(0.0, 1.0) == 0.002
    assert pause_s(5.0, 1.0) == 0.1
    assert pause_s(500.0, 1.0) == 1.0


async def test_a_try_that_hangs_does_not_keep_a_later_one_from_its_answer() -> None:
    tries = 0

    async def probe() -> bool:
        nonlocal tries
        tries += 1
        if tries < 5:
            await asyncio.Event().wait()
        return True

    assert await attempts(probe, 0.001, time.monotonic() + 10, at_once=16)


async def test_no_more_tries_wait_than_are_allowed() -> None:
    waiting = most = 0

    async def probe() -> bool:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        try:
            await asyncio.Event().wait()
        finally:
            waiting -= 1
        return True

    assert not await attempts(probe, 0.001, time.monotonic() + 0.05, at_once=4)
    assert (waiting, most) == (0, 4)


async def test_one_at_a_time_means_one_at_a_time() -> None:
    waiting = most = 0

    async def probe() -> bool:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.005)
        waiting -= 1
        return False

    assert not await attempts(probe, 0.001, time.monotonic() + 0.04, at_once=1)
    assert most == 1
