"""What was found out about this host: values, and their way to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI runtime that ran a real container on this host."""

    name: str  # "crun", "runc" or "runsc"
    path: str
    version: str
    prefix: tuple[str, ...]  # what stands before a command that starts the runtime, or conmon with it


@dataclass(frozen=True, slots=True)
class RuntimeTrial:
    """How one candidate did."""

    name: str
    path: str
    version: str
    prefix: tuple[str, ...]
    works: bool
    seconds: float  # its best time for one container, from start to end; 0 where it does not work
    why: str = ""  # where it does not work: its own words


@dataclass(frozen=True, slots=True)
class Facts:
    """What this host can do."""

    kernel: str  # release: "6.1.0-56-amd64"
    architecture: str  # as Debian and OCI name it: "amd64"
    cpus: int
    memory_bytes: int
    cgroup: str  # "v1", "v2" or "hybrid"; "" where none is mounted
    controllers: tuple[str, ...]
    runtime: Runtime | None  # the fastest that works
    runtimes: tuple[RuntimeTrial, ...]  # every candidate that is installed
    qemu: str  # path, "" where missing
    qemu_version: str
    erofs: str  # how EROFS images mount: "file", "loop" or "" for not at all
    tools: dict[str, str]  # name -> path, "" where missing
    features: dict[str, bool]  # of the kernel, for the fabric: "bridge", "veth", "htb", "nft-inet", …


def fastest(trials: tuple[RuntimeTrial, ...]) -> Runtime | None:
    """Return the runtime that ran its container in the least time."""
    working = [trial for trial in trials if trial.works]
    if not working:
        return None
    best = min(working, key=lambda trial: trial.seconds)
    return Runtime(best.name, best.path, best.version, best.prefix)


def dump(facts: Facts) -> dict[str, Any]:
    """Return `facts` as what JSON can hold."""
    return asdict(facts)


def load(plain: Mapping[str, Any]) -> Facts:
    """Return the facts that `dump` wrote. Raises: KeyError, TypeError if they are not such."""
    trials = tuple(RuntimeTrial(**{**trial, "prefix": tuple(trial["prefix"])}) for trial in plain["runtimes"])
    chosen = plain["runtime"]
    return Facts(**{
        **plain,
        "controllers": tuple(plain["controllers"]),
        "runtime": Runtime(**{**chosen, "prefix": tuple(chosen["prefix"])}) if chosen else None,
        "runtimes": trials,
    })
