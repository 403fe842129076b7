"""Where services run: the forms and the fabric of one home, as the engine's steps are handed them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isoform.fabric import Fabric
from isoform.forms import Form, Forms
from isoform.model import Instance


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """The forms by name, the fabric that joins them, and the folder of the services' volumes."""

    forms: Forms
    fabric: Fabric
    volumes: Path

    def form_of(self, instance: Instance) -> Form:
        """Return the form that runs `instance`."""
        return self.forms[instance.form]
