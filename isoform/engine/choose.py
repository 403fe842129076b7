"""Which form a function gets, and why. The decision is pure; what the host lacks is asked beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isoform.errors import HostLacks
from isoform.forms.form import Form
from isoform.model import Lack


@dataclass(frozen=True, slots=True)
class Need:
    """What a function's own needs ask of its form."""

    own_kernel: bool = False
    modules: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    shares_machine: bool = False  # the descriptor groups it with others in one VM (`vm:`)


@dataclass(frozen=True, slots=True)
class Choice:
    """A form, and in words why it is this one."""

    form: str
    why: str


def choose(label: str, asked: str, need: Need, forms: Sequence[Form], lacks: Mapping[str, Sequence[Lack]]) -> Choice:
    """Return the form of a function: the one asked for, or for "auto" the lightest that fits.

    Args:
        lacks: what this host lacks for each form; a form that is not in it was not asked.
    Raises: HostLacks if the host cannot run it, with what is missing and what mends it.
    """
    if asked != "auto":
        if lack := next(iter(lacks.get(asked, ())), None):
            raise HostLacks(f"{label} cannot run as {asked} here: {lack.what}", why=lack.why, fix=lack.fix)
        return Choice(asked, "asked for")
    refused: list[str] = []
    for form in sorted(forms, key=lambda form: form.weight):
        if against := _against(form, need):
            refused.append(f"{form.name}: {against}")
        elif lack := next(iter(lacks.get(form.name, ())), None):
            refused.append(f"{form.name}: {lack.what}")
        else:
            return Choice(form.name, "auto: the lightest that fits" + (f" ({'; '.join(refused)})" if refused else ""))
    fixes = [lack.fix for of_form in lacks.values() for lack in of_form if lack.fix]
    raise HostLacks(f"{label} fits no form on this host", why="; ".join(refused), fix=fixes[0] if fixes else "")


def _against(form: Form, need: Need) -> str:
    """Say why a form does not suit a function's needs; "" if it does."""
    if need.shares_machine and not form.in_machine:
        return "it shares a VM with others"
    if not form.own_kernel:
        if need.own_kernel:
            return "it needs a kernel of its own"
        if need.modules:
            return f"it needs kernel modules of its own ({', '.join(need.modules)})"
    return ""
