"""Where services run: the forms and the fabric of one home, as the engine's steps are handed them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from isoform.fabric import Fabric
from isoform.forms import Form, Forms
from isoform.model import Instance

KEEP = ".keep"  # ends the name of an empty file beside a volume's images: the volume outlives its service


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """The forms by name, the fabric that joins them, and the folder of the services' volumes."""

    forms: Forms
    fabric: Fabric
    volumes: Path

    def form_of(self, instance: Instance) -> Form:
        """Return the form that runs `instance`."""
        return self.forms[instance.form]

    def volume_files(self, service: str) -> list[str]:
        """Return the names of the files that hold a service's volumes."""
        folder = self.volumes / service
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def keep_volumes(self, service: str, names: Iterable[str]) -> None:
        """Mark volumes as outliving the service, before there is anything in them."""
        for name in names:
            (self.volumes / service).mkdir(parents=True, exist_ok=True)
            (self.volumes / service / f"{name}{KEEP}").touch()

    def unkeep_volumes(self, service: str, names: Iterable[str]) -> None:
        """Take that mark away."""
        for name in names:
            (self.volumes / service / f"{name}{KEEP}").unlink(missing_ok=True)
