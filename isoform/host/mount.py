"""Mounts: plain ones, bind mounts, and EROFS and ext4 images in files, without a process for any of them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from isoform.errors import HostLacks, StepFailed
from isoform.host import libc

RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC = 1, 2, 4, 32, 4096, 16384  # linux/mount.h, MS_*
PRIVATE, SLAVE, SHARED = 1 << 18, 1 << 19, 1 << 20
_DETACH, _NOFOLLOW = 2, 8  # MNT_DETACH, UMOUNT_NOFOLLOW
_MOST_STACKED = 64  # mounts upon each other at one path; a bound for the loop, far above what we ever make

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LOOP_GET_STATUS64 = 0x4C82, 0x4C0A, 0x4C05  # linux/loop.h
_LO_READ_ONLY, _LO_AUTOCLEAR, _LO_DIRECT_IO = 1, 4, 16
_LOOP_INFO64 = struct.Struct("=5Q4I64s64s32s2Q")
_LOOP_CONFIG = struct.Struct("=2I" + _LOOP_INFO64.format.removeprefix("=") + "8Q")
_LOOP_TRIES = 100  # others may take the free device between our asking and our taking it


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount as mount(2) does. Raises: StepFailed."""
    try:
        libc.mount(source, target, fstype, flags, data)
    except OSError as error:
        raise StepFailed(f"cannot mount {fstype or source} on {target}",
                         why=f"{error.strerror} ({source or '-'} {data})".rstrip()) from error


def is_mounted(target: str) -> bool:
    """Return whether something is mounted at `target` itself."""
    return libc.is_mount_root(target)


def bind(source: str, target: str, read_only: bool = False, recursive: bool = False) -> None:
    """Show the file or folder `source` at `target` too. Raises: StepFailed."""
    mount(source, target, "", BIND | (REC if recursive else 0))
    if read_only:
        mount("", target, "", BIND | REMOUNT | RDONLY)


def unmount(target: str, lazy: bool = False) -> None:
    """Unmount the topmost mount at `target`; nothing happens where there is none.

    Args:
        lazy: take it out of sight now, and let the kernel free it when its last user goes.
    Raises: StepFailed, for example while it is in use.
    """
    try:
        libc.umount2(target, _NOFOLLOW | (_DETACH if lazy else 0))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # EINVAL: not a mount point
            raise StepFailed(f"cannot unmount {target}", why=error.strerror or "") from error


def unmount_all(path: str, lazy: bool = True) -> None:
    """Unmount everything at `path` and below it, deepest first. Raises: StepFailed."""
    for _ in range(_MOST_STACKED):
        found = mounts_below(path)
        for target in found:
            unmount(target, lazy)
        if not found:
            return
    raise StepFailed(f"cannot unmount everything below {path}", why=f"left: {', '.join(mounts_below(path))}")


def mounts_below(path: str) -> list[str]:
    """Return the mount points at `path` and below, in the order in which they can be unmounted."""
    return below(Path("/proc/self/mountinfo").read_text(), path)


def below(mountinfo: str, path: str) -> list[str]:
    """Return the mount points at `path` and below in the text of a mountinfo file, last mounted first."""
    root = path.rstrip("/")
    points = (_unescaped(line.split(" ", 5)[4]) for line in reversed(mountinfo.splitlines()))
    return [point for point in points if point == root or point.startswith(root + "/")]


def _unescaped(field: str) -> str:
    # proc_pid_mountinfo(5): space, tab, newline and backslash are written as \ and three octal digits
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field) if "\\" in field else field


def mount_erofs(path: str, target: str, way: str) -> None:
    """Mount the EROFS image file `path` at `target`, unless something is mounted there already.

    Args:
        way: "file", the kernel reads the file itself (Linux 6.12 and later), or "loop", through a loop device that
            vanishes with the mount.
    Raises: HostLacks, StepFailed.
    """
    if is_mounted(target):
        return
    # no setuid programs on the host's own view: what overlays it has flags of its own
    if way == "file":
        # what is read stays in memory once, as EROFS' pages, and not as the file's too; kernels before 6.15 cannot
        with contextlib.suppress(OSError):
            libc.mount(path, target, "erofs", RDONLY | NODEV | NOSUID, "directio")
            return
        mount(path, target, "erofs", RDONLY | NODEV | NOSUID)
        return
    if way != "loop":
        raise HostLacks("this kernel cannot mount EROFS images", why="neither directly nor through a loop device",
                        fix="sudo modprobe -a erofs loop && isoform doctor --refresh")
    with loop_device(path, read_only=True) as device:
        mount(device, target, "erofs", RDONLY | NODEV | NOSUID)


def mount_ext4_loop(path: str, target: str, read_only: bool = False) -> None:
    """Mount the ext4 image file `path` at `target`, unless something is mounted there already.

    One image may be mounted at several places: they share one loop device and so one file system.
    Raises: StepFailed.
    """
    if not is_mounted(target):
        with loop_device(path, read_only=False) as device:
            # whatever its superblock, which a guest may have written, wants: errors=panic would end this host
            mount(device, target, "ext4", NODEV | NOSUID, "errors=remount-ro")
    if read_only:  # of this place alone: the file system below may be in use for writing elsewhere
        mount("", target, "", BIND | REMOUNT | RDONLY | NODEV | NOSUID)


@contextlib.contextmanager
def loop_device(path: str, read_only: bool) -> Iterator[str]:
    """Yield a loop device for the file `path`: one that has it already, or a new one.

    It vanishes by itself when the body ends, or with the last mount that the body made of it, also after a crash.
    Raises: StepFailed, HostLacks where there is no loop driver.
    """
    with _opened(path, os.O_RDONLY if read_only else os.O_RDWR) as file:
        device, name = _in_use(file, path, read_only) or _configured(file, path, read_only)
        try:
            yield name
        finally:
            os.close(device)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise StepFailed(f"cannot open {path}", why=error.strerror or "") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _in_use(file: int, path: str, read_only: bool) -> tuple[int, str] | None:
    """Return the open loop device and its name that has `file` already, if there is one."""
    real, wanted = os.path.realpath(path), os.fstat(file)
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        name = f"/dev/{backing.parts[3]}"
        with contextlib.suppress(OSError):  # it may be freed while we look
            if backing.read_text().rstrip("\n") != real:
                continue
            device = os.open(name, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            try:  # now that we hold it, it stays: look again
                info = _LOOP_INFO64.unpack(fcntl.ioctl(device, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64.size)))
                if (info[1] == wanted.st_ino and bool(info[8] & _LO_READ_ONLY) == read_only
                        and info[8] & _LO_AUTOCLEAR):
                    return device, name
            except OSError:
                pass
            os.close(device)
    return None


def _configured(file: int, path: str, read_only: bool) -> tuple[int, str]:
    flags = _LO_AUTOCLEAR | _LO_DIRECT_IO | (_LO_READ_ONLY if read_only else 0)
    # _LO_DIRECT_IO: pages are kept by the file system above alone; the kernel drops the wish where it cannot
    name = path.encode()[-63:]  # only for people who list loop devices
    config = _LOOP_CONFIG.pack(file, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", *[0] * 10)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostLacks("this host has no loop devices", why=f"/dev/loop-control: {error.strerror}",
                        fix="sudo modprobe loop") from error
    try:
        for _ in range(_LOOP_TRIES):
            device_name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(device_name, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device, device_name
        raise OSError(errno.EBUSY, "others take every free loop device first")
    except OSError as error:
        raise StepFailed(f"cannot make a loop device for {path}", why=error.strerror or "") from error
    finally:
        os.close(control)
