"""How ended machines explain themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from isoform.forms.qemu.ending import Ending, parse
from isoform.forms.qemu.logs import bound, log_lines


@pytest.mark.parametrize(("console", "ending"), [
    ("[ 3.1] isoform: end 0 \n[ 3.2] reboot: Restarting system\n", Ending(0, "")),
    ("[ 3.1] isoform: end 137 out of memory\n", Ending(137, "out of memory")),
    ("isoform: end 125 layer abc cannot be mounted\n", Ending(125, "layer abc cannot be mounted")),
    ("isoform: end 3 \n\nisoform: end 137\n", Ending(3, "")),
    ("x\n[ 3.1] Kernel panic - not syncing: System is deadlocked on memory\n", Ending(None, "out of memory")),
    ("[ 3.1] Kernel panic - not syncing: Fatal exception\n", Ending(None, "kernel panic: Fatal exception")),
    ("", Ending(None, "machine lost")),
])
def test_a_machine_says_how_it_ended(console: str, ending: Ending) -> None:
    assert parse(console) == ending


async def test_a_log_is_followed_until_its_writer_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\r\ntw")
    lives = True
    seen = []

    async def read() -> None:
        async for line in log_lines(log, True, lambda: lives):
            seen.append(line.text)

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    assert seen == ["one"]
    with log.open("ab") as file:
        file.write(b"o\nlast")
    lives = False
    await asyncio.wait_for(reader, 5)
    assert seen == ["one", "two", "last"]


async def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert [line async for line in log_lines(tmp_path / "log", False, lambda: False)] == []


async def test_a_long_log_gives_its_beginning_back_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as writer:  # as QEMU: at its own offset, whatever becomes of the file
        for number in range(20_000):
            writer.write(b"line %06d\n" % number)
        writer.flush()
        await bound(log, kept_bytes=1 << 20)
        assert log.stat().st_blocks * 512 >= 200_000
        await bound(log, kept_bytes=32 << 10)
        assert log.stat().st_blocks * 512 <= 40 << 10
        writer.write(b"last\n")
    lines = [line.text async for line in log_lines(log, False, lambda: False)]
    assert lines[-1] == "last"
    assert lines[:-1] == [f"line {number:06d}" for number in range(20_001 - len(lines), 20_000)]
    assert len(lines) * 12 > 32 << 10
