"""Trials: a real container in each OCI runtime, a real EROFS image mounted, a real overlay on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from isoform.errors import IsoformError
from isoform.host import cgroup, mount, netns
from isoform.host.facts import RuntimeTrial
from isoform.host.home import Home
from isoform.host.process import Result, attempt

DEADLINE_S = 10.0  # a container takes some 0.05 s; a busy machine may take far longer
_BEST_OF = 3
_SHOWN = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")  # of the host, read-only: no image is needed


@contextlib.asynccontextmanager
async def folder(home: Home) -> AsyncIterator[Path]:
    """Lend an empty folder in the home; what an earlier trial left there, or in the kernel, goes first."""
    at = home.path / "probe"
    await clean(home, at)
    at.mkdir(parents=True)
    try:
        yield at
    finally:
        await clean(home, at)


async def clean(home: Home, at: Path) -> None:
    """Remove all that trials leave: mounts, groups with their processes, namespaces, files."""
    mount.unmount_all(str(at))
    group = home.cgroup("probe")
    for process in cgroup.processes(group):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    await cgroup.remove(group)
    netns.delete(home.netns("probe"))
    shutil.rmtree(at, ignore_errors=True)


def prefixes(name: str, layout: cgroup.Layout) -> list[tuple[str, ...]]:
    """Return the ways to start the runtime `name` on such a host, the plain one first.

    crun refuses hosts with both cgroup versions ("cgroups in hybrid mode not supported", crun 1.8) unless the second
    hierarchy is out of its sight, in a mount namespace of its own.
    """
    ways: list[tuple[str, ...]] = [()]
    if name == "crun" and layout.mode == "hybrid":
        ways.append(("unshare", "-m", "--propagation", "slave", "sh", "-c",
                     f'umount -l {layout.v2}; exec "$@"', "sh"))
    return ways


def bundle_config(rootfs: str, cgroup_path: str, host: Path = Path("/")) -> dict[str, Any]:
    """Return an OCI config for a container with limits that runs the host's own `true`.

    Source: OCI runtime specification 1.0, config.md and config-linux.md.
    """
    shown = [name for name in _SHOWN if (host / name).is_dir() and not (host / name).is_symlink()]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": rootfs, "readonly": True},
        "hostname": "probe",
        "process": {"args": ["/usr/bin/true"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"],
                    "user": {"uid": 0, "gid": 0}, "noNewPrivileges": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            *({"destination": f"/{name}", "type": "bind", "source": f"/{name}", "options": ["rbind", "ro"]}
              for name in shown),
        ],
        "linux": {
            "cgroupsPath": cgroup_path,
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"memory": {"limit": 256 << 20}, "cpu": {"quota": 100_000, "period": 100_000},
                          "pids": {"limit": 64}},
        },
    }


def make_bundle(at: Path, cgroup_path: str) -> None:
    """Write the bundle of `bundle_config` into the folder `at`."""
    rootfs = at / "rootfs"
    rootfs.mkdir(parents=True)
    for name in ("proc", "dev", *_SHOWN):
        here = Path("/") / name
        if here.is_symlink():  # /bin is usr/bin where /usr is merged
            (rootfs / name).symlink_to(here.readlink())
        elif here.is_dir():
            (rootfs / name).mkdir()
    (at / "config.json").write_text(json.dumps(bundle_config("rootfs", cgroup_path)))


async def runtime(home: Home, at: Path, name: str, path: str, layout: cgroup.Layout) -> RuntimeTrial:
    """Run a container in the runtime `name` a few times, in each way until one works."""
    bundle, state = at / name, at / f"{name}-state"
    await asyncio.to_thread(make_bundle, bundle, f"{home.cgroup('probe')}/{name}")
    version = first_version(await said([path, "--version"]))
    why = ""
    for prefix in prefixes(name, layout):
        argv = [*prefix, path, "--root", str(state), "run", "--bundle", str(bundle)]
        best_s, failed = await _best([*argv], home, name)
        if not failed:
            return RuntimeTrial(name, path, version, prefix, True, round(best_s, 4))
        why = why or failed
        with contextlib.suppress(IsoformError):
            await attempt([*prefix, path, "--root", str(state), "delete", "--force", f"{home.mark}-probe"],
                          deadline_s=DEADLINE_S)
    return RuntimeTrial(name, path, version, (), False, 0.0, why)


async def _best(argv: list[str], home: Home, name: str) -> tuple[float, str]:
    """Return the best time in seconds, and why it failed ("" if it did not)."""
    best_s = float("inf")
    for _ in range(_BEST_OF):
        began = time.perf_counter()
        try:
            result = await attempt([*argv, f"{home.mark}-probe"], deadline_s=DEADLINE_S)
        except IsoformError as error:
            return 0.0, error.what
        best_s = min(best_s, time.perf_counter() - began)
        if result.code != 0:
            return 0.0, last_line(result) or f"{name} ended with exit status {result.code}"
    return best_s, ""


async def erofs(at: Path, mkfs: str) -> tuple[str, bool]:
    """Return how EROFS images mount here ("file", "loop" or ""), and whether an overlay can be laid on one."""
    if not mkfs:
        return "", False
    for name in ("content", "mnt", "upper", "work", "merged"):
        (at / name).mkdir()
    (at / "content" / "file").write_text("lower\n")
    image, target = str(at / "probe.erofs"), str(at / "mnt")
    with contextlib.suppress(IsoformError):
        await attempt([mkfs, image, str(at / "content")], deadline_s=DEADLINE_S)
    for way in ("file", "loop"):
        with contextlib.suppress(IsoformError):
            mount.mount_erofs(image, target, way)
            if (at / "mnt" / "file").read_text() == "lower\n":
                return way, _overlay(at)
        mount.unmount_all(target)
    return "", False


def _overlay(at: Path) -> bool:
    try:
        mount.mount("overlay", str(at / "merged"), "overlay", 0,
                    f"lowerdir={at}/mnt,upperdir={at}/upper,workdir={at}/work")
        (at / "merged" / "file").write_text("upper\n")  # copied up: the upper file system must bear it
        return (at / "merged" / "file").read_text() == "upper\n"
    except (IsoformError, OSError):
        return False


async def qemu_version(path: str) -> str:
    """Return QEMU's version, such as "7.2.22"; "" where it does not say."""
    return first_version(await said([path, "--version"])) if path else ""


async def said(argv: list[str]) -> str:
    """Return what a command printed, "" where it cannot run."""
    try:
        result = await attempt(argv, deadline_s=DEADLINE_S)
    except IsoformError:
        return ""
    return result.out if result.code == 0 else ""


def first_version(text: str) -> str:
    """Return the first word that starts with a digit, such as "1.1.5+ds1", of what a tool says of itself."""
    return next((word.rstrip(",;)") for word in text.split() if word[:1].isdigit()), "")


def last_line(result: Result) -> str:
    """Return the last line of what a failed command said, on stderr if there is any."""
    lines = (result.err.strip() or result.out.strip()).splitlines()
    return lines[-1].strip() if lines else ""
