"""Three ways to run an instance behind one interface: container, vm, container-in-vm."""

from isoform.forms.container import Container
from isoform.forms.form import Form
from isoform.forms.nested import Nested
from isoform.forms.vm import Vm

__all__ = ["Container", "Form", "Nested", "Vm"]
