"""kill -9 before each change that the fabric makes: the next call finishes, and detach leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from isoform.fabric import Fabric
from isoform.host import Home, netns
from tests.kernel.fabric_lab import ACCESS, CORE, address, crosses, fabric_of, instance, ip

pytestmark = pytest.mark.root

# Runs one verb in a process of its own that kills itself before its Nth change of the world.
CHILD = """
import asyncio, fcntl, os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from isoform.fabric import Fabric, netlink, sysctl, tap
from isoform.host import Home, netns
from tests.kernel.fabric_lab import ACCESS, CORE, instance

path, verb, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def mortal(owner, name):
    real = getattr(owner, name)
    def call(*args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    setattr(owner, name, call)

tap.fcntl = SimpleNamespace(ioctl=fcntl.ioctl)  # the tap's alone: a namespace is also looked at with an ioctl
for owner, name in ((netns, "create"), (netns, "delete"), (netlink.Netlink, "change"), (sysctl, "write"),
                    (tap.fcntl, "ioctl")):
    mortal(owner, name)
fabric, one = Fabric(Home(Path(path))), instance(0, (ACCESS, CORE))
asyncio.run({
    "add_link": lambda: fabric.add_link(ACCESS), "remove_link": lambda: fabric.remove_link(ACCESS.id),
    "netns": lambda: fabric.attach(one, "netns"), "tap": lambda: fabric.attach(one, "tap"),
    "detach": lambda: fabric.detach(one.id),
}[verb]())
"""
MOST_CHANGES = 40


def killed_at(home: Home, verb: str, change: int) -> bool:
    """Run the verb, killed before its change number `change`; whether it came to that."""
    argv = [sys.executable, "-c", CHILD, str(home.path), verb, str(change)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


async def test_add_link(home: Home) -> None:
    for change in range(MOST_CHANGES):
        cut = killed_at(home, "add_link", change)
        async with fabric_of(home, ACCESS) as fabric:
            assert (await fabric.observe()).links == {ACCESS.id: ACCESS}
        assert netns.names(home.mark) == []
        if not cut:
            break
    assert 3 < change < MOST_CHANGES - 1


@pytest.mark.parametrize("kind", ["netns", "tap"])
@pytest.mark.parametrize("before", ["", "netns", "tap"])
async def test_attach_goes_on(home: Home, kind: str, before: str) -> None:
    one, two = instance(0, (ACCESS, CORE)), instance(1, (ACCESS,))
    async with fabric_of(home, ACCESS, CORE) as fabric:
        await fabric.attach(two, "netns")
        for change in range(MOST_CHANGES):
            if before:
                await fabric.attach(one, before)
            cut = killed_at(home, kind, change)
            # What is there in full is seen as such, and what is not is not.
            assert fabric.is_attached(one, kind) or cut
            await fabric.attach(one, kind)
            assert fabric.is_attached(one, kind)
            if kind == "netns":
                assert crosses(home.netns(two.id), home.netns(one.id), address(one))
            await fabric.detach(one.id)
            if not cut:
                break
        assert change <= 2 if before == kind else 4 <= change < MOST_CHANGES - 1


@pytest.mark.parametrize("verb", ["netns", "tap"])
async def test_detach_after_a_cut_attach(home: Home, verb: str) -> None:
    async with fabric_of(home, ACCESS, CORE) as fabric:
        for change in range(MOST_CHANGES):
            cut = killed_at(home, verb, change)
            await fabric.detach(instance(0).id)
            assert {one["ifname"] for one in ip(home.netns(), "link")} == {"lo", "edge.access", "edge.core"}
            assert ip(home.netns(), "neigh", "show", "nud", "permanent") == []
            assert netns.names(f"{home.mark}-") == []
            if not cut:
                break


@pytest.mark.parametrize("kind", ["netns", "tap"])
async def test_detach_and_remove_link(home: Home, kind: str) -> None:
    fabric, one = Fabric(home), instance(0, (ACCESS, CORE))
    for verb in ("detach", "remove_link"):
        for change in range(MOST_CHANGES):
            await fabric.add_link(ACCESS)
            await fabric.add_link(CORE)
            await fabric.attach(one, kind)
            if verb == "remove_link":
                await fabric.detach(one.id)
                await fabric.remove_link(CORE.id)
            cut = killed_at(home, verb, change)
            await fabric.detach(one.id)
            await fabric.remove_link(ACCESS.id)
            await fabric.remove_link(CORE.id)
            assert netns.names(home.mark) == []
            if not cut:
                break
