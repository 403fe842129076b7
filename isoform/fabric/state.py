"""What is there of a home's fabric, found in the kernel by mark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from isoform.fabric import names, rtnl
from isoform.fabric.names import PortAlias
from isoform.fabric.netlink import Netlink
from isoform.fabric.rtnl import Device
from isoform.model import Link

KINDS = {"veth": "netns", "tun": "tap"}


class SeenPort(NamedTuple):
    """A port as the kernel has it: its end in the fabric, and what its alias says of the whole."""

    device: Device
    says: PortAlias

    @property
    def kind(self) -> str:
        """The kind of its attachment: "netns" or "tap"."""
        return KINDS.get(self.device.kind, "")


class FabricState(NamedTuple):
    """Links and ports of a home."""

    links: Mapping[str, Link | None]  # by id; None: there, but not as it was asked for
    attached: Mapping[str, str]  # instance id -> kind, half-made ones too
    ports: Mapping[str, tuple[SeenPort, ...]]  # by instance id


class Seen(NamedTuple):
    """Devices of a home's fabric, sorted out."""

    bridges: Mapping[str, Device]  # by the id of the link
    ports: tuple[SeenPort, ...]


def look(netlink: Netlink, mark: str, instance_id: str = "", links: Iterable[str] = ()) -> Seen:
    """Return the links and ports of a home; only those of one instance, and the named links, if it is given."""
    needles = [f"{mark} port {instance_id} ", *(f"{mark} link {link} " for link in links)]
    bridges, ports = {}, []
    for device in rtnl.devices(netlink, *(needles if instance_id or links else [f"{mark} "])):
        if (link := names.read_link_alias(mark, device.alias)) is not None:
            bridges[link.id] = device
        elif (says := names.read_port_alias(mark, device.alias)) is not None:
            ports.append(SeenPort(device, says))
    return Seen(bridges, tuple(ports))


def state(seen: Seen, mark: str, addresses: Mapping[int, list[str]], namespaces: Iterable[str]) -> FabricState:
    """Return the state of a fabric.

    Args:
        addresses: of each device, by index.
        namespaces: ids of the instances that have a network namespace, with or without ports.
    """
    attached = {one: "netns" for one in namespaces}
    ports: dict[str, tuple[SeenPort, ...]] = {}
    for port in seen.ports:
        attached.setdefault(port.says.instance_id, port.kind)
        ports[port.says.instance_id] = (*ports.get(port.says.instance_id, ()), port)
    links = {one: _as_asked(mark, bridge, addresses.get(bridge.ifindex, [])) for one, bridge in seen.bridges.items()}
    return FabricState(links, attached, ports)


def _as_asked(mark: str, bridge: Device, addresses: list[str]) -> Link | None:
    link = names.read_link_alias(mark, bridge.alias)
    if link is None or bridge.kind != "bridge" or not bridge.is_up or bridge.mtu != link.mtu:
        return None
    return link if sorted(map(rtnl.canonical, link.probe)) == sorted(addresses) else None
