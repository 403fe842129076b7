"""Ports: a veth or a tap each, one end on the link's bridge, the other in the instance.

A port's alias ends with a fingerprint only once all of it is done, so a port that was cut off on the way is known for
what it is and made anew. What a function later does to its own addresses and routes is its own affair.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence

from isoform.errors import StepFailed, WrongState
from isoform.fabric import names, rtnl, state, sysctl, tap
from isoform.fabric.names import HALF_MADE, PortAlias
from isoform.fabric.netlink import Netlink, Request
from isoform.fabric.rtnl import Device
from isoform.fabric.state import SeenPort
from isoform.host import netns
from isoform.model import Instance, Port

_DEFAULT = {"default": "0.0.0.0/0", "default6": "::/0"}
# A new namespace has the host's rp_filter; a guest's kernel has its own, and forms must not differ. Addresses given by
# the fabric are known to be unique: waiting a second for duplicates would be the longest part of a start.
_SETTINGS = {"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "ipv6/conf/default/accept_dad": "0"}
_CARRIER_TRIES, _CARRIER_PAUSE_S = 200, 0.001


class Ports:
    """The ports of one instance, of one kind, in the fabric of one home."""

    def __init__(self, fabric: str, own: str, mark: str, instance: Instance, kind: str) -> None:
        self._fabric, self._own, self._mark = fabric, own, mark
        self._instance, self._kind = instance, kind
        self._wanted = {port.interface: names.port_alias(instance, port, kind) for port in instance.ports}
        self._links = sorted({alias.link for alias in self._wanted.values()})

    def are_attached(self) -> bool:
        """Whether all ports are there as wanted, and none beside them."""
        if (self._kind == "netns") != netns.exists(self._own):
            return False
        if not netns.exists(self._fabric):
            return not self._wanted
        with Netlink(self._fabric) as netlink:
            seen = state.look(netlink, self._mark, self._instance.id, self._links)
        bridges = seen.bridges
        good = [one for one in seen.ports if self._is_good(one) and not self._mend(one, bridges)]
        return len(good) == len(seen.ports) == len(self._wanted)

    def attach(self) -> None:
        """Make what is missing, mend what is not right, remove what is not wanted.

        Raises: WrongState if a link does not exist; StepFailed, HostLacks. After an error nothing new is left.
        """
        if not self._wanted and not netns.exists(self._fabric):
            self._make([], {}, None)
            return
        with Netlink(self._fabric) as netlink:
            seen = state.look(netlink, self._mark, self._instance.id, self._links)
            self._check_links(seen.bridges)
            has_netns = self._kind == "netns" and netns.exists(self._own)
            good = [one for one in seen.ports if self._is_good(one) and (has_netns or one.kind == "tap")]
            remove(netlink, [one for one in seen.ports if one not in good])
            mending = [request for one in good for request in self._mend(one, seen.bridges)]
            netlink.change(mending)
            there = {one.says.interface for one in good}
            missing = [port for port in self._instance.ports if port.interface not in there]
            self._make(missing, seen.bridges, netlink)
            if self._kind == "netns" and (mending or missing):
                self._wait_for_carrier(netlink)

    def _is_good(self, seen: SeenPort) -> bool:
        return seen.kind == self._kind and self._wanted.get(seen.says.interface) == seen.says

    def _mend(self, seen: SeenPort, bridges: Mapping[str, Device]) -> list[Request]:
        """Return what joins a good port to its link again, as after a link was removed and made anew."""
        port = next(one for one in self._instance.ports if one.interface == seen.says.interface)
        bridge = bridges.get(seen.says.link)
        master = bridge.ifindex if bridge else 0
        if seen.device.is_up and seen.device.mtu == port.mtu and seen.device.master == master and master:
            return []
        subject = self._subject(port)
        joined = rtnl.set_device(seen.device.ifindex, subject, mtu=port.mtu, master=master, up=True)
        return [joined, *self._neighbours(port, master)]

    def _check_links(self, bridges: Mapping[str, Device]) -> None:
        for link in self._links:
            if link not in bridges:
                raise WrongState(f"{self._instance.id}: link {link} does not exist", why="it was not made, or is gone")

    def _make(self, ports: Sequence[Port], bridges: Mapping[str, Device], netlink: Netlink | None) -> None:
        had_netns = netns.exists(self._own)
        try:
            if self._kind == "netns":
                netns.create(self._own)
            elif had_netns:
                netns.delete(self._own)
            if netlink and ports:
                (self._plug if self._kind == "netns" else self._tap)(ports, bridges, netlink)
        except BaseException as error:
            self._undo(ports, netlink, keep_netns=had_netns, error=error)
            raise

    def _undo(self, ports: Sequence[Port], netlink: Netlink | None, keep_netns: bool, error: BaseException) -> None:
        made = {port.interface for port in ports}
        try:
            if netlink:
                seen = state.look(netlink, self._mark, self._instance.id).ports
                remove(netlink, [one for one in seen if one.says.interface in made])
            if not keep_netns:
                netns.delete(self._own)
        except Exception as second:
            error.add_note(f"and cleaning up after it failed: {second}")

    def _subject(self, port: Port, what: str = "") -> str:
        return f"{self._instance.id}: interface {port.interface}" + (f": {what}" if what else "")

    def _alias(self, port: Port, done: bool) -> Request:
        says = self._wanted[port.interface] if done else self._wanted[port.interface]._replace(fingerprint=HALF_MADE)
        device = names.port_device(self._instance.id, port.interface)
        return rtnl.set_device(device, self._subject(port), alias=says.text(self._mark))

    def _neighbours(self, port: Port, bridge: int) -> list[Request]:
        """Tell the fabric the port's MAC, so that a probe's first packet waits for no address resolution."""
        hosts = [address.partition("/")[0] for address in port.addresses]
        return [rtnl.add_neighbour(bridge, host, port.mac, self._subject(port, f"address {host}")) for host in hosts]

    def _plug(self, ports: Sequence[Port], bridges: Mapping[str, Device], netlink: Netlink) -> None:
        """Make veth pairs with all that belongs to them, in four calls to the kernel whatever their number."""
        with netns.entered(self._own):
            sysctl.write(_SETTINGS)
        file = os.open(netns.path(self._own), os.O_RDONLY | os.O_CLOEXEC)
        try:
            made = []
            for port in ports:
                device = names.port_device(self._instance.id, port.interface)
                master = bridges[self._wanted[port.interface].link].ifindex
                pair = rtnl.add_veth(device, master, port.mtu, port.interface, port.mac, file, self._subject(port))
                made += [pair, self._alias(port, done=False)]
            netlink.change(made)
        finally:
            os.close(file)
        with Netlink(self._own) as inside:
            found = inside.ask([rtnl.get_device(port.interface) for port in ports])
            inside.change([*self._inside_addresses(ports, found), *self._inside_routes()])
        netlink.change(self._finish(ports, bridges))

    def _wait_for_carrier(self, netlink: Netlink) -> None:
        """Return once frames pass, so that a probe's first SYN is not lost: the next would come a second later.

        A bridge opens a port when the kernel has worked off the news of its carrier. To ask for the device makes it
        do so at once from Linux 6.8 on; before, it does so in a few milliseconds.
        """
        ports = [names.port_device(self._instance.id, port.interface) for port in self._instance.ports]
        asked = [rtnl.get_device(name) for name in (*ports, *map(names.link_device, self._links))]
        for _ in range(_CARRIER_TRIES):
            if all(body is None or rtnl.device(body).is_operational for body in netlink.ask(asked)):
                return
            time.sleep(_CARRIER_PAUSE_S)

    def _finish(self, ports: Sequence[Port], bridges: Mapping[str, Device]) -> list[Request]:
        requests = []
        for port in ports:
            requests += self._neighbours(port, bridges[self._wanted[port.interface].link].ifindex)
            requests.append(self._alias(port, done=True))
        return requests

    def _inside_addresses(self, ports: Sequence[Port], found: Sequence[bytes | None]) -> list[Request]:
        requests = []
        for port, body in zip(ports, found, strict=True):
            if body is None:
                raise StepFailed(f"{self._subject(port)} is gone as soon as made", why="another process removed it")
            index = rtnl.device(body).ifindex
            requests.append(rtnl.set_device(index, self._subject(port), up=True))
            requests += [
                rtnl.add_address(index, one, self._subject(port, f"address {one}")) for one in port.addresses
            ]
        return requests

    def _inside_routes(self) -> list[Request]:
        return [
            rtnl.add_route(_DEFAULT.get(one.to, one.to), one.via, f"{self._instance.id}: route {one.to} via {one.via}")
            for one in self._instance.routes
        ]

    def _tap(self, ports: Sequence[Port], bridges: Mapping[str, Device], netlink: Netlink) -> None:
        for port in ports:
            device, subject = names.port_device(self._instance.id, port.interface), self._subject(port)
            with tap.new_tap(self._fabric, device):
                joined = rtnl.set_device(
                    device, subject, mtu=port.mtu, master=bridges[self._wanted[port.interface].link].ifindex, up=True
                )
                netlink.change([self._alias(port, done=False), joined])
        netlink.change(self._finish(ports, bridges))  # once the taps stay: detach finds neighbours by their port


def remove(netlink: Netlink, ports: Sequence[SeenPort]) -> None:
    """Remove ports and what the fabric knows of their addresses. Raises: StepFailed."""
    if not ports:
        return
    gone = (errno.ENODEV, errno.ENOENT)
    there = {(one.device.master, one.says.mac) for one in ports}
    requests = [
        rtnl.remove_neighbour(index, address, f"neighbour {address}", gone)
        for index, address, mac in rtnl.permanent_neighbours(netlink)
        if (index, mac) in there
    ]
    requests += [rtnl.remove_device(one.device.ifindex, _name(one.says), gone) for one in ports]
    netlink.change(requests)


def _name(says: PortAlias) -> str:
    return f"{says.instance_id}: interface {says.interface}"
