"""`isoform up` or `down` that dies, as by kill -9, at its N-th note in the journal: before and after every step.

Usage: python -m tests.crash_child HOME FILE up|down N
Exit status: 0 if it came to its end before that, 137 if it died.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from isoform.assemble import assembled
from isoform.engine.journal import Journal


def die_at(number: int) -> None:
    """Let the process die right after the journal's note `number`, counted from 0."""
    left, note = number, Journal.note

    def noted(self: Journal, operation: int, step: str, state: str) -> None:
        nonlocal left
        note(self, operation, step, state)
        left -= 1
        if left < 0:
            print(f"dies at: {step} {state}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.note = noted  # type: ignore[method-assign]


async def main(home: Path, file: Path, verb: str) -> None:
    assembly = await assembled(home)
    if verb == "up":
        await assembly.up(file)
    else:
        await assembly.engine.down(assembly.service_of(file), grace_s=0)


if __name__ == "__main__":
    die_at(int(sys.argv[4]))
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
