"""Control groups on hosts with version 1, version 2, or both ("hybrid"), behind one set of verbs.

A path such as `home.cgroup(id)` stands below the root of every hierarchy. QEMU's groups are made here, containers'
are made by the OCI runtime at the same path; all are read and removed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
from dataclasses import dataclass
from pathlib import Path

from isoform.errors import HostLacks, StepFailed

NEEDED = ("cpu", "memory", "pids")
_PERIOD_US = 100_000  # the kernel's default of cpu.max and cpu.cfs_period_us
_V1_OPTIONS = {"rw", "ro", "none", "xattr", "clone_children", "noprefix", "cpuset_v2_mode"}  # the rest: controllers
_REMOVE_WAITS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where this host has its control groups."""

    mode: str  # "v1", "v2" or "hybrid"; "" where none is mounted
    v1: tuple[tuple[str, str], ...]  # (controller, folder), where version 1 has it
    v2: str  # the folder of the version 2 hierarchy, or ""
    v2_controllers: tuple[str, ...]
    roots: tuple[str, ...]  # the folder of every hierarchy, also those without a controller

    @property
    def controllers(self) -> tuple[str, ...]:
        """The sorted names of all controllers, of either version."""
        return tuple(sorted({name for name, _ in self.v1 if "=" not in name} | set(self.v2_controllers)))

    def folder(self, controller: str, path: str) -> str | None:
        """Return the folder of the group `path` that `controller` looks at, or None without that controller."""
        for name, root in self.v1:
            if name == controller:
                return root + path
        return self.v2 + path if controller in self.v2_controllers else None

    def is_v2(self, controller: str) -> bool:
        """Return whether `controller` is under version 2."""
        return controller in self.v2_controllers and controller not in dict(self.v1)


def parse(mountinfo: str, v2_controllers: str) -> Layout:
    """Return the layout that the text of /proc/self/mountinfo and of the v2 root's cgroup.controllers tell."""
    v1: dict[str, str] = {}
    v2, roots = "", []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fstype, _, options = right.split(" ", 2)
        point = left.split(" ")[4]
        if fstype == "cgroup":
            for option in options.split(","):
                if option not in _V1_OPTIONS and not option.startswith("release_agent="):
                    v1.setdefault(option, point)
        elif fstype == "cgroup2" and not v2:
            v2 = point
        else:
            continue
        roots.append(point)
    has_v1 = any("=" not in name for name in v1)
    mode = ("hybrid" if has_v1 else "v2") if v2 else ("v1" if v1 else "")
    return Layout(mode, tuple(v1.items()), v2, tuple(v2_controllers.split()) if v2 else (), tuple(dict.fromkeys(roots)))


@functools.cache
def layout() -> Layout:
    """Return the layout of this host, read once in a process: it does not change while a host is up."""
    mountinfo = Path("/proc/self/mountinfo").read_text()
    found = parse(mountinfo, "")
    with contextlib.suppress(OSError):
        return parse(mountinfo, Path(f"{found.v2}/cgroup.controllers").read_text())
    return found


def limits(v2: bool, cpus: float, memory_bytes: int, pids: int) -> list[tuple[str, str, str, bool]]:
    """Return (controller, file, value, must) for limits, in the order in which they can be written over older ones.

    Args: as for `create`. `must` is False where a kernel may lack the file (built without accounting of swap).
    """
    quota = str(max(1000, round(cpus * _PERIOD_US))) if cpus else ("max" if v2 else "-1")  # 1 ms: the kernel's least
    memory = str(memory_bytes) if memory_bytes else ("max" if v2 else "-1")
    tasks = str(pids) if pids else "max"
    if v2:
        return [("cpu", "cpu.max", f"{quota} {_PERIOD_US}", bool(cpus)),
                ("memory", "memory.max", memory, bool(memory_bytes)),
                ("memory", "memory.swap.max", "0" if memory_bytes else "max", False),
                ("pids", "pids.max", tasks, bool(pids))]
    return [("cpu", "cpu.cfs_period_us", str(_PERIOD_US), bool(cpus)),
            ("cpu", "cpu.cfs_quota_us", quota, bool(cpus)),
            ("memory", "memory.memsw.limit_in_bytes", "-1", False),  # never below memory.limit_in_bytes: lift it first
            ("memory", "memory.limit_in_bytes", memory, bool(memory_bytes)),
            ("memory", "memory.memsw.limit_in_bytes", memory, False),
            ("pids", "pids.max", tasks, bool(pids))]


def create(path: str, cpus: float = 0, memory_bytes: int = 0, pids: int = 0) -> None:
    """Make the group `path`, or change the limits of the one that is there.

    Args:
        cpus: cores, such as 0.5; 0 for no limit, as for the next two.
        memory_bytes: memory without swap.
        pids: processes and threads.
    Raises: HostLacks if a controller is missing, StepFailed.
    """
    here = layout()
    for controller in NEEDED:
        folder = here.folder(controller, path)
        if folder is None:
            continue
        _make(here, controller, folder)
    for v2 in (False, True):
        for controller, file, value, must in limits(v2, cpus, memory_bytes, pids):
            folder = here.folder(controller, path)
            if folder is not None and here.is_v2(controller) == v2:
                _write(f"{folder}/{file}", value, must)
            elif folder is None and must and not v2:
                raise HostLacks(f"this host has no cgroup controller {controller}",
                                why=f"found: {' '.join(here.controllers) or 'none'}",
                                fix=f"boot with the kernel parameter cgroup_enable={controller}")


def _make(here: Layout, controller: str, folder: str) -> None:
    if not here.is_v2(controller):
        Path(folder).mkdir(parents=True, exist_ok=True)
        return
    parents = list(Path(folder).relative_to(here.v2).parents)[::-1]  # "." first
    for parent in parents:
        at = Path(here.v2) / parent
        at.mkdir(exist_ok=True)
        _enable(at, controller)
    Path(folder).mkdir(exist_ok=True)


def _enable(folder: Path, controller: str) -> None:
    """Let `controller` count in the groups below `folder`: version 2 does so only where it is told."""
    control = folder / "cgroup.subtree_control"
    if controller in control.read_text().split():
        return
    try:
        control.write_text(f"+{controller}")
    except OSError as error:
        busy = error.errno == errno.EBUSY
        raise HostLacks(
            f"cannot enable the cgroup controller {controller} below {folder}",
            why="processes live in that group itself, and version 2 allows none beside groups with controllers"
                if busy else str(error),
            fix="run isoform outside a container, or move those processes into a group of their own" if busy else "",
        ) from error


def _write(file: str, value: str, must: bool) -> None:
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        if must:
            raise StepFailed(f"cannot write {value} to {file}", why=error.strerror or "") from error


def enter(path: str, pid: int) -> None:
    """Move a process, with all its threads, into the group `path`. Raises: StepFailed."""
    here = layout()
    for folder in dict.fromkeys(here.folder(controller, path) for controller in NEEDED):
        if folder is not None:
            _write(f"{folder}/cgroup.procs", str(pid), must=True)


def _read(file: str) -> str:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 65536).decode()
    except OSError:  # ENODEV: removed while it was open
        return ""
    finally:
        os.close(fd)


def _field(text: str, name: str) -> int:
    start = text.find(f"\n{name} ")
    return int(text[start + len(name) + 2:].split("\n", 1)[0]) if start >= 0 else 0


def memory_bytes(path: str) -> int:
    """Return the memory that the group holds, less the file cache that it would give back at once; 0 if it is gone.

    Source: as `docker stats` counts: usage less inactive_file.
    """
    here = layout()
    folder = here.folder("memory", path)
    if folder is None:
        return 0
    usage, cache = (("memory.current", "inactive_file") if here.is_v2("memory")
                    else ("memory.usage_in_bytes", "total_inactive_file"))
    return max(0, int(_read(f"{folder}/{usage}") or 0) - _field("\n" + _read(f"{folder}/memory.stat"), cache))


def oom_killed(path: str) -> bool:
    """Return whether the kernel has killed a process of the group for want of memory."""
    here = layout()
    folder = here.folder("memory", path)
    if folder is None:
        return False
    file = "memory.events" if here.is_v2("memory") else "memory.oom_control"
    return _field("\n" + _read(f"{folder}/{file}"), "oom_kill") > 0


def processes(path: str) -> list[int]:
    """Return the sorted PIDs in the group and in the groups below it, in any hierarchy."""
    found: set[int] = set()
    for root in layout().roots:
        for folder, _, _ in os.walk(root + path):
            found.update(int(pid) for pid in _read(f"{folder}/cgroup.procs").split())
    return sorted(found)


async def remove(path: str) -> None:
    """Remove the group with all below it in every hierarchy, and the groups above it that this leaves empty.

    Kills nothing; waits for up to two seconds for processes that are just dying. Raises: StepFailed.
    """
    for wait_s in (*_REMOVE_WAITS_S, None):
        busy = [root for root in layout().roots if not _removed(root, path)]
        if not busy:
            return
        if wait_s is not None:
            await asyncio.sleep(wait_s)
    raise StepFailed(f"cannot remove the cgroup {path}", why=f"processes in it: {processes(path)} (below {busy[0]})")


def _removed(root: str, path: str) -> bool:
    for folder, _, _ in os.walk(root + path, topdown=False):
        try:
            os.rmdir(folder)  # noqa: PTH106  the files in it are the kernel's and go with it
        except FileNotFoundError:
            continue
        except OSError:
            return False
    above = Path(path).parent
    while str(above) not in ("/", "."):
        try:
            os.rmdir(f"{root}{above}")  # noqa: PTH106
        except OSError:  # others are in it, or it is not there
            break
        above = above.parent
    return True
