"""How a command ends: every failure becomes one message on stderr and one exit status."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from isoform.cli.output import OutputGone
from isoform.cli.running import Interrupted
from isoform.errors import IsoformError

UNEXPECTED, USAGE = 1, 2


def guarded(work: Callable[[], Any], arguments: list[str]) -> int:
    """Do `work` and return the exit status: what it returns if that is a number, else 0."""
    try:
        code = work()
        return code if isinstance(code, int) else 0
    except IsoformError as error:
        say(error_text(error))
        return error.exit_code
    except Interrupted as stop:
        if stop.left:
            say(stop.left)
        return 128 + stop.signal
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OutputGone:
        return _output_gone()
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own: Typer's base class of them differs by version
            say(usage_text(error))
            return int(getattr(error, "exit_code", USAGE))
        return _unexpected(error, arguments)


def error_text(error: IsoformError) -> str:
    """Return an error as users read it: what, then why, fix and notes, indented."""
    notes = (("note", note) for note in getattr(error, "__notes__", ()))
    parts = [(name, value) for name, value in (("why", error.why), ("fix", error.fix), *notes) if value]
    return f"error: {error.what}" + "".join(f"\n  {name}: {_indented(value)}" for name, value in parts)


def usage_text(error: Any) -> str:
    """Return the parser's error as users read it, with where the help is."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "isoform"
    return f"error: {message[:1].lower()}{message[1:]}\n  fix: {path} --help shows what it takes"


def say(text: str) -> None:
    """Write `text` to stderr; a stderr that is gone is not worth a failure."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _indented(text: str) -> str:
    first, *rest = text.splitlines() or [""]
    return "\n".join([first, *(line if line.startswith("    ") else f"    {line}" for line in rest)])


def _output_gone() -> int:
    """End as other tools do when the reader of a pipe has gone: silently, with SIGPIPE's status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's last flush does not fail too
    return 128 + signal.SIGPIPE


def _unexpected(error: Exception, arguments: list[str]) -> int:
    said = str(error).strip().splitlines()
    say(f"error: isoform itself failed: {type(error).__name__}" + (f": {said[0]}" if said else ""))
    if "--debug" in arguments:
        say("".join(traceback.format_exception(error)).rstrip())
    else:
        say("  fix: run it again with --debug, and report what that shows")
    return UNEXPECTED
