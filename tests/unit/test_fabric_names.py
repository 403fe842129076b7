"""Names, MACs and aliases of the fabric."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoform.errors import DescriptorError
from isoform.fabric import mac_for, names
from isoform.model import Instance, Link, Port, Route, Size

NAME = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)
LINKS = st.builds(
    Link, service=NAME, name=NAME,
    cidr=st.sampled_from(["", "10.0.0.0/24", "192.168.100.0/24"]),
    cidr6=st.sampled_from(["", "fd00::/64", "2001:db8:1111:2222:3333:4444:5555:0/112"]),
    mtu=st.integers(68, 65535),
    probe=st.sampled_from([(), ("10.0.0.254/24",), ("192.168.100.254/24", "2001:db8:1111:2222:3333:4444:5555:f/112")]),
)
ONE = Instance(
    "edge.web.0", "edge", "web", 0, "container", "web", None, None, Size(1, 1),
    ports=(Port("access", "eth0", "02:00:00:00:00:01", ("10.0.0.2/24",), 1500),),
    routes=(Route("default", "10.0.0.1"),),
)


@given(st.text(), st.text())
def test_a_mac_is_local_unicast_and_stays(instance_id: str, link: str) -> None:
    octets = [int(octet, 16) for octet in mac_for(instance_id, link).split(":")]
    assert len(octets) == 6
    assert octets[0] & 0b11 == 0b10
    assert mac_for(instance_id, link) == mac_for(instance_id, link)


def test_macs_differ_by_instance_and_by_link() -> None:
    made = {mac_for(f"edge.web.{replica}", link) for replica in range(500) for link in ("access", "core")}
    assert len(made) == 1000


def test_this_mac_must_not_change_between_versions() -> None:
    assert mac_for("edge.web.0", "access") == "02:3e:0f:20:83:63"


@given(
    NAME, NAME, NAME, st.integers(0, 999), st.sampled_from(["", ".vm"]), st.sampled_from(["eth0", "vm-eth0", "a" * 15])
)
def test_device_names_fit_and_differ(
    service: str, link: str, function: str, replica: int, machine: str, interface: str
) -> None:
    bridge = names.link_device(f"{service}.{link}")
    port = names.port_device(f"{service}.{function}.{replica}{machine}", interface)
    assert bridge != port
    for name in (bridge, port):
        assert 0 < len(name) <= names.LONGEST_NAME
        assert "/" not in name and " " not in name


def test_short_names_can_be_read() -> None:
    assert names.link_device("edge.access") == "edge.access"
    assert names.port_device("edge.web.0", "eth0") == "edge.web.0-eth0"
    assert names.port_device("edge.gateway.0", "eth0").startswith("i-")


@given(LINKS)
def test_a_link_is_read_back_from_its_alias(link: Link) -> None:
    alias = names.link_alias("isoform-0123ab", link)
    assert len(alias) <= names.LONGEST_ALIAS
    assert names.read_link_alias("isoform-0123ab", alias) == link
    assert names.read_link_alias("isoform-ffffff", alias) is None
    assert names.read_port_alias("isoform-0123ab", alias) is None


def test_an_alias_that_the_kernel_would_cut_is_refused() -> None:
    link = Link("edge", "access", "", "", 1500, tuple(f"fd00::{i:x}/64" for i in range(40)))
    with pytest.raises(DescriptorError, match=r"edge\.access"):
        names.link_alias("isoform-0123ab", link)


def test_a_port_is_read_back_from_its_alias() -> None:
    made = names.port_alias(ONE, ONE.ports[0], "netns")
    assert names.read_port_alias("m", made.text("m")) == made
    assert (made.instance_id, made.interface, made.link) == ("edge.web.0", "eth0", "edge.access")


def test_the_longest_port_fits_its_alias() -> None:
    long = "a" * 32
    one = replace(ONE, id=f"{long}.{long}.999.vm", service=long)
    made = names.port_alias(one, replace(ONE.ports[0], link=long, interface="e" * 15), "tap")
    assert len(made.text("isoform-0123ab")) <= names.LONGEST_ALIAS


@pytest.mark.parametrize("alias", ["", "m", "m port", "m link a.b", "other words of somebody", "m port a b c d e f"])
def test_foreign_aliases_are_nobodys(alias: str) -> None:
    assert names.read_port_alias("m", alias) is None
    assert names.read_link_alias("m", alias) is None


@pytest.mark.parametrize("changes", [
    {"mac": "02:00:00:00:00:02"}, {"addresses": ("10.0.0.3/24",)}, {"mtu": 1400}, {"interface": "eth1"},
    {"link": "core"},
])
def test_the_fingerprint_covers_the_port(changes: dict[str, object]) -> None:
    port = ONE.ports[0]
    changed = names.port_alias(ONE, replace(port, **changes), "netns")  # type: ignore[arg-type]
    assert changed.fingerprint != names.port_alias(ONE, port, "netns").fingerprint


def test_routes_are_the_fabrics_affair_in_a_namespace_only() -> None:
    port, other = ONE.ports[0], replace(ONE, routes=())
    assert names.port_alias(ONE, port, "netns") != names.port_alias(other, port, "netns")
    assert names.port_alias(ONE, port, "tap") == names.port_alias(other, port, "tap")


def test_attachments_name_the_device_where_it_is() -> None:
    (inside,) = names.attachments("own", "fabric", ONE, "netns")
    (outside,) = names.attachments("own", "fabric", ONE, "tap")
    assert (inside.netns, inside.device) == ("own", "eth0")
    assert (outside.netns, outside.device) == ("fabric", "edge.web.0-eth0")
