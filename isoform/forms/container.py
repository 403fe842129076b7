"""The form "container": an OCI bundle under crun or runc, watched over by conmon."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isoform.errors import HostLacks, NotFound, StepFailed, WrongState
from isoform.forms import inside, names
from isoform.forms.forms import FORM
from isoform.forms.oci import bundle, capability, commands, folders, log, root, seccomp
from isoform.forms.oci.commands import Runtime, Supervised
from isoform.forms.oci.supervise import supervise
from isoform.forms.volume import check_volume, ensure_volume
from isoform.host import Home, Result, attempt, cgroup, netns, pid
from isoform.host import facts as host_facts
from isoform.host.facts import Facts
from isoform.model import Attachment, ExecSpec, File, Instance, Lack, LogLine, Observation, Size, fingerprint

_END_S = 10.0  # how long a killed process may take to go
_COMMON = "process.common"  # the file in an instance's folder with what its processes have in common
_EXIT_TURNS, _EXIT_TURN_S = 100, 0.005  # how long conmon may take to write the exit status after its container's end


@dataclass(frozen=True, slots=True)
class Made:
    """What is remembered of a created container: enough to find its processes again."""

    fingerprint: str
    label: str
    runtime: Runtime
    pid: int
    pid_started: int
    conmon: int
    conmon_started: int
    stop_signal: str
    own_netns: bool

    @classmethod
    def load(cls, text: str) -> Made:
        """Return what `json.dumps(asdict(made))` wrote."""
        plain: dict[str, Any] = json.loads(text)
        runtime = plain.pop("runtime")
        return cls(runtime=Runtime(**{**runtime, "prefix": tuple(runtime["prefix"])}), **plain)


class Container:
    """Runs instances as containers of this host. See `Form`."""

    name = "container"
    live = frozenset({"cpu", "memory", "ports"})
    attaches = "netns"
    weight = 1
    own_kernel = False
    in_machine = False
    least_memory_bytes = 6 << 20  # below this the runtime itself is killed in the container's cgroup

    def __init__(self, home: Home, facts: Facts) -> None:
        self._home, self._facts, self._roots, self._count = home, facts, root.Roots(home), itertools.count()
        self._compiled = seccomp.Compiled(home.path / "oci" / "seccomp")

    # -- what this host offers

    async def missing(self) -> list[Lack]:
        """See `Form`."""
        host, lacks = self._facts, []
        if host.runtime is None:
            why = "; ".join(f"{trial.name}: {trial.why}" for trial in host.runtimes) or "none is installed"
            lacks.append(Lack("an OCI runtime that works", why, "" if host.runtimes else "sudo apt-get install crun"))
        if not host.tools.get("conmon"):
            lacks.append(Lack("conmon", "it keeps logs and exit codes", "sudo apt-get install conmon"))
        if not host.erofs:
            lacks.append(Lack("EROFS", "the layers of images are EROFS files", "sudo modprobe -a erofs loop"))
        if not host.features.get("overlay", True):
            lacks.append(Lack("overlayfs", "each container writes to an overlay of its own", "sudo modprobe overlay"))
        return [*lacks, *seccomp.missing()]

    def _folder(self, instance_id: str) -> Path:
        return self._home.instance(instance_id)

    # -- create and start

    async def create(self, instance: Instance, ports: Sequence[Attachment]) -> None:
        """See `Form`."""
        seen = await self.observe(instance.id)
        if seen.state != "absent":
            if seen.state in ("created", "running") and seen.fingerprint == fingerprint(instance):
                return
            raise WrongState(f"{instance.label} exists already", why=f"it is {seen.state}, made from another descriptor"
                             if seen.fingerprint != fingerprint(instance) else f"it is {seen.state}",
                             fix="delete it first")
        if instance.image is None or instance.process is None:
            raise WrongState(f"{instance.label} has no image", why="a container is nothing without one")
        capability.check_shareable(instance.label, instance.capabilities)
        host = self._facts
        if host.runtime is None or not host.tools.get("conmon"):
            lacks = await self.missing()
            raise HostLacks(f"this host cannot run {instance.label} as a container",
                            why="; ".join(f"no {lack.what}: {lack.why}" for lack in lacks), fix="run: isoform doctor")
        if self._folder(instance.id).exists():
            await self.delete(instance.id)  # half-made by a call that was cut off
        try:
            await self._make(instance, ports, host)
        except BaseException as error:
            try:
                await self.delete(instance.id)
            except Exception as second:
                error.add_note(f"cleaning up after it failed too: {second}")
            raise

    async def _make(self, instance: Instance, ports: Sequence[Attachment], host: Facts) -> None:
        assert host.runtime is not None and instance.image is not None and instance.process is not None
        folder = self._folder(instance.id)
        (folder / "exits").mkdir(parents=True)
        (folder / FORM).write_text(self.name)
        namespace = self._namespace(instance, ports)
        for volume in instance.mounts:
            mkfs = host.tools.get("mkfs.ext4") or "mkfs.ext4"
            await ensure_volume(volume, mkfs)
            await check_volume(volume, mkfs)
        self._roots.make(instance.id, instance.image, host.erofs)
        volumes = self._roots.mount_volumes(instance.id, instance.mounts)
        inside.write_files(str(folder / "rootfs"), [*names.own_files(instance), *instance.files])
        rules, compiler = seccomp.rules(instance.capabilities, host.architecture), _compiler(host.runtime)
        annotations = self._compiled.annotations(rules, compiler)
        config = bundle.config(instance, bundle.Site(
            rootfs=str(folder / "rootfs"), netns=netns.path(namespace), cgroup=self._home.cgroup(instance.id),
            volumes=volumes, seccomp=rules, annotations=annotations, swap=_swap_counts(),
            tun=Path(bundle.TUN).exists(), nofile=_most_files(),
        ))
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "process.json").write_text(json.dumps(config["process"]))
        (folder / _COMMON).write_text(commands.common(config["process"]))
        runtime = Runtime(host.runtime.name, host.runtime.path, _absolute(host.runtime.prefix), str(self._state))
        sockets = self._home.path / "oci" / "s"
        sockets.mkdir(parents=True, exist_ok=True)
        argv = commands.conmon_argv(runtime, instance.id, Supervised(
            conmon=host.tools["conmon"], bundle=str(folder), log=str(folder / "log"), pidfile=str(folder / "pid"),
            conmon_pidfile=str(folder / "conmon.pid"), exits=str(folder / "exits"), sockets=str(sockets),
        ))
        first = await supervise(argv, instance.label, str(folder))
        if not annotations:
            with contextlib.suppress(FileNotFoundError):
                self._compiled.keep(rules, compiler, (self._state / instance.id / "seccomp.bpf").read_bytes())
        conmon = int((folder / "conmon.pid").read_text())
        self._remember(instance.id, Made(
            fingerprint(instance), instance.label, runtime, first, pid.start_time(first) or 0, conmon,
            pid.start_time(conmon) or 0, instance.process.stop_signal, not ports,
        ))

    @property
    def _state(self) -> Path:
        return self._home.path / "oci" / "r"

    def _namespace(self, instance: Instance, ports: Sequence[Attachment]) -> str:
        joined = {port.netns for port in ports}
        if len(joined) > 1 or any(port.kind != self.attaches for port in ports):
            raise WrongState(f"{instance.label}: a container's ports must all be in one network namespace",
                             why=f"they are in {', '.join(sorted(joined))}")
        if joined:
            return joined.pop()
        name = self._home.netns(instance.id)
        (self._folder(instance.id) / "netns").touch()
        netns.create(name)
        return name

    def _remember(self, instance_id: str, made: Made) -> None:
        # not synced: after a crash of the host no container runs, and a file that is not there says just that
        path = self._folder(instance_id) / "made.json"
        path.with_suffix(".new").write_text(json.dumps(asdict(made)))
        path.with_suffix(".new").rename(path)

    def _made(self, instance_id: str) -> Made | None:
        try:
            return Made.load((self._folder(instance_id) / "made.json").read_text())
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def _known(self, instance_id: str) -> Made:
        made = self._made(instance_id)
        if made is None:
            raise NotFound(f"there is no container {instance_id}")
        return made

    async def start(self, instance_id: str) -> None:
        """See `Form`."""
        seen, made = await self.observe(instance_id), self._made(instance_id)
        if seen.state == "running":
            return
        if made is None or seen.state != "created":
            raise WrongState(f"{made.label if made else instance_id} cannot be started", why=f"it is {seen.state}",
                             fix="create it first")
        result = await attempt(made.runtime.argv("start", instance_id))
        if result.code != 0 and (await self.observe(instance_id)).state == "created":
            raise StepFailed(f"{made.label} could not be started", why=result.err.strip() or f"exit {result.code}")
        (self._folder(instance_id) / "started").touch()

    # -- observe

    async def observe(self, instance_id: str) -> Observation:
        """See `Form`."""
        made = self._made(instance_id)
        if made is None:
            return Observation("absent")
        if pid.is_alive(made.pid, made.pid_started):
            return Observation(
                state="created" if await self._waits(instance_id, made) else "running", pid=made.pid,
                fingerprint=made.fingerprint, started_at=self._started_at(instance_id),
                memory_bytes=cgroup.memory_bytes(self._home.cgroup(instance_id)),
            )
        code = await self._exit_code(instance_id, made)
        reason = "" if code is not None else "its supervisor ended first, or the host was restarted"
        if code != 0 and cgroup.oom_killed(self._home.cgroup(instance_id)):
            reason = "out of memory"
        return Observation("stopped", fingerprint=made.fingerprint, exit_code=code, reason=reason,
                           started_at=self._started_at(instance_id))

    async def _waits(self, instance_id: str, made: Made) -> bool:
        """Return whether the container's first process still waits to be started."""
        state = Path(made.runtime.root) / instance_id
        if made.runtime.name in ("crun", "runc"):
            return (state / "exec.fifo").exists()
        result = await attempt(made.runtime.argv("state", instance_id))
        return result.code == 0 and json.loads(result.out).get("status") == "created"

    async def _exit_code(self, instance_id: str, made: Made) -> int | None:
        for _ in range(_EXIT_TURNS):
            over = not pid.is_alive(made.conmon, made.conmon_started)  # asked before reading: then it has written
            for file in (self._folder(instance_id) / "exits").glob("*"):
                with contextlib.suppress(ValueError, FileNotFoundError):
                    return int(file.read_text())
            if over:
                break
            await asyncio.sleep(_EXIT_TURN_S)
        return None

    def _started_at(self, instance_id: str) -> float | None:
        try:
            return (self._folder(instance_id) / "started").stat().st_mtime
        except FileNotFoundError:
            return None

    async def known(self) -> list[str]:
        """See `Form`."""
        found = {folder.name for folder in folders.folders(self._home) if folders.form_of(folder) == self.name}
        if self._state.exists():
            found.update(state.name for state in self._state.iterdir() if not state.name.startswith("."))
        return sorted(found)

    # -- change, stop, delete

    async def resize(self, instance_id: str, size: Size) -> None:
        """See `Form`."""
        self._known(instance_id)
        cgroup.create(self._home.cgroup(instance_id), size.cpus, size.memory_bytes, bundle.MOST_PROCESSES)

    async def stop(self, instance_id: str, grace_s: float) -> None:
        """See `Form`."""
        made = self._made(instance_id)
        if made is None:
            return
        if await self._waits(instance_id, made):
            grace_s = 0.0  # nothing of the function's own runs yet that could heed a signal
        number = commands.signal_number(made.stop_signal)
        if (grace_s > 0 and pid.end(made.pid, made.pid_started, number)
                and not await pid.ended(made.pid, made.pid_started, grace_s)):
            pid.end(made.pid, made.pid_started)
        await self._kill(instance_id, made)

    async def _kill(self, instance_id: str, made: Made | None) -> None:
        """End every process of the container, and wait until conmon has written down how it ended."""
        if made is not None:
            pid.end(made.pid, made.pid_started)  # the first of its PID namespace: the kernel ends the others with it
            await pid.ended(made.pid, made.pid_started, _END_S)
        for number in cgroup.processes(self._home.cgroup(instance_id)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)  # it is in our cgroup, so it is ours
        if made is not None and not await pid.ended(made.conmon, made.conmon_started, _END_S):
            pid.end(made.conmon, made.conmon_started)

    async def delete(self, instance_id: str) -> None:
        """See `Form`."""
        folder, made = self._folder(instance_id), self._made(instance_id)
        if made is None:
            folders.end_strays(f"{folder}/")  # a conmon that was cut off before it was written down
        await self._kill(instance_id, made)
        # beside the other work: the kernel takes its time to unmount, and what a function wrote may be much
        await asyncio.to_thread(self._roots.remove, instance_id)
        await cgroup.remove(self._home.cgroup(instance_id))
        await asyncio.to_thread(self._clear, instance_id)

    def _clear(self, instance_id: str) -> None:
        folder = self._folder(instance_id)
        shutil.rmtree(self._state / instance_id, ignore_errors=True)
        (self._home.path / "oci" / "s" / commands.socket_name(instance_id)).unlink(missing_ok=True)
        if (folder / "netns").exists():
            netns.delete(self._home.netns(instance_id))
        folders.remove(folder)

    # -- inside

    async def put(self, instance_id: str, files: Sequence[File]) -> None:
        """See `Form`."""
        made = self._known(instance_id)
        if pid.is_alive(made.pid, made.pid_started):  # what the container itself sees, its volumes included
            inside.write_files(f"/proc/{made.pid}/root", files, lambda: pid.is_alive(made.pid, made.pid_started))
        else:
            inside.write_files(str(self._roots.rootfs(instance_id)), files)

    def _exec(self, instance_id: str, spec: ExecSpec, pidfile: str = "") -> list[str]:
        made, folder = self._known(instance_id), self._folder(instance_id)
        entrypoint = json.loads((folder / "process.json").read_text())
        scratch = str(folder / f"exec.{os.getpid()}.{next(self._count)}")
        return commands.exec_argv(made.runtime, instance_id, spec, entrypoint, str(folder / _COMMON), scratch, pidfile)

    async def run(self, instance_id: str, spec: ExecSpec, deadline_s: float) -> Result:
        """See `Form`."""
        pidfile = self._folder(instance_id) / f"exec.{os.getpid()}.{next(self._count)}.pid"
        try:
            return await attempt(self._exec(instance_id, spec, str(pidfile)), deadline_s=deadline_s)
        except BaseException as error:  # the runtime is gone, the command inside would stay
            with contextlib.suppress(OSError, ValueError):
                number = int(pidfile.read_text())
                if number in cgroup.processes(self._home.cgroup(instance_id)):
                    os.kill(number, signal.SIGKILL)
            if isinstance(error, StepFailed):
                raise StepFailed(f"{spec.argv[0]} did not end within {deadline_s:g} s",
                                 why=f"it ran inside {instance_id}: {shlex.join(spec.argv)}") from error
            raise
        finally:
            pidfile.unlink(missing_ok=True)

    def exec_argv(self, instance_id: str, spec: ExecSpec) -> list[str]:
        """See `Form`."""
        return self._exec(instance_id, spec)

    async def logs(self, instance_id: str, follow: bool) -> AsyncIterator[LogLine]:
        """See `Form`."""
        def gone() -> bool:
            made = self._made(instance_id)
            return made is None or not (pid.is_alive(made.pid, made.pid_started)
                                        or pid.is_alive(made.conmon, made.conmon_started))

        async for line in log.read(self._folder(instance_id) / "log", follow, gone):
            yield line


def _compiler(runtime: host_facts.Runtime) -> str:
    return f"{runtime.name} {runtime.version}"


def _swap_counts() -> bool:
    here = cgroup.layout()
    if here.is_v2("memory"):
        return Path("/proc/swaps").read_text().count("\n") > 1  # the file is there in every group but the root
    folder = here.folder("memory", "")
    return folder is not None and Path(folder, "memory.memsw.limit_in_bytes").exists()


def _most_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return bundle.NOFILE_HARD if hard == resource.RLIM_INFINITY else min(hard, bundle.NOFILE_HARD)


def _absolute(prefix: tuple[str, ...]) -> tuple[str, ...]:
    """Return the prefix as conmon needs it: it looks for no program on the PATH."""
    return (shutil.which(prefix[0]) or prefix[0], *prefix[1:]) if prefix else ()
