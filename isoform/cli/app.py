"""The tree of commands. Each command's module is imported when that command is called, or its help is asked for."""

from __future__ import annotations

from typing import Annotated, ClassVar

import typer

from isoform.cli.command import Debug, HomeFolder, Quiet, Session
from isoform.cli.lazy import LazyGroup, group
from isoform.cli.report import guarded

_SERVICES, _LOOK, _IMAGES, _HOST = "Services", "Looking inside", "Images", "This host"


class Root(LazyGroup):
    """All commands: their section of the help, and where they are."""

    entries: ClassVar[dict[str, tuple[str, str]]] = {
        "up": (_SERVICES, "service:up"),
        "down": (_SERVICES, "service:down"),
        "ps": (_SERVICES, "ps:ps"),
        "op": (_SERVICES, "operation:app"),
        "exec": (_LOOK, "inside:exec_"),
        "logs": (_LOOK, "logs:logs"),
        "image": (_IMAGES, "image:app"),
        "doctor": (_HOST, "doctor:doctor"),
        "schema": (_HOST, "about:schema"),
        "version": (_HOST, "about:version"),
    }


def _version(wanted: bool) -> None:
    if wanted:
        from isoform.cli.about import version_text

        typer.echo(version_text())
        raise typer.Exit


app = group(Root, add_completion=True, examples="""
isoform up examples/edge            bring a service up, or change it to what its file says
isoform ps                          what runs where, since when, with which addresses
isoform exec edge/gateway -- sh     a shell inside, whatever the form
isoform doctor                      which forms work on this host, and what is missing
""")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    home: HomeFolder = None,
    debug: Debug = False,
    quiet: Quiet = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run network functions as containers, virtual machines, or containers inside virtual machines."""
    context.obj = Session(home, debug, quiet)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: list[str]) -> int:
    """Carry out one command line and return the exit status; errors are shown on stderr."""
    return guarded(lambda: app(args=arguments, prog_name="isoform", standalone_mode=False), arguments)
