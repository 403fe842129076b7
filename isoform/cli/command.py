"""What all commands share: the options that each of them takes, examples in its help, and a session to work in."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from isoform.cli.progress import shown
from isoform.cli.running import run
from isoform.errors import HostLacks

if TYPE_CHECKING:
    from isoform.assemble import Assembly

HomeFolder = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="FOLDER",
        help="Where isoform keeps everything (default: ISOFORM_HOME, else /var/lib/isoform).",
        show_default=False,
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Tell on stderr each change and command as it happens.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress: only results and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Print what would change, and change nothing.")]


class WithExamples:
    """Help that ends with examples, each on a line of its own."""

    epilog: str | None

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are."""
        with formatter.section("Examples"):
            for line in inspect.cleandoc(self.epilog or "").splitlines():
                formatter.write(f"  {line}\n")


class Command(WithExamples, TyperCommand):
    """A command whose epilog is its examples."""


@dataclass(frozen=True, slots=True)
class Session:
    """One call of the command line: where its home is and how much it says."""

    home: Path | None = None  # None: what the environment or the default says
    debug: bool = False
    quiet: bool = False

    def with_more(self, home: Path | None, debug: bool, quiet: bool) -> Session:
        """Return the session that the options after the command's name add up to."""
        return Session(home or self.home, debug or self.debug, quiet or self.quiet)

    def assembly(self) -> Assembly:
        """Return the engine and all that stands behind it; the first call in a home tries out what the host can do."""
        from isoform.assemble import assembled, home_of

        first = not (home_of(self.home).path / "host.json").exists()
        with shown(hidden=self.quiet or not first, plain=self.debug) as (progress, stop):
            progress("this host", "finding out what it can do, once")
            return run(assembled(self.home), stop)


@dataclass(frozen=True, slots=True)
class _About:
    examples: str
    needs_root: bool
    kind: type[Command]


def command(
    examples: str, *, needs_root: bool = True, kind: type[Command] = Command
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function as a command: its docstring is the help, its first parameter the session.

    Args:
        examples: lines of the help, each an example and what it does.
        needs_root: refuse at once to run without root, before anything is read or made.
        kind: how its arguments are parsed, where that is out of the ordinary.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__about__ = _About(inspect.cleandoc(examples), needs_root, kind)  # type: ignore[attr-defined]
        return function

    return mark


def build(function: Callable[..., Any]) -> Command:
    """Return the command that `function` was marked as, with the options that all commands share."""
    about: _About = function.__about__  # type: ignore[attr-defined]

    def body(context: typer.Context, home: Any, debug: bool, quiet: bool, **given: Any) -> Any:
        root = context.find_root().obj
        session = (root if isinstance(root, Session) else Session()).with_more(home, debug, quiet)
        if about.needs_root:
            require_root()
        if session.debug:
            from isoform.cli.debuglog import log_to_stderr

            log_to_stderr()
        try:
            return function(session, **given)
        except BrokenPipeError as error:  # Typer takes it for a reader of ours that has gone, and ends in silence
            raise RuntimeError(f"a tool closed its connection: {error}") from error

    body.__signature__ = _signature(function)  # type: ignore[attr-defined]
    body.__annotations__ = {name: one.annotation for name, one in body.__signature__.parameters.items()}  # type: ignore[attr-defined]
    body.__doc__ = function.__doc__
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(function.__name__.strip("_"), cls=about.kind, epilog=about.examples)(body)
    made = get_command(single)
    assert isinstance(made, Command)  # one command and no callback: Typer makes no group of it
    return made


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the function's parameters but the session, the context, and the options that all commands share."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    kind = inspect.Parameter.KEYWORD_ONLY
    shared = [("home", HomeFolder, None), ("debug", Debug, False), ("quiet", Quiet, False)]
    return inspect.Signature([
        inspect.Parameter("context", kind, annotation=typer.Context),
        *(one.replace(kind=kind) for one in own),
        *(inspect.Parameter(name, kind, annotation=hint, default=default) for name, hint, default in shared),
    ])


def as_typed() -> str:
    """Return this command line as users typed it, to be typed again."""
    return shlex.join(["isoform", *sys.argv[1:]])


def require_root() -> None:
    """Raises: HostLacks if this process is not root, with the command line that would be."""
    if os.geteuid() != 0:
        raise HostLacks(
            "isoform needs root for this",
            why="it makes network namespaces, mounts and control groups",
            fix=f"run: sudo {as_typed()}",
        )
