"""Taps: the fabric's end of a port whose other end is a file descriptor that QEMU holds."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from isoform.errors import HostLacks, WrongState
from isoform.host import netns

# Source: linux/if_tun.h. The frames begin with a virtio-net header, so checksums and segments may be left undone.
_SET_INTERFACE, _GET_INTERFACE, _SET_PERSISTENT = 0x400454CA, 0x800454D2, 0x400454CB
_TAP, _NO_PACKET_INFO, _VIRTIO_HEADER, _PERSISTENT = 0x0002, 0x1000, 0x4000, 0x0800
_REQUEST = struct.Struct("=16sH22x")  # struct ifreq: name, flags


def _open(netns_name: str, device: str) -> tuple[int, bool]:
    """Open the tap, which makes it if it is not there. Returns: descriptor, whether it was there."""
    with netns.entered(netns_name):
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise HostLacks("/dev/net/tun does not exist", why=str(error), fix="run: modprobe tun") from error
    try:
        flags = _TAP | _NO_PACKET_INFO | _VIRTIO_HEADER
        fcntl.ioctl(fd, _SET_INTERFACE, _REQUEST.pack(device.encode(), flags))
        _, flags = _REQUEST.unpack(fcntl.ioctl(fd, _GET_INTERFACE, bytes(_REQUEST.size)))
    except OSError as error:
        os.close(fd)
        why = "another process has it open" if error.errno == errno.EBUSY else str(error)
        raise WrongState(f"tap {device} of {netns_name} cannot be opened", why=why) from error
    return fd, bool(flags & _PERSISTENT)


def open_tap(netns_name: str, device: str) -> int:
    """Open a tap of the fabric, as QEMU's `-netdev tap,fd=` wants it.

    Returns: a descriptor that child processes do not inherit unless told to; frames begin with a virtio-net header.
    Raises: WrongState if there is no such tap or another process has it open; HostLacks without /dev/net/tun.
    """
    fd, was_there = _open(netns_name, device)
    if not was_there:
        os.close(fd)  # and the tap that the opening made is gone with it
        raise WrongState(f"tap {device} of {netns_name} does not exist")
    return fd


@contextmanager
def new_tap(netns_name: str, device: str) -> Iterator[None]:
    """Make a tap. It goes when the body of `with` fails or the process dies in it, and stays once the body ends."""
    fd, _ = _open(netns_name, device)
    try:
        yield
        fcntl.ioctl(fd, _SET_PERSISTENT, 1)
    finally:
        os.close(fd)
