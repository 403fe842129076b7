"""Who gets which address, MAC and interface name on each link. Pure, deterministic, and kept for an instance's life."""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from isoform.errors import DescriptorError
from isoform.model.instance import Link, Port

if TYPE_CHECKING:
    from isoform.model.descriptor import LinkSpec, PortSpec, ServiceSpec

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
InstanceKey = tuple[str, int]  # function, replica
PortKey = tuple[str, int, str]  # function, replica, link


def usable(network: Network) -> tuple[int, int]:
    """Return the first and the last address of a range that an instance may have, as numbers.

    Left out are the network and broadcast addresses of IPv4, and of IPv6 the subnet-router anycast address
    (RFC 4291, 2.6.1); a range of one or two addresses is used in full (RFC 3021, RFC 6164).
    """
    first, last = int(network.network_address), int(network.broadcast_address)
    if last - first < 2:
        return first, last
    return first + 1, last - (network.version == 4)


def ranges(link: LinkSpec | Link) -> list[Network]:
    """Return the address ranges of a link, IPv4 first."""
    return [ipaddress.ip_network(text) for text in (link.cidr, link.cidr6) if text]


def ports_on(spec: ServiceSpec) -> Counter[str]:
    """Return how many instances meet each link."""
    count: Counter[str] = Counter()
    for function in spec.functions.values():
        count.update({link: function.replicas for link in function.ports})
    return count


def plan_links(spec: ServiceSpec) -> tuple[Link, ...]:
    """Return the links of a service with the fabric's own addresses on them.

    The fabric's address, from which readiness is probed, is what `probe:` says, else the last usable one of each
    range. A range that is too small for it (/31, /32, /127, /128, or as many ports as addresses) has none.
    """
    count = ports_on(spec)
    return tuple(Link(spec.service, name, link.cidr, link.cidr6, link.mtu, _probe(link, count[name]))
                 for name, link in spec.links.items())


def _probe(link: LinkSpec, ports: int) -> tuple[str, ...]:
    result = []
    for network in ranges(link):
        first, last = usable(network)
        given = [a for a in link.probe if ipaddress.ip_address(a) in network]
        if given:
            result.append(f"{given[0]}/{network.prefixlen}")
        elif last - first + 1 > max(ports, 2 if network.num_addresses <= 2 else 1):
            result.append(f"{_text(network, last)}/{network.prefixlen}")
    return tuple(result)


def _text(network: Network, number: int) -> str:
    return str((ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address)(number))


@dataclass(slots=True)
class _Pool:
    """The addresses of one link that are given out."""

    link: Link
    networks: list[Network]
    used: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)  # of instances that go: taken last, they may still answer
    cursor: dict[Network, int] = field(default_factory=dict)

    def lowest(self, network: Network) -> str:
        """Give out the lowest free address of a range. Raises: DescriptorError if there is none."""
        first, last = usable(network)
        number = self.cursor.get(network, first)
        while number <= last and (_text(network, number) in self.used or _text(network, number) in self.released):
            number += 1
        self.cursor[network] = number
        if number <= last:
            return self._give(_text(network, number))
        for address in sorted(self.released - self.used, key=lambda text: int(ipaddress.ip_address(text))):
            if ipaddress.ip_address(address) in network:
                return self._give(address)
        raise DescriptorError(
            f"link {self.link.name}: the range {network} has no free address left",
            why=f"it has {last - first + 1} usable ones, and all are given out",
            fix="give the link a larger range, or run fewer replicas on it")

    def beside(self, network: Network, address4: str) -> str:
        """Give out the IPv6 address with an IPv4 address's host number if it is free, else the lowest."""
        address = ipaddress.ip_address(address4)
        host = int(address) - int(next(n for n in self.networks if address in n).network_address)
        first, last = usable(network)
        number = int(network.network_address) + host
        text = _text(network, number) if first <= number <= last else ""
        if text and text not in self.used and text not in self.released:
            return self._give(text)
        return self.lowest(network)

    def _give(self, address: str) -> str:
        self.used.add(address)
        return address


def plan_ports(spec: ServiceSpec, taken: Mapping[PortKey, Port] | None = None) -> dict[InstanceKey, tuple[Port, ...]]:
    """Return the ports of every instance, in the order of the file and of each function's `ports`.

    What an instance has already is kept while it is still valid; fixed addresses and MACs are honoured; the rest is
    given out lowest first, and the IPv6 address has the IPv4 address's host number where that is free.

    Args:
        taken: ports that were planned before, by (function, replica, link).
    Raises: DescriptorError if a range has no address left, or a fixed address is one that another instance was given.
    """
    taken = taken or {}
    pools = {link.name: _Pool(link, ranges(link)) for link in plan_links(spec)}
    for pool in pools.values():
        pool.used.update(address.split("/")[0] for address in pool.link.probe)
    wanted = dict(_wanted(spec))
    for key, port in wanted.items():
        pools[key[2]].used.update(port.addresses)
    kept = {key: _kept(key, port, taken.get(key), pools[key[2]]) for key, port in wanted.items()}
    for key, old in taken.items():
        if key not in wanted and key[2] in pools:
            pools[key[2]].released.update(_bare(old))
    addresses = {key: _addresses(port, kept[key], pools[key[2]]) for key, port in wanted.items()}
    macs = _macs(spec.service, wanted, taken)
    result: dict[InstanceKey, tuple[Port, ...]] = {}
    for name, function in spec.functions.items():
        for replica in range(function.replicas):
            mine = [(name, replica, link) for link in function.ports]
            names = _interfaces([(key, wanted[key]) for key in mine], taken)
            result[name, replica] = tuple(
                Port(key[2], names[key], macs[key], addresses[key], pools[key[2]].link.mtu) for key in mine)
    return result


def _wanted(spec: ServiceSpec) -> Iterator[tuple[PortKey, PortSpec]]:
    for name, function in spec.functions.items():
        for replica in range(function.replicas):
            for link, port in function.ports.items():
                yield (name, replica, link), port


def _bare(port: Port) -> list[str]:
    return [address.split("/")[0] for address in port.addresses]


def _fits(address: str, network: Network) -> bool:
    first, last = usable(network)
    number = ipaddress.ip_address(address)
    return number.version == network.version and first <= int(number) <= last


def _kept(key: PortKey, port: PortSpec, old: Port | None, pool: _Pool) -> list[str]:
    """Reserve and return the addresses of an old port that are still valid and that no fixed one replaces."""
    fixed = {":" in address for address in port.addresses}
    probes = {address.split("/")[0] for address in pool.link.probe}
    kept: list[str] = []
    for address in _bare(old) if old else []:
        if (":" in address) in fixed or address in probes or not any(_fits(address, n) for n in pool.networks):
            continue
        if address in pool.used:
            raise DescriptorError(
                f"functions.{key[0]}.ports.{key[2]}: its address {address} is now asked for by another function",
                why="it was given automatically, and an instance keeps its address for life",
                fix=f"choose another fixed address, or fix one for {key[0]} too")
        pool.used.add(address)
        kept.append(address)
    return kept


def _addresses(port: PortSpec, kept: list[str], pool: _Pool) -> tuple[str, ...]:
    result: list[str] = []
    for network in pool.networks:
        mine = [a for a in (*port.addresses, *kept) if (":" in a) == (network.version == 6)]
        if not mine and network.version == 6 and result:
            mine = [pool.beside(network, result[0].split("/")[0])]
        result += [f"{address}/{network.prefixlen}" for address in mine or [pool.lowest(network)]]
    return tuple(result)


def _macs(service: str, wanted: Mapping[PortKey, PortSpec], taken: Mapping[PortKey, Port]) -> dict[PortKey, str]:
    """Return fixed MACs, then those of old, then ones derived from the port's name; no two alike in a service."""
    result = {key: port.mac for key, port in wanted.items() if port.mac}
    used = set(result.values())
    for key in wanted:
        if key not in result and key in taken and taken[key].mac not in used:
            result[key] = taken[key].mac
            used.add(taken[key].mac)
    for key in wanted:
        salt = 0
        while key not in result:
            text = "/".join(map(str, (service, *key, salt))) if salt else "/".join(map(str, (service, *key)))
            mac = "02:" + hashlib.sha256(text.encode()).digest()[:5].hex(":")  # 02: locally administered, unicast
            if mac not in used:
                result[key] = mac
                used.add(mac)
            salt += 1
    return result


def _interfaces(ports: list[tuple[PortKey, PortSpec]], taken: Mapping[PortKey, Port]) -> dict[PortKey, str]:
    """Return the names given in the file, then eth0, eth1, …; a port keeps the number that it has."""
    result = {key: port.interface for key, port in ports if port.interface}
    for key, _ in ports:
        old = taken[key].interface if key in taken else ""
        if key not in result and old.startswith("eth") and old[3:].isdigit() and old not in result.values():
            result[key] = old
    for key, _ in ports:
        number = 0
        while key not in result:
            if f"eth{number}" not in result.values():
                result[key] = f"eth{number}"
            number += 1
    return result


def replica_name(spec: ServiceSpec, function: str, replica: int) -> str:
    """Return the host name of an instance: "web", or "web-1" where the function has several replicas."""
    return function if spec.functions[function].replicas == 1 else f"{function}-{replica}"


def plan_hosts(spec: ServiceSpec, ports: Mapping[InstanceKey, tuple[Port, ...]]
               ) -> dict[InstanceKey, tuple[tuple[str, str], ...]]:
    """Return what each instance's /etc/hosts says: (address, name) of every instance that shares a link with it.

    Itself is among them. Of several replicas each has a name of its own, "web-1", and all have "web". Only addresses
    on shared links are listed, in the order of the asking instance's ports.
    """
    members: dict[str, list[tuple[str, str]]] = {}
    for (function, replica), mine in ports.items():
        name = replica_name(spec, function, replica)
        for port in mine:
            for address in _bare(port):
                names = (name,) if name == function else (name, function)
                members.setdefault(port.link, []).extend((address, each) for each in names)
    return {key: tuple(entry for port in mine for entry in members[port.link]) for key, mine in ports.items()}
