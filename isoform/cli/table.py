"""Tables as aligned plain text. Rich draws finer ones and takes longer to import than the whole of `ps`."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str] = frozenset()) -> str:
    """Return rows below their header, columns aligned and two spaces apart; an empty cell shows as "-".

    Args:
        right: the names of columns that are aligned to the right.
    """
    lines = [list(header), *([cell or "-" for cell in row] for row in rows)]
    widths = [max(width(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(
        _pad(cell, widths[i], header[i] in right) for i, cell in enumerate(line)
    ).rstrip() for line in lines)


def width(text: str) -> int:
    """Return the columns that `text` takes in a terminal."""
    return len(text) if text.isascii() else sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )


def _pad(cell: str, wide: int, right: bool) -> str:
    gap = " " * (wide - width(cell))
    return gap + cell if right else cell + gap
