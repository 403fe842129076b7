"""`isoform schema` and `isoform version`: what needs neither root nor a home."""

from __future__ import annotations

import json

import isoform
from isoform.cli.command import Json, Session, command
from isoform.cli.output import emit, emit_json


@command("""
    isoform schema > service.schema.json
    # yaml-language-server: $schema=./service.schema.json     (first line of service.yaml)
""", needs_root=False)
def schema(session: Session) -> None:
    """Print the JSON Schema of service files.

    Editors complete and check service files with it.
    """
    from isoform.model.descriptor import json_schema

    emit(json.dumps(json_schema(), indent=2))


@command("""
    isoform version            the version
    isoform version --json     the same for programs
""", needs_root=False)
def version(session: Session, as_json: Json = False) -> None:
    """Show the version."""
    if as_json:
        emit_json({"version": isoform.__version__})
    else:
        emit(version_text())


def version_text() -> str:
    """Return the version as people read it."""
    return f"isoform {isoform.__version__}"
