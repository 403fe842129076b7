"""What `exec` and `logs` are pointed at: SERVICE or SERVICE/FUNCTION."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from isoform.errors import DescriptorError, NotFound

if TYPE_CHECKING:
    from isoform.assemble import Assembly


def split_target(text: str) -> tuple[str, str]:
    """Return service and function ("" for all of them) that `text` names.

    Raises: DescriptorError if it is not such a name.
    """
    service, _, function = text.partition("/")
    if not service or "/" in function:
        raise DescriptorError(
            f"`{text}` names no function", fix="write SERVICE/FUNCTION, for example edge/web; see: isoform ps"
        )
    return service, function


def instance_of(function: str, there: Collection[str]) -> tuple[str, int] | None:
    """Return function and replica that a name as `ps` shows it means: "web-1" is replica 1 of web.

    Args:
        there: the functions of the service; one that is called web-1 is meant itself.
    """
    name, _, number = function.rpartition("-")
    return (name, int(number)) if function not in there and name in there and number.isdigit() else None


def functions_of(assembly: Assembly, service: str) -> list[str]:
    """Return the names of a service's functions, sorted. Raises: NotFound if there is no such service."""
    rows = assembly.journal.rows()
    found = sorted({row.function for row in rows.values() if row.service == service})
    if not found:
        there = ", ".join(sorted({row.service for row in rows.values()})) or "none"
        raise NotFound(f"there is no service {service}", why=f"services that are there: {there}")
    return found
