"""The engine: brings services up and down, and shows what is there. Faces call it; it knows no face."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from isoform.engine.infrastructure import Infrastructure
from isoform.engine.journal import Journal, Row
from isoform.engine.status import Status, status
from isoform.errors import NotFound, WrongState
from isoform.forms.form import Form
from isoform.model import ExecSpec, LogLine, Progress, silent

if TYPE_CHECKING:
    from isoform.engine.change import Changer, Outcome, Resolve


class Engine:
    """All that can be done with services of one home."""

    def __init__(self, infra: Infrastructure, journal: Journal, lock: Path) -> None:
        self._infra, self._journal, self._lock = infra, journal, lock

    async def up(
        self, service: str, resolve: Resolve, *, source: str = "", dry_run: bool = False, progress: Progress = silent
    ) -> Outcome:
        """Make the service as `resolve` wants it, changing only what differs.

        Args:
            resolve: given what is remembered of the service's instances, returns the service as wanted.
            source: the file that the service comes from.
        Raises: WrongState if a service of that name came from another file, or another change is under way;
            StepFailed after the service was put back to what it was before.
        """
        return await self._changer().up(service, resolve, source, dry_run, progress)

    async def down(
        self,
        service: str,
        *,
        dry_run: bool = False,
        grace_s: float = 5.0,
        volumes: bool = False,
        progress: Progress = silent,
    ) -> Outcome:
        """Take the service down: nothing of it stays but volumes that the descriptor keeps.

        Args:
            grace_s: how long a function may take to end by itself, seconds.
            volumes: delete these volumes too.
        Raises: NotFound if there is no such service, nor anything left of one.
        """
        return await self._changer().down(service, dry_run, grace_s, volumes, progress)

    def _changer(self) -> Changer:
        from isoform.engine.change import Changer  # imported here: who only looks pays nothing for it

        return Changer(self._infra, self._journal, self._lock)

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
        images = [wish["instance"]["image"] for text in self._journal.all_desired()
                  for wish in json.loads(text)["wishes"]]
        return frozenset(layer["digest"] for image in images if image for layer in image["layers"])

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
