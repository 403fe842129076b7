"""What an unpacked layer needs before overlayfs can use it, and what we read from it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

PREFIX, OPAQUE = ".wh.", ".wh..wh..opq"  # OCI image-spec, layer.md, "Whiteouts"
LONGEST_BYTES = 1 << 20  # of an /etc/passwd that we keep
Users = dict[str, str | None]  # "passwd", "group" -> content; None: the layer removes it; not there: see below


def whiten(tree: Path) -> bool:
    """Turn OCI whiteouts below `tree` into those of overlayfs; return whether any file is sparse.

    Whiteouts hide what is in the layers below, never what the same layer brings, wherever they stand in its tar.
    """
    sparse = False
    for _, folders, names, fd in os.fwalk(tree, follow_symlinks=False):
        for name in [n for n in names + folders if n.startswith(PREFIX)]:
            if name in names:
                os.unlink(name, dir_fd=fd)
                _hide(name, fd)
        sparse = sparse or any(_is_sparse(name, fd) for name in names if not name.startswith(PREFIX))
    return sparse


def _hide(name: str, fd: int) -> None:
    if name == OPAQUE:
        os.setxattr(f"/proc/self/fd/{fd}", "trusted.overlay.opaque", b"y")
        return
    hidden = name.removeprefix(PREFIX)
    if hidden.startswith(PREFIX) or hidden in ("", ".", ".."):
        return  # AUFS's own bookkeeping (.wh..wh.plnk and the like), or nonsense
    try:
        there = os.stat(hidden, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        os.mknod(hidden, 0o600 | stat.S_IFCHR, os.makedev(0, 0), dir_fd=fd)
        return
    if stat.S_ISDIR(there.st_mode):  # removed and made anew in one layer: nothing of the old one shows through
        inner = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        os.setxattr(f"/proc/self/fd/{inner}", "trusted.overlay.opaque", b"y")
        os.close(inner)


def _is_sparse(name: str, fd: int) -> bool:
    seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
    return stat.S_ISREG(seen.st_mode) and seen.st_size - seen.st_blocks * 512 > 1 << 20


def users_of(tree: Path) -> Users:
    """Return what a whitened layer says of /etc/passwd and /etc/group: content, None (removed), or nothing."""
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return {name: said for name in ("passwd", "group") if (said := _look(root, name)) != ""}
    finally:
        os.close(root)


def _look(root: int, name: str) -> str | None:
    try:
        etc = os.open("etc", os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=root)
    except NotADirectoryError:
        return None  # a whiteout, or a link: then what lower layers have in etc does not show
    except OSError:
        return ""
    try:
        opaque = "trusted.overlay.opaque" in os.listxattr(f"/proc/self/fd/{etc}")
        seen = os.stat(name, dir_fd=etc, follow_symlinks=False)
        if not stat.S_ISREG(seen.st_mode):
            return None
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=etc), "rb") as file:  # noqa: PTH123
            return file.read(LONGEST_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None if opaque else ""
    finally:
        os.close(etc)


def merged(layers: list[Users], name: str) -> str:
    """Return what a file of the users is in an image: its topmost layer that speaks of it decides.

    Args:
        layers: lowest first.
    """
    return next((users[name] or "" for users in reversed(layers) if name in users), "")
