"""The system calls that Python 3.11 does not offer, through ctypes."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000  # linux/sched.h
CLONE_NEWNET = 0x40000000

_AT_FDCWD = -100  # linux/fcntl.h
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_ATTR_MOUNT_ROOT = 0x2000  # linux/stat.h, since Linux 5.8
_STATX_SIZE, _STATX_ATTRIBUTES = 256, 8  # bytes of struct statx, and where stx_attributes stands in it

_libc = ctypes.CDLL(None, use_errno=True)  # releases the GIL during a call; errno is kept for each thread
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def _checked(result: int, name: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """Call mount(2). Raises: OSError."""
    given = [text.encode() or None for text in (source, fstype, data)]
    _checked(_libc.mount(given[0], target.encode(), given[1], flags, given[2]), target)


def umount2(target: str, flags: int) -> None:
    """Call umount2(2). Raises: OSError."""
    _checked(_libc.umount2(target.encode(), flags), target)


def unshare(flags: int) -> None:
    """Call unshare(2) for the calling thread. Raises: OSError."""
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Call setns(2) for the calling thread. Raises: OSError."""
    _checked(_libc.setns(fd, kind), "setns")


def is_mount_root(path: str) -> bool:
    """Return whether something is mounted at `path`; bind mounts count. False where the path does not exist."""
    found = ctypes.create_string_buffer(_STATX_SIZE)
    if _libc.statx(_AT_FDCWD, path.encode(), _AT_SYMLINK_NOFOLLOW, 0, found) != 0:
        return False
    attributes = int.from_bytes(found.raw[_STATX_ATTRIBUTES:_STATX_ATTRIBUTES + 8], "little")
    return bool(attributes & _STATX_ATTR_MOUNT_ROOT)
