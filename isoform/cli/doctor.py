"""`isoform doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoform.cli.command import Json, Session, command
from isoform.cli.output import emit, emit_json
from isoform.cli.progress import shown
from isoform.cli.running import run
from isoform.cli.table import table
from isoform.errors import HostLacks

if TYPE_CHECKING:
    from isoform.forms.form import Form
    from isoform.host import Home
    from isoform.host.doctor import DoctorRow
    from isoform.host.facts import Facts
    from isoform.host.kvm import Acceleration
    from isoform.model import Lack

Lacks = Mapping[str, Sequence["Lack"]]


@command("""
    isoform doctor              which forms work here, and what is missing
    isoform doctor --refresh    try everything anew instead of reading what was found
    isoform doctor --json       the same for programs
""")
def doctor(
    session: Session,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Forget what was found on this host and try everything again.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Show what this host can do.

    Which forms work, what is missing, and the command that mends it. The exit status is 0 if at least one form works,
    else 4.
    """
    from isoform.assemble import home_of
    from isoform.host.doctor import rows
    from isoform.host.kvm import verdict

    if refresh:
        _try_again(session, home_of(session.home), as_json)
    assembly = session.assembly()
    lacks, acceleration = run(_missing(assembly.forms)), verdict(assembly.home)
    found = rows(assembly.facts, lacks, acceleration)
    if as_json:
        emit_json(as_plain(assembly.facts, lacks, acceleration, found))
    else:
        emit(text(found))
    return 0 if any(not lack for lack in lacks.values()) else HostLacks.exit_code


def _try_again(session: Session, home: Home, as_json: bool) -> None:
    from isoform.host.probe import facts

    with shown(hidden=session.quiet or as_json, plain=session.debug) as (progress, stop):
        progress("this host", "trying runtimes, kernel features and QEMU")
        run(facts(home, refresh=True), stop)


async def _missing(forms: Mapping[str, Form]) -> dict[str, list[Lack]]:
    import asyncio

    return dict(zip(forms, await asyncio.gather(*(form.missing() for form in forms.values())), strict=True))


def as_plain(
    facts: Facts, lacks: Lacks, acceleration: Acceleration | None, found: Sequence[DoctorRow]
) -> dict[str, Any]:
    """Return what was found as JSON can hold it."""
    return {
        "forms": [
            {"form": name, "usable": not missing, "missing": [asdict(lack) for lack in missing]}
            for name, missing in lacks.items()
        ],
        "kvm": asdict(acceleration) if acceleration else None,
        "host": asdict(facts),
        "checks": [asdict(row) for row in found],
    }


def text(found: Sequence[DoctorRow]) -> str:
    """Return a table of what was found, and below it the commands that mend what is amiss."""
    checks = table(("CHECK", "OK", "FOUND"), [(row.subject, row.verdict, row.detail) for row in found])
    fixes = dict.fromkeys(row.fix for row in found if row.fix)
    return checks + ("\n\nto mend it:\n" + "\n".join(f"  {fix}" for fix in fixes) if fixes else "")
