"""The OCI bundle: from an instance to config.json. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isoform.forms.oci import capability
from isoform.model import Instance

MOST_PROCESSES = 4096  # per instance: a fork bomb ends there, no network function comes near
CPU_PERIOD_US = 100_000  # the kernel's default
NOFILE_SOFT, NOFILE_HARD = 1024, 524_288  # as systemd and Docker give: select(2) breaks above 1024
TUN = "/dev/net/tun"

# As Docker: https://github.com/moby/moby/blob/master/oci/defaults.go
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# In a network namespace of its own these give no power, and spare a function from being root. Also Docker's default.
SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


@dataclass(frozen=True, slots=True)
class Site:
    """Where a container runs: paths as the runtime there sees them, and what that kernel offers."""

    rootfs: str  # the mounted root
    netns: str  # path of the network namespace; "" for a new one
    cgroup: str  # below every hierarchy's root: "/isoform-1a2b3c/edge.web.0"
    volumes: Mapping[str, str] = field(default_factory=dict)  # volume's name -> folder to bind
    seccomp: Mapping[str, Any] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    swap: bool = False  # whether the kernel counts swap: else a limit on it is an error
    tun: bool = False  # whether /dev/net/tun is there
    nofile: int = NOFILE_HARD  # the highest limit of open files that may be given


def config(instance: Instance, site: Site) -> dict[str, Any]:
    """Return the content of config.json.

    Raises: ValueError for a bare machine, which has no process.
    """
    if instance.process is None:
        raise ValueError(f"{instance.id} has no process")
    return {
        "ociVersion": "1.0.2",
        "hostname": instance.hostname,
        "root": {"path": site.rootfs, "readonly": False},
        "process": process(instance, site.nofile),
        "mounts": [*_KERNEL_MOUNTS, *_volumes(instance, site)],
        "annotations": {"io.isoform.instance": instance.id, **site.annotations},
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
                {"type": "network", **({"path": site.netns} if site.netns else {})},
            ],
            "cgroupsPath": site.cgroup,
            "resources": _resources(instance, site),
            "devices": [{"path": TUN, "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}]
            if _has_tun(instance, site) else [],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
            "sysctl": {**SYSCTLS, **dict(instance.sysctls)},
            **({"seccomp": site.seccomp} if site.seccomp else {}),
        },
    }


def process(instance: Instance, nofile: int = NOFILE_HARD) -> dict[str, Any]:
    """Return the OCI process of the instance's entrypoint."""
    wanted = instance.process
    assert wanted is not None
    return {
        "terminal": False,
        "user": {"uid": wanted.user.uid, "gid": wanted.user.gid, "additionalGids": list(wanted.user.groups)},
        "args": list(wanted.argv),
        "env": [f"{name}={value}" for name, value in {"HOME": wanted.user.home, **dict(wanted.env)}.items()],
        "cwd": wanted.cwd or "/",
        "capabilities": capability.granted(instance.capabilities),
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": min(NOFILE_SOFT, nofile), "hard": min(NOFILE_HARD, nofile)}],
    }


def _has_tun(instance: Instance, site: Site) -> bool:
    # a tunnel device belongs to the network namespace: who may change that may have it, and no one else
    return site.tun and "CAP_NET_ADMIN" in map(capability.normal, instance.capabilities)


def _resources(instance: Instance, site: Site) -> dict[str, Any]:
    memory = {"limit": instance.size.memory_bytes}
    if site.swap:
        memory["swap"] = instance.size.memory_bytes  # memory and swap together: none beside the memory
    devices: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    if _has_tun(instance, site):
        devices.append({"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"})
    return {
        "memory": memory,
        "cpu": {"quota": max(1000, round(instance.size.cpus * CPU_PERIOD_US)), "period": CPU_PERIOD_US},
        "pids": {"limit": MOST_PROCESSES},
        "devices": devices,
    }


def _volumes(instance: Instance, site: Site) -> list[dict[str, Any]]:
    return [
        {"destination": mount.path, "type": "bind", "source": site.volumes[mount.volume],
         "options": ["rbind", "rprivate", "nodev", "nosuid", "ro" if mount.read_only else "rw"]}
        for mount in instance.mounts
    ]


_KERNEL_MOUNTS: tuple[dict[str, Any], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
     "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
     "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
     "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
     "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
)
