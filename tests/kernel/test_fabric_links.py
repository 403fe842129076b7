"""Links: bridges in a namespace of their own, made, mended and removed on a real kernel."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from isoform.errors import IsoformError, WrongState
from isoform.fabric import Fabric
from isoform.host import Home, netns
from isoform.model import Link
from tests.kernel.fabric_lab import ACCESS, CORE, device, devices, fabric_of, instance, ip

pytestmark = pytest.mark.root


def host_network() -> str:
    """All that the host's own namespace has of a network, but what moves by itself: timers, neighbours' states."""
    asked = [["ip", "-d", "link"], ["ip", "-d", "addr"], ["ip", "route", "show", "table", "all"],
             ["ip", "-6", "route", "show", "table", "all"], ["ip", "rule"], ["ip", "neigh", "show", "nud", "permanent"],
             ["nft", "list", "ruleset"],
             ["sysctl", "-a", "--pattern", r"net\..*(forward|rp_filter|arp_|accept_|bridge-nf|addr_gen)"]]
    said = "\n".join(subprocess.run(one, check=False, capture_output=True, text=True).stdout for one in asked)
    return re.sub(r"\w+_timer +\S+|\d+sec", "", said)


async def test_the_host_is_not_touched(home: Home) -> None:
    before = host_network()
    assert "lo" in before
    async with fabric_of(home, ACCESS, CORE) as fabric:
        await fabric.attach(instance(0, (ACCESS, CORE)), "netns")
        await fabric.attach(instance(1, (ACCESS,)), "tap")
        assert host_network() == before
    assert host_network() == before


async def test_a_link_is_a_plain_bridge(home: Home) -> None:
    async with fabric_of(home, CORE):
        bridge = device(home.netns(), "edge.core")
        data = bridge["linkinfo"]["info_data"]
        assert (bridge["mtu"], bridge["linkinfo"]["info_kind"]) == (1400, "bridge")
        assert (data["stp_state"], data["forward_delay"], data["mcast_snooping"]) == (0, 0, 0)
        assert bridge["ifalias"].startswith(f"{home.mark} link edge.core ")
        (shown,) = ip(home.netns(), "addr", "show", "dev", "edge.core")
        assert {f"{one['local']}/{one['prefixlen']}" for one in shown["addr_info"]} == set(CORE.probe)
        assert not any(one.get("tentative") for one in shown["addr_info"])


async def test_the_fabric_does_not_forward(home: Home) -> None:
    async with fabric_of(home, ACCESS):
        with netns.entered(home.netns()):
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/all/accept_ra"):
                assert (Path("/proc/sys/net") / name).read_text() == "0\n"


async def test_add_twice_is_add_once(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        first = devices(home.netns()), ip(home.netns(), "addr")[-1]["addr_info"]
        await fabric.add_link(ACCESS)
        assert (devices(home.netns()), ip(home.netns(), "addr")[-1]["addr_info"]) == first
        assert (await fabric.observe()).links == {ACCESS.id: ACCESS}


@pytest.mark.parametrize("changed", [
    replace(ACCESS, mtu=9000),
    replace(ACCESS, probe=("10.0.0.253/24",)),
    replace(ACCESS, probe=()),
    replace(ACCESS, cidr="10.7.0.0/16", probe=("10.7.0.1/16", "fd00::fe/64")),
])
async def test_a_changed_link_is_mended_in_place(home: Home, changed: Link) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        index = device(home.netns(), "edge.access")["ifindex"]
        await fabric.add_link(changed)
        assert (await fabric.observe()).links == {changed.id: changed}
        assert device(home.netns(), "edge.access")["ifindex"] == index


@pytest.mark.parametrize("damage", [
    ["link", "set", "edge.access", "down"],
    ["link", "set", "edge.access", "mtu", "1300"],
    ["addr", "flush", "dev", "edge.access"],
    ["addr", "add", "10.0.0.9/24", "dev", "edge.access"],
])
async def test_a_damaged_link_is_seen_and_mended(home: Home, damage: list[str]) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        ip(home.netns(), *damage)
        assert (await fabric.observe()).links == {ACCESS.id: None}
        await fabric.add_link(ACCESS)
        assert (await fabric.observe()).links == {ACCESS.id: ACCESS}


async def test_the_last_link_takes_the_namespace_with_it(home: Home) -> None:
    fabric = Fabric(home)
    await fabric.add_link(ACCESS)
    await fabric.add_link(CORE)
    await fabric.remove_link(ACCESS.id)
    assert netns.exists(home.netns())
    await fabric.remove_link(CORE.id)
    assert netns.names(home.mark) == []
    await fabric.remove_link(CORE.id)
    assert (await fabric.observe()).links == {}


async def test_a_long_name_is_hashed_and_found_again(home: Home) -> None:
    long = Link("a-service-with-a-name-of-32-chars", "and-a-link-with-one-of-32-chars", "10.2.0.0/24", "", 1500, ())
    async with fabric_of(home, long) as fabric:
        assert (await fabric.observe()).links == {long.id: long}


async def test_an_impossible_mtu_leaves_nothing(home: Home) -> None:
    fabric = Fabric(home)
    with pytest.raises(IsoformError, match=r"link edge\.access: MTU 70000"):
        await fabric.add_link(replace(ACCESS, mtu=70000))
    assert netns.names(home.mark) == []


async def test_an_impossible_mtu_leaves_the_old_link(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        with pytest.raises(IsoformError):
            await fabric.add_link(replace(ACCESS, mtu=70000))
        await fabric.add_link(ACCESS)
        assert (await fabric.observe()).links == {ACCESS.id: ACCESS}


async def test_a_socket_needs_a_fabric_and_a_link(home: Home) -> None:
    fabric = Fabric(home)
    with pytest.raises(WrongState):
        fabric.socket(2, 1)
    async with fabric_of(home, ACCESS) as fabric:
        with pytest.raises(WrongState, match=r"edge\.none"):
            fabric.socket(2, 1, "edge.none")
