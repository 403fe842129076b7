"""Messages to the kernel, byte by byte, and what is made of its answers."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoform.errors import HostLacks, StepFailed
from isoform.fabric import names, rtnl, state
from isoform.fabric.netlink import ACK, DUMP, NetlinkError, Request, _ours, attribute, attributes, number, pack, text
from isoform.fabric.rtnl import Device
from isoform.fabric.state import Seen, SeenPort
from isoform.model import Link

LINK = Link("edge", "access", "10.0.0.0/24", "fd00::/64", 1500, ("10.0.0.254/24", "FD00:0::FE/64"))
BRIDGE = Device(2, "edge.access", names.link_alias("m", LINK), "bridge", 1500, 0, True)


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40)))
def test_attributes_are_read_back(given: dict[int, bytes]) -> None:
    packed = b"".join(attribute(kind, value) for kind, value in given.items())
    assert len(packed) % 4 == 0
    assert attributes(packed) == given


@given(st.binary(max_size=60))
def test_garbage_ends(data: bytes) -> None:
    attributes(data)


def test_attributes_by_hand() -> None:
    little = struct.pack("=H", 1) == b"\1\0"
    if not little:
        pytest.skip("the bytes below are those of a little-endian machine")
    assert text(3, "ab") == b"\x07\x00\x03\x00ab\x00\x00"
    assert number(4, 1500) == b"\x08\x00\x04\x00\xdc\x05\x00\x00"
    assert attribute(18, attribute(1, b"veth")) == b"\x0c\x00\x12\x00\x08\x00\x01\x00veth"


def test_only_the_last_of_a_batch_asks_for_an_answer() -> None:
    data = pack([Request(16, 0x600, b"12345", "a"), Request(19, 0, b"1234", "b")], 7)
    first = struct.unpack_from("=IHHII", data)
    assert first == (21, 16, 0x601, 7, 0)
    assert struct.unpack_from("=IHHII", data, 24) == (20, 19, 0x1 | ACK, 8, 0)
    assert len(data) == 44


def test_a_dump_ends_by_itself() -> None:
    assert struct.unpack_from("=IHHII", pack([Request(18, DUMP, b"", "a")], 1))[2] == 0x1 | DUMP


def test_errors_name_what_they_are_about() -> None:
    request = Request(16, 0, b"", "edge.web.0: interface eth0")
    error = _ours(request, errno.EEXIST, "")
    assert isinstance(error, NetlinkError) and isinstance(error, StepFailed)
    assert (str(error), error.code) == ("edge.web.0: interface eth0: file exists", errno.EEXIST)
    assert "the kernel says: no" in str(_ours(request, errno.EINVAL, "no"))
    assert isinstance(_ours(request, errno.EPERM, ""), HostLacks)
    assert isinstance(_ours(request, errno.EOPNOTSUPP, "Unknown device type"), HostLacks)


def test_a_link_is_itself_only_when_all_of_it_is_right() -> None:
    there = {2: ["10.0.0.254/24", "fd00::fe/64"]}
    assert state.state(Seen({LINK.id: BRIDGE}, ()), "m", there, []).links == {LINK.id: LINK}
    for damaged in (BRIDGE._replace(mtu=1400), BRIDGE._replace(is_up=False), BRIDGE._replace(kind="dummy")):
        assert state.state(Seen({LINK.id: damaged}, ()), "m", there, []).links == {LINK.id: None}
    assert state.state(Seen({LINK.id: BRIDGE}, ()), "m", {2: ["10.0.0.254/24"]}, []).links == {LINK.id: None}
    assert state.state(Seen({LINK.id: BRIDGE}, ()), "m", {}, []).links == {LINK.id: None}


def test_an_instance_is_attached_by_its_namespace_or_its_ports() -> None:
    says = names.PortAlias("edge.gw.0", "eth0", "edge.access", "02:00:00:00:00:01", names.HALF_MADE)
    port = SeenPort(Device(3, "x", says.text("m"), "tun", 1500, 2, True), says)
    found = state.state(Seen({}, (port,)), "m", {}, ["edge.web.0"])
    assert found.attached == {"edge.web.0": "netns", "edge.gw.0": "tap"}
    assert found.ports == {"edge.gw.0": (port,)}


def test_addresses_are_compared_as_the_kernel_writes_them() -> None:
    assert rtnl.canonical("FD00:0:0::FE/64") == "fd00::fe/64"
