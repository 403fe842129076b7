"""What this machine can do, and the few ways in which the upper layers touch it."""

from isoform.host.home import Home
from isoform.host.process import Result, attempt, run

__all__ = ["Home", "Result", "attempt", "run"]
