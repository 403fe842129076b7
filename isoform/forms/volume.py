"""Volumes: one sparse ext4 image file each, which every form uses: loop-mounted on a host, or as a disk of a guest."""

from __future__ import annotations

import os
from pathlib import Path

from isoform.errors import HostLacks
from isoform.host import run
from isoform.model import Mount

# No journal checksum seeds or other features newer than the oldest kernel that must read it (Debian 12: 6.1);
# lazy: nothing is written that a first mount can write; root_owner: not who happens to run this.
_MKFS = ("-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", "-m", "0")
_LEAST_BYTES = 4 << 20


async def ensure_volume(mount: Mount, mkfs: str = "mkfs.ext4") -> None:
    """Make the volume's image file if it is missing. It appears whole or not at all.

    Args:
        mkfs: the tool, where it is not on the PATH.
    Raises: HostLacks where the disk is full or the tool is missing, StepFailed.
    """
    path = Path(mount.source)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.truncate(max(mount.size_bytes, _LEAST_BYTES))
        await run([mkfs, *_MKFS, "-L", mount.volume[:16], str(beside)])
        os.link(beside, path)
    except FileExistsError:
        return
    except OSError as error:
        raise HostLacks(f"cannot make the volume {mount.volume}", why=f"{path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
