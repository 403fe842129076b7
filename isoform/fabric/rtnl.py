"""The messages of rtnetlink that the fabric sends and reads. Source: rtnetlink(7), linux/if_link.h, linux/if_addr.h."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from isoform.fabric.netlink import (
    CREATE,
    DUMP,
    EXCLUDE,
    REPLACE,
    Netlink,
    Request,
    attribute,
    attributes,
    number,
    text,
)

LOOPBACK = 1  # the index of lo in every namespace
_NEW_LINK, _DEL_LINK, _GET_LINK, _SET_LINK = 16, 17, 18, 19
_NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE = 24
_NEW_NEIGHBOUR, _DEL_NEIGHBOUR, _GET_NEIGHBOUR = 28, 29, 30

_ADDRESS, _IFNAME, _MTU, _MASTER, _OPERSTATE, _LINKINFO, _ALIAS = 1, 3, 4, 10, 16, 18, 20
_OPERATIONAL = b"\6"  # IF_OPER_UP
_NETNS_FD, _EXT_MASK, _TX_QUEUES, _RX_QUEUES = 28, 29, 31, 32
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: a quarter of the bytes of each answer
_BRIDGE_FORWARD_DELAY, _BRIDGE_STP, _BRIDGE_SNOOPING = 1, 5, 23
_UP = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_NO_DAD = 0x02
_RTA_DESTINATION, _RTA_GATEWAY = 1, 5
_MAIN, _STATIC, _UNICAST = 254, 4, 1
_NDA_DESTINATION, _NDA_MAC, _PERMANENT = 1, 2, 0x80

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFA = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


class Device(NamedTuple):
    """A network device as the kernel describes it."""

    ifindex: int
    name: str
    alias: str
    kind: str  # "bridge", "veth", "tun"; "" for lo
    mtu: int
    master: int  # index of its bridge; 0: none
    is_up: bool  # told to be
    is_operational: bool = False  # up, and with a carrier that the kernel has taken note of


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def canonical(address: str) -> str:
    """Return an address with prefix length as the kernel writes it."""
    return str(ipaddress.ip_interface(address))


def _packed(address: str) -> bytes:
    return socket.inet_pton(_family(address), address)


def _mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _word(value: bytes | None) -> int:
    return int(struct.unpack("=I", value)[0]) if value else 0


def _head(index: int = 0, up: bool = False) -> bytes:
    return _LINK.pack(0, 0, index, _UP if up else 0, _UP if up else 0)


def add_bridge(name: str, mac: str, subject: str) -> Request:
    """A bridge that forwards at once: no spanning tree, no snooping. Its MAC is fixed, so ports do not change it."""
    options = attribute(
        _INFO_DATA, number(_BRIDGE_FORWARD_DELAY, 0), number(_BRIDGE_STP, 0), attribute(_BRIDGE_SNOOPING, b"\0")
    )
    info = attribute(_LINKINFO, attribute(_INFO_KIND, b"bridge"), options)
    body = _head() + text(_IFNAME, name) + attribute(_ADDRESS, _mac(mac)) + info
    return Request(_NEW_LINK, CREATE | EXCLUDE, body, subject)


def add_veth(name: str, master: int, mtu: int, peer: str, peer_mac: str, peer_netns: int, subject: str) -> Request:
    """A veth pair: one end up on the bridge `master`, its peer (which the kernel can only raise later) born in the
    namespace of the open file.

    One queue each: the kernel would make one for every processor, and a veth without XDP uses only the first.
    """
    common = number(_MTU, mtu) + number(_TX_QUEUES, 1) + number(_RX_QUEUES, 1)
    far = _head() + text(_IFNAME, peer) + attribute(_ADDRESS, _mac(peer_mac)) + common
    info = attribute(
        _LINKINFO,
        attribute(_INFO_KIND, b"veth"),
        attribute(_INFO_DATA, attribute(_VETH_PEER, far, number(_NETNS_FD, peer_netns))),
    )
    body = _head(up=True) + text(_IFNAME, name) + common + number(_MASTER, master) + info
    return Request(_NEW_LINK, CREATE | EXCLUDE, body, subject)


def set_device(
    index_or_name: int | str, subject: str, *, alias: str = "", mtu: int = 0, master: int = 0, up: bool = False
) -> Request:
    """A change of a device, found by index or by name; what is not given stays."""
    by_name = isinstance(index_or_name, str)
    body = _head(0 if isinstance(index_or_name, str) else index_or_name, up)
    body += text(_IFNAME, str(index_or_name)) if by_name else b""
    body += text(_ALIAS, alias) if alias else b""
    body += number(_MTU, mtu) if mtu else b""
    body += number(_MASTER, master) if master else b""
    return Request(_SET_LINK, 0, body, subject)


def remove_device(index: int, subject: str, accept: tuple[int, ...] = ()) -> Request:
    """The end of a device."""
    return Request(_DEL_LINK, 0, _head(index), subject, accept)


def get_device(name: str) -> Request:
    """A question for one device; its answer is read by `device`."""
    return Request(_GET_LINK, 0, _head() + text(_IFNAME, name) + number(_EXT_MASK, _SKIP_STATISTICS), f"device {name}")


def device(body: bytes) -> Device:
    """Return the device that an answer describes."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body, _LINK.size)
    info = attributes(found.get(_LINKINFO, b""))
    return Device(
        ifindex=index,
        name=found[_IFNAME].rstrip(b"\0").decode(),
        alias=found.get(_ALIAS, b"").rstrip(b"\0").decode(errors="replace"),
        kind=info.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        mtu=_word(found.get(_MTU)),
        master=_word(found.get(_MASTER)),
        is_up=bool(flags & _UP),
        is_operational=found.get(_OPERSTATE) == _OPERATIONAL,
    )


def devices(netlink: Netlink, *needles: str) -> Iterator[Device]:
    """Yield all devices of a namespace whose description holds one of the needles; without needles, all.

    The needle is looked for before the answer is taken apart: of hundreds of devices one seldom wants more than two.
    """
    wanted = [needle.encode() for needle in needles]
    request = Request(_GET_LINK, DUMP, _head() + number(_EXT_MASK, _SKIP_STATISTICS), "devices of the fabric")
    for body in netlink.dump(request):
        if not wanted or any(needle in body for needle in wanted):
            yield device(body)


def add_address(index: int, address: str, subject: str) -> Request:
    """An address with prefix length on a device; usable at once, without duplicate address detection."""
    interface = ipaddress.ip_interface(address)
    family, own, length = _family(address), interface.ip.packed, interface.network.prefixlen
    flags = _NO_DAD if family == socket.AF_INET6 else 0
    body = _IFA.pack(family, length, flags, 0, index) + attribute(_IFA_LOCAL, own) + attribute(_IFA_ADDRESS, own)
    if family == socket.AF_INET and length < 31:
        body += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
    return Request(_NEW_ADDRESS, CREATE | REPLACE, body, subject)


def remove_address(index: int, address: str, subject: str, accept: tuple[int, ...] = ()) -> Request:
    """The end of an address."""
    own, _, length = address.partition("/")
    body = _IFA.pack(_family(own), int(length), 0, 0, index) + attribute(_IFA_LOCAL, _packed(own))
    return Request(_DEL_ADDRESS, 0, body, subject, accept)


def addresses(netlink: Netlink) -> dict[int, list[str]]:
    """Return the addresses of a namespace, with prefix length, by index of their device; link-local ones left out."""
    found: dict[int, list[str]] = {}
    for body in netlink.dump(Request(_GET_ADDRESS, DUMP, _IFA.pack(0, 0, 0, 0, 0), "addresses of the fabric")):
        family, length, _, scope, index = _IFA.unpack_from(body)
        values = attributes(body, _IFA.size)
        if scope == 0:
            own = socket.inet_ntop(family, values.get(_IFA_LOCAL) or values[_IFA_ADDRESS])
            found.setdefault(index, []).append(f"{own}/{length}")
    return found


def add_route(to: str, via: str, subject: str) -> Request:
    """A static route to a network (with prefix length) by way of `via`; in place of one that is there."""
    network = ipaddress.ip_network(to)
    head = _ROUTE.pack(_family(via), network.prefixlen, 0, 0, _MAIN, _STATIC, 0, _UNICAST, 0)
    destination = attribute(_RTA_DESTINATION, network.network_address.packed) if network.prefixlen else b""
    return Request(_NEW_ROUTE, CREATE | REPLACE, head + destination + attribute(_RTA_GATEWAY, _packed(via)), subject)


def add_neighbour(index: int, address: str, mac: str, subject: str) -> Request:
    """A permanent neighbour entry: packets to `address` on the device need no resolution."""
    head = _NEIGHBOUR.pack(_family(address), index, _PERMANENT, 0, 0)
    body = head + attribute(_NDA_DESTINATION, _packed(address)) + attribute(_NDA_MAC, _mac(mac))
    return Request(_NEW_NEIGHBOUR, CREATE | REPLACE, body, subject)


def remove_neighbour(index: int, address: str, subject: str, accept: tuple[int, ...] = ()) -> Request:
    """The end of a neighbour entry."""
    head = _NEIGHBOUR.pack(_family(address), index, 0, 0, 0)
    return Request(_DEL_NEIGHBOUR, 0, head + attribute(_NDA_DESTINATION, _packed(address)), subject, accept)


def permanent_neighbours(netlink: Netlink) -> Iterator[tuple[int, str, str]]:
    """Yield (index of the device, address, MAC) of each permanent neighbour entry of a namespace."""
    for body in netlink.dump(Request(_GET_NEIGHBOUR, DUMP, _NEIGHBOUR.pack(0, 0, 0, 0, 0), "neighbours of the fabric")):
        family, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
        if state & _PERMANENT and family in (socket.AF_INET, socket.AF_INET6):
            values = attributes(body, _NEIGHBOUR.size)
            yield index, socket.inet_ntop(family, values[_NDA_DESTINATION]), values.get(_NDA_MAC, b"").hex(":")
