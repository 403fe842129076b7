"""What holds between the parts of a descriptor: addresses in their links, names that exist, an order that ends."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Protocol

from isoform.errors import DescriptorError
from isoform.model.addresses import Network, plan_links, ranges, usable
from isoform.model.descriptor import FunctionSpec, LinkSpec, PortSpec, ServiceSpec
from isoform.model.descriptor_values import HOST_CAPABILITIES
from isoform.model.faults import did_you_mean, path_text
from isoform.model.yamlpos import Path


class Where(Protocol):
    """Tells the place of a path in the descriptor, as "file:line:col"."""

    def __call__(self, path: Path, key: bool = False) -> str:
        """Return the place of the value, or of its key."""


def said_at(place: str) -> Where:
    """Return a `Where` that names one place for all: an option of the command line."""
    def where(path: Path, key: bool = False) -> str:
        return place
    return where


def check(spec: ServiceSpec, where: Where) -> None:
    """Check a descriptor as a whole. Raises: DescriptorError for the first fault, with its place."""
    _check_ranges(spec, where)
    _check_names(spec, where)
    for name, function in spec.functions.items():
        _check_ports(spec, name, function, where)
        _check_routes(spec, name, function, where)
        _check_volumes(spec, name, function, where)
        _check_ready(name, function, where)
        check_form(name, function, where)
    _check_addresses(spec, where)
    _check_macs(spec, where)
    _check_room(spec, where)
    _check_writers(spec, where)
    _check_order(spec, where)


def _fail(where: Where, path: Path, what: str, fix: str, why: str = "", key: bool = False) -> DescriptorError:
    return DescriptorError(f"{where(path, key)}: `{path_text(path)}`: {what}", why=why, fix=fix)


def _unknown(where: Where, path: Path, kind: str, name: str, known: Iterable[str], key: bool = False
             ) -> DescriptorError:
    names = list(known)
    return _fail(where, path, f"there is no {kind} `{name}`", did_you_mean(name, names) or f"declare the {kind} first",
                 f"known {kind}s: {', '.join(names)}" if names else f"the service has no {kind}s", key)


# ------------------------------------------------------------------------------------------------------- links

def _check_ranges(spec: ServiceSpec, where: Where) -> None:
    seen: list[tuple[Network, str]] = []
    for name, link in spec.links.items():
        for network, key in zip(ranges(link), [key for key in ("cidr", "cidr6") if getattr(link, key)], strict=True):
            path: Path = ("links", name, key)
            for other, owner in seen:
                if network.version == other.version and network.overlaps(other):
                    raise _fail(where, path, f"{network} overlaps {other} of link `{owner}`",
                                "give each link a range of its own", "an address would be on two links")
            seen.append((network, name))
        _check_probe(name, link, where)


def _check_probe(name: str, link: LinkSpec, where: Where) -> None:
    families = [":" in address for address in link.probe]
    for address in link.probe:
        _check_inside(where, ("links", name, "probe"), address, name, link)
    if len(set(families)) < len(families):
        raise _fail(where, ("links", name, "probe"), "there are two addresses of one family", "give one for each")


def _check_inside(where: Where, path: Path, address: str, name: str, link: LinkSpec) -> None:
    ip = ipaddress.ip_address(address)
    mine = [network for network in ranges(link) if network.version == ip.version]
    if not mine:
        raise _fail(where, path, f"{address} is an IPv{ip.version} address, and link `{name}` has no such range",
                    f"add `{'cidr6' if ip.version == 6 else 'cidr'}` to the link, or leave the address out")
    first, last = (type(ip)(number) for number in usable(mine[0]))
    if ip not in mine[0]:
        raise _fail(where, path, f"{address} is not in the range of link `{name}`",
                    f"take one from {first} to {last}", f"its range is {mine[0]}")
    if not first <= ip <= last:  # type: ignore[operator]
        raise _fail(where, path, f"{address} is the {'network' if ip < first else 'broadcast'} address of "  # type: ignore[operator]
                    f"link `{name}`", f"take one from {first} to {last}")


def _check_room(spec: ServiceSpec, where: Where) -> None:
    for link in plan_links(spec):
        for network in ranges(link):
            first, last = usable(network)
            room = last - first + 1 - sum(ipaddress.ip_interface(p).version == network.version for p in link.probe)
            needed = sum(function.replicas * max(1, _fixed(function.ports[link.name], network))
                         for function in spec.functions.values() if link.name in function.ports)
            if needed > room:
                raise _fail(where, ("links", link.name, "cidr" if network.version == 4 else "cidr6"),
                            f"{network} has too few addresses",
                            "give the link a larger range, or run fewer replicas on it",
                            f"{needed} are needed, and {room} can be given out")


def _fixed(port: PortSpec, network: Network) -> int:
    return sum(ipaddress.ip_address(address).version == network.version for address in port.addresses)


# ------------------------------------------------------------------------------------------- names, forms, order

def _check_names(spec: ServiceSpec, where: Where) -> None:
    for name, function in spec.functions.items():
        if name == "localhost":
            raise _fail(where, ("functions", name), "a function cannot have this name", "take another name",
                        "inside every function it means the function itself", key=True)
        base, _, number = name.rpartition("-")
        other = spec.functions.get(base)
        if other and other.replicas > 1 and number.isdigit() and int(number) < other.replicas:
            raise _fail(where, ("functions", name), f"a replica of `{base}` has this name too", "take another name",
                        f"its {other.replicas} replicas are called {base}-0 to {base}-{other.replicas - 1}", key=True)
        alone = spec.functions.get(function.vm)
        if alone and alone.form in ("container-in-vm", "auto") and alone.vm != function.vm:
            raise _fail(where, ("functions", name, "vm"), f"`{function.vm}` is the name of a function with its own VM",
                        f"take another name, or write `vm: {function.vm}` in that function too")


_NAMESPACED = ("net.", "kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")  # sysctls that a container may have


def check_form(name: str, function: FunctionSpec, where: Where) -> None:
    """Check what depends on a function's form. Raises: DescriptorError."""
    path: Path = ("functions", name)
    if function.vm and function.form not in ("container-in-vm", "auto"):
        raise _fail(where, (*path, "vm"), f"a function of form `{function.form}` shares no VM",
                    "write `form: container-in-vm`, or remove `vm`")
    if function.needs.own_kernel and function.form == "container":
        raise _fail(where, (*path, "form"), "a container has no kernel of its own, which this function needs",
                    "write `form: vm`, `container-in-vm` or `auto`", "`needs.own_kernel` says so")
    own_kernel = function.form in ("vm", "container-in-vm") or function.needs.own_kernel
    for index, capability in enumerate(function.capabilities):
        if capability in HOST_CAPABILITIES and not own_kernel:
            raise _fail(where, (*path, "capabilities", index),
                        f"{capability} would give a container power over the host",
                        "write `form: vm` or `needs: {own_kernel: true}`, or leave it out")
    for sysctl in function.sysctls:
        if not sysctl.startswith(_NAMESPACED) and function.form != "vm":
            raise _fail(where, (*path, "sysctls", sysctl), "this setting belongs to the whole kernel",
                        "write `form: vm`, or leave it out", "a container may set net.* and those of IPC", key=True)


def _check_ready(name: str, function: FunctionSpec, where: Where) -> None:
    ready = function.ready
    if ready and not function.ports and ready.exec is None:
        raise _fail(where, ("functions", name, "ready"), "a function without ports cannot be probed over the network",
                    "give it a port, or use `exec`")


def _check_order(spec: ServiceSpec, where: Where) -> None:
    for name, function in spec.functions.items():
        for index, other in enumerate(function.after):
            path: Path = ("functions", name, "after", index)
            if other == name:
                raise _fail(where, path, "a function cannot start after itself", f"remove `{name}` from the list")
            if other not in spec.functions:
                raise _unknown(where, path, "function", other, spec.functions)
    if cycle := _cycle(spec):
        raise _fail(where, ("functions", cycle[0], "after"), "the functions wait for each other",
                    "remove one of these", " after ".join(cycle))


def _cycle(spec: ServiceSpec) -> Sequence[str]:
    """Return the first cycle of `after`, its first function again at its end; () if there is none."""
    done: set[str] = set()
    for start in spec.functions:
        trail: list[str] = [start]
        todo = [list(spec.functions[start].after)]
        while todo:
            if not todo[-1]:
                todo.pop()
                done.add(trail.pop())
                continue
            following = todo[-1].pop(0)
            if following in trail:
                return [*trail[trail.index(following):], following]
            if following not in done:
                trail.append(following)
                todo.append(list(spec.functions[following].after))
    return ()


# ------------------------------------------------------------------------------------------------------- ports

def _check_ports(spec: ServiceSpec, name: str, function: FunctionSpec, where: Where) -> None:
    interfaces: dict[str, str] = {}
    for link, port in function.ports.items():
        path: Path = ("functions", name, "ports", link)
        if link not in spec.links:
            raise _unknown(where, path, "link", link, spec.links, key=True)
        for address in port.addresses:
            _check_inside(where, path, address, link, spec.links[link])
        fixed = "address" if port.addresses else "MAC" if port.mac else ""
        if fixed and function.replicas > 1:
            raise _fail(where, path, f"a fixed {fixed} with {function.replicas} replicas",
                        "leave it out: each replica is given its own", f"only one of them could have the {fixed}")
        if port.interface and port.interface in interfaces:
            raise _fail(where, (*path, "interface"), f"`{port.interface}` is the name of two interfaces",
                        "name each differently", f"the port on link `{interfaces[port.interface]}` has it already")
        interfaces[port.interface] = link


def _check_addresses(spec: ServiceSpec, where: Where) -> None:
    owners: dict[str, str] = {}
    probes = {probe.split("/")[0]: link.name for link in plan_links(spec) for probe in link.probe}
    for name, function in spec.functions.items():
        for link, port in function.ports.items():
            path: Path = ("functions", name, "ports", link)
            for address in port.addresses:
                if address in owners:
                    twice = "this port" if owners[address] == name else f"function `{owners[address]}`"
                    raise _fail(where, path, f"{address} is there twice", "give each port its own, or none",
                                f"{twice} has it already")
                if address in probes:
                    raise _fail(where, path, f"{address} is the fabric's own on link `{link}`",
                                "take another, or give the link another `probe:` address",
                                "from there it is probed whether functions are ready")
                owners[address] = name


def _check_macs(spec: ServiceSpec, where: Where) -> None:
    owners: dict[str, str] = {}
    for name, function in spec.functions.items():
        for link, port in function.ports.items():
            if port.mac and port.mac in owners:
                raise _fail(where, ("functions", name, "ports", link, "mac"), f"{port.mac} is there twice",
                            "give each port its own, or none", f"`{owners[port.mac]}` has it already")
            owners[port.mac] = path_text(("functions", name, "ports", link))


def _check_routes(spec: ServiceSpec, name: str, function: FunctionSpec, where: Where) -> None:
    seen: set[str] = set()
    for index, route in enumerate(function.routes):
        path: Path = ("functions", name, "routes", index)
        networks = [network for link in function.ports for network in ranges(spec.links[link])]
        if not any(ipaddress.ip_address(route.via) in network for network in networks):
            raise _fail(where, path, f"{route.via} is on none of the function's links",
                        "take an address on one of them", "its links are " + (", ".join(map(str, networks)) or "none"))
        if any(route.via in port.addresses for port in function.ports.values()):
            raise _fail(where, path, f"{route.via} is the function's own address", "give the next hop's")
        if route.to in seen:
            raise _fail(where, path, f"there are two routes to {route.to}", "keep one of the two")
        seen.add(route.to)


# ----------------------------------------------------------------------------------------------------- volumes

def _check_volumes(spec: ServiceSpec, name: str, function: FunctionSpec, where: Where) -> None:
    seen: set[str] = set()
    for index, use in enumerate(function.volumes):
        path: Path = ("functions", name, "volumes", index)
        if use.volume not in spec.volumes:
            raise _unknown(where, path, "volume", use.volume, spec.volumes)
        for mark, what in ((use.volume, f"volume `{use.volume}`"), (use.path, f"the path {use.path}")):
            if mark in seen:
                raise _fail(where, path, f"{what} is there twice in this function", "mount it once")
            seen.add(mark)


def _check_writers(spec: ServiceSpec, where: Where) -> None:
    uses: dict[str, list[tuple[str, int, bool]]] = {}
    for name, function in spec.functions.items():
        for index, use in enumerate(function.volumes):
            uses.setdefault(use.volume, []).append((name, index, use.read_only))
    for volume, users in uses.items():
        if len(users) > 1 and not all(read_only for _, _, read_only in users):
            name, index, _ = users[1]
            raise _fail(where, ("functions", name, "volumes", index),
                        f"volume `{volume}` is used by `{users[0][0]}` too",
                        f"give each a volume of its own, or mount it read-only in all (`{volume}:/path:ro`)",
                        "a volume is a file system of its own, which can have one writer only")
