"""Writing files inside a root that is not to be trusted: its symbolic links must not lead out of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import posixpath
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator

from isoform.errors import StepFailed
from isoform.model import File

_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10  # linux/openat2.h
_OPEN_HOW = struct.Struct("=3Q")
_libc = ctypes.CDLL(None, use_errno=True)


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open `path` as if the folder that the descriptor `root` stands for were "/". Raises: OSError."""
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    fd: int = _libc.syscall(_OPENAT2, root, os.fsencode(path), how, len(how))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd


def write_files(root: str, files: Iterable[File], is_it: Callable[[], bool] = lambda: True) -> None:
    """Lay `files` into the tree at `root`, each in one stroke: a reader sees the old one or the new one, whole.

    A symbolic link at the file's own place is replaced, one on the way to it is followed within `root`.

    Args:
        is_it: asked once `root` is open, which may have become another's meanwhile: /proc/PID/root, say.
    Raises: StepFailed.
    """
    try:
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StepFailed("the function's root is gone", why=f"{root}: {error.strerror}") from error
    try:
        if not is_it():
            raise StepFailed("the function's root is gone", why="it ended just now")
        for file in files:
            try:
                _write(top, file)
            except OSError as error:
                raise StepFailed(f"cannot write {file.path} into the function's root",
                                 why=error.strerror or "") from error
    finally:
        os.close(top)


def _write(top: int, file: File) -> None:
    folder_path, name = posixpath.split(posixpath.normpath("/" + file.path))
    with _folder(top, folder_path) as folder:
        beside = f".{name[:200]}.{secrets.token_hex(4)}"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb") as target:
                os.fchmod(fd, file.mode)  # whatever our umask is
                target.write(file.content)
            os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=folder)
            raise


@contextlib.contextmanager
def _folder(top: int, path: str) -> Iterator[int]:
    """Yield a descriptor of the folder `path` below `top`, made where it is missing."""
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        fd = open_in_root(top, path, flags)
    except FileNotFoundError:
        parent, name = posixpath.split(path)
        with _folder(top, parent) as above:
            try:
                os.mkdir(name, 0o755, dir_fd=above)
            except FileExistsError as error:  # a symbolic link that leads nowhere
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
            # What has that name by now need not be what we made: only what was opened, and is no link, is changed.
            made = open_in_root(above, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchmod(made, 0o755)  # whatever our umask is
            finally:
                os.close(made)
        fd = open_in_root(top, path, flags)
    try:
        yield fd
    finally:
        os.close(fd)
