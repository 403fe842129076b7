"""What the fabric's tests share: links and instances to attach, and ways to pass real packets between them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from isoform.fabric import Fabric, mac_for
from isoform.host import Home, netns
from isoform.model import Instance, Link, Port, Route, Size

ACCESS = Link("edge", "access", "10.0.0.0/24", "fd00::/64", 1500, ("10.0.0.254/24", "fd00::fe/64"))
CORE = Link("edge", "core", "10.0.1.0/24", "fd00:1::/64", 1400, ("10.0.1.254/24", "fd00:1::fe/64"))


def instance(
    replica: int = 0, links: Sequence[Link] = (ACCESS,), routes: tuple[Route, ...] = (), function: str = "web"
) -> Instance:
    """An instance with a port on each of the links; its host number is its replica plus ten."""
    one = f"{links[0].service if links else 'edge'}.{function}.{replica}"
    host = replica + 10
    ports = tuple(
        Port(link.name, f"eth{i}", mac_for(one, link.name),
             (link.cidr.replace("0/", f"{host}/"), link.cidr6.replace("::/", f"::{host}/")), link.mtu)
        for i, link in enumerate(links)
    )
    service = links[0].service if links else "edge"
    return Instance(one, service, function, replica, "container", f"{function}-{replica}", None, None,
                    Size(1, 1 << 20), ports=ports, routes=routes)


def with_port(one: Instance, **changes: Any) -> Instance:
    """The instance with its first port changed."""
    return replace(one, ports=(replace(one.ports[0], **changes), *one.ports[1:]))


def address(one: Instance, port: int = 0, six: bool = False) -> str:
    return one.ports[port].addresses[six].partition("/")[0]


@asynccontextmanager
async def fabric_of(home: Home, *links: Link) -> AsyncIterator[Fabric]:
    """A fabric with links, all of it gone afterwards."""
    fabric = Fabric(home)
    for link in links:
        await fabric.add_link(link)
    try:
        yield fabric
    finally:
        state = await fabric.observe()
        for one in state.attached:
            await fabric.detach(one)
        for one in state.links:
            await fabric.remove_link(one)


def ip(netns_name: str, *words: str) -> list[dict[str, Any]]:
    """What `ip -json` says inside a namespace."""
    out = subprocess.run(["ip", "-n", netns_name, "-d", "-json", *words], check=True, capture_output=True, text=True)
    return json.loads(out.stdout or "[]")


def device(netns_name: str, name: str) -> dict[str, Any]:
    (found,) = ip(netns_name, "link", "show", "dev", name)
    return found


def devices(netns_name: str) -> list[tuple[Any, ...]]:
    """What makes a device the same device, of all devices of a namespace; timers and counters left out."""
    kept = ("ifindex", "ifname", "address", "mtu", "master", "flags", "ifalias", "link_netnsid")
    return [tuple(str(one.get(key)) for key in kept) for one in ip(netns_name, "link")]


def crosses(source: str, target: str, to: str, payload: bytes = b"hello", wait_s: float = 2.0) -> bool:
    """Whether a UDP datagram gets from one namespace to an address in another, unfragmented."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with netns.socket_in(target, family, socket.SOCK_DGRAM) as server, \
            netns.socket_in(source, family, socket.SOCK_DGRAM) as client:
        server.bind((to, 0))
        server.settimeout(wait_s)
        if family == socket.AF_INET:
            client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        else:
            client.setsockopt(socket.IPPROTO_IPV6, 62, 1)  # IPV6_DONTFRAG
        client.sendto(payload, server.getsockname()[:2])
        try:
            return server.recv(65536) == payload
        except TimeoutError:
            return False
