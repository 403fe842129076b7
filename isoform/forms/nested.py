"""The form "container-in-vm": a container inside a virtual machine, made of the other two forms."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
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
from isoform.forms.oci import bundle, commands, folders, guest, log, seccomp
from isoform.forms.qemu.control import ring
from isoform.forms.qemu.logs import bound
from isoform.forms.qemu.process import kept
from isoform.forms.vm import Vm
from isoform.host import Home, Result
from isoform.host.facts import Facts
from isoform.model import Attachment, ExecSpec, File, Instance, Lack, LogLine, Observation, Size, fingerprint

logger = logging.getLogger(__name__)
_MACHINE = "machine.json"  # the file in an instance's folder that says where it is
_CREATE_S, _VERB_S = 120.0, 60.0  # deadlines inside a guest, which without KVM is slow on a busy host
_HALT_S = 10.0  # for a machine to write back its volumes
_ANSWER_S, _AGAIN_S = 15.0, 2.0  # after which a guest counts as hung, and for one that did before
_DIRTY = "dirty"  # in a machine's folder: something may be left in it that its guest did not remove
_LOOK_S, _LISTEN_S = 0.05, 0.01
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
    in_machine = True
    least_memory_bytes = container.Container.least_memory_bytes

    def __init__(self, vm: Vm, home: Home, facts: Facts) -> None:
        self._vm, self._home, self._facts = vm, home, facts
        self._compiled = seccomp.Compiled(home.path / "oci" / "seccomp")
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def missing(self) -> list[Lack]:
        """See `Form`."""
        return [*await self._vm.missing(), *seccomp.missing()]

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

    async def _in_guest(self, machine_id: str, argv: Sequence[str], stdin: bytes | None = None,
                        deadline_s: float = _VERB_S) -> Result:
        """Run a command in the machine's own root. Its agent starts at the first use: a boot is quicker without."""
        rung = self._folder(machine_id) / "agent.rung"
        if not rung.exists():
            ring(self._folder(machine_id), "agent")
            rung.touch()
        return await self._vm.guest_run(machine_id, argv, stdin=stdin, deadline_s=deadline_s)

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
            _write(self._folder(instance.id) / _MACHINE, {
                "id": machine.id, "members": machine.members, "volumes": bool(machine.mounts),
                "fingerprint": fingerprint(machine)})
            await self._make(instance, machine, ports)
        except BaseException as error:
            try:
                await self.delete(instance.id)
            except Exception as second:
                error.add_note(f"cleaning up after it failed too: {second}")
            raise

    async def _make(self, instance: Instance, machine: Instance, ports: Sequence[Attachment]) -> None:
        assert instance.process is not None
        number = machine.members.index(instance.id)
        rules = seccomp.rules(instance.capabilities, self._facts.architecture)
        annotations = self._compiled.annotations(rules, _COMPILER)
        async with self._locks[machine.id]:
            is_new = await self._make_way(machine)
            if is_new:
                files = guest.first(instance, number, rules, annotations)
                await self._vm.create(replace(machine, files=files), ports)
                await self._vm.start(machine.id)
        written = self._folder(machine.id) / f"log.{number}"
        begin = 0 if is_new or not written.exists() else written.stat().st_size
        if is_new:
            said = await self._hear(machine.id, 0, instance.id, instance.label, guest.created(instance.id))
        else:
            argv, unpacked = guest.create(instance, number, rules, annotations)
            result = await self._in_guest(machine.id, argv, stdin=unpacked, deadline_s=_CREATE_S)
            if result.code != 0:
                raise StepFailed(f"{instance.label}: the container could not be created in its machine",
                                 why=result.err.strip() or f"exit status {result.code}")
            said = result.out.partition(guest.created(instance.id))[0]
        if not annotations:
            with contextlib.suppress(ValueError):
                self._compiled.keep(rules, _COMPILER, base64.b64decode("".join(said.split()), validate=True))
        _write(self._folder(instance.id) / "made.json", asdict(Made(
            fingerprint(instance), instance.label, machine.id, (await self._vm.observe(machine.id)).pid, str(written),
            begin, instance.process.stop_signal, bundle.process(instance),
        )))

    async def _make_way(self, machine: Instance) -> bool:
        """Return whether the machine must be made. Raises: WrongState if it runs, but with other members."""
        seen = await self._vm.observe(machine.id)
        if seen.state == "created":  # cut off before its start: nothing is in it
            seen = replace(seen, state="stopped")
        if seen.state == "stopped":
            await self._vm.delete(machine.id)
        if seen.state in ("absent", "stopped"):
            return True
        if (self._folder(machine.id) / _DIRTY).exists():
            raise WrongState(f"{machine.label} cannot take in another container",
                             why="its guest did not answer when one was to be removed, which may still run in it",
                             fix="take all of its members down, then bring them up again")
        for other in machine.members:
            place = _read(self._folder(other) / _MACHINE)
            if place is not None and place["fingerprint"] != fingerprint(machine):
                raise WrongState(f"{machine.label} runs with other members",
                                 why="the disks and ports of its members come with its boot",
                                 fix="take all of them down, then bring them up again")
        return False

    async def _hear(self, machine_id: str, begin: int, instance_id: str, label: str, wanted: str) -> str:
        """Return what the machine's init prints before the line `wanted`.

        Args:
            begin: where in its output to begin, bytes.
        Raises: StepFailed with what it prints if it fails, or its machine does.
        """
        end = time.monotonic() + _CREATE_S
        folder = self._folder(machine_id)
        while True:
            lives = _lives(folder)  # asked before reading: what was printed until then is read
            said = _since(folder / "main.out", begin)
            before, found, _ = said.partition(f"{wanted}\n")
            if found:
                return before
            failure, found, _ = said.partition(f"{guest.failed(instance_id)}\n")
            if found or not lives or time.monotonic() > end:
                why = failure.strip() or (await self._vm.observe(machine_id)).reason or "its guest does not answer"
                raise StepFailed(f"{label}: the container could not be made to run in its machine", why=why)
            await asyncio.sleep(_LISTEN_S)

    async def start(self, instance_id: str) -> None:
        """See `Form`."""
        seen, made = await self.observe(instance_id), self._made(instance_id)
        if seen.state == "running":
            return
        if made is None or seen.state != "created":
            raise WrongState(f"{made.label if made else instance_id} cannot be started", why=f"it is {seen.state}",
                             fix="create it first")
        folder = self._folder(made.machine)
        begin = (folder / "main.out").stat().st_size
        ring(folder, "run", guest.start_file(instance_id))
        await self._hear(made.machine, begin, instance_id, made.label, guest.started(instance_id))
        (self._folder(instance_id) / "started").touch()

    # -- observe

    async def observe(self, instance_id: str) -> Observation:
        """See `Form`. Looks at QEMU and at the container's log, in which the guest writes how it ended."""
        made = self._made(instance_id)
        if made is None:
            return Observation("absent")
        machine = await self._vm.observe(made.machine)
        await bound(Path(made.log))
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
        return sorted(folder.name for folder in folders.folders(self._home)
                      if folders.form_of(folder) == self.name)

    # -- change, stop, delete

    async def resize(self, instance_id: str, size: Size) -> None:
        """See `Form`. The machine itself stays as it is."""
        made = self._known(instance_id)
        result = await self._in_guest(made.machine, guest.limit(instance_id, size.cpus, size.memory_bytes))
        if result.code != 0:
            raise StepFailed(f"{made.label} could not be resized", why=result.err.strip())

    async def stop(self, instance_id: str, grace_s: float) -> None:
        """See `Form`. The machine goes on."""
        made, seen = self._made(instance_id), await self.observe(instance_id)
        if made is None or seen.state not in ("created", "running"):
            return
        try:
            if seen.state == "running" and grace_s > 0:
                number = commands.signal_number(made.stop_signal)
                await self._in_guest(made.machine, guest.signal(instance_id, number), deadline_s=_ANSWER_S)
                if await self._ended(instance_id, grace_s):
                    return
            await self._in_guest(made.machine, guest.kill(instance_id), deadline_s=_ANSWER_S)
        except StepFailed as error:
            raise StepFailed(f"{made.label} could not be stopped", why="the guest of its machine does not answer",
                             fix="take it down: that needs no answer") from error
        if not await self._ended(instance_id, _ANSWER_S):
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
            if folders.form_of(folder) == self.name:
                shutil.rmtree(folder)
            return
        machine_id: str = place["id"]
        async with self._locks[machine_id]:
            others = [other for other in place["members"] if other != instance_id
                      and folders.form_of(self._folder(other)) == self.name]
            if not others:
                with contextlib.suppress(StepFailed):  # a QEMU that hangs even before its start
                    if place["volumes"] and (await self._vm.observe(machine_id)).state == "running":
                        await self._vm.stop(machine_id, _HALT_S)  # its volumes are written back
                await self._vm.delete(machine_id)
            elif _lives(self._folder(machine_id)):
                await self._remove(machine_id, instance_id)
            shutil.rmtree(folder)

    async def _remove(self, machine_id: str, instance_id: str) -> None:
        """Remove a container from a machine that others need; what its guest does not do, ends with the machine."""
        dirty = self._folder(machine_id) / _DIRTY
        try:
            result = await self._in_guest(machine_id, guest.remove(instance_id),
                                          deadline_s=_AGAIN_S if dirty.exists() else _ANSWER_S)
            why = result.err.strip() if result.code != 0 else ""
        except (StepFailed, WrongState) as error:
            why = error.what
        if why:
            logger.warning("container left in its machine", extra={"instance": instance_id, "why": why})
            with contextlib.suppress(FileNotFoundError):  # the machine itself may be gone by now
                dirty.touch()

    # -- inside

    async def put(self, instance_id: str, files: Sequence[File]) -> None:
        """See `Form`."""
        made = self._known(instance_id)
        result = await self._in_guest(made.machine, guest.put(instance_id), stdin=guest.files_tar(files))
        if result.code != 0:
            raise StepFailed(f"files cannot be written into {made.label}", why=result.err.strip())

    def _exec(self, made: Made, instance_id: str, spec: ExecSpec, scratch: str, pidfile: str = "") -> list[str]:
        return guest.execute(instance_id, spec, made.process, scratch, pidfile)

    async def run(self, instance_id: str, spec: ExecSpec, deadline_s: float) -> Result:
        """See `Form`."""
        made, scratch = self._known(instance_id), _scratch(instance_id)
        pidfile = f"{scratch}.pid"
        try:
            return await self._in_guest(made.machine, self._exec(made, instance_id, spec, scratch, pidfile),
                                            deadline_s=deadline_s)
        except StepFailed as error:
            if "did not end within" not in error.what:
                raise
            with contextlib.suppress(StepFailed, WrongState):  # a guest that hangs, or is gone meanwhile
                await self._in_guest(made.machine, ["/bin/sh", "-c", f"read -r pid <{pidfile}; kill -9 $pid"],
                                     deadline_s=_ANSWER_S)
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


def _since(path: Path, begin: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _lives(folder: Path) -> bool:
    qemu = kept(folder)
    return qemu is not None and qemu.alive
