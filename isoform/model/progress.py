"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from time to time by work that takes long."""

    def __call__(self, subject: str, doing: str, fraction: float | None = None) -> None:
        """Say that `subject` ("image web", "edge/gateway") is `doing` ("unpacking layer 2 of 3").

        Args:
            fraction: how much is done, 0 to 1; None where that is not known.
        """


def silent(subject: str, doing: str, fraction: float | None = None) -> None:
    """Tell nobody."""
