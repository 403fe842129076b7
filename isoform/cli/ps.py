"""`isoform ps`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoform.cli.command import Json, Session, command
from isoform.cli.complete import complete_service
from isoform.cli.output import emit, emit_json
from isoform.cli.report import say
from isoform.cli.running import run
from isoform.cli.table import table
from isoform.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from isoform.engine.status import Status

_HEADER = ("INSTANCE", "FORM", "STATE", "READY", "ADDRESSES", "MEMORY", "UPTIME", "READY-AFTER", "IMAGE")
_WIDE = ("MACHINE", "PID", "WHY THIS FORM")
_RIGHT = frozenset({"MEMORY", "UPTIME", "READY-AFTER", "PID"})


@command("""
    isoform ps              all instances of all services
    isoform ps edge -w      those of edge, and why each has its form
    isoform ps --json       the same for programs
""")
def ps(
    session: Session,
    service: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE", autocompletion=complete_service, help="Show this service alone.", show_default=False
        ),
    ] = "",
    wide: Annotated[
        bool, typer.Option("--wide", "-w", help="Also show why each has its form, its machine and its process.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what runs.

    Each instance's form, state, addresses, memory, and how long it took from its creation until it was ready.
    The memory of an instance in a virtual machine is what that machine holds of the host's.
    """
    seen = run(session.assembly().engine.ps(service))
    if as_json:
        emit_json([as_plain(status) for status in seen])
    elif seen:
        emit(text(seen, wide, time.time()))
    else:
        say("no services here; bring one up with: isoform up FILE")


def as_plain(status: Status) -> dict[str, Any]:
    """Return an instance as JSON can hold it; its start as ISO 8601 in UTC."""
    started = status.started_at
    took = status.ready_after_s
    return {
        **asdict(status),
        "started_at": None if started is None else iso(started),
        "ready_after_s": None if took is None else round(took, 3),
    }


def iso(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text(seen: Sequence[Status], wide: bool, now: float) -> str:
    """Return the table of instances.

    Args:
        now: seconds since the epoch, for how long each runs.
    """
    rows = [_row(status, now) + (_more(status) if wide else ()) for status in seen]
    return table(_HEADER + (_WIDE if wide else ()), rows, _RIGHT)


def _row(status: Status, now: float) -> tuple[str, ...]:
    runs = status.state == "running"
    return (
        status.instance,
        status.form,
        _state(status),
        "yes" if status.ready else "no",
        ",".join(f"{link}={address}" for link, address in status.addresses.items()),
        format_bytes(status.memory_bytes) if status.memory_bytes else "",
        format_seconds(max(now - status.started_at, 0)) if runs and status.started_at is not None else "",
        format_seconds(status.ready_after_s) if status.ready_after_s is not None else "",
        status.image,
    )


def _state(status: Status) -> str:
    """Return the state, and how it came to it where it ended: "stopped (out of memory, exit 137)"."""
    ended = [status.reason, f"exit {status.exit_code}" if status.exit_code is not None else ""]
    how = ", ".join(part for part in ended if part)
    return f"{status.state} ({how})" if how and status.state != "running" else status.state


def _more(status: Status) -> tuple[str, ...]:
    return status.machine, str(status.pid or ""), status.why
