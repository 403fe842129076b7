"""Three ways to run an instance behind one interface: container, vm, container-in-vm."""

from isoform.forms.form import Form

__all__ = ["Form"]
