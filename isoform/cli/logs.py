"""`isoform logs`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Annotated

import typer

from isoform.cli.command import Json, Session, command
from isoform.cli.complete import complete_target
from isoform.cli.output import emit
from isoform.cli.ps import iso
from isoform.cli.running import run
from isoform.cli.target import functions_of, instance_of, split_target

if TYPE_CHECKING:
    from isoform.assemble import Assembly
    from isoform.engine.engine import Engine
    from isoform.model import LogLine

_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


@dataclass(frozen=True, slots=True)
class Source:
    """One instance whose log is read."""

    service: str
    function: str
    replica: int
    prefix: str  # what stands before each of its lines: "" where it is the only one

    @property
    def label(self) -> str:
        """Its name, as `ps` shows it."""
        return f"{self.service}/{self.function}" + (f"-{self.replica}" if self.replica else "")


@command("""
    isoform logs edge/web               what web has printed
    isoform logs edge -f                all functions of edge, as they print
    isoform logs edge/web --tail 20 -t  its last 20 lines, with the time of each
""")
def logs(
    session: Session,
    target: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE[/FUNCTION]", autocompletion=complete_target, help="One function, or all of a service."
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is printed, until Ctrl-C.")] = False,
    replica: Annotated[int | None, typer.Option("--replica", "-r", min=0, metavar="N", help="This copy alone.")] = None,
    tail: Annotated[
        int | None,
        typer.Option("--tail", "-n", min=0, metavar="N", show_default="all", help="Begin with the last N lines."),
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Show when each line was printed.")] = False,
    as_json: Json = False,
) -> None:
    """Show what functions print.

    The oldest line first. With several, each line begins with its function's name.
    With --json, each line is one JSON object.
    """
    assembly = session.assembly()
    sources = _sources(assembly, target, replica, coloured=sys.stdout.isatty())

    def show(source: Source, line: LogLine) -> None:
        emit(as_json_line(source, line) if as_json else as_text(source, line, timestamps))

    run(_show(assembly.engine, sources, tail, follow, show))


def _sources(assembly: Assembly, target: str, replica: int | None, coloured: bool) -> list[Source]:
    service, function = split_target(target)
    there = functions_of(assembly, service)
    if function and replica is None and (found := instance_of(function, there)):
        function, replica = found
    chosen = [
        (name, number)
        for name in ([function] if function else there)
        for number in ([replica] if replica is not None else assembly.engine.replicas(service, name))
    ]
    return [
        Source(service, name, number, prefix)
        for (name, number), prefix in zip(chosen, _prefixes(chosen, coloured), strict=True)
    ]


def _prefixes(chosen: Sequence[tuple[str, int]], coloured: bool) -> list[str]:
    """Return what stands before the lines of each: nothing where there is only one, else its name, aligned."""
    if len(chosen) < 2:
        return [""] * len(chosen)
    names = [name + (f"-{number}" if number else "") for name, number in chosen]
    width = max(map(len, names))
    colours = cycle(_COLOURS)
    made = [f"{name:<{width}} | " for name in names]
    return [typer.style(text, fg=next(colours)) for text in made] if coloured else made


def as_text(source: Source, line: LogLine, timestamps: bool) -> str:
    """Return a line as people read it."""
    return source.prefix + (f"{'-' if line.at is None else iso(line.at)} " if timestamps else "") + line.text


def as_json_line(source: Source, line: LogLine) -> str:
    """Return a line as one JSON object."""
    return json.dumps({
        "service": source.service, "function": source.function, "replica": source.replica, "instance": source.label,
        "at": None if line.at is None else iso(line.at), "stream": line.stream, "text": line.text,
    }, ensure_ascii=False)


async def _show(
    engine: Engine, sources: Sequence[Source], tail: int | None, follow: bool, show: Callable[[Source, LogLine], None]
) -> None:
    """Show what is there, in the order of time; then, with `follow`, what comes, as it comes."""
    import asyncio

    kept = await asyncio.gather(*(_collect(engine, source) for source in sources))
    for source, line in in_order(sources, [last(lines, tail) for lines in kept]):
        show(source, line)
    if follow:
        async with asyncio.TaskGroup() as group:
            for source, lines in zip(sources, kept, strict=True):
                group.create_task(_follow(engine, source, len(lines), show))


async def _collect(engine: Engine, source: Source) -> list[LogLine]:
    return [line async for line in engine.logs(source.service, source.function, source.replica, False)]


async def _follow(engine: Engine, source: Source, known: int, show: Callable[[Source, LogLine], None]) -> None:
    """Show all but the first `known` lines, which were shown before."""
    async for line in engine.logs(source.service, source.function, source.replica, True):
        if known:
            known -= 1
        else:
            show(source, line)


def last(lines: list[LogLine], count: int | None) -> list[LogLine]:
    """Return the last `count` lines; all of them if it is None."""
    return lines if count is None else lines[len(lines) - min(count, len(lines)):]


def in_order(sources: Sequence[Source], lines: Sequence[Sequence[LogLine]]) -> list[tuple[Source, LogLine]]:
    """Return the lines of all sources by time; a line without one stays behind the line before it."""
    timed: list[tuple[float, Source, LogLine]] = []
    for source, its in zip(sources, lines, strict=True):
        at = 0.0
        for line in its:
            at = max(at, line.at or 0.0)
            timed.append((at, source, line))
    timed.sort(key=lambda item: item[0])  # stable: lines of one source keep their order
    return [(source, line) for _, source, line in timed]
