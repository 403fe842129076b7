"""The engine: brings services up and down, and shows what is there. Faces call it; it knows no face."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from isoform.engine.apply import apply
from isoform.engine.capacity import check_capacity
from isoform.engine.desired import Desired, Wish
from isoform.engine.infrastructure import Infrastructure
from isoform.engine.journal import Journal, Row
from isoform.engine.lock import one_writer
from isoform.engine.observe import observe
from isoform.engine.plan import Change, Plan, plan
from isoform.engine.status import Status, status
from isoform.engine.step import Context
from isoform.errors import IsoformError, NotFound, WrongState
from isoform.forms.form import Form
from isoform.model import ExecSpec, LogLine, Progress, dump, load, silent

Resolve = Callable[["dict[str, Row]"], Awaitable[Desired]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation changed."""

    service: str
    changes: tuple[Change, ...]
    unchanged: int
    took_s: float


class Engine:
    """All that can be done with services of one home."""

    def __init__(self, infra: Infrastructure, journal: Journal, lock: Path) -> None:
        self._infra, self._journal, self._lock = infra, journal, lock
        self._kinds = {name: form.attaches for name, form in infra.forms.items()}

    async def up(
        self,
        service: str,
        resolve: Resolve,
        *,
        source: str = "",
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> Outcome:
        """Make the service as `resolve` wants it, changing only what differs.

        Args:
            resolve: given what is remembered of the service's instances, returns the service as wanted.
            source: the file that the service comes from.
        Raises: WrongState if a service of that name came from another file, or another change is under way;
            StepFailed after the service was put back to what it was before.
        """
        began = time.monotonic()
        with one_writer(self._lock, f"up {service}"):
            self._refuse_namesake(service, source)
            desired = await resolve(self._journal.rows(service))
            world = await observe(service, self._infra, self._journal)
            todo = plan(desired, world, self._kinds)
            if not dry_run:
                check_capacity(desired, world, self._infra.volumes.parent)
                if todo.steps:
                    await self._change(desired, todo, "up", progress)
                else:
                    self._remember(desired)  # the file may say the same in other words
        return Outcome(service, todo.changes, todo.unchanged, time.monotonic() - began)

    async def down(
        self, service: str, *, dry_run: bool = False, grace_s: float = 5.0, progress: Progress = silent
    ) -> Outcome:
        """Take the service down: nothing of it stays but volumes that the descriptor keeps.

        Raises: NotFound if there is no such service, nor anything left of one.
        """
        began = time.monotonic()
        with one_writer(self._lock, f"down {service}"):
            before = self._desired(service)
            world = await observe(service, self._infra, self._journal)
            known = (world.instances, world.rows, world.links, world.attached, world.volumes)
            if not any(known) and service not in self._journal.services():
                raise NotFound(f"there is no service {service}", fix="isoform ps shows the services that there are")
            todo = plan(Desired(service, kept_volumes=before.kept_volumes), world, self._kinds)
            if not dry_run:
                await self._change(Desired(service), todo, "down", progress, grace_s)
        return Outcome(service, todo.changes, 0, time.monotonic() - began)

    async def ps(self, service: str = "") -> list[Status]:
        """Return every instance as it is now, in the order of service, function and replica.

        Raises: NotFound if `service` is given and there is none.
        """
        rows = self._journal.rows(service)
        if service and not rows and service not in self._journal.services():
            raise NotFound(f"there is no service {service}", fix="isoform ps shows the services that there are")
        seen = await asyncio.gather(*(self._infra.forms[row.form].observe(row.id) for row in rows.values()))
        return [status(row, one) for row, one in zip(rows.values(), seen, strict=True)]

    async def exec_argv(self, service: str, function: str, replica: int, spec: ExecSpec) -> list[str]:
        """Return the host command that runs `spec` inside an instance, with the caller's stdin, stdout and terminal.

        Raises: NotFound, or WrongState if the instance does not run.
        """
        form, row = self._find(service, function, replica)
        state = (await form.observe(row.id)).state
        if state != "running":
            raise WrongState(f"{service}/{function} is {state}, not running", fix=f"isoform ps {service}")
        return form.exec_argv(row.id, spec)

    def logs(self, service: str, function: str, replica: int, follow: bool) -> AsyncIterator[LogLine]:
        """Yield what an instance printed. Raises: NotFound."""
        form, row = self._find(service, function, replica)
        return form.logs(row.id, follow)

    def replicas(self, service: str, function: str) -> list[int]:
        """Return the numbers of a function's instances. Raises: NotFound."""
        found = [row.replica for row in self._journal.rows(service).values() if row.function == function]
        if not found:
            raise self._unknown(service, function)
        return found

    def layers_in_use(self) -> frozenset[str]:
        """Return the digests of the image layers that the wanted instances of all services use."""
        wishes = [wish for service in self._journal.services() for wish in self._desired(service).wishes]
        return frozenset(layer.digest for wish in wishes if wish.instance.image for layer in wish.instance.image.layers)

    def _find(self, service: str, function: str, replica: int) -> tuple[Form, Row]:
        row = self._journal.row(f"{service}.{function}.{replica}")
        if row is None:
            raise self._unknown(service, function, replica)
        return self._infra.forms[row.form], row

    def _unknown(self, service: str, function: str, replica: int = 0) -> NotFound:
        there = self._journal.rows(service).values()
        if not there:
            services = ", ".join(sorted({row.service for row in self._journal.rows().values()})) or "none"
            return NotFound(f"there is no service {service}", why=f"services that are there: {services}")
        names = ", ".join(f"{row.function}" + (f" --replica {row.replica}" if row.replica else "") for row in there)
        wanted = function + (f" --replica {replica}" if replica else "")
        return NotFound(f"service {service} has no function {wanted}", why=f"it has: {names}")

    def _refuse_namesake(self, service: str, source: str) -> None:
        other = self._journal.services().get(service)
        if other and source and other != source:
            raise WrongState(
                f"a service {service} is already there, from another file",
                why=f"it was brought up from {other}",
                fix=f"give this one another name (`service:`), or first run: isoform down {service}",
            )

    def _desired(self, service: str) -> Desired:
        text = self._journal.desired(service)
        return load(Desired, text) if text else Desired(service)

    async def _change(
        self, desired: Desired, todo: Plan, verb: str, progress: Progress, grace_s: float = 5.0
    ) -> None:
        """Carry out a plan as a journaled operation; a step that fails puts the service back to what it was."""
        journal, service = self._journal, desired.service
        before = self._desired(service)
        operation = journal.begin(service, verb)
        journal.keep_rows(_row(wish) for wish in desired.wishes)
        context = Context(self._infra, journal, operation, progress, grace_s)
        try:
            await apply(todo, context)
        except IsoformError as error:
            journal.finish(operation, "FAILED", str(error))
            if verb == "up":
                await self._roll_back(before, context, error)
            raise
        except BaseException as error:
            journal.finish(operation, "FAILED_TEMP", f"cut off: {type(error).__name__}")
            raise
        self._remember(desired)
        journal.finish(operation, "COMPLETED")

    async def _roll_back(self, before: Desired, context: Context, error: IsoformError) -> None:
        try:
            world = await observe(before.service, self._infra, self._journal)
            await apply(plan(before, world, self._kinds), context)
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
