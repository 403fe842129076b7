"""Groups of commands that import a command when it is asked for: twenty unused ones cost nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command

from isoform.cli.command import WithExamples, build

PLAIN: dict[str, Any] = {  # Rich's help and tracebacks would cost more than most commands do
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}


def group(kind: type[LazyGroup], *, examples: str, add_completion: bool = False) -> typer.Typer:
    """Return a Typer application whose commands are those of `kind`."""
    return typer.Typer(cls=kind, add_completion=add_completion, epilog=examples, **PLAIN)


class LazyGroup(WithExamples, TyperGroup):
    """A group whose `entries` name for each command its section of the help and "module:attribute" below cli."""

    entries: ClassVar[dict[str, tuple[str, str]]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # Typer suggests near misses from the keys; what stands behind them is found by `get_command`.
        self.commands = dict.fromkeys(self.entries)  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands' names, in the order of the help."""
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name, or None."""
        if cmd_name not in self.entries:
            return None
        module, attribute = self.entries[cmd_name][1].split(":")
        found = getattr(import_module(f"isoform.cli.{module}"), attribute)
        command = get_command(found) if isinstance(found, typer.Typer) else build(found)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, one section for each group of them."""
        width = max(map(len, self.entries))
        for section in dict.fromkeys(where for where, _ in self.entries.values()):
            names = [name for name, (where, _) in self.entries.items() if where == section]
            limit = formatter.width - 6 - width
            with formatter.section(section):
                formatter.write_dl(
                    [(name.ljust(width), self.get_command(ctx, name).get_short_help_str(limit)) for name in names]
                )
