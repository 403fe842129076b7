"""Volumes: one sparse ext4 image file each, which every form uses: loop-mounted on a host, or as a disk of a guest."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import struct
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from isoform.errors import DescriptorError, HostLacks, StepFailed, WrongState
from isoform.host import attempt, run
from isoform.model import Mount
from isoform.units import format_bytes

log = logging.getLogger(__name__)
# No journal checksum seeds or other features newer than the oldest kernel that must read it (Debian 12: 6.1);
# lazy: nothing is written that a first mount can write; root_owner: not who happens to run this.
_MKFS = ("-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", "-m", "0")
_LEAST_BYTES = 4 << 20
_GROWS = "trusted.isoform.grows"  # an attribute of the file: there until its file system fills it
_FREE_S, _LOCK_S, _LOOK_S = 2.0, 60.0, 0.01
# Source: Linux, fs/ext4/ext4.h, struct ext4_super_block: s_magic and s_state stand at 56, s_feature_incompat at 96.
_SUPERBLOCK, _MAGIC, _CLEAN, _NEEDS_RECOVERY = 1024, 0xEF53, 1, 4
_CORRECTED = 1  # e2fsck(8): the highest exit status after which the file system is in order


async def ensure_volume(mount: Mount, mkfs: str = "mkfs.ext4") -> None:
    """Make the volume's image file if it is missing, and let it grow if it is smaller than it should be.

    A new one appears whole or not at all.

    Args:
        mkfs: the tool, where it is not on the PATH; its kin are beside it.
    Raises: HostLacks where the disk is full or the tool is missing, StepFailed; DescriptorError where it would
        have to shrink, WrongState where it would have to grow while it is in use.
    """
    path, size_bytes = Path(mount.source), max(mount.size_bytes, _LEAST_BYTES)
    try:
        if not path.exists():
            await _make(path, mount.volume, size_bytes, mkfs)
        async with _alone(path) as file:
            has_bytes = os.fstat(file).st_size
            if size_bytes < has_bytes:
                raise DescriptorError(
                    f"the volume {mount.volume} has {format_bytes(has_bytes)} and cannot shrink to "
                    f"{format_bytes(size_bytes)}", why="what is stored in it might not fit",
                    fix=f"ask for {format_bytes(has_bytes)} or more, or for a volume of another name")
            if size_bytes > has_bytes or _GROWS in os.listxattr(file):
                await _grow(file, path, mount.volume, size_bytes, mkfs)
    except OSError as error:
        raise HostLacks(f"cannot make the volume {mount.volume}", why=f"{path}: {error.strerror}") from error


async def check_volume(mount: Mount, mkfs: str = "mkfs.ext4") -> None:
    """Mend the volume's file system before this host's kernel reads it, where a guest left it in a hurry.

    Raises: StepFailed if it cannot be mended without loss.
    """
    path = Path(mount.source)
    async with _alone(path) as file:
        if not _is_clean(file) and not _users(path):
            await _check(path, mount.volume, mkfs)


async def _make(path: Path, name: str, size_bytes: int, mkfs: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(file, "wb") as image:
            image.truncate(size_bytes)
        await run([mkfs, *_MKFS, "-L", name[:16], beside])
        with contextlib.suppress(FileExistsError):  # another was first: this is that one's volume
            os.link(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


async def _grow(file: int, path: Path, name: str, size_bytes: int, mkfs: str) -> None:
    end = time.monotonic() + _FREE_S  # the kernel frees a loop device a little after the last mount of it
    while users := _users(path):
        if time.monotonic() > end:
            raise WrongState(f"the volume {name} cannot grow to {format_bytes(size_bytes)} now",
                             why=f"it is in use by {' and '.join(users)}",
                             fix="take down all functions that use it, then bring them up again")
        await asyncio.sleep(_LOOK_S)
    os.setxattr(file, _GROWS, b"1")  # on disk before the change: a file that only became longer is known by it
    os.truncate(file, max(size_bytes, os.fstat(file).st_size))
    await _check(path, name, mkfs)
    await run([_kin(mkfs, "resize2fs"), str(path)], deadline_s=600)
    os.removexattr(file, _GROWS)
    log.info("volume grown", extra={"volume": name, "size_bytes": size_bytes})


async def _check(path: Path, name: str, mkfs: str) -> None:
    result = await attempt([_kin(mkfs, "e2fsck"), "-f", "-p", str(path)], deadline_s=600)
    if not 0 <= result.code <= _CORRECTED:
        said = (result.out.strip() or result.err.strip()).splitlines()
        raise StepFailed(f"the file system of the volume {name} is broken", why=said[-1] if said else "",
                         fix=f"mend it with: e2fsck -f {path}")


def _kin(mkfs: str, name: str) -> str:
    return str(Path(mkfs).with_name(name)) if "/" in mkfs else name


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[int]:
    """Yield a descriptor of the image, while no other isoform changes it as a whole. Raises: StepFailed."""
    file, end = os.open(path, os.O_RDWR | os.O_CLOEXEC), time.monotonic() + _LOCK_S
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > end:
                raise StepFailed(f"another isoform has been busy with {path} for {_LOCK_S:g} s")
            await asyncio.sleep(_LOOK_S)
        yield file
    finally:
        os.close(file)


def _is_clean(file: int) -> bool:
    """Return whether the file system was unmounted, as far as its superblock says so; it may still be wrong."""
    block = os.pread(file, 100, _SUPERBLOCK)
    if len(block) < 100:
        return False
    (magic, state), (features,) = struct.unpack_from("<2H", block, 56), struct.unpack_from("<I", block, 96)
    return magic == _MAGIC and state == _CLEAN and not features & _NEEDS_RECOVERY


def _users(path: Path) -> list[str]:
    """Return what has the image open: loop devices, or else processes. Slow: reads all of /proc."""
    real, wanted, found = os.path.realpath(path), path.stat(), []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # freed while we look
            if backing.read_text().rstrip("\n") == real:
                found.append(f"/dev/{backing.parts[3]}")
    if found:
        return found
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended while we look
                if any(_same(file, wanted) for file in Path(entry.path, "fd").iterdir()):
                    found.append(f"PID {entry.name}")
    return found


def _same(path: Path, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), wanted)
    except OSError:
        return False
