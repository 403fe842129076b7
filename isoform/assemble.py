"""Builds every object, once. The only module that knows them all, and the only one that reads the environment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from isoform.engine.engine import Engine
from isoform.engine.infrastructure import Infrastructure
from isoform.engine.journal import Journal
from isoform.fabric import Fabric
from isoform.forms import Form, Forms
from isoform.host import Home
from isoform.host.facts import Facts
from isoform.host.probe import facts as probe
from isoform.images import Images
from isoform.model import Progress, silent

if TYPE_CHECKING:
    from isoform.engine.change import Outcome
    from isoform.images.listing import PruneReport
    from isoform.model.descriptor import Parsed

DEFAULT_HOME = "/var/lib/isoform"
# pydantic looks through every installed package for plugins of its own at its import, which takes some 10 ms.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


@dataclass(frozen=True, slots=True)
class Assembly:
    """All of isoform for one home, put together."""

    home: Home
    facts: Facts
    forms: Forms
    fabric: Fabric
    images: Images
    journal: Journal
    engine: Engine
    _parsed: dict[tuple[Path, bytes, tuple[str, ...]], Parsed] = field(default_factory=dict)

    async def up(
        self,
        path: Path,
        *,
        forms: Mapping[str, str] | None = None,
        overrides: Sequence[str] = (),
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> Outcome:
        """Bring up the service of the descriptor at `path`, as `Engine.up` does.

        Args:
            forms: function -> form, instead of what the descriptor says.
            overrides: "functions.web.memory=256Mi", laid over the descriptor.
        Raises: DescriptorError, and all that `Engine.up` raises.
        """
        from isoform.engine.resolve import Resolver

        source, parsed = path.resolve(), self._parse(path, overrides)
        resolver = Resolver(parsed, source, self.forms, self.images, self.home.volumes, progress, forms or {})
        return await self.engine.up(
            parsed.spec.service, resolver, source=str(source), dry_run=dry_run, progress=progress
        )

    def service_of(self, path: Path, overrides: Sequence[str] = ()) -> str:
        """Return the name of the service that the descriptor at `path` declares. Raises: DescriptorError."""
        return self._parse(path, overrides).spec.service

    async def prune_images(self, every: bool) -> PruneReport:
        """Remove what no image needs, as `Images.prune` does. Raises: WrongState while a service is being changed."""
        from isoform.engine.lock import one_writer

        with one_writer(self.home.path / "lock", "image prune"):  # an `up` may just be about to use a layer
            return await self.images.prune(self.layers_in_use(), every)

    def layers_in_use(self) -> frozenset[str]:
        """Return the digests of the layers that instances of this home use."""
        return self.engine.layers_in_use()

    def _parse(self, path: Path, overrides: Sequence[str]) -> Parsed:
        from isoform.engine.resolve import read_descriptor
        from isoform.model.descriptor import parse

        key = (path, read_descriptor(path), tuple(overrides))
        if key not in self._parsed:
            self._parsed[key] = parse(key[1], str(path), os.environ, overrides)
        return self._parsed[key]


def home_of(path: Path | None) -> Home:
    """Return the home at `path`, else the one that ISOFORM_HOME names, else the default."""
    return Home(path or Path(os.environ.get("ISOFORM_HOME") or DEFAULT_HOME))


def assemble(path: Path | None = None) -> Assembly:
    """Put isoform together for a home; the host is probed if that was not done yet. Not for use in an event loop."""
    home = home_of(path)
    home.make()
    return build(home, asyncio.run(probe(home)))


async def assembled(path: Path | None = None) -> Assembly:
    """Do what `assemble` does, in an event loop."""
    home = home_of(path)
    home.make()
    return build(home, await probe(home))


def build(home: Home, facts: Facts) -> Assembly:
    """Build every object of one home; a form, and the guest of machines, when it is first asked for."""
    images, fabric = Images(home, facts.architecture), Fabric(home)
    def container() -> Form:
        from isoform.forms.container import Container

        return Container(home, facts)

    def vm() -> Form:
        from isoform.forms.vm import Vm
        from isoform.images.guest import Guest

        return Vm(home, facts, Guest(home, facts.architecture))

    def nested() -> Form:
        from isoform.forms.nested import Nested
        from isoform.forms.vm import Vm

        inside = forms["vm"]
        assert isinstance(inside, Vm)
        return Nested(inside, home, facts)

    forms = Forms(home, {"container": container, "vm": vm, "container-in-vm": nested})
    journal = Journal(home.path / "state.db")
    engine = Engine(Infrastructure(forms, fabric, home.volumes), journal, home.path / "lock")
    return Assembly(home, facts, forms, fabric, images, journal, engine)
