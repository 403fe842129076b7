"""An in-memory form and fabric: what the engine's own tests run on. It passes the forms' contract, verb by verb."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from isoform.errors import StepFailed, WrongState
from isoform.host import Result
from isoform.model import (
    Attachment,
    ExecSpec,
    File,
    Instance,
    Lack,
    Link,
    LogLine,
    Observation,
    Size,
    fingerprint,
)


@dataclass
class MemoryWorld:
    """What would be on the host; outlives every engine, as a host does."""

    instances: dict[tuple[str, str], tuple[Instance, Observation]] = field(default_factory=dict)
    files: dict[tuple[str, str], str] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    attached: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    pids: int = 100
    ends_at_once: set[str] = field(default_factory=set)  # functions whose command ends on its first line
    before: Callable[[str], None] = lambda call: None  # called before each change: tests cut the engine off here
    after: Callable[[str], None] = lambda call: None

    def change(self, call: str, act: Callable[[], None]) -> None:
        self.before(call)
        act()
        self.calls.append(call)
        self.after(call)


class MemoryForm:
    """A form whose instances are entries of a dictionary."""

    live: frozenset[str] = frozenset()
    least_memory_bytes = 1 << 20

    def __init__(self, name: str, world: MemoryWorld, attaches: str = "netns", weight: int = 1) -> None:
        self.name, self.attaches, self.weight, self.own_kernel = name, attaches, weight, attaches == "tap"
        self.in_machine = name == "container-in-vm"
        self._world = world

    async def missing(self) -> list[Lack]:
        return []

    async def create(self, instance: Instance, ports: Sequence[Attachment]) -> None:
        if (self.name, instance.id) in self._world.instances:
            return
        for port in ports:
            assert self._world.attached[instance.machine.id if instance.machine else instance.id] == port.kind
        made = Observation("created", fingerprint=fingerprint(instance))
        self._world.change(
            f"create {instance.id}", lambda: self._world.instances.update({(self.name, instance.id): (instance, made)})
        )

    async def start(self, instance_id: str) -> None:
        instance, seen = self._world.instances[self.name, instance_id]
        if seen.state == "running":
            return
        if seen.state != "created":
            raise WrongState(f"{instance_id} is {seen.state}")
        self._world.pids += 1
        now = replace(seen, state="running", pid=self._world.pids)
        if instance.function in self._world.ends_at_once:
            now = replace(now, state="stopped", pid=0, exit_code=3)
        self._world.change(
            f"start {instance_id}", lambda: self._world.instances.update({(self.name, instance_id): (instance, now)})
        )

    async def resize(self, instance_id: str, size: Size) -> None:
        raise WrongState("nothing is live here")

    async def stop(self, instance_id: str, grace_s: float) -> None:
        if (self.name, instance_id) not in self._world.instances:
            return
        instance, seen = self._world.instances[self.name, instance_id]
        now = replace(seen, state="stopped", pid=0)
        self._world.change(
            f"stop {instance_id}", lambda: self._world.instances.update({(self.name, instance_id): (instance, now)})
        )

    async def delete(self, instance_id: str) -> None:
        self._world.change(f"delete {instance_id}", lambda: self._gone(instance_id))

    def _gone(self, instance_id: str) -> None:
        self._world.instances.pop((self.name, instance_id), None)

    async def observe(self, instance_id: str) -> Observation:
        return self._world.instances.get((self.name, instance_id), (None, Observation("absent")))[1]

    async def known(self) -> list[str]:
        return [one for form, one in self._world.instances if form == self.name]

    async def put(self, instance_id: str, files: Sequence[File]) -> None:
        for file in files:
            self._world.change(
                f"put {instance_id}",
                lambda file=file: self._world.files.update({(instance_id, file.path): file.content.decode()}),
            )

    async def run(self, instance_id: str, spec: ExecSpec, deadline_s: float) -> Result:
        return Result(spec.argv, 0 if spec.argv == ("true",) else 1, "", "")

    def exec_argv(self, instance_id: str, spec: ExecSpec) -> list[str]:
        return list(spec.argv)

    async def logs(self, instance_id: str, follow: bool) -> AsyncIterator[LogLine]:
        for text in ("reading the configuration", "no such file: /etc/fw.conf"):
            yield LogLine(text)


@dataclass
class MemoryState:
    links: dict[str, Link]
    attached: dict[str, str]
    ports: dict[str, tuple[str, ...]] = field(default_factory=dict)


class MemoryFabric:
    """A fabric of dictionaries."""

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world

    async def add_link(self, link: Link) -> None:
        self._world.change(f"add-link {link.id}", lambda: self._world.links.update({link.id: link}))

    async def remove_link(self, link_id: str) -> None:
        if [one for one in self._world.attached if one.split(".")[0] == link_id.split(".")[0]]:
            raise StepFailed(f"link {link_id} is in use")
        self._world.change(f"remove-link {link_id}", lambda: self._world.links.pop(link_id, None))

    async def attach(self, instance: Instance, kind: str) -> tuple[Attachment, ...]:
        for port in instance.ports:
            assert f"{instance.service}.{port.link}" in self._world.links, "attached before its link was there"
        self._world.change(f"attach {instance.id}", lambda: self._world.attached.update({instance.id: kind}))
        return self.attachments(instance, kind)

    async def detach(self, instance_id: str) -> None:
        assert not [one for _, one in self._world.instances if one == instance_id], "detached under a running instance"
        self._world.change(f"detach {instance_id}", lambda: self._world.attached.pop(instance_id, None))

    def attachments(self, instance: Instance, kind: str) -> tuple[Attachment, ...]:
        return tuple(Attachment(port, kind, "ns", port.interface) for port in instance.ports)

    def is_attached(self, instance: Instance, kind: str) -> bool:
        return not instance.ports or self._world.attached.get(instance.id) == kind

    def has_ports(self, instance_id: str) -> bool:
        return instance_id in self._world.attached

    async def observe(self) -> MemoryState:
        return MemoryState(dict(self._world.links), dict(self._world.attached))


class MemoryForms(dict[str, MemoryForm]):
    """The forms of a world, all of which may know of any instance."""

    def present(self, prefix: str) -> list[str]:
        return list(self)
