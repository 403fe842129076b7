"""A layer's tar becomes one EROFS file that every form reads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from isoform.errors import DescriptorError, HostLacks, StepFailed
from isoform.host import process
from isoform.images.store import hex_of, sync_folder, write
from isoform.images.whiteout import users_of, whiten
from isoform.units import format_bytes

CHUNK = 1 << 20
LOOK_EVERY_S = 0.1  # between two reports of progress
_DECOMPRESS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
# A child must not outlive us by long: what it writes would be swept away under it.
WITH_US = ("setpriv", "--pdeathsig", "KILL")
# GNU tar itself puts off links that leave the tree and strips `/` and `..` from names. Overlayfs obeys its own
# attributes, so an image may not bring any (redirect could name what the layer does not hold).
TAR = ("tar", "--extract", "--file=-", "--numeric-owner", "--same-owner", "--same-permissions", "--xattrs",
       "--xattrs-include=*", "--xattrs-exclude=trusted.overlay.*", "--xattrs-exclude=security.selinux",
       "--delay-directory-restore", "--warning=no-unknown-keyword", "--warning=no-timestamp")
_FULL = re.compile(r"[Nn]o space left on device|Wrote only \d+ of \d+ bytes")  # the latter: GNU tar, a part fitted


def decompressor(blob: Path) -> list[str]:
    """Return the command that decompresses a layer, told by its first bytes; `cat` for a plain tar."""
    with blob.open("rb") as file:
        head = file.read(4)
    return next(([tool, "-dc"] for magic, tool in _DECOMPRESS if head.startswith(magic)), ["cat"])


async def unpack(blob: Path, diff_id: str, erofs: Path, users: Path, work: tuple[Path, int], place: str,
                 say: Callable[[float], None]) -> None:
    """Make the EROFS file of a layer, and beside it the users that the layer defines.

    Args:
        blob: the layer as the image brings it: a tar, plain or compressed with gzip or zstd.
        diff_id: "sha256:…", which the decompressed tar must have.
        erofs, users: the files to make; both appear whole or not at all, `erofs` last.
        work: a workplace on the same file system, and its descriptor.
        place: which layer of which image, for errors.
        say: told the fraction of the blob that was read.
    Raises: DescriptorError if the layer is damaged; HostLacks on a full disk.
    """
    folder, lock = work
    tree = Path(tempfile.mkdtemp(dir=folder, prefix="tree-"))
    tree.chmod(0o755)  # becomes the mode of / where the layer has no entry for it
    size = 0
    try:
        found, size = await _extract(blob, tree, lock, place, say)
        if found != diff_id:
            raise DescriptorError(f"{place} is damaged", why=f"its content has the digest {found}, not {diff_id}",
                                  fix="get the image anew")
        await keep(tree, diff_id, erofs, users, work, whiten(tree))
    except BaseException as error:
        shutil.rmtree(tree, ignore_errors=True)
        if isinstance(error, _Full):
            size = error.unpacked_bytes
        if is_full(error):
            raise disk_full(place, folder, 2 * size) from error
        raise
    shutil.rmtree(tree, ignore_errors=True)


async def keep(tree: Path, diff_id: str, erofs: Path, users: Path, work: tuple[Path, int], sparse: bool) -> None:
    """Make the EROFS file of a layer's tree, whitened already, and what is known of its users."""
    folder, lock = work
    made = folder / erofs.name
    try:
        await make_erofs(tree, made, diff_id, lock, sparse)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        write(users, json.dumps(users_of(tree)).encode(), folder)
        made.rename(erofs)
        sync_folder(erofs.parent)
    except BaseException:
        made.unlink(missing_ok=True)
        users.unlink(missing_ok=True)
        raise


def is_full(error: BaseException) -> bool:
    """Return whether an error came of a full disk."""
    return _FULL.search(str(error)) is not None or (isinstance(error, OSError) and error.errno == errno.ENOSPC)


def disk_full(what: str, folder: Path, needed_bytes: int = 0) -> HostLacks:
    """Return the error for something that does not fit on the disk of `folder`; 0: nobody knows how much it needs."""
    free = f"{format_bytes(shutil.disk_usage(folder).free)} are free"
    return HostLacks(f"{what} does not fit on the disk of {folder}",
                     why=f"unpacking needs about {format_bytes(needed_bytes)}; {free}" if needed_bytes else free,
                     fix="free some space (isoform image prune), or set ISOFORM_HOME to a larger disk")


class _Full(Exception):
    def __init__(self, unpacked_bytes: int) -> None:
        super().__init__("No space left on device")
        self.unpacked_bytes = unpacked_bytes


async def make_erofs(tree: Path, erofs: Path, diff_id: str, lock: int, sparse: bool) -> None:
    """Make an EROFS file of a tree: uncompressed, so that pages are shared as they are and every kernel mounts it."""
    fixed = str(uuid.UUID(hex_of(diff_id)[:32]))  # else each making would differ
    holes = ["--chunksize=4096"] if sparse else []  # only chunks can be holes
    await process.run([*WITH_US, "mkfs.erofs", "-U", fixed, *holes, str(erofs), str(tree)], pass_fds=(lock,),
                      deadline_s=None)


def stop(child: subprocess.Popen[bytes]) -> None:
    """Kill a child unless it has ended."""
    if child.poll() is None:
        process.end(child)


async def _extract(blob: Path, tree: Path, lock: int, place: str, say: Callable[[float], None]) -> tuple[str, int]:
    """Unpack a layer below `tree` and return the digest and the size of the tar that it was."""
    with blob.open("rb", buffering=0) as source, tempfile.TemporaryFile() as said, contextlib.ExitStack() as children:

        def spawn(argv: list[str], into: IO[bytes] | int, out: int) -> subprocess.Popen[bytes]:
            try:
                child = subprocess.Popen([*WITH_US, *argv], stdin=into, stdout=out, stderr=said, pass_fds=(lock,),
                                         process_group=0)
            except FileNotFoundError as error:
                raise HostLacks(f"{WITH_US[0]} is not installed", fix="run: isoform doctor") from error
            children.callback(stop, child)
            return child

        reader = spawn(decompressor(blob), source, subprocess.PIPE)
        tar = spawn([*TAR, f"--directory={tree}"], subprocess.PIPE, subprocess.DEVNULL)
        assert reader.stdout is not None and tar.stdin is not None
        feeding = asyncio.create_task(asyncio.to_thread(feed, reader.stdout, tar.stdin))
        total = max(1, blob.stat().st_size)
        while not (await asyncio.wait({feeding}, timeout=LOOK_EVERY_S))[0]:
            say(os.lseek(source.fileno(), 0, os.SEEK_CUR) / total)  # the reader moves the offset that we share
        digest, size = feeding.result()
        codes = [await process.wait(child) for child in (reader, tar)]
        said.seek(0)
        lines = said.read().decode(errors="replace")
    if any(codes):
        if _FULL.search(lines):
            raise _Full(size)
        if 127 in codes:
            raise HostLacks(f"{place} cannot be unpacked", why=lines.strip(), fix="run: isoform doctor")
        raise DescriptorError(f"{place} is damaged", why="; ".join(lines.strip().splitlines()[-3:]),
                              fix="get the image anew")
    return digest, size


def feed(source: IO[bytes], sink: IO[bytes]) -> tuple[str, int]:
    """Copy a tar and return its digest and size; goes on to the end where the sink takes no more."""
    digest, size, takes = hashlib.sha256(), 0, True
    try:
        with source, contextlib.suppress(BrokenPipeError), sink:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                if takes:
                    try:
                        sink.write(chunk)
                    except BrokenPipeError:
                        takes = False
    except OSError as error:
        raise StepFailed("reading a layer failed", why=str(error)) from error
    return f"sha256:{digest.hexdigest()}", size
