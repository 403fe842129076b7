"""Ports of containers: veth pairs with real packets through them."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
from dataclasses import replace

import pytest

from isoform.errors import IsoformError, WrongState
from isoform.fabric import Fabric
from isoform.host import Home, netns
from isoform.model import Link, Route
from tests.kernel.fabric_lab import ACCESS, CORE, address, crosses, device, devices, fabric_of, instance, ip, with_port

pytestmark = pytest.mark.root


async def test_ports_of_one_link_reach_each_other(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        one, two = instance(0), instance(1)
        await asyncio.gather(fabric.attach(one, "netns"), fabric.attach(two, "netns"))
        for six in (False, True):
            assert crosses(home.netns(one.id), home.netns(two.id), address(two, six=six))
            assert crosses(home.netns(two.id), home.netns(one.id), address(one, six=six))


async def test_ports_of_different_links_do_not(home: Home) -> None:
    """Not even with routes to each other by way of the fabric's own addresses: it does not forward."""
    async with fabric_of(home, ACCESS, CORE) as fabric:
        ways = (Route("default", "10.0.0.254"), Route("default6", "fd00::fe"))
        back = (Route("default", "10.0.1.254"), Route("default6", "fd00:1::fe"))
        one, two = instance(0, (ACCESS,), ways), instance(1, (CORE,), back)
        await fabric.attach(one, "netns")
        await fabric.attach(two, "netns")
        for six in (False, True):
            assert not crosses(home.netns(one.id), home.netns(two.id), address(two, six=six), wait_s=0.3)


async def test_the_attachment_says_what_is_there(home: Home) -> None:
    async with fabric_of(home, ACCESS, CORE) as fabric:
        one = instance(0, (ACCESS, CORE), (Route("default", "10.0.0.1"), Route("default6", "fd00::1"),
                                           Route("10.9.0.0/16", "10.0.1.1"), Route("fd09::/32", "fd00:1::1")))
        made = await fabric.attach(one, "netns")
        assert made == fabric.attachments(one, "netns")
        assert [one.device for one in made] == ["eth0", "eth1"]
        for attachment in made:
            found = device(attachment.netns, attachment.device)
            assert (found["address"], found["mtu"]) == (attachment.port.mac, attachment.port.mtu)
            assert {"UP", "LOWER_UP"} <= set(found["flags"])
            (shown,) = ip(attachment.netns, "addr", "show", "dev", attachment.device)
            given = {f"{a['local']}/{a['prefixlen']}" for a in shown["addr_info"] if a["scope"] == "global"}
            assert given == set(attachment.port.addresses)
            assert not any(a.get("tentative") for a in shown["addr_info"])
        routes = {(r["dst"], r.get("gateway")) for r in ip(home.netns(one.id), "route")}
        assert {("default", "10.0.0.1"), ("10.9.0.0/16", "10.0.1.1")} <= routes
        routes = {(r["dst"], r.get("gateway")) for r in ip(home.netns(one.id), "-6", "route")}
        assert {("default", "fd00::1"), ("fd09::/32", "fd00:1::1")} <= routes


async def test_the_mtu_holds(home: Home) -> None:
    jumbo = replace(ACCESS, mtu=9000)
    async with fabric_of(home, jumbo) as fabric:
        one, two = instance(0, (jumbo,)), instance(1, (jumbo,))
        await fabric.attach(one, "netns")
        await fabric.attach(two, "netns")
        ends = home.netns(one.id), home.netns(two.id)
        assert crosses(*ends, address(two), bytes(9000 - 28))
        assert crosses(*ends, address(two, six=True), bytes(9000 - 48))
        with pytest.raises(OSError) as refused:
            crosses(*ends, address(two), bytes(9000 - 27))
        assert refused.value.errno == errno.EMSGSIZE


async def test_attach_twice_is_attach_once(home: Home) -> None:
    async with fabric_of(home, ACCESS, CORE) as fabric:
        one = instance(0, (ACCESS, CORE))
        assert not fabric.is_attached(one, "netns")
        await fabric.attach(one, "netns")
        first = devices(home.netns(one.id)), devices(home.netns())
        assert fabric.is_attached(one, "netns")
        await fabric.attach(one, "netns")
        assert (devices(home.netns(one.id)), devices(home.netns())) == first
        assert (await fabric.observe()).attached == {one.id: "netns"}


async def test_an_instance_without_ports_gets_a_namespace(home: Home) -> None:
    async with fabric_of(home) as fabric:
        one = replace(instance(0), ports=())
        assert await fabric.attach(one, "netns") == ()
        assert fabric.is_attached(one, "netns")
        assert crosses(home.netns(one.id), home.netns(one.id), "127.0.0.1")
        assert (await fabric.observe()).attached == {one.id: "netns"}
        await fabric.detach(one.id)
        assert netns.names(home.mark) == []


async def test_twenty_at_once(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        many = [instance(replica) for replica in range(20)]
        await asyncio.gather(*(fabric.attach(one, "netns") for one in many))
        assert all(fabric.is_attached(one, "netns") for one in many)
        for one in many[1:]:
            assert crosses(home.netns(many[0].id), home.netns(one.id), address(one))
        await asyncio.gather(*(fabric.detach(one.id) for one in many))
        state = await fabric.observe()
        assert (state.attached, state.ports) == ({}, {})
        assert ip(home.netns(), "neigh", "show", "nud", "permanent") == []


async def test_a_probe_reaches_a_server_in_an_instance(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        one = instance(0)
        await fabric.attach(one, "netns")
        for family, host in ((socket.AF_INET, address(one)), (socket.AF_INET6, address(one, six=True))):
            with netns.socket_in(home.netns(one.id), family, socket.SOCK_STREAM) as server:
                server.bind((host, 80))
                server.listen()
                with fabric.socket(family, socket.SOCK_STREAM, ACCESS.id) as probe:
                    assert not probe.getblocking()
                    await asyncio.wait_for(asyncio.get_running_loop().sock_connect(probe, (host, 80)), 2)
        known = {(found["dst"], found["lladdr"]) for found in ip(home.netns(), "neigh", "show", "nud", "permanent")}
        assert known == {(given.partition("/")[0], one.ports[0].mac) for given in one.ports[0].addresses}


async def test_a_probe_tells_links_with_the_same_addresses_apart(home: Home) -> None:
    twin = Link("other", "access", ACCESS.cidr, ACCESS.cidr6, 1500, ACCESS.probe)
    async with fabric_of(home, ACCESS, twin) as fabric:
        here, there = instance(0, (ACCESS,)), instance(0, (twin,))
        await fabric.attach(here, "netns")
        await fabric.attach(there, "netns")
        for one, link in ((here, ACCESS), (there, twin)):
            with netns.socket_in(home.netns(one.id), socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.bind((address(one), 7))
                server.settimeout(2)
                with fabric.socket(socket.AF_INET, socket.SOCK_DGRAM, link.id) as probe:
                    probe.sendto(link.id.encode(), (address(one), 7))
                assert server.recv(100) == link.id.encode()


async def test_a_port_on_a_link_that_is_not_there(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        with pytest.raises(WrongState, match=r"edge\.web\.0: link edge\.core does not exist"):
            await fabric.attach(instance(0, (ACCESS, CORE)), "netns")
        assert (await fabric.observe()).attached == {}


@pytest.mark.parametrize("bad", [
    with_port(instance(0), mtu=100000),
    replace(instance(0), routes=(Route("10.5.0.0/16", "192.0.2.1"),)),
    with_port(instance(0), mac="01:00:00:00:00:01"),
])
async def test_what_the_kernel_refuses_leaves_nothing(home: Home, bad: object) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        with pytest.raises(IsoformError, match=r"edge\.web\.0: (interface eth0|route 10\.5\.0\.0/16)"):
            await fabric.attach(bad, "netns")  # type: ignore[arg-type]
        state = await fabric.observe()
        assert (state.attached, state.ports) == ({}, {})
        assert ip(home.netns(), "neigh", "show", "nud", "permanent") == []


@pytest.mark.parametrize("damage", [
    ["inside", "link", "delete", "eth0"],
    ["fabric", "link", "delete", "edge.web.0-eth0"],
    ["fabric", "link", "set", "edge.web.0-eth0", "nomaster"],
    ["fabric", "link", "set", "edge.web.0-eth0", "down"],
    ["name"],
])
async def test_damage_is_seen_and_mended(home: Home, damage: list[str]) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        one, two = instance(0), instance(1)
        await fabric.attach(one, "netns")
        await fabric.attach(two, "netns")
        if damage[0] == "name":
            netns.delete(home.netns(one.id))
        else:
            ip(home.netns(one.id if damage[0] == "inside" else ""), *damage[1:])
        assert not fabric.is_attached(one, "netns")
        await fabric.attach(one, "netns")
        assert fabric.is_attached(one, "netns")
        assert crosses(home.netns(two.id), home.netns(one.id), address(one))


async def test_ports_join_again_a_link_that_was_made_anew(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        one = instance(0)
        await fabric.attach(one, "netns")
        index = device(home.netns(one.id), "eth0")["ifindex"]
        await fabric.remove_link(ACCESS.id)
        await fabric.add_link(ACCESS)
        assert not fabric.is_attached(one, "netns")
        await fabric.attach(one, "netns")
        assert device(home.netns(one.id), "eth0")["ifindex"] == index
        assert crosses(home.netns(), home.netns(one.id), address(one))


@pytest.mark.parametrize("change", ["address", "mac", "fewer", "more"])
async def test_changed_ports_are_made_anew(home: Home, change: str) -> None:
    async with fabric_of(home, ACCESS, CORE) as fabric:
        one = instance(0, (ACCESS, CORE))
        other = {
            "address": with_port(one, addresses=("10.0.0.77/24",)),
            "mac": with_port(one, mac="02:00:00:00:00:77"),
            "fewer": replace(one, ports=one.ports[:1]),
            "more": one,
        }[change]
        await fabric.attach(replace(one, ports=one.ports[1:]) if change == "more" else one, "netns")
        assert not fabric.is_attached(other, "netns")
        await fabric.attach(other, "netns")
        assert fabric.is_attached(other, "netns")
        links = {found["ifname"]: found for found in ip(home.netns(one.id), "link")}
        assert set(links) == {"lo", *(port.interface for port in other.ports)}
        assert links["eth0"]["address"] == other.ports[0].mac
        assert crosses(home.netns(), home.netns(one.id), address(other))


async def test_detach_under_a_running_process(home: Home) -> None:
    """The name goes, and what still runs is joined to nothing."""
    async with fabric_of(home, ACCESS) as fabric:
        one = instance(0)
        await fabric.attach(one, "netns")
        with netns.entered(home.netns(one.id)):
            left = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
        try:
            await fabric.detach(one.id)
            await fabric.detach(one.id)
            assert not netns.exists(home.netns(one.id))
            shown = subprocess.run(  # noqa: ASYNC221
                ["nsenter", "-t", str(left.pid), "-n", "ip", "-br", "link"], check=True, capture_output=True, text=True)
            assert [line.split()[0] for line in shown.stdout.splitlines()] == ["lo"]
        finally:
            left.kill()
            left.wait()


async def test_two_homes_do_not_see_each_other(home: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="iso-", dir="/tmp") as folder:
        other = Home(Path(folder))
        async with fabric_of(home, ACCESS) as ours, fabric_of(other, ACCESS) as theirs:
            await ours.attach(instance(0), "netns")
            assert (await theirs.observe()).attached == {}
            await theirs.attach(instance(0), "netns")
            await ours.detach(instance(0).id)
            assert theirs.is_attached(instance(0), "netns")


def test_observing_a_home_without_a_fabric(home: Home) -> None:
    state = asyncio.run(Fabric(home).observe())
    assert (state.links, state.attached, state.ports) == ({}, {}, {})
