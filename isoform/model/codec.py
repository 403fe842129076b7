"""Instances to JSON and back, and the fingerprint by which a change of an instance is seen."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

from isoform.model.instance import Instance


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def dump_instance(instance: Instance) -> str:
    """Return `instance` as canonical JSON; bytes are base64."""
    return json.dumps(_plain(instance), sort_keys=True, separators=(",", ":"))


def load_instance(text: str) -> Instance:
    """Return the instance that `dump_instance` wrote.

    Raises: ValueError if the text is not such an instance.
    """
    from pydantic import ConfigDict, TypeAdapter  # imported here: only repairs and nested forms read instances back

    return TypeAdapter(Instance, config=ConfigDict(val_json_bytes="base64")).validate_json(text)


def fingerprint(instance: Instance) -> str:
    """Return 16 hex digits that change when the instance must be made anew.

    Names of neighbours and a machine's other members come and go while an instance runs, so they do not count.
    """
    machine = replace(instance.machine, hosts=(), machine=None) if instance.machine else None
    text = dump_instance(replace(instance, hosts=(), machine=machine))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
