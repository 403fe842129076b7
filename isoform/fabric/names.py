"""What the fabric calls things: device names, MACs, and the aliases by which it finds again what it made.

An alias is all that the kernel keeps for us of a link or port, so it says all that cannot be read elsewhere. It is set
in the same system call that makes the device: nothing of ours is ever without it.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from isoform.errors import DescriptorError
from isoform.model import Attachment, Instance, Link, Port

LONGEST_NAME = 15  # IFNAMSIZ less its final zero
LONGEST_ALIAS = 255  # IFALIASZ less its final zero
HALF_MADE = "-"  # in a port's alias in place of its fingerprint


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def device_name(identity: str) -> str:
    """Return the name of a device in the fabric: the identity where it fits, else a hash of it.

    An identity holds a dot and a hash does not, so the two never meet.
    """
    return identity if len(identity.encode()) <= LONGEST_NAME else f"i-{_digest(identity, 12)}"


def link_device(link_id: str) -> str:
    """Return the name of a link's bridge: "edge.access"."""
    return device_name(link_id)


def port_device(instance_id: str, interface: str) -> str:
    """Return the name of a port's end in the fabric: "edge.web.0-eth0"."""
    return device_name(f"{instance_id}-{interface}")


def mac_for(instance_id: str, link: str) -> str:
    """Return the MAC of an instance's port on a link: always the same, locally administered, unicast."""
    digits = _digest(f"{instance_id} {link}", 10)
    return ":".join(("02", *(digits[i : i + 2] for i in range(0, 10, 2))))


class PortAlias(NamedTuple):
    """What the alias of a port's end in the fabric says."""

    instance_id: str
    interface: str
    link: str  # the link's id: "edge.access"
    mac: str
    fingerprint: str  # of all that was asked for; HALF_MADE until all of it was done

    def text(self, mark: str) -> str:
        """Return the alias itself."""
        return _alias(mark, "port", self.instance_id, self.interface, self.link, self.mac, self.fingerprint)


def port_alias(instance: Instance, port: Port, kind: str) -> PortAlias:
    """Return the alias of a port that is wholly as wanted."""
    wanted = repr((kind, port, instance.routes if kind == "netns" else ()))
    return PortAlias(instance.id, port.interface, f"{instance.service}.{port.link}", port.mac, _digest(wanted, 8))


def read_port_alias(mark: str, alias: str) -> PortAlias | None:
    """Return what `alias` says, None if it is not a port's of this home."""
    match alias.split(" "):
        case [found, "port", instance_id, interface, link, mac, fingerprint] if found == mark:
            return PortAlias(instance_id, interface, link, mac, fingerprint)
    return None


def link_alias(mark: str, link: Link) -> str:
    """Return the alias of a link's bridge."""
    probe = ",".join(link.probe) or "-"
    return _alias(mark, "link", link.id, link.cidr or "-", link.cidr6 or "-", str(link.mtu), probe)


def read_link_alias(mark: str, alias: str) -> Link | None:
    """Return the link whose alias this is, None if it is not a link's of this home."""
    match alias.split(" "):
        case [found, "link", link_id, cidr, cidr6, mtu, probe] if found == mark:
            service, _, name = link_id.partition(".")
            addresses = tuple(probe.split(",")) if probe != "-" else ()
            return Link(service, name, cidr.strip("-"), cidr6.strip("-"), int(mtu), addresses)
    return None


def _alias(*words: str) -> str:
    alias = " ".join(words)
    length = len(alias.encode())
    if length > LONGEST_ALIAS:
        raise DescriptorError(
            f"{words[2]}: names and addresses are too long together",
            why=f"the kernel keeps {LONGEST_ALIAS} characters about a device; this needs {length}: {alias}",
            fix="choose shorter names, or fewer probe addresses",
        )
    return alias


def attachments(netns: str, fabric: str, instance: Instance, kind: str) -> tuple[Attachment, ...]:
    """Return what a form is handed for the ports of `instance`.

    Args:
        netns: name of the instance's own network namespace.
        fabric: name of the fabric's.
        kind: "netns" or "tap".
    """
    if kind == "netns":
        return tuple(Attachment(port, kind, netns, port.interface) for port in instance.ports)
    return tuple(Attachment(port, kind, fabric, port_device(instance.id, port.interface)) for port in instance.ports)
