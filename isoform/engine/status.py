"""What `ps` shows of an instance."""

from __future__ import annotations

from dataclasses import dataclass

from isoform.engine.journal import Row
from isoform.engine.observe import is_ready
from isoform.model import Observation


@dataclass(frozen=True, slots=True)
class Status:
    """One instance as it is now. `ps --json` prints these fields under these names."""

    service: str
    function: str
    instance: str  # "edge/web-1"
    replica: int
    form: str
    why: str  # why it has this form
    state: str
    ready: bool
    addresses: dict[str, str]  # link -> address; IPv4 where the link has both
    addresses6: dict[str, str]
    image: str
    machine: str  # the machine that it shares or has for itself; "" for none
    pid: int
    memory_bytes: int  # host memory held; of the whole machine where it is in one
    started_at: float | None
    ready_after_s: float | None
    exit_code: int | None
    reason: str


def status(row: Row, seen: Observation) -> Status:
    """Return what to show of an instance that is remembered as `row` and seen as `seen`."""
    ready = is_ready(row, seen)
    v4: dict[str, str] = {}
    v6: dict[str, str] = {}
    for port in row.ports:
        for address in port.addresses:
            (v6 if ":" in address else v4).setdefault(port.link, address.split("/")[0])
    number = f"-{row.replica}" if row.replica else ""
    return Status(
        service=row.service,
        function=row.function,
        instance=f"{row.service}/{row.function}{number}",
        replica=row.replica,
        form=row.form,
        why=row.why,
        state=seen.state,
        ready=ready,
        addresses=v6 | v4,
        addresses6=v6,
        image=row.image,
        machine=row.machine,
        pid=seen.pid,
        memory_bytes=seen.memory_bytes,
        started_at=seen.started_at or row.started_at,
        ready_after_s=row.ready_after_s if ready else None,
        exit_code=seen.exit_code,
        reason=seen.reason,
    )
