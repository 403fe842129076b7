"""Does the service fit this host? Asked before anything is made, so that a refusal leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from isoform.engine.desired import Desired
from isoform.engine.observe import World
from isoform.errors import HostLacks
from isoform.model import Instance
from isoform.units import format_bytes

_LEAST_DISK_BYTES = 64 << 20  # below this not even logs and sockets are sure to fit


def check_capacity(desired: Desired, world: World, disk: Path, reserving: Collection[str]) -> None:
    """Refuse a service whose new machines need more memory than is free, or a disk that is full.

    Args:
        disk: a folder on the disk in question.
        reserving: names of the forms that set their memory aside.
    Raises: HostLacks with the numbers.
    """
    machines = _new_machines(desired, world, reserving)
    wanted = sum(machine.size.memory_bytes for machine in machines.values())
    available = _available_bytes(Path("/proc/meminfo").read_text())
    if wanted > available:
        raise HostLacks(
            f"service {desired.service} does not fit into this host's memory",
            why=f"its new machines need {format_bytes(wanted)}, and {format_bytes(available)} is free: "
            + ", ".join(f"{one.label} {format_bytes(one.size.memory_bytes)}" for one in machines.values()),
            fix="give them less `memory:`, run some as containers, or free memory",
        )
    total = _total_bytes(Path("/proc/meminfo").read_text())
    for wish in desired.wishes:
        if wish.instance.size.memory_bytes > total:
            raise HostLacks(
                f"{wish.instance.label} asks for more memory than this host has",
                why=f"it asks for {format_bytes(wish.instance.size.memory_bytes)} of {format_bytes(total)}",
                fix="give it less `memory:`",
            )
    free = os.statvfs(disk)
    if free.f_bavail * free.f_frsize < _LEAST_DISK_BYTES:
        raise HostLacks(
            f"the disk that holds {disk} is full",
            why=f"{format_bytes(free.f_bavail * free.f_frsize)} is free, {format_bytes(_LEAST_DISK_BYTES)} is needed",
            fix="free space, for example with: isoform image prune",
        )


def _new_machines(desired: Desired, world: World, reserving: Collection[str]) -> dict[str, Instance]:
    """Return the virtual machines that are wanted and do not run yet, by id."""
    found: dict[str, Instance] = {}
    for wish in desired.wishes:
        seen = world.instances.get(wish.id, ())
        if wish.instance.form not in reserving or any(each.observation.state == "running" for each in seen):
            continue
        found[wish.attached_as.id] = wish.attached_as
    return found


def _available_bytes(meminfo: str) -> int:
    return _field_bytes(meminfo, "MemAvailable")


def _total_bytes(meminfo: str) -> int:
    return _field_bytes(meminfo, "MemTotal")


def _field_bytes(meminfo: str, name: str) -> int:
    for line in meminfo.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise HostLacks(f"/proc/meminfo has no {name}")
