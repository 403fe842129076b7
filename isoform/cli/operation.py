"""`isoform op`: what was done to services, from the journal."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from isoform.cli.command import Json, Session, command
from isoform.cli.complete import complete_service
from isoform.cli.lazy import LazyGroup, group
from isoform.cli.output import emit, emit_json
from isoform.cli.ps import iso
from isoform.cli.report import say
from isoform.cli.table import table
from isoform.errors import NotFound
from isoform.units import format_seconds

if TYPE_CHECKING:
    from isoform.engine.journal import Operation


class Operations(LazyGroup):
    """The commands of `isoform op`."""

    entries: ClassVar[dict[str, tuple[str, str]]] = {
        "ls": ("Commands", "operation:list_"),
        "show": ("Commands", "operation:show"),
    }


app = group(Operations, examples="""
isoform op ls            the operations of all services
isoform op show 7        the steps of one
""")


@app.callback(invoke_without_command=True)
def operations(context: typer.Context) -> None:
    """Show what was done to services.

    Each up and down, its state and its steps.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@command("""
    isoform op ls            the operations of all services, newest first
    isoform op ls edge       those of edge
""")
def list_(
    session: Session,
    service: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE", autocompletion=complete_service, help="Show this service alone.", show_default=False
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """List operations, newest first."""
    found = session.assembly().journal.operations(service)
    if as_json:
        emit_json([_plain(operation) for operation in found])
    elif found:
        emit(table(("ID", "SERVICE", "VERB", "STATE", "STARTED", "TOOK", "ERROR"), [_row(one) for one in found]))
    else:
        say("no operations yet")


@command("""
    isoform op show 7           one operation and its steps
    isoform op show 7 --json    the same for programs
""")
def show(
    session: Session,
    number: Annotated[int, typer.Argument(metavar="ID", min=1, help="The operation's id, as `isoform op ls` shows.")],
    as_json: Json = False,
) -> None:
    """Show one operation: its state, its error and its steps."""
    journal = session.assembly().journal
    operation = next((one for one in journal.operations() if one.id == number), None)
    if operation is None:
        raise NotFound(f"there is no operation {number}", fix="isoform op ls shows those that there are")
    steps = journal.steps(number)
    if as_json:
        emit_json({**_plain(operation), "steps": [
            {"step": step, "state": state, "at": iso(at)} for step, state, at in steps
        ]})
        return
    emit(table(("ID", "SERVICE", "VERB", "STATE", "STARTED", "TOOK"), [_row(operation)[:-1]]))
    if operation.error:
        emit(f"\n{operation.error}")
    emit("\n" + table(("AFTER", "STEP", "STATE"), [
        (format_seconds(max(at - operation.started_at, 0)), step, state) for step, state, at in steps
    ], frozenset({"AFTER"})))


def _row(one: Operation) -> tuple[str, ...]:
    took = "" if one.ended_at is None else format_seconds(max(one.ended_at - one.started_at, 0))
    first = one.error.splitlines()[0] if one.error else ""
    return str(one.id), one.service, one.verb, one.state, iso(one.started_at), took, first


def _plain(one: Operation) -> dict[str, Any]:
    ended = None if one.ended_at is None else iso(one.ended_at)
    return {**asdict(one), "started_at": iso(one.started_at), "ended_at": ended}
