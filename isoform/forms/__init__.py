"""Three ways to run an instance behind one interface: container, vm, container-in-vm.

A form's module is imported when the form is first asked for: a command that meets containers alone knows no QEMU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isoform.forms.form import Form
from isoform.forms.forms import Forms

if TYPE_CHECKING:
    from isoform.forms.container import Container
    from isoform.forms.nested import Nested
    from isoform.forms.vm import Vm

__all__ = ["Container", "Form", "Forms", "Nested", "Vm"]

_WHERE = {"Container": "container", "Nested": "nested", "Vm": "vm"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
