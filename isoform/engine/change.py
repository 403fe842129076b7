"""Changes of a service, as journaled operations: up and down, and the way back where one fails."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
from isoform.errors import IsoformError, NotFound, WrongState
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
            world = await observe(service, self._infra, self._journal)
            todo = self._plan(desired, world)
            if not dry_run:
                check_capacity(desired, world, self._infra.volumes.parent)
                if todo.steps:
                    await self._change(desired, todo, "up", progress)
                else:
                    self._remember(desired)  # the file may say the same in other words
        return Outcome(service, todo.changes, todo.unchanged, time.monotonic() - began)

    async def down(self, service: str, dry_run: bool, grace_s: float, progress: Progress) -> Outcome:
        """See `Engine.down`."""
        began = time.monotonic()
        with one_writer(self._lock, f"down {service}"):
            world = await observe(service, self._infra, self._journal)
            found = (world.instances, world.rows, world.links, world.attached, world.volumes)
            if not any(found) and service not in self._journal.services():
                raise NotFound(f"there is no service {service}", fix="isoform ps shows the services that there are")
            nothing = Desired(service, kept_volumes=self._kept_volumes(service))
            todo = self._plan(nothing, world)
            if not dry_run:
                await self._change(nothing, todo, "down", progress, grace_s)
        return Outcome(service, todo.changes, 0, time.monotonic() - began)

    def _plan(self, desired: Desired, world: World) -> Plan:
        names = {wish.instance.form for wish in desired.wishes}
        return plan(desired, world, {name: self._infra.forms[name].attaches for name in names})

    def _kept_volumes(self, service: str) -> tuple[str, ...]:
        text = self._journal.desired(service)
        return tuple(json.loads(text)["kept_volumes"]) if text else ()

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
        context = Context(self._infra, journal, operation, progress, grace_s)
        log.info("operation started", extra={"operation": operation, "service": service, "verb": verb})
        try:
            await apply(todo, context)
        except IsoformError as error:
            journal.finish(operation, "FAILED", str(error))
            log.info("operation failed", extra={"operation": operation, "error": error.what})
            if verb == "up":
                await self._roll_back(service, context, error)
            raise
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
            world = await observe(service, self._infra, self._journal)
            await apply(self._plan(before, world), context)
        except IsoformError as second:
            error.add_note(f"putting the service back failed too: {second}")
            return
        self._remember(before)
        self._journal.finish(context.operation, "ROLLED_BACK", str(error))

    def _remember(self, desired: Desired) -> None:
        if not desired.wishes:
            self._journal.forget_service(desired.service)
            return
        gone = set(self._journal.rows(desired.service)) - {wish.id for wish in desired.wishes}
        self._journal.forget_rows(gone)
        self._journal.keep_rows(_row(wish) for wish in desired.wishes)
        self._journal.keep_service(desired.service, desired.source, dump(desired))


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
