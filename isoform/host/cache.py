"""What was found out about the host, kept in the home's host.json until the host changes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from isoform.errors import HostLacks, StepFailed
from isoform.host.home import Home

log = logging.getLogger(__name__)

_LOCK_WAIT_S, _LOCK_POLL_S = 120.0, 0.02  # a probe takes seconds; flock has no other way to wait beside a loop


def stamp(files: Iterable[str], *more: object) -> str:
    """Return 16 hex digits that change with this boot, the kernel, any of `files` (size, mtime), or `more`."""
    known: list[object] = [os.uname(), _boot(), *more]
    for file in files:
        try:
            found = os.stat(file)  # noqa: PTH116  a few dozen of these on every command's way
            known.append((file, found.st_mtime_ns, found.st_size))
        except OSError:
            known.append((file, None))
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


def read(home: Home, section: str, key: str) -> Any | None:
    """Return what is kept under `section`, or None if there is nothing, or it was found under another `key`."""
    kept = _load(home).get(section)
    if not isinstance(kept, dict) or kept.get("key") != key:
        return None
    until = kept.get("until")
    return None if until is not None and time.time() >= until else kept.get("value")


def last(home: Home, section: str) -> Any | None:
    """Return what is kept under `section`, whatever it was found under; None if there is nothing."""
    kept = _load(home).get(section)
    return kept.get("value") if isinstance(kept, dict) else None


def write(home: Home, section: str, key: str, value: Any, keep_s: float | None = None) -> None:
    """Keep `value` for `keep_s` seconds, or until `key` changes. Only for who holds `lock`.

    Where the disk is full nothing is kept, and it is found out again next time.
    """
    everything = _load(home)
    everything[section] = {"key": key, "until": None if keep_s is None else time.time() + keep_s, "value": value}
    beside = home.path / "host.json.new"
    try:
        with beside.open("w") as file:
            json.dump(everything, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(home.path / "host.json")
    except OSError as error:
        log.warning("cannot keep what was found out about the host", extra={"file": str(beside), "why": str(error)})
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _load(home: Home) -> dict[str, Any]:
    try:
        found = json.loads((home.path / "host.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.asynccontextmanager
async def lock(home: Home) -> AsyncIterator[None]:
    """Let one process at a time probe for this home, whatever becomes of it. Raises: StepFailed, HostLacks."""
    try:
        home.path.mkdir(parents=True, exist_ok=True)
        fd = os.open(home.path / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostLacks(f"cannot write in the home folder {home.path}", why=error.strerror or "",
                        fix="run as root, or set ISOFORM_HOME to another folder") from error
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StepFailed("another isoform has been probing this host for too long",
                                     why=f"it holds {home.path}/host.lock", fix=f"fuser -v {home.path}/host.lock"
                                     ) from error
                await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(fd)
