"""Values to JSON and back, and the fingerprint by which a change of an instance is seen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from isoform.model.instance import Instance

T = TypeVar("T")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1 and 1.0 CPUs are one wish
    return value


def dump(value: object) -> str:
    """Return a frozen dataclass as canonical JSON; bytes become hexadecimal digits."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def load(kind: type[T], text: str) -> T:
    """Return the value of the dataclass `kind` that `dump` wrote.

    Raises: ValueError if the text is not such a value.
    """
    from pydantic import TypeAdapter  # imported here: few commands read values back

    return TypeAdapter(kind).validate_json(text)


def dump_instance(instance: Instance) -> str:
    """Return `instance` as canonical JSON."""
    return dump(instance)


def load_instance(text: str) -> Instance:
    """Return the instance that `dump_instance` wrote. Raises: ValueError if the text is not one."""
    return load(Instance, text)


def fingerprint(instance: Instance) -> str:
    """Return 16 hex digits that change when the instance must be made anew.

    Names of neighbours come and go while an instance runs, one image has many references, and what a machine is
    handed of its first member is the member's own: they do not count.
    """
    return hashlib.sha256(dump(_essence(instance)).encode()).hexdigest()[:16]


def _essence(instance: Instance) -> Instance:
    return replace(
        instance,
        hosts=(),
        files=() if instance.members else instance.files,
        image=instance.image and replace(instance.image, reference=""),
        carries=tuple(replace(image, reference="") for image in instance.carries),
        machine=instance.machine and _essence(instance.machine),
    )
