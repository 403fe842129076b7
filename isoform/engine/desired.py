"""What a service shall be, fully resolved: links, instances, and how each proves itself. Frozen values, no I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from isoform.model import Instance, Link


@dataclass(frozen=True, slots=True)
class Ready:
    """How an instance proves that it serves."""

    kind: str  # "tcp", "http" or "exec"
    port: int = 0
    path: str = "/"
    status: int = 0  # the HTTP status that counts; 0: any of 200 to 399
    argv: tuple[str, ...] = ()
    interval_s: float = 1.0
    deadline_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Wish:
    """One instance as wanted."""

    instance: Instance
    ready: Ready | None = None
    after: tuple[str, ...] = ()  # ids of the instances that must be ready before this one starts
    why: str = ""  # why it has its form, in words

    @property
    def id(self) -> str:
        """The instance's id."""
        return self.instance.id

    @property
    def attached_as(self) -> Instance:
        """Who holds the ports: the instance, or the machine that it is in."""
        return self.instance.machine or self.instance

    @property
    def hosts(self) -> str:
        """Digest of the neighbours' names that the instance is told."""
        return hashlib.sha256(repr(self.instance.hosts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Desired:
    """One service as wanted. No wishes: the service shall not be."""

    service: str
    source: str = ""  # the file that it came from
    links: tuple[Link, ...] = ()
    wishes: tuple[Wish, ...] = ()
    kept_volumes: tuple[str, ...] = ()  # names of volumes that outlive the service
