"""The tree of commands: every command and option explains itself, and mistakes in typing are told well."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from isoform.cli.app import app, run
from scripts import commands as commands_page


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or get_command(app)
    yield path, command
    for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
        yield from commands(command.get_command(None, name), (*path, name))


ALL = dict(commands())


def test_tree_has_what_users_were_promised():
    promised = {"up", "down", "ps", "exec", "logs", "doctor", "schema", "version", "image build", "image pull",
                "image ls", "image inspect", "image rm", "image prune", "op ls", "op show"}
    assert promised <= {" ".join(path) for path in ALL}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_and_option_has_help_and_every_command_an_example(path, capsys):
    command = ALL[path]
    assert command.help and command.help.splitlines()[0].endswith(".")
    assert not [one.name for one in command.params if not one.help]
    for flag in ("-h", "--help"):
        assert run([*path, flag]) == 0
        shown = capsys.readouterr().out
        assert "Examples:\n" in shown
        assert " ".join(("isoform", *path)) in shown.split("Examples:\n")[1]


@pytest.mark.parametrize("path", [path for path in ALL if not hasattr(ALL[path], "list_commands")], ids=" ".join)
def test_every_command_that_shows_something_takes_json(path):
    options = {name for one in ALL[path].params for name in one.opts}
    assert "--json" in options or path[0] in ("exec", "schema")
    assert {"--home", "--debug", "--quiet", "-q"} <= options


def test_alone_it_shows_its_help_with_sections(capsys):
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{section}:\n" in shown for section in ("Services", "Looking inside", "Images", "This host"))


@pytest.mark.parametrize("arguments", [["upp"], ["up", "--nonsense"], ["exec"], ["ps", "a", "b"], ["op", "show", "x"],
                                       ["down", "edge", "--timeout", "-3"], ["logs", "edge", "--tail", "-1"]])
def test_usage_errors_exit_2_and_name_the_help(arguments, capsys):
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert "--help shows what it takes" in shown.err


def test_near_miss_is_suggested(capsys):
    assert run(["doctr"]) == 2
    assert "Did you mean 'doctor'?" in capsys.readouterr().err


def test_version_and_help_import_nothing_heavy():
    script = ("import sys; from isoform.cli.app import run; run(sys.argv[1:]);"
              "heavy = {'asyncio', 'pydantic', 'pyroute2', 'qemu', 'rich', 'yaml', 'sqlite3'} & set(sys.modules);"
              "sys.exit(' '.join(heavy) or 0)")
    for arguments in (["--version"], ["version"], ["up", "--help"], ["image", "-h"]):
        result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, ""), arguments


def test_page_of_commands_is_current():
    assert commands_page.PAGE.read_text() == commands_page.page(), "run: .venv/bin/python -m scripts.commands"
