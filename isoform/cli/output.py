"""What commands print on stdout: data only, as text or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoform.engine.change import Outcome
    from isoform.engine.plan import Change


class OutputGone(Exception):
    """Nobody reads our stdout any more. Unlike a broken pipe to a tool of ours, it is no failure."""


def emit(text: str) -> None:
    """Print one text on stdout, at once: what reads it may be waiting.

    Raises: OutputGone if the reader has gone.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise OutputGone from None
    except UnicodeEncodeError:  # a locale without the sign: show what it can
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), flush=True)


def emit_json(value: Any) -> None:
    """Print `value` as indented JSON."""
    emit(json.dumps(value, indent=2, ensure_ascii=False))


def emit_outcome(outcome: Outcome, *, dry_run: bool, as_json: bool) -> None:
    """Print what an operation changed, or would change: a line for each change, then one total."""
    if as_json:
        emit_json({
            "service": outcome.service,
            "dry_run": dry_run,
            "changes": [asdict(change) for change in outcome.changes],
            "changed": len(outcome.changes),
            "unchanged": outcome.unchanged,
            "failed": 0,
            "took_s": round(outcome.took_s, 3),
        })
        return
    for line in change_lines(outcome.changes):
        emit(line)
    emit(total(outcome, dry_run))


def change_lines(changes: Iterable[Change]) -> list[str]:
    """Return a line for each change, aligned: sign, subject, what becomes of it."""
    changes = list(changes)
    width = max((len(change.subject) for change in changes), default=0)
    return [f"{change.sign} {change.subject:<{width}}  {change.text}".rstrip() for change in changes]


def total(outcome: Outcome, dry_run: bool) -> str:
    """Return an operation's last line: "2 changed, 5 unchanged, 0 failed in 3.4 s"."""
    took = f"in {outcome.took_s:.1f} s" if outcome.took_s >= 1 else f"in {outcome.took_s:.2f} s"
    changed, unchanged = len(outcome.changes), f"{outcome.unchanged} unchanged"
    if not changed:
        return f"nothing to do: {unchanged} {took}"
    if dry_run:
        return f"{changed} would change, {unchanged}; nothing was done, {took}"
    return f"{changed} changed, {unchanged}, 0 failed {took}"
