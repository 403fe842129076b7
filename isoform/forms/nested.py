"""The form "container-in-vm": a container inside a virtual machine, made of the other two forms."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from isoform.errors import NotFound, StepFailed, WrongState
from isoform.forms import container
from isoform.forms.forms import FORM
from isoform.forms.oci import bundle, commands, guest, log, seccomp
from isoform.forms.qemu.process import kept
from isoform.forms.vm import Vm
from isoform.host import Home, Result
from isoform.host.facts import Facts
from isoform.model import Attachment, ExecSpec, File, Instance, Lack, LogLine, Observation, Size, fingerprint

_MACHINE = "machine.json"  # the file in an instance's folder that says where it is
_CREATE_S, _VERB_S = 120.0, 60.0  # deadlines inside a guest, which without KVM is slow on a busy host
_HALT_S = 10.0  # for a machine to write back its volumes
_LOOK_S = 0.05
_COMPILER = "guest"  # of system call filters


@dataclass(frozen=True, slots=True)
class Made:
    """What is remembered of a created container."""

    fingerprint: str
    label: str
    machine: str
    machine_pid: int  # a machine that was made anew holds none of the old containers
    log: str  # the file on this host that the container's log port ends in
    log_begin: int  # where in it the container's log begins, bytes
    stop_signal: str
    process: dict[str, Any]  # the OCI process of the entrypoint


class Nested:
    """Runs instances as containers inside virtual machines. See `Form`.

    The machine of an instance is made with its first container and removed with its last.
    """

    name = "container-in-vm"
    live = frozenset({"cpu", "memory"})
    attaches = "tap"
    weight = 4
    own_kernel = True
    least_memory_bytes = container.Container.least_memory_bytes

    def __init__(self, vm: Vm, home: Home, facts: Facts) -> None:
        self._vm, self._home, self._facts = vm, home, facts
        self._compiled = seccomp.Compiled(home.path / "oci" / "seccomp")
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def missing(self) -> list[Lack]:
        """See `Form`."""
        return [*await self._vm.missing(), *container.missing_filter()]

    def _folder(self, instance_id: str) -> Path:
        return self._home.instance(instance_id)

    def _made(self, instance_id: str) -> Made | None:
        try:
            return Made(**json.loads((self._folder(instance_id) / "made.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _known(self, instance_id: str) -> Made:
        made = self._made(instance_id)
        if made is None:
            raise NotFound(f"there is no container {instance_id}")
        return made

    # -- create and start

    async def create(self, instance: Instance, ports: Sequence[Attachment]) -> None:
        """Make the container, and its machine where it does not run. `ports` are those of the machine."""
        machine = instance.machine
        if machine is None or instance.image is None or instance.process is None or instance.id not in machine.members:
            raise WrongState(f"{instance.label} has no machine to run in", why="a container-in-vm is made in one")
        seen = await self.observe(instance.id)
        if seen.state in ("created", "running") and seen.fingerprint == fingerprint(instance):
            return
        if seen.state != "absent":
            raise WrongState(f"{instance.label} exists already", why=f"it is {seen.state}", fix="delete it first")
        if self._folder(instance.id).exists():
            await self.delete(instance.id)  # half-made by a call that was cut off
        try:
            self._folder(instance.id).mkdir(parents=True)
            (self._folder(instance.id) / FORM).write_text(self.name)
            _write(self._folder(instance.id) / _MACHINE, {"id": machine.id, "members": machine.members,
                                                          "volumes": bool(machine.mounts)})
            async with self._locks[machine.id]:
                await self._ensure_machine(machine, ports)
            await self._make(instance, machine)
        except BaseException as error:
            try:
                await self.delete(instance.id)
            except Exception as second:
                error.add_note(f"cleaning up after it failed too: {second}")
            raise

    async def _ensure_machine(self, machine: Instance, ports: Sequence[Attachment]) -> None:
        seen = await self._vm.observe(machine.id)
        if seen.state == "stopped":  # nothing in it lives any more
            await self._vm.delete(machine.id)
        elif seen.state != "absent" and seen.fingerprint != fingerprint(machine):
            raise WrongState(f"{machine.label} runs with other members", why="their disks and ports come with its boot",
                             fix="take all of them down, then bring them up again")
        await self._vm.create(machine, ports)
        await self._vm.start(machine.id)

    async def _make(self, instance: Instance, machine: Instance) -> None:
        assert instance.process is not None
        number = machine.members.index(instance.id)
        written = self._folder(machine.id) / f"log.{number}"
        begin = written.stat().st_size if written.exists() else 0
        rules = container.system_call_filter(instance.capabilities, self._facts.architecture)
        annotations = self._compiled.annotations(rules, _COMPILER)
        argv, unpacked = guest.create(instance, number, rules, annotations)
        result = await self._vm.guest_run(machine.id, argv, stdin=unpacked, deadline_s=_CREATE_S)
        if result.code != 0:
            raise StepFailed(f"{instance.label}: the container could not be created in its machine",
                             why=result.err.strip() or f"exit status {result.code}")
        if not annotations:
            self._compiled.keep(rules, _COMPILER, base64.b64decode(result.out))
        _write(self._folder(instance.id) / "made.json", asdict(Made(
            fingerprint(instance), instance.label, machine.id, (await self._vm.observe(machine.id)).pid, str(written),
            begin, instance.process.stop_signal, bundle.process(instance),
        )))

    async def start(self, instance_id: str) -> None:
        """See `Form`."""
        seen, made = await self.observe(instance_id), self._made(instance_id)
        if seen.state == "running":
            return
        if made is None or seen.state != "created":
            raise WrongState(f"{made.label if made else instance_id} cannot be started", why=f"it is {seen.state}",
                             fix="create it first")
        result = await self._vm.guest_run(made.machine, guest.start(instance_id), deadline_s=_VERB_S)
        if result.code != 0:
            raise StepFailed(f"{made.label} could not be started", why=result.err.strip())
        (self._folder(instance_id) / "started").touch()

    # -- observe

    async def observe(self, instance_id: str) -> Observation:
        """See `Form`. Looks at QEMU and at the container's log, in which the guest writes how it ended."""
        made = self._made(instance_id)
        if made is None:
            return Observation("absent")
        machine = await self._vm.observe(made.machine)
        started_at = _changed_at(self._folder(instance_id) / "started")
        seen = Observation("stopped", fingerprint=made.fingerprint, started_at=started_at)
        told = log.ending(Path(made.log), made.log_begin) if machine.state != "absent" else None
        if told is not None:
            return replace(seen, exit_code=told[0], reason=told[1])
        if machine.state != "running" or machine.pid != made.machine_pid:
            return replace(seen, reason=machine.reason or "machine lost")
        return replace(seen, state="running" if started_at else "created", pid=machine.pid,
                     memory_bytes=machine.memory_bytes)

    async def known(self) -> list[str]:
        """See `Form`."""
        return sorted(folder.name for folder in container.folders(self._home)
                      if container.form_of(folder) == self.name)

    # -- change, stop, delete

    async def resize(self, instance_id: str, size: Size) -> None:
        """See `Form`. The machine itself stays as it is."""
        made = self._known(instance_id)
        result = await self._vm.guest_run(made.machine, guest.limit(instance_id, size.cpus, size.memory_bytes),
                                          deadline_s=_VERB_S)
        if result.code != 0:
            raise StepFailed(f"{made.label} could not be resized", why=result.err.strip())

    async def stop(self, instance_id: str, grace_s: float) -> None:
        """See `Form`. The machine goes on."""
        made, seen = self._made(instance_id), await self.observe(instance_id)
        if made is None or seen.state not in ("created", "running"):
            return
        if seen.state == "running" and grace_s > 0:
            number = container.signal_number(made.stop_signal)
            await self._vm.guest_run(made.machine, guest.signal(instance_id, number), deadline_s=_VERB_S)
            if await self._ended(instance_id, grace_s):
                return
        await self._vm.guest_run(made.machine, guest.kill(instance_id), deadline_s=_VERB_S)
        if not await self._ended(instance_id, _VERB_S):
            raise StepFailed(f"{made.label} does not end", why="its processes were killed, and its guest says nothing")

    async def _ended(self, instance_id: str, deadline_s: float) -> bool:
        end = time.monotonic() + deadline_s
        while (await self.observe(instance_id)).state == "running" or not self._told(instance_id):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    def _told(self, instance_id: str) -> bool:
        made = self._made(instance_id)
        return made is None or log.ending(Path(made.log), made.log_begin) is not None

    async def delete(self, instance_id: str) -> None:
        """See `Form`. The last container of a machine takes the machine with it."""
        folder = self._folder(instance_id)
        place = _read(folder / _MACHINE)
        if place is None:
            if container.form_of(folder) == self.name:
                shutil.rmtree(folder)
            return
        machine_id: str = place["id"]
        async with self._locks[machine_id]:
            others = [other for other in place["members"] if other != instance_id
                      and container.form_of(self._folder(other)) == self.name]
            if not others:
                if place["volumes"] and (await self._vm.observe(machine_id)).state == "running":
                    await self._vm.stop(machine_id, _HALT_S)  # its volumes are written back
                await self._vm.delete(machine_id)
            elif (await self._vm.observe(machine_id)).state == "running":
                result = await self._vm.guest_run(machine_id, guest.remove(instance_id), deadline_s=_VERB_S)
                if result.code != 0:
                    raise StepFailed(f"{instance_id} could not be removed from its machine", why=result.err.strip())
            shutil.rmtree(folder)

    # -- inside

    async def put(self, instance_id: str, files: Sequence[File]) -> None:
        """See `Form`."""
        made = self._known(instance_id)
        result = await self._vm.guest_run(made.machine, guest.put(instance_id), stdin=guest.files_tar(files),
                                          deadline_s=_VERB_S)
        if result.code != 0:
            raise StepFailed(f"files cannot be written into {made.label}", why=result.err.strip())

    def _exec(self, made: Made, instance_id: str, spec: ExecSpec, scratch: str, pidfile: str = "") -> list[str]:
        process = commands.exec_process(made.process, spec)
        return commands.exec_argv(guest.RUNTIME, instance_id, process, scratch, pidfile)

    async def run(self, instance_id: str, spec: ExecSpec, deadline_s: float) -> Result:
        """See `Form`."""
        made, scratch = self._known(instance_id), _scratch(instance_id)
        pidfile = f"{scratch}.pid"
        try:
            return await self._vm.guest_run(made.machine, self._exec(made, instance_id, spec, scratch, pidfile),
                                            deadline_s=deadline_s)
        except StepFailed as error:
            if "did not end within" not in error.what:
                raise
            await self._vm.guest_run(made.machine, ["/bin/sh", "-c", f"read -r pid <{pidfile}; kill -9 $pid"],
                                     deadline_s=_VERB_S)
            raise StepFailed(f"{spec.argv[0]} did not end within {deadline_s:g} s", why=f"it ran inside {made.label}"
                             ) from error

    def exec_argv(self, instance_id: str, spec: ExecSpec) -> list[str]:
        """See `Form`."""
        made = self._known(instance_id)
        argv = self._exec(made, instance_id, spec, _scratch(instance_id))
        return self._vm.guest_argv(made.machine, argv, spec.tty)

    async def logs(self, instance_id: str, follow: bool) -> AsyncIterator[LogLine]:
        """See `Form`."""
        made = self._made(instance_id)
        if made is None:
            return

        def gone() -> bool:
            return self._told(instance_id) or not _lives(self._folder(made.machine))

        async for line in log.read(Path(made.log), follow, gone, made.log_begin):
            yield line


def _scratch(instance_id: str) -> str:
    return f"{guest.base(instance_id)}/exec.{os.getpid()}.{time.monotonic_ns()}"


def _write(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content))
    beside.rename(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content


def _changed_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None



def _lives(folder: Path) -> bool:
    qemu = kept(folder)
    return qemu is not None and qemu.alive
