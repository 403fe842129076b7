"""Running the engine from a command: one event loop, and signals that cut it off cleanly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The user, or the system, told the command to stop."""

    def __init__(self, number: int, left: str = "") -> None:
        super().__init__(number)
        self.signal = number
        self.left = left  # one line: what is left, and what to run


def run(work: Coroutine[Any, Any, T], on_kill: Callable[[], None] = lambda: None) -> T:
    """Run `work` to its end. A signal cancels it; a second one ends the process at once.

    Args:
        on_kill: called just before a second signal ends the process; restores the terminal.
    Raises: Interrupted if a signal cut it off, once it has cleaned up after itself.
    """
    import asyncio  # a third of the time of `isoform --help`, which needs none of it

    return asyncio.run(_until_signal(work, on_kill))


async def _until_signal(work: Coroutine[Any, Any, T], on_kill: Callable[[], None]) -> T:
    import asyncio

    loop, task, caught = asyncio.get_running_loop(), asyncio.ensure_future(work), list[int]()

    def stop(number: int) -> None:
        if caught:
            on_kill()
            os._exit(128 + number)  # the kernel and the journal keep what was done: the next command goes on
        caught.append(number)
        task.cancel()

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except (asyncio.CancelledError, Exception):
        if not caught:
            raise
        raise Interrupted(caught[0]) from None  # what fails in being cut off is not the user's concern
