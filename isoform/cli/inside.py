"""`isoform exec`: this process becomes the command inside."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer

from isoform.cli.command import Command, Session, command
from isoform.cli.complete import complete_function
from isoform.cli.running import run
from isoform.cli.target import functions_of, instance_of, split_target
from isoform.errors import DescriptorError, HostLacks


class StopsAtCommand(Command):
    """Options end where the command inside begins, also without "--": as in `docker exec web ls -l`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put "--" before the second argument that is no option."""
        return super().parse_args(ctx, with_end_of_options(args, self._with_value()))

    def _with_value(self) -> frozenset[str]:
        return frozenset(name for one in self.params for name in one.opts if not getattr(one, "is_flag", True))


def with_end_of_options(args: list[str], with_value: frozenset[str]) -> list[str]:
    """Return `args` with "--" before the second word that is neither an option nor an option's value.

    Args:
        with_value: the options that take a value.
    """
    words, position = 0, 0
    while position < len(args) and args[position] != "--":
        if args[position].startswith("-") and args[position] != "-":
            position += args[position] in with_value
        else:
            words += 1
            if words == 2:
                return [*args[:position], "--", *args[position:]]
        position += 1
    return args


@command("""
    isoform exec edge/gateway sh                     a shell inside, whatever the form
    isoform exec edge/web --replica 1 -- ps aux      in another replica
    tar c site | isoform exec edge/web tar x -C /srv
""", kind=StopsAtCommand)
def exec_(
    session: Session,
    target: Annotated[
        str,
        typer.Argument(metavar="SERVICE/FUNCTION", autocompletion=complete_function, help="Where to run the command."),
    ],
    argv: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command and its arguments.")],
    replica: Annotated[int | None, typer.Option("--replica", "-r", min=0, metavar="N", help="Which copy.")] = None,
    tty: Annotated[
        bool | None,
        typer.Option(
            "--tty/--no-tty", "-t/-T", show_default="if stdin and stdout are one", help="Give it a terminal."
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Taken for the sake of habit (-it): stdin is always passed on.")
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="KEY=VALUE", help="Set an environment variable. May be repeated."),
    ] = None,
    workdir: Annotated[
        str, typer.Option("--workdir", "-w", metavar="DIR", help="Run it in this directory.", show_default=False)
    ] = "",
) -> None:
    """Run a command inside a function, whatever its form.

    It gets this terminal, stdin and stdout, and its exit status becomes ours.
    """
    from isoform.model import ExecSpec

    terminal = sys.stdin.isatty() and sys.stdout.isatty() if tty is None else tty
    spec = ExecSpec(tuple(argv), terminal, tuple(variable(item) for item in env or ()), workdir)
    service, function = split_target(target)
    assembly = session.assembly()
    there = functions_of(assembly, service)
    if not function:
        functions = ", ".join(f"{service}/{name}" for name in there)
        raise DescriptorError(f"`{target}` names no function", fix=f"write one of {functions}")
    function, number = (replica is None and instance_of(function, there)) or (function, replica or 0)
    command_line = run(assembly.engine.exec_argv(service, function, number, spec))
    become(command_line)


def become(command_line: list[str]) -> None:
    """Turn this process into a host command: signals, window size and exit status are then its own.

    Raises: HostLacks if there is no such command.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so over exec
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command_line[0], command_line)
    except OSError as error:
        raise HostLacks(
            f"{command_line[0]} cannot be run", why=str(error.strerror), fix="run: isoform doctor"
        ) from error


def variable(text: str) -> tuple[str, str]:
    """Return the name and value of KEY=VALUE. Raises: DescriptorError if it is not that."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise DescriptorError(f"--env {text} sets nothing", fix="write KEY=VALUE")
    return name, value
