"""Links: one bridge each in the fabric's namespace, with the addresses from which the fabric probes its ports."""

from __future__ import annotations

import errno

from isoform.errors import StepFailed
from isoform.fabric import names, rtnl, state, sysctl
from isoform.fabric.netlink import Netlink, Request
from isoform.host import netns
from isoform.model import Link

# The fabric joins, it does not route: its links may even have the same addresses, where two services share a home.
_SETTINGS = {
    "ipv4/ip_forward": "0",
    "ipv6/conf/all/forwarding": "0",
    # Strict reverse paths would drop the answers of the second of two links with the same addresses.
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    # Answer for an address on its own link alone.
    "ipv4/conf/all/arp_ignore": "1",
    "ipv4/conf/all/arp_announce": "2",
    # No advertisement of a function's changes the fabric, and nothing of it speaks IPv6 unasked.
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/addr_gen_mode": "1",
    # Frames between two ports are no business of the host's packet filter.
    "bridge/bridge-nf-call-arptables": "0",
    "bridge/bridge-nf-call-iptables": "0",
    "bridge/bridge-nf-call-ip6tables": "0",
}


def add(fabric: str, mark: str, link: Link) -> None:
    """Make the link, or mend it: its MTU and addresses become as asked, its ports stay.

    Args:
        fabric: name of the fabric's network namespace, made if it is missing.
    Raises: StepFailed, HostLacks.
    """
    alias = names.link_alias(mark, link)
    netns.create(fabric)
    with netns.entered(fabric):
        sysctl.write(_SETTINGS)
    with Netlink(fabric) as netlink:
        name, bridge = names.link_device(link.id), state.look(netlink, mark, links=[link.id]).bridges.get(link.id)
        requests = [rtnl.set_device(name, f"link {link.id}", alias=alias)]
        if bridge is None:
            requests.insert(0, rtnl.add_bridge(name, names.mac_for(mark, link.id), f"link {link.id}"))
        netlink.change(requests)
        try:
            _settle(netlink, name, link)
        except BaseException as error:
            if bridge is None:
                _undo(netlink, name, link, error)
            raise


def _settle(netlink: Netlink, name: str, link: Link) -> None:
    netlink.change([rtnl.set_device(name, f"link {link.id}: MTU {link.mtu}", mtu=link.mtu, up=True)])
    netlink.change(_addresses(netlink, _index(netlink, name, link), link))


def _index(netlink: Netlink, name: str, link: Link) -> int:
    (body,) = netlink.ask([rtnl.get_device(name)])
    if body is None:
        raise StepFailed(f"link {link.id} is gone as soon as made", why="another process removes the fabric")
    return rtnl.device(body).ifindex


def _undo(netlink: Netlink, name: str, link: Link, error: BaseException) -> None:
    try:
        netlink.change([rtnl.remove_device(_index(netlink, name, link), f"link {link.id}")])
    except Exception as second:
        error.add_note(f"and cleaning up after it failed: {second}")


def _addresses(netlink: Netlink, index: int, link: Link) -> list[Request]:
    there = set(rtnl.addresses(netlink).get(index, []))
    wanted = [rtnl.canonical(one) for one in link.probe]
    gone = sorted(there.difference(wanted))
    return [
        *(rtnl.remove_address(index, one, f"link {link.id}: address {one}", (errno.EADDRNOTAVAIL,)) for one in gone),
        *(rtnl.add_address(index, one, f"link {link.id}: address {one}") for one in wanted if one not in there),
    ]


def remove(fabric: str, mark: str, link_id: str) -> None:
    """Remove the link, if it is there; its ports stay, joined to nothing. Raises: StepFailed."""
    if not netns.exists(fabric):
        return
    with Netlink(fabric) as netlink:
        bridge = state.look(netlink, mark, links=[link_id]).bridges.get(link_id)
        if bridge is not None:
            netlink.change([rtnl.remove_device(bridge.ifindex, f"link {link_id}", (errno.ENODEV,))])
