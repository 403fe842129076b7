"""What the shell offers on Tab: names from the journal and the image store. Fast, and silent when anything fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoform.cli.files import find_descriptor

if TYPE_CHECKING:
    from isoform.engine.journal import Journal

_FORMS = ("auto", "container", "container-in-vm", "vm")


def complete_service(ctx: Any) -> list[str]:
    """Return the names of services."""
    return _quietly(lambda: _services(_journal(ctx)))


def complete_function(ctx: Any) -> list[str]:
    """Return SERVICE/FUNCTION for every function that is there."""
    return _quietly(lambda: _functions(_journal(ctx)))


def complete_target(ctx: Any) -> list[str]:
    """Return the names of services, and SERVICE/FUNCTION for each of their functions."""
    return _quietly(lambda: _services(_journal(ctx)) | _functions(_journal(ctx)))


def complete_form(ctx: Any, incomplete: str) -> list[str]:
    """Return NAME=FORM: the forms once a name is typed, else the names of the functions in the file."""
    name, equals, _ = incomplete.partition("=")
    if equals:
        return [f"{name}={form}" for form in _FORMS]
    return _quietly(lambda: (f"{function}=" for function in _functions_in_file(ctx)))


def complete_image(ctx: Any) -> list[str]:
    """Return the names and references of images."""
    return _quietly(lambda: _images(_home(ctx)))


def _quietly(names: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return sorted(names())
    except Exception:  # a prompt is no place for errors
        return []


def _services(journal: Journal) -> set[str]:
    return set(journal.services()) | {row.service for row in journal.rows().values()}


def _functions(journal: Journal) -> set[str]:
    return {f"{row.service}/{row.function}" for row in journal.rows().values()}


def _functions_in_file(ctx: Any) -> list[str]:
    """Read names alone, without the checks: a file that is being written has mistakes."""
    import yaml

    # While the value of --form is missing, the parser has given up and left the file among the rest.
    given = ctx.params.get("file") or next((word for word in ctx.args if not word.startswith("-")), None)
    return list(yaml.safe_load(find_descriptor(Path(given) if given else None).read_text())["functions"])


def _images(home: Path) -> set[str]:
    from isoform.images.store import Store

    return {name for entry in Store(home / "images").entries() for name in (entry.name, entry.reference) if name}


def _home(ctx: Any) -> Path:
    from isoform.assemble import home_of

    given = ctx.params.get("home") or ctx.find_root().params.get("home")
    return home_of(Path(given) if given else None).path


def _journal(ctx: Any) -> Journal:
    from isoform.engine.journal import Journal

    state = _home(ctx) / "state.db"
    if not state.exists():  # opening a journal makes it
        raise FileNotFoundError(state)
    return Journal(state)
