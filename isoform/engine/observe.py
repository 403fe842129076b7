"""Observation: what the kernel, the runtimes and QEMU say is there of one service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from isoform.engine.infrastructure import KEEP, Infrastructure
from isoform.engine.journal import Journal, Row
from isoform.model import Link, Observation


@dataclass(frozen=True, slots=True)
class Seen:
    """An instance that has left something on this host, and the form that knows it."""

    id: str
    form: str
    observation: Observation


@dataclass(frozen=True, slots=True)
class World:
    """All that is there of one service."""

    links: Mapping[str, Link | None] = field(default_factory=dict)  # by id; None: there, but not as it was made
    attached: Mapping[str, str] = field(default_factory=dict)  # instance id -> kind of its attachments
    instances: Mapping[str, tuple[Seen, ...]] = field(default_factory=dict)  # by id; two forms only after a crash
    rows: Mapping[str, Row] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()  # files: "data.0.img", and what a crash left of one
    kept: frozenset[str] = frozenset()  # names of the volumes that outlive the service
    ports: Mapping[str, int] = field(default_factory=dict)  # instance id -> how many of its ports are there at all
    sound: frozenset[str] | None = None  # whose ports are all as wanted; None: of all that have any


async def observe(service: str, infra: Infrastructure, journal: Journal) -> World:
    """Return all that is there of `service`, found by mark, whether or not the journal knows it."""
    fabric = await infra.fabric.observe()
    mine = f"{service}."
    seen: dict[str, tuple[Seen, ...]] = {}
    for name in infra.forms.present(mine):
        form = infra.forms[name]
        ids = sorted(one for one in await form.known() if one.startswith(mine))
        for one, observation in zip(ids, await asyncio.gather(*(form.observe(one) for one in ids)), strict=True):
            seen[one] = (*seen.get(one, ()), Seen(one, name, observation))
    files = infra.volume_files(service)
    return World(
        links={one: link for one, link in fabric.links.items() if one.startswith(mine)},
        attached={one: kind for one, kind in fabric.attached.items() if one.startswith(mine)},
        instances=seen,
        rows=journal.rows(service),
        volumes=frozenset(name for name in files if not name.endswith(KEEP)),
        kept=frozenset(name.removesuffix(KEEP) for name in files if name.endswith(KEEP)),
        ports={one: len(ports) for one, ports in fabric.ports.items()},
    )


def is_ready(row: Row | None, observation: Observation) -> bool:
    """Whether the process that runs now is the one that was seen to be ready."""
    return row is not None and observation.state == "running" and row.ready_pid == observation.pid
