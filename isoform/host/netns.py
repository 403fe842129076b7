"""Network namespaces, named under /run/netns as ip-netns(8) names them, by plain system calls."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from isoform.errors import StepFailed, WrongState
from isoform.host import libc, mount

FOLDER = "/run/netns"
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h
_IFREQ_FLAGS = struct.Struct("16sH22x")
_MOST_STACKED = 16

# A new namespace takes the IPv4 settings of the host's own, and a host that runs Docker forwards.
_FORWARDING = tuple(f"/proc/sys/net/{at}" for at in (
    "ipv4/ip_forward", "ipv4/conf/default/forwarding", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"))


def path(name: str) -> str:
    """Return the file that stands for the namespace `name`."""
    return f"{FOLDER}/{name}"


def exists(name: str) -> bool:
    """Return whether there is a network namespace `name`; a half-made one is none."""
    try:
        fd = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == libc.CLONE_NEWNET
    except OSError:  # ENOTTY: a plain file, left by a crash between its making and the mount
        return False
    finally:
        os.close(fd)


def names(prefix: str = "") -> list[str]:
    """Return the sorted names that start with `prefix`, half-made ones too: `delete` copes with both."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(FOLDER) if name.startswith(prefix))  # noqa: PTH208  the fast one
    return []


def create(name: str) -> None:
    """Make the network namespace `name` with `lo` up and forwarding off; nothing happens if it exists.

    Raises: StepFailed.
    """
    if exists(name):
        return
    failure: list[OSError] = []

    def make() -> None:
        try:
            libc.unshare(libc.CLONE_NEWNET)
            _set_up()
            libc.mount("/proc/thread-self/ns/net", path(name), "", mount.BIND, "")
        except OSError as error:
            failure.append(error)

    try:
        _share_folder()
        os.close(os.open(path(name), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
        thread = threading.Thread(target=make)  # the namespace that it unshares dies with it: ours stays as it is
        thread.start()
        thread.join()
    except OSError as error:
        failure.append(error)
    if failure:
        failed = StepFailed(f"cannot make the network namespace {name}", why=str(failure[0]))
        try:
            delete(name)
        except StepFailed as also:
            failed.add_note(str(also))
        raise failed from failure[0]


def _set_up() -> None:
    for file in _FORWARDING:
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(b"lo", 0)))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(b"lo", flags | _IFF_UP))


def _share_folder() -> None:
    """Make /run/netns a shared mount of its own, so that other mount namespaces see what comes and goes in it."""
    if libc.is_mount_root(FOLDER):
        return
    Path(FOLDER).mkdir(mode=0o755, exist_ok=True)
    folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # the lock that ip-netns(8) takes
        if not libc.is_mount_root(FOLDER):
            libc.mount(FOLDER, FOLDER, "", mount.BIND | mount.REC, "")
        libc.mount("", FOLDER, "", mount.SHARED | mount.REC, "")
    finally:
        os.close(folder)


def delete(name: str) -> None:
    """Take away the name `name`; the namespace dies with its last process and socket. Raises: StepFailed."""
    file = path(name)
    try:
        for _ in range(_MOST_STACKED):
            if not libc.is_mount_root(file):
                break
            mount.unmount(file, lazy=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)  # noqa: PTH108
    except OSError as error:
        raise StepFailed(f"cannot remove the network namespace {name}", why=str(error)) from error


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Run the body of `with` inside the namespace `name`: this thread alone, so the body must not await.

    Raises: WrongState if there is no such namespace.
    """
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            there = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc.setns(there, libc.CLONE_NEWNET)
            finally:
                os.close(there)
        except OSError as error:
            lost = error.errno in (errno.ENOENT, errno.EINVAL)  # EINVAL: a half-made one
            raise WrongState(f"cannot enter the network namespace {name}",
                             why="it does not exist" if lost else str(error)) from error
        try:
            yield
        finally:
            libc.setns(back, libc.CLONE_NEWNET)
    finally:
        os.close(back)


def socket_in(name: str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM,
              protocol: int = 0) -> socket.socket:
    """Return a new socket that lives in the namespace `name`, whoever uses it. Raises: WrongState, OSError."""
    with entered(name):
        return socket.socket(family, kind, protocol)
