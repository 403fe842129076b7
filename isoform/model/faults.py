"""Faults that pydantic finds in a file, told as ours: the place, what, why and what to do."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from isoform.errors import DescriptorError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from isoform.model.document import Document

Path = tuple[str | int, ...]
_MAPPINGS = frozenset({"dict_type", "model_type", "model_attributes_type"})
_EXPECTED = {  # pydantic's error type -> what the value should have been
    **dict.fromkeys(("string_type",), "a text"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(_MAPPINGS, "a mapping of keys"),
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}", "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:g}", "less_than_equal": "{le:g} or less",
    "literal_error": "one of {expected}",
}


def validation_error(error: ValidationError, document: Document, model: type[BaseModel] | None = None
                     ) -> DescriptorError:
    """Return the first in the file of pydantic's errors as ours: its place, what, why, fix; and how many more.

    Args:
        model: what was validated; with it, an error about an unknown key lists the known ones.
    """
    errors: list[dict[str, Any]] = [dict(item) for item in error.errors(include_url=False)]
    for item in errors:
        item["path"] = document.nearest(item["loc"])
        item["key"] = item["type"] == "extra_forbidden" or item["loc"][-1:] == ("[key]",)
    first = min(errors, key=lambda item: document.position(item["path"], item["key"]))
    what, why, fix = _explain(first, first["path"], document, model)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return DescriptorError(f"{document.where(first['path'], first['key'])}: {what}{more}", why=why, fix=fix)


def path_text(path: Path) -> str:
    """Return a path as people write it: "functions.web.ports[0]"."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _explain(first: dict[str, Any], path: Path, document: Document, model: type[BaseModel] | None
             ) -> tuple[str, str, str]:
    kind, name, context = first["type"], path_text(path), first.get("ctx") or {}
    if kind == "extra_forbidden":
        inside = f" in `{path_text(path[:-1])}`" if len(path) > 1 else ""
        return _unknown_key(str(path[-1]), inside, known_keys(model, path[:-1]) if model else [])
    if kind == "missing":
        key = str(first["loc"][-1])
        return f"`{key}` is missing" + (f" in `{name}`" if name else ""), "", \
            f"add `{key}: …`{_example(model, (*path, key))}"
    if "fix" in context:
        return f"`{name}`: {first['msg']}", context.get("why", ""), context["fix"]
    if kind in ("value_error", "assertion_error"):
        return f"`{name}` is not valid", str(context["error"]), f"mend it{_example(model, path)}"
    if kind in ("too_short", "string_too_short"):
        return f"`{name}` is empty", "", f"fill it{_example(model, path)}"
    expected = _EXPECTED.get(kind, "").format(**context)
    if not expected:
        expected = first["msg"][0].lower() + first["msg"][1:].removeprefix("nput should be ")
    example = _example(model, path)
    if kind in _MAPPINGS and model and (required := _required(model, path)):
        example = f", with at least {required}"
    fix = f"write it as {expected}{example}" if kind in _EXPECTED else f"mend it{example}"
    near = did_you_mean(str(first["input"]), re.findall("'([^']+)'", expected)) if kind == "literal_error" else ""
    return f"`{name}` must be {expected}, not {_written(first['input'], path, document)}", "", near or fix


def _unknown_key(key: str, inside: str, known: list[str]) -> tuple[str, str, str]:
    why = f"known keys here: {', '.join(known)}" if known else ""
    return f"unknown key `{key}`{inside}", why, did_you_mean(key, known) or "remove it, or mend its name"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean `web`?" where one of the known words is near; else ""."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean `{near[0]}`?" if near else ""


def _written(value: Any, path: Path, document: Document) -> str:
    if isinstance(value, (dict, list)):
        kind = "a mapping" if isinstance(value, dict) else "a list"
        return kind if value else f"an empty {kind.removeprefix('a ')}"
    if value is None or value == "":
        return "empty"
    text = document.text(path) or str(value)
    return f"`{text}`" if len(text) <= 60 else f"`{text[:57]}…`"


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """Return the keys that a model takes at `path`, in the order of its fields; [] where any key goes."""
    return list(_by_key(_field(model, path)))


def _by_key(model: Any) -> dict[str, Any]:
    return {info.alias or name: info for name, info in getattr(model, "model_fields", {}).items()}


def _example(model: type[BaseModel] | None, path: Path) -> str:
    if model is None or not path or not isinstance(path[-1], str):
        return ""
    info = _by_key(_field(model, path[:-1])).get(path[-1])
    return f", for example `{path[-1]}: {info.examples[0]}`" if info is not None and info.examples else ""


def _required(model: type[BaseModel], path: Path) -> str:
    fields = _by_key(_field(model, path))
    return ", ".join(f"`{key}: {info.examples[0] if info.examples else '…'}`"
                     for key, info in fields.items() if info.is_required())


def _field(annotation: Any, path: Path) -> Any:
    """Follow a path through fields, mappings, lists and unions to the model it ends in; None if in none."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _field(arguments[0], path)
    if origin in (Union, types.UnionType):
        return next((found for part in arguments if (found := _field(part, path)) is not None), None)
    if hasattr(annotation, "model_fields"):
        if not path:
            return annotation
        info = _by_key(annotation).get(str(path[0]))
        return _field(info.annotation, path[1:]) if info else None
    if arguments and path:
        return _field(arguments[1 if origin is not list and origin is not tuple else 0], path[1:]) \
            if origin in (dict, list, tuple) or len(arguments) == 2 else None
    return None
