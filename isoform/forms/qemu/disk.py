"""The writable disk under a machine's overlay: a sparse ext4 image with the two folders that an overlay needs."""

from __future__ import annotations

from pathlib import Path

from isoform.errors import HostLacks
from isoform.host import run

SIZE_BYTES = 8 << 30  # what the function may write; the file holds only what it has written
# All is initialised now, and on holes, so no guest does so in the background: 0.2 MiB and 5 ms.
_MKFS = ("-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0", "-m", "0", "-J", "size=16",
         "-N", "524288", "-O", "^resize_inode")


async def make_disk(folder: Path, mkfs: str = "mkfs.ext4") -> Path:
    """Make the disk in the machine's `folder` and return it. Raises: HostLacks, StepFailed."""
    disk, content = folder / "disk.ext4", folder / "disk.d"
    try:
        for name in ("upper", "work"):
            (content / name).mkdir(parents=True, exist_ok=True)
            (content / name).chmod(0o755)  # the upper folder's mode becomes that of the function's "/"
        with disk.open("wb") as file:
            file.truncate(SIZE_BYTES)
    except OSError as error:
        raise HostLacks("cannot make the machine's disk", why=f"{error.filename}: {error.strerror}",
                        fix="free some disk space") from error
    await run([mkfs, *_MKFS, "-d", str(content), str(disk)])
    return disk
