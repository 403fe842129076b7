"""Which file the user means."""

from __future__ import annotations

from pathlib import Path

from isoform.errors import DescriptorError

_NAMES = ("service.yaml", "isoform.yaml")


def find_descriptor(given: Path | None) -> Path:
    """Return the file of a service: the one given, or the one of its usual name in the folder given, or here.

    Raises: DescriptorError if there is none.
    """
    place = given or Path()
    if place.is_file():
        return place
    for name in _NAMES:
        if (place / name).is_file():
            return place / name
    if place.is_dir():
        where = "here" if given is None else f"in {given}"
        raise DescriptorError(f"there is no {' or '.join(_NAMES)} {where}", fix="name the file: isoform up FILE")
    raise DescriptorError(f"there is no file {given}", fix="mend the path")


def looks_like_file(text: str) -> bool:
    """Whether `text` means a file or folder rather than a service: a service's name has neither "/" nor "."."""
    return "/" in text or "." in text
