"""The steps of a plan: each makes one change, may be cut off at any line, and may run twice."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Protocol

from isoform.engine.desired import Wish
from isoform.engine.infrastructure import Infrastructure
from isoform.engine.journal import Journal
from isoform.engine.observe import is_ready
from isoform.engine.ready import wait_until_ready
from isoform.errors import IsoformError, StepFailed
from isoform.model import File, Instance, Link, Progress, fingerprint, hosts_file

log = logging.getLogger(__name__)

_GONE = frozenset({"absent"})


@dataclass(frozen=True, slots=True)
class Context:
    """What every step is handed."""

    infra: Infrastructure
    journal: Journal
    operation: int
    progress: Progress
    grace_s: float = 5.0
    made_in_s: dict[str, float] = field(default_factory=dict)  # how long each creation took: part of the start-up


class Step(Protocol):
    """One change of the world."""

    @property
    def id(self) -> str:
        """Name within its plan: a verb and what it acts on."""
        ...

    async def done(self, context: Context) -> bool:
        """Whether the world is already as this step would make it."""
        ...

    async def act(self, context: Context) -> None:
        """Make it so, also from a half-made state."""
        ...


async def bring_about(step: Step, context: Context) -> None:
    """Carry out one step. May be cut off at any line, then called again.

    Raises: StepFailed if the step ran and the world is not as it should be.
    """
    if await step.done(context):
        return
    context.journal.note(context.operation, step.id, "started")
    began = time.monotonic()
    await step.act(context)
    if not await step.done(context):
        raise StepFailed(f"{step.id} had no effect", fix="run again with --debug and read the commands")
    context.journal.note(context.operation, step.id, "done")
    log.info("step done", extra={"step": step.id, "took_s": round(time.monotonic() - began, 4)})


@dataclass(frozen=True, slots=True)
class AddLink:
    """A link of the fabric, made or repaired."""

    link: Link

    @property
    def id(self) -> str:
        return f"add-link {self.link.id}"

    async def done(self, context: Context) -> bool:
        return (await context.infra.fabric.observe()).links.get(self.link.id) == self.link

    async def act(self, context: Context) -> None:
        await context.infra.fabric.add_link(self.link)


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """A link that nothing needs any more."""

    link: str

    @property
    def id(self) -> str:
        return f"remove-link {self.link}"

    async def done(self, context: Context) -> bool:
        return self.link not in (await context.infra.fabric.observe()).links

    async def act(self, context: Context) -> None:
        await context.infra.fabric.remove_link(self.link)


@dataclass(frozen=True, slots=True)
class Attach:
    """All ports of an instance (or of the machine that holds it)."""

    instance: Instance
    kind: str

    @property
    def id(self) -> str:
        return f"attach {self.instance.id}"

    async def done(self, context: Context) -> bool:
        return context.infra.fabric.is_attached(self.instance, self.kind)

    async def act(self, context: Context) -> None:
        await context.infra.fabric.attach(self.instance, self.kind)


@dataclass(frozen=True, slots=True)
class Detach:
    """The ports of an instance that is gone."""

    instance: str

    @property
    def id(self) -> str:
        return f"detach {self.instance}"

    async def done(self, context: Context) -> bool:
        return not context.infra.fabric.has_ports(self.instance)

    async def act(self, context: Context) -> None:
        await context.infra.fabric.detach(self.instance)


@dataclass(frozen=True, slots=True)
class Create:
    """An instance, made but not running."""

    wish: Wish

    @property
    def id(self) -> str:
        return f"create {self.wish.id}"

    async def done(self, context: Context) -> bool:
        seen = await context.infra.form_of(self.wish.instance).observe(self.wish.id)
        return seen.state in ("created", "running") and seen.fingerprint == fingerprint(self.wish.instance)

    async def act(self, context: Context) -> None:
        instance = self.wish.instance
        context.progress(instance.label, f"creating {instance.form}")
        form = context.infra.form_of(instance)
        began = time.monotonic()
        context.journal.was_created(instance.id, self.wish.hosts)  # first: what proved an earlier one proves nothing
        await form.create(instance, context.infra.fabric.attachments(self.wish.attached_as, form.attaches))
        context.made_in_s[instance.id] = time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Start:
    """An instance's command."""

    wish: Wish

    @property
    def id(self) -> str:
        return f"start {self.wish.id}"

    async def done(self, context: Context) -> bool:
        # A command that ended at once was started all the same: whether it serves is the next step's question.
        state = (await context.infra.form_of(self.wish.instance).observe(self.wish.id)).state
        return state in ("running", "stopped")

    async def act(self, context: Context) -> None:
        context.progress(self.wish.instance.label, "starting")
        context.journal.was_started(self.wish.id, context.made_in_s.get(self.wish.id, 0.0))
        await context.infra.form_of(self.wish.instance).start(self.wish.id)


@dataclass(frozen=True, slots=True)
class Prove:
    """The proof that an instance serves."""

    wish: Wish

    @property
    def id(self) -> str:
        return f"prove {self.wish.id}"

    async def done(self, context: Context) -> bool:
        form = context.infra.form_of(self.wish.instance)
        return is_ready(context.journal.row(self.wish.id), await form.observe(self.wish.id))

    async def act(self, context: Context) -> None:
        context.progress(self.wish.instance.label, "waiting until ready")
        pid = await wait_until_ready(self.wish, context.infra)
        context.journal.was_ready(self.wish.id, pid)
        context.progress(self.wish.instance.label, "ready", 1.0)


@dataclass(frozen=True, slots=True)
class Tell:
    """The names of an instance's neighbours, changed while it runs."""

    wish: Wish

    @property
    def id(self) -> str:
        return f"tell {self.wish.id}"

    async def done(self, context: Context) -> bool:
        row = context.journal.row(self.wish.id)
        return row is not None and row.hosts == self.wish.hosts

    async def act(self, context: Context) -> None:
        instance = self.wish.instance
        if all(file.path != "/etc/hosts" for file in instance.files):  # else the user's own file stands
            hosts = File("/etc/hosts", hosts_file(instance).encode())
            await context.infra.form_of(instance).put(instance.id, [hosts])
        context.journal.told_hosts(instance.id, self.wish.hosts)


@dataclass(frozen=True, slots=True)
class Remove:
    """An instance that shall not be, or not as it is."""

    instance: str
    form: str

    @property
    def id(self) -> str:
        return f"remove {self.instance} {self.form}"

    async def done(self, context: Context) -> bool:
        form = context.infra.forms[self.form]
        return (await form.observe(self.instance)).state in _GONE and self.instance not in await form.known()

    async def act(self, context: Context) -> None:
        context.progress(label(self.instance), "stopping")
        form = context.infra.forms[self.form]
        try:
            await form.stop(self.instance, context.grace_s)
        except IsoformError as error:  # a guest that does not answer: it goes all the same
            log.warning("instance not stopped", extra={"instance": self.instance, "error": error.what})
        await form.delete(self.instance)
        context.progress(label(self.instance), "removed", 1.0)


def label(instance_id: str) -> str:
    """Return what users read of an instance that is known by its id alone."""
    service, function, replica = instance_id.split(".")[:3]
    return f"{service}/{function}" + (f"-{replica}" if replica != "0" else "")


@dataclass(frozen=True, slots=True)
class DropVolume:
    """A volume of the service, with what is in it."""

    service: str
    volume: str

    @property
    def id(self) -> str:
        return f"drop-volume {self.service}/{self.volume}"

    async def done(self, context: Context) -> bool:
        return not (context.infra.volumes / self.service / self.volume).exists()

    async def act(self, context: Context) -> None:
        folder = context.infra.volumes / self.service
        (folder / self.volume).unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
