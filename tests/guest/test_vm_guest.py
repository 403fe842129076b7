"""Making the guest from the host's own package sources."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from isoform.host import Home, run
from isoform.images.guest import Guest
from tests.images import ARCHITECTURE

pytestmark = [pytest.mark.root, pytest.mark.guest]


async def test_a_guest_is_made_once_and_kept(home: Home) -> None:
    said: list[str] = []

    def progress(subject: str, doing: str, fraction: float | None = None) -> None:
        said.append(doing)

    guests = await asyncio.gather(*(Guest(home, ARCHITECTURE).ensure(progress) for _ in range(2)))
    assert guests[0] == guests[1]
    assert said.count("made") == 1
    made = guests[0]
    assert made.key.stat().st_mode & 0o077 == 0
    assert made.kernel.read_bytes()[:4] == b"\x7fELF" or ARCHITECTURE != "amd64"
    listing = (await run(["sh", "-c", 'cpio -it --quiet <"$0"', str(made.initrd)])).out.split()
    assert {"init", "bin/busybox", "sbin/modprobe", "root/.ssh/authorized_keys"} <= set(listing)
    tools = (await run(["fsck.erofs", str(made.tools)])).err
    assert "rror" not in tools

    began = time.monotonic()
    assert await Guest(home, ARCHITECTURE).ensure() == made
    assert time.monotonic() - began < 0.1  # no question to apt

    note = home.guest / "current.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "lists": 0}))  # as after `apt-get update`
    assert await Guest(home, ARCHITECTURE).ensure(progress) == made
    assert said.count("made") == 1
    assert sorted(path.name for path in home.guest.iterdir()) == sorted([
        made.version, "current.json", "key", "key.pub"])
