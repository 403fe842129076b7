"""Changes of a service, as journaled operations: up and down, and the way back where one fails."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from isoform.engine.apply import apply
from isoform.engine.capacity import check_capacity
from isoform.engine.desired import Desired, Wish
from isoform.engine.infrastructure import Infrastructure
from isoform.engine.journal import Journal, Row
from isoform.engine.lock import one_writer
from isoform.engine.observe import World, observe
from isoform.engine.plan import Change, Plan, plan
from isoform.engine.step import Context
from isoform.errors import HostLacks, IsoformError, NotFound, StepFailed, WrongState
from isoform.model import Progress, dump, load

log = logging.getLogger(__name__)

Resolve = Callable[["dict[str, Row]"], Awaitable[Desired]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation changed."""

    service: str
    changes: tuple[Change, ...]
    unchanged: int
    took_s: float


class Changer:
    """Brings services up and down, one at a time in a home."""

    def __init__(self, infra: Infrastructure, journal: Journal, lock: Path) -> None:
        self._infra, self._journal, self._lock = infra, journal, lock

    async def up(self, service: str, resolve: Resolve, source: str, dry_run: bool, progress: Progress) -> Outcome:
        """See `Engine.up`."""
        began = time.monotonic()
        with one_writer(self._lock, f"up {service}"):
            self._refuse_namesake(service, source)
            desired = await resolve(self._journal.rows(service))
            world = await self._observe(desired)
            todo = self._plan(desired, world)
            forms = {wish.instance.form for wish in desired.wishes}
            reserving = {name for name in forms if self._infra.forms[name].own_kernel}
            check_capacity(desired, world, self._infra.volumes.parent, reserving)
            if not dry_run and todo.steps:
                await self._change(desired, todo, "up", progress)
            elif not dry_run:
                self._remember(desired)  # the file may say the same in other words
                self._journal.settle(service)
        return Outcome(service, todo.changes, todo.unchanged, time.monotonic() - began)

    async def down(
        self, service: str, dry_run: bool, grace_s: float, volumes: bool, progress: Progress
    ) -> Outcome:
        """See `Engine.down`."""
        began = time.monotonic()
        with one_writer(self._lock, f"down {service}"):
            nothing = Desired(service)
            world = await self._observe(nothing)
            if volumes:
                world = replace(world, kept=frozenset())
            doomed = {file for file in world.volumes if file.split(".")[0] not in world.kept}
            found = (world.instances, world.rows, world.links, world.attached, doomed)
            if not any(found) and service not in self._journal.services():
                raise NotFound(f"there is no service {service}", fix="isoform ps shows the services that there are")
            todo = self._plan(nothing, world)
            if not dry_run:
                if volumes:
                    self._infra.unkeep_volumes(service, {file.split(".")[0] for file in world.volumes})
                await self._change(nothing, todo, "down", progress, grace_s)
        return Outcome(service, todo.changes, 0, time.monotonic() - began)

    async def _observe(self, desired: Desired) -> World:
        """Return what is there of the service, and whose ports are as `desired` wants them."""
        world = await observe(desired.service, self._infra, self._journal)
        sound = {
            wish.attached_as.id
            for wish in desired.wishes
            if wish.id in world.instances
            and self._infra.fabric.is_attached(wish.attached_as, self._infra.form_of(wish.instance).attaches)
        }
        return replace(world, sound=frozenset(sound))

    def _plan(self, desired: Desired, world: World, prove_running: bool = True) -> Plan:
        names = {wish.instance.form for wish in desired.wishes}
        kinds = {name: self._infra.forms[name].attaches for name in names}
        return plan(desired, world, kinds, prove_running)

    def _refuse_namesake(self, service: str, source: str) -> None:
        other = self._journal.services().get(service)
        if other and source and other != source:
            raise WrongState(
                f"a service {service} is already there, from another file",
                why=f"it was brought up from {other}",
                fix=f"give this one another name (`service:`), or first run: isoform down {service}",
            )

    async def _change(
        self, desired: Desired, todo: Plan, verb: str, progress: Progress, grace_s: float = 5.0
    ) -> None:
        """Carry out a plan as a journaled operation; a step that fails puts the service back to what it was."""
        journal, service = self._journal, desired.service
        operation = journal.begin(service, verb, dump(desired))
        journal.keep_rows(_row(wish) for wish in desired.wishes)
        self._infra.keep_volumes(service, desired.kept_volumes)
        context = Context(self._infra, journal, operation, progress, grace_s)
        log.info("operation started", extra={"operation": operation, "service": service, "verb": verb})
        try:
            await apply(todo, context)
        except Exception as error:
            failed = error if isinstance(error, IsoformError) else _ours(error, service)
            journal.finish(operation, "FAILED", str(failed))
            log.info("operation failed", extra={"operation": operation, "error": failed.what})
            if verb == "up":
                await self._roll_back(service, context, failed)
            if failed is error:
                raise
            raise failed from error
        except BaseException as error:
            journal.finish(operation, "FAILED_TEMP", f"cut off: {type(error).__name__}")
            raise
        self._remember(desired)
        journal.finish(operation, "COMPLETED")
        log.info("operation completed", extra={"operation": operation, "service": service, "verb": verb})

    async def _roll_back(self, service: str, context: Context, error: IsoformError) -> None:
        text = self._journal.desired(service)
        before = load(Desired, text) if text else Desired(service)
        try:
            world = await self._observe(before)
            await apply(self._plan(before, world, prove_running=False), context)
        except Exception as second:
            error.add_note(f"putting the service back failed too: {second}")
            return
        self._remember(before)
        self._journal.finish(context.operation, "ROLLED_BACK", str(error))

    def _remember(self, desired: Desired) -> None:
        if not desired.wishes:
            self._journal.forget_service(desired.service)
            return
        used = {mount.volume for wish in desired.wishes for mount in wish.instance.mounts}
        self._infra.unkeep_volumes(desired.service, used - set(desired.kept_volumes))
        gone = set(self._journal.rows(desired.service)) - {wish.id for wish in desired.wishes}
        self._journal.forget_rows(gone)
        self._journal.keep_rows(_row(wish) for wish in desired.wishes)
        self._journal.keep_service(desired.service, desired.source, dump(desired))


def _ours(error: Exception, service: str) -> IsoformError:
    """Return an error of the system's, such as a full disk, as one that says what to do."""
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return HostLacks(f"the disk is full: {service} cannot be changed", why=str(error),
                             fix="free space, for example with: isoform image prune")
        return StepFailed(f"changing {service} failed: {error}", fix="run again with --debug and read the commands")
    return StepFailed(f"changing {service} failed: {type(error).__name__}: {error}",
                      fix="this is a fault of isoform's own; run again with --debug and report what it shows")


def _row(wish: Wish) -> Row:
    instance = wish.instance
    return Row(
        id=instance.id,
        service=instance.service,
        function=instance.function,
        replica=instance.replica,
        form=instance.form,
        why=wish.why,
        image=instance.image.reference if instance.image else "",
        ports=instance.ports,
        machine=instance.machine.id if instance.machine else "",
    )
