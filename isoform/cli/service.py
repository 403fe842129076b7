"""`isoform up` and `isoform down`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isoform.cli.command import DryRun, Json, Session, as_typed, command
from isoform.cli.complete import complete_form, complete_service
from isoform.cli.files import find_descriptor, looks_like_file
from isoform.cli.left import left
from isoform.cli.output import emit_outcome
from isoform.cli.progress import shown
from isoform.cli.running import Interrupted, run
from isoform.errors import DescriptorError, NotFound

if TYPE_CHECKING:
    from isoform.assemble import Assembly


@command("""
    isoform up                                    the service of ./service.yaml
    isoform up examples/edge --dry-run            what would change
    isoform up examples/edge --form web=vm        the same image, in a virtual machine
    isoform up shop.yaml --set functions.web.memory=256Mi
""")
def up(
    session: Session,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="The service's file, or the folder of its service.yaml (default: ./service.yaml or ./isoform.yaml).",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form",
            metavar="NAME=FORM",
            autocompletion=complete_form,
            help="Run a function in another form than its file says. May be repeated.",
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a value of the file, such as functions.web.memory=256Mi. May be repeated.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Bring a service up, or change it to what its file says now.

    Only what differs is touched; running it again changes nothing.
    """
    path = find_descriptor(file)
    forms = dict(_pair(item, "--form", "gateway=vm") for item in form or ())
    assembly = session.assembly()
    service = assembly.service_of(path, values or ())
    hidden = session.quiet or as_json
    with shown(hidden=hidden, plain=session.debug, heading=f"{service}: coming up") as (progress, stop):
        try:
            outcome = run(
                assembly.up(path, forms=forms, overrides=values or (), dry_run=dry_run, progress=progress), stop
            )
        except Interrupted as cut:
            stop()
            cut.left = _left(assembly, service, as_typed())
            raise
    emit_outcome(outcome, dry_run=dry_run, as_json=as_json)


@command("""
    isoform down edge                 take the service edge down
    isoform down examples/edge        the service of that file
    isoform down edge --timeout 30    give each function 30 s to end by itself
""")
def down(
    session: Session,
    service: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE|FILE",
            autocompletion=complete_service,
            help="The service's name, its file, or the folder of its service.yaml.",
        ),
    ],
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="SECONDS", min=0, help="How long a function may take to end by itself."),
    ] = 5.0,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Delete also the volumes that its file says to keep, and what is in them.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take a service down. Nothing of it stays but volumes that its file says to keep."""
    assembly = session.assembly()
    name = assembly.service_of(find_descriptor(Path(service)), ()) if looks_like_file(service) else service
    hidden = session.quiet or as_json
    with shown(hidden=hidden, plain=session.debug, heading=f"{name}: going down") as (progress, stop):
        try:
            outcome = run(
                assembly.engine.down(name, dry_run=dry_run, grace_s=timeout, volumes=volumes, progress=progress), stop
            )
        except Interrupted as cut:
            stop()
            cut.left = _left(assembly, name, "")
            raise
    emit_outcome(outcome, dry_run=dry_run, as_json=as_json)


def _left(assembly: Assembly, service: str, go_on: str) -> str:
    """Return what a change that was cut off has left of `service`, and what to run."""
    try:
        seen = run(assembly.engine.ps(service))
    except NotFound:
        seen = []
    return left(service, seen, go_on)


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise DescriptorError(f"{option} {text} is not NAME=VALUE", fix=f"write for example {option} {example}")
    return name, value
