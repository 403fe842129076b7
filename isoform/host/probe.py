"""What this machine can do: found by trying, kept until the kernel, the boot or the packages change."""

from __future__ import annotations

import asyncio
import os
import shutil

from isoform.errors import StepFailed
from isoform.host import cache
from isoform.host.facts import Facts, Runtime, RuntimeTrial, dump, fastest, load
from isoform.host.home import Home

__all__ = ["Facts", "Runtime", "RuntimeTrial", "facts", "find_tools"]

RUNTIMES = ("crun", "runc", "runsc")
_SECTION = "facts 1"  # counts up when Facts changes
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "ppc64le": "ppc64el", "i686": "i386"}
_RETRY_S = 60.0  # while something that every form needs does not work
_RETRY_ONE_S = 3600.0  # while one of several runtimes does not work
TOOLS = (
    *RUNTIMES, "conmon", "qemu-img", "mkfs.erofs", "mkfs.ext4", "skopeo", "mmdebstrap", "nft", "ip", "ssh",
    "ssh-keygen", "unshare", "nsenter", "zstd", "lz4", "cpio", "depmod", "modprobe", "busybox", "dpkg-deb", "apt-get",
    "apt-cache", "curl",
)


def architecture(machine: str) -> str:
    """Return what Debian and OCI call the machine that uname(2) names."""
    return _ARCHITECTURES.get(machine, machine)


def find_tools(machine: str) -> dict[str, str]:
    """Return the path of every tool that isoform uses, "" where it is missing."""
    folders = [folder for folder in os.environ.get("PATH", "").split(":") if folder]
    # a user's shell has no sbin on its PATH, and half of these live there
    path = ":".join(dict.fromkeys([*folders, "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]))
    return {name: shutil.which(name, path=path) or "" for name in (*TOOLS, qemu_name(machine))}


def qemu_name(machine: str) -> str:
    """Return the name of the QEMU that emulates the machine that uname(2) names."""
    return f"qemu-system-{'i386' if machine == 'i686' else machine}"


def keep_s(found: Facts) -> float | None:
    """Return for how long to believe `found`, in seconds; None: until the host changes.

    What failed may have failed for a passing reason (no memory, a module not yet there), so it is tried again.
    """
    if found.runtime is None or not found.erofs or not found.features.get("overlay") or not found.cgroup:
        return _RETRY_S
    return None if all(trial.works for trial in found.runtimes) else _RETRY_ONE_S


async def facts(home: Home, refresh: bool = False) -> Facts:
    """Return what this host can do; tried once, then read from the home until the host changes.

    Args:
        refresh: try everything again.
    Raises: StepFailed if another process probes for minutes or the home's disk is full, HostLacks if it cannot be
        written.
    """
    machine = os.uname().machine
    tools = find_tools(machine)
    key = cache.stamp(["/var/lib/dpkg/status", *tools.values()], os.geteuid(), os.sysconf("SC_PHYS_PAGES"),
                      sorted(os.sched_getaffinity(0)))
    if not refresh:
        kept = cache.read(home, _SECTION, key)
        if kept is not None:
            return load(kept)
    async with cache.lock(home):
        if not refresh:  # another process may have found out while we waited
            kept = cache.read(home, _SECTION, key)
            if kept is not None:
                return load(kept)
        try:
            found = await _probe(home, machine, tools)
        except OSError as error:  # a full disk
            raise StepFailed("cannot try out what this host can do", why=str(error)) from error
        cache.write(home, _SECTION, key, dump(found), keep_s(found))
        return found


async def _probe(home: Home, machine: str, tools: dict[str, str]) -> Facts:
    from isoform.host import cgroup, features, trial  # here: a kept answer needs none of it

    layout = cgroup.layout()
    async with trial.folder(home) as folder:
        # alone, because they are timed
        trials = [await trial.runtime(home, folder, name, tools[name], layout) for name in RUNTIMES if tools[name]]
        network, (erofs, overlay), version = await asyncio.gather(
            asyncio.to_thread(features.features, home, tools["nft"]),
            trial.erofs(folder, tools["mkfs.erofs"]),
            trial.qemu_version(tools[qemu_name(machine)]),
        )
    return Facts(
        kernel=os.uname().release, architecture=architecture(machine), cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        cgroup=layout.mode, controllers=layout.controllers, runtime=fastest(tuple(trials)), runtimes=tuple(trials),
        qemu=tools[qemu_name(machine)], qemu_version=version, erofs=erofs, tools=tools,
        features={"overlay": overlay, **features.more(), **network},
    )
