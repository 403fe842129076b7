"""A folder becomes a layer's blob: the same folder always the same one."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from isoform.errors import StepFailed
from isoform.host import process
from isoform.images.admit import digest_of
from isoform.images.unpack import WITH_US, feed, is_full, stop

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"
_TAR = ("tar", "--create", "--file=-", "--sort=name", "--format=posix", "--numeric-owner", "--xattrs",
        "--xattrs-include=*", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer's blob."""

    diff_id: str  # digest of the tar
    digest: str  # digest of the blob
    size: int  # of the blob, bytes


def level_times(tree: Path, now_s: float, epoch_s: int | None = None) -> int:
    """Give folders, and whatever was made by this build, one fixed time; return it, in seconds since the epoch.

    Args:
        now_s: when the build began: what is older came out of a package and keeps its time.
        epoch_s: that time; None: the newest of the packages' files.
    """
    seen = [(Path(top) / name, (Path(top) / name).lstat())
            for top, folders, names in os.walk(tree) for name in folders + names]
    seen.append((tree, tree.lstat()))
    if epoch_s is None:
        epoch_s = max((int(s.st_mtime) for _, s in seen if stat.S_ISREG(s.st_mode) and s.st_mtime < now_s), default=0)
    for path, was in seen:
        if stat.S_ISDIR(was.st_mode) or was.st_mtime > epoch_s or was.st_mtime_ns % 10**9:
            os.utime(path, (epoch_s, epoch_s), follow_symlinks=False)
    return epoch_s


async def pack(tree: Path, blobs: Path, lock: int) -> Packed:
    """Write the layer that a tree makes into the folder `blobs`, under its digest."""
    beside = blobs / ".packing"
    with beside.open("wb") as out, tempfile.TemporaryFile() as said:
        def spawn(argv: list[str], into: int, sink: IO[bytes] | int) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*WITH_US, *argv], stdin=into, stdout=sink, stderr=said, pass_fds=(lock,),
                                    process_group=0)

        tar = spawn([*_TAR, f"--directory={tree}", "."], subprocess.DEVNULL, subprocess.PIPE)
        zstd = spawn(["zstd", "-q", "-3", "-c"], subprocess.PIPE, out)
        try:
            assert tar.stdout is not None and zstd.stdin is not None
            diff_id, _ = await asyncio.to_thread(feed, tar.stdout, zstd.stdin)
            codes = [await process.wait(tar), await process.wait(zstd)]
        finally:
            for child in (tar, zstd):
                stop(child)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip()
        os.fsync(out.fileno())
    if any(codes):
        error = StepFailed("packing a layer failed", why=lines)
        if is_full(error):
            raise OSError(28, lines) from error
        raise error
    digest = digest_of(beside)
    path = blobs / digest.removeprefix("sha256:")
    beside.rename(path)
    return Packed(diff_id, digest, path.stat().st_size)
