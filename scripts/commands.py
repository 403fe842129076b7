"""Write docs/commands.md from the commands themselves. `--check` only compares."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from isoform.cli.app import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
_HEAD = """# Commands

Written by `python -m scripts.commands` from what `isoform COMMAND --help` says.

stdout is data, stderr is all else: progress, errors, hints. `--json` is there wherever something is shown, and then
nothing but JSON is on stdout. Each command may be run again: what is done already is not done twice.

| exit status | meaning |
|---|---|
| 0 | done, or nothing to do |
| 1 | isoform itself failed: run it again with `--debug` and report what that shows |
| 2 | the command line, the file or a value is not valid |
| 3 | not possible now: it does not exist, another change is under way, a name is taken |
| 4 | this host lacks a tool, a kernel feature, memory, disk or a privilege |
| 5 | a step failed; the service was put back to what it was before |
| 130, 143 | stopped by Ctrl-C, by SIGTERM; the last line says what is left and what to run |

`isoform exec` ends with the exit status of the command inside.

Every command takes `--home FOLDER` (where isoform keeps everything; else `ISOFORM_HOME`, else `/var/lib/isoform`),
`--debug` (tell on stderr each change and command as it happens), `-q` or `--quiet` (no progress) and `-h` or `--help`.
`isoform --install-completion` teaches your shell the commands, and the names of services, functions and images.
"""


def commands(command: Any, path: tuple[str, ...] = ("isoform",)) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its name as users type it."""
    if not hasattr(command, "list_commands"):
        yield " ".join(path), command
        return
    for name in command.list_commands(None):
        yield from commands(command.get_command(None, name), (*path, name))


def page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(_section(name, command) for name, command in commands(get_command(app)))])


def _section(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"
               and one.name not in ("home", "debug", "quiet")]
    usage = " ".join([name, *(f"[{one.metavar}]" if not one.required else one.metavar for one in arguments)])
    rows = [f"| {_code(one.metavar)} | {one.help} |" for one in arguments]
    rows += [f"| {_names(one)} | {one.help} |" for one in options]
    table = ["", "| | |", "|---|---|", *rows] if rows else []
    examples = inspect.cleandoc(command.epilog)
    return "\n".join([f"## `{usage}`", "", inspect.cleandoc(command.help), *table, "", "```text", examples, "```", ""])


def _names(option: Any) -> str:
    value = f" {option.metavar}" if option.metavar else ""
    return ", ".join(_code(name + value) for name in (*option.opts, *option.secondary_opts))


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"  # a bar would end the table's cell


def main() -> int:
    """Return 1 if `--check` found that the page is not current."""
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
