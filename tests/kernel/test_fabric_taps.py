"""Ports of virtual machines: taps, with frames written and read by hand in QEMU's place."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from isoform.errors import WrongState
from isoform.fabric import open_tap
from isoform.host import Home, netns
from isoform.model import Attachment, Instance
from tests.kernel.fabric_lab import ACCESS, CORE, address, crosses, device, fabric_of, instance, ip

pytestmark = pytest.mark.root

VIRTIO_HEADER = bytes(10)
ARP, IPV4 = b"\x08\x06", b"\x08\x00"


class Machine:
    """A guest's network stack, as much of it as the tests need."""

    def __init__(self, attachment: Attachment, own: str) -> None:
        self.fd = open_tap(attachment.netns, attachment.device)
        os.set_blocking(self.fd, False)
        self.mac, self.ip = bytes.fromhex(attachment.port.mac.replace(":", "")), socket.inet_aton(own)

    def send(self, to: bytes, kind: bytes, payload: bytes) -> None:
        os.write(self.fd, VIRTIO_HEADER + to + self.mac + kind + payload)

    def receive(self, kind: bytes, wait_s: float) -> bytes | None:
        """The payload of the next frame of that kind to this machine, None if none comes in time."""
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                frame = os.read(self.fd, 65536)[len(VIRTIO_HEADER):]
                if frame[:6] == self.mac and frame[12:14] == kind:
                    return frame[14:]
        return None

    def resolve(self, target: str) -> bytes | None:
        """The MAC that answers for an address; asked for up to ten times, as the tap's carrier has just come up."""
        question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + self.mac + self.ip + bytes(6) + socket.inet_aton(target)
        for _ in range(10):
            self.send(b"\xff" * 6, ARP, question)
            if (answer := self.receive(ARP, 0.2)) is not None:
                return answer[8:14]
        return None

    def ping(self, mac: bytes, target: str) -> bool:
        """Whether an echo request is answered with its own payload."""
        echo = _summed(struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"isoform", 2)
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(echo), 0, 0, 64, 1, 0) + self.ip + socket.inet_aton(target)
        self.send(mac, IPV4, _summed(header, 10) + echo)
        answer = self.receive(IPV4, 2)
        return answer is not None and answer[20] == 0 and answer[28:] == b"isoform"


def _summed(data: bytes, at: int) -> bytes:
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~(total + (total >> 16)) & 0xFFFF
    return data[:at] + struct.pack("!H", total) + data[at + 2:]


@contextmanager
def machine(attachment: Attachment, one: Instance) -> Iterator[Machine]:
    made = Machine(attachment, address(one))
    try:
        yield made
    finally:
        os.close(made.fd)


async def test_a_machine_and_a_container_on_one_link(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        guest, container = instance(0, function="gateway"), instance(1)
        (attachment,) = await fabric.attach(guest, "tap")
        await fabric.attach(container, "netns")
        with machine(attachment, guest) as vm:
            mac = vm.resolve(address(container))
            assert mac is not None
            assert mac.hex(":") == container.ports[0].mac
            assert vm.ping(mac, address(container))
            assert vm.resolve(ACCESS.probe[0].partition("/")[0]) is not None


async def test_a_machine_hears_nothing_of_another_link(home: Home) -> None:
    async with fabric_of(home, ACCESS, CORE) as fabric:
        guest, container = instance(0, (ACCESS,)), instance(1, (CORE,))
        (attachment,) = await fabric.attach(guest, "tap")
        await fabric.attach(container, "netns")
        with machine(attachment, guest) as vm:
            assert vm.resolve("10.0.0.254") is not None
            assert vm.resolve(address(container)) is None


async def test_the_tap_is_as_it_should_be(home: Home) -> None:
    async with fabric_of(home, CORE) as fabric:
        guest = instance(0, (CORE,))
        (attachment,) = await fabric.attach(guest, "tap")
        assert (attachment.netns, attachment.kind) == (home.netns(), "tap")
        found = device(attachment.netns, attachment.device)
        assert (found["mtu"], found["master"]) == (1400, "edge.core")
        assert found["address"] != guest.ports[0].mac
        data = found["linkinfo"]["info_data"]
        assert (data["type"], data["pi"], data["vnet_hdr"], data["multi_queue"], data["persist"]) == (
            "tap", False, True, False, True)
        fd = open_tap(attachment.netns, attachment.device)
        assert not os.get_inheritable(fd)
        os.close(fd)
        assert device(attachment.netns, attachment.device)["ifindex"] == found["ifindex"]


async def test_attach_twice_under_an_open_tap(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        guest = instance(0)
        (attachment,) = await fabric.attach(guest, "tap")
        with machine(attachment, guest) as vm:
            first = device(attachment.netns, attachment.device)["ifindex"]
            assert fabric.is_attached(guest, "tap")
            await fabric.remove_link(ACCESS.id)
            await fabric.add_link(ACCESS)
            assert not fabric.is_attached(guest, "tap")
            await fabric.attach(guest, "tap")
            assert device(attachment.netns, attachment.device)["ifindex"] == first
            assert vm.resolve("10.0.0.254") is not None


async def test_a_tap_that_is_not_there_is_not_made(home: Home) -> None:
    async with fabric_of(home, ACCESS):
        with pytest.raises(WrongState, match="does not exist"):
            open_tap(home.netns(), "nobody")
        assert [one["ifname"] for one in ip(home.netns(), "link")] == ["lo", "edge.access"]
    with pytest.raises(WrongState):
        open_tap(home.netns(), "nobody")


async def test_a_tap_opens_once(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        (attachment,) = await fabric.attach(instance(0), "tap")
        fd = open_tap(attachment.netns, attachment.device)
        try:
            with pytest.raises(WrongState, match="cannot be opened"):
                open_tap(attachment.netns, attachment.device)
        finally:
            os.close(fd)


async def test_from_container_to_machine_and_back(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        one, other = instance(0), instance(1)
        await fabric.attach(other, "netns")
        for _ in range(2):
            await fabric.attach(one, "netns")
            assert not fabric.is_attached(one, "tap")
            assert crosses(home.netns(other.id), home.netns(one.id), address(one))
            (attachment,) = await fabric.attach(one, "tap")
            assert fabric.is_attached(one, "tap")
            assert not netns.exists(home.netns(one.id))
            assert (await fabric.observe()).attached == {one.id: "tap", other.id: "netns"}
            with machine(attachment, one) as vm:
                assert vm.resolve(address(other)) is not None


async def test_detach_under_an_open_tap(home: Home) -> None:
    async with fabric_of(home, ACCESS) as fabric:
        guest = instance(0, (ACCESS,))
        (attachment,) = await fabric.attach(guest, "tap")
        with machine(attachment, guest):
            await fabric.detach(guest.id)
            await fabric.detach(guest.id)
            assert (await fabric.observe()).attached == {}
            await fabric.remove_link(ACCESS.id)
            assert netns.names(home.mark) == []
