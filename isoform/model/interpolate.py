"""${VAR} in descriptors, as Compose has it, and `--set key=value`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from isoform.errors import DescriptorError
from isoform.model.faults import did_you_mean
from isoform.model.yamlpos import Document, Path, load, path_text

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?]")
_STEP = re.compile(r'"((?:[^"\\]|\\.)*)"|((?:[^.\\"]|\\.)+)')


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Return `text` with ${VAR}, $VAR, ${VAR:-default}, ${VAR-default}, ${VAR:?message} and ${VAR?message} filled in.

    `$$` stands for one `$`; a default may hold further variables. With the colon, an empty variable counts as unset.
    Raises: ValueError "why\\nfix" if a variable has no value or the form is none of these.
    """
    result, position = [], 0
    while (dollar := text.find("$", position)) >= 0:
        result.append(text[position:dollar])
        value, position = _variable(text, dollar + 1, variables)
        result.append(value)
    return "".join(result) + text[position:]


def _variable(text: str, start: int, variables: Mapping[str, str]) -> tuple[str, int]:
    if text.startswith("$", start):
        return "$", start + 1
    if name := _NAME.match(text, start):
        return _value(name[0], "", "", variables), name.end()
    if not text.startswith("{", start):
        raise ValueError("a `$` begins a variable, as in ${NAME}\nwrite `$$` for a dollar sign")
    end = _closing(text, start)
    name = _NAME.match(text, start + 1)
    operator = _OPERATOR.match(text, name.end()) if name else None
    if name is None or (operator is None and name.end() != end):
        raise ValueError(f"`{text[start - 1:end + 1]}` is not a variable\n"
                         "write ${NAME}, ${NAME:-default} or ${NAME:?message}; `$$` for a dollar sign")
    rest = text[operator.end():end] if operator else ""
    return _value(name[0], operator[0] if operator else "", rest, variables), end + 1


def _closing(text: str, start: int) -> int:
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "{" and text[position - 1] == "$") - (text[position] == "}")
        if depth == 0:
            return position
    raise ValueError(f"`{text[start - 1:]}` has no closing `}}`\nclose it; write `$$` for a dollar sign")


def _value(name: str, operator: str, rest: str, variables: Mapping[str, str]) -> str:
    value = variables.get(name)
    if value is not None and (value or not operator.startswith(":")):
        return value
    if operator.endswith("-"):
        return substitute(rest, variables)
    said = f": {substitute(rest, variables)}" if rest else ""
    state = "is empty" if value is not None else "is not set"
    hint = "" if operator else f", or write ${{{name}:-default}}"
    raise ValueError(f"the variable {name} {state}{said}\nset it, as in `{name}=… isoform up …`{hint}")


def override(document: Document, number: int, text: str, known: Callable[[Path], list[str]]) -> None:
    """Lay one `--set key=value` over a document.

    Args:
        number: which of the `--set` options it is, counted from 1.
        text: "functions.web.memory=256Mi"; a dot inside a step is written `\\.`, or the step stands in double quotes.
        known: the keys that may be set at a path though the file does not have them.
    Raises: DescriptorError naming "--set NUMBER".
    """
    place = f"--set {number}"
    key, equals, written = text.partition("=")
    path = _path(document, key.strip())
    if not equals or not path:
        raise DescriptorError(f"{place}: `{text}` is not a path and a value", fix="write --set functions.web.cpus=2")
    _check_parents(document, place, path, known)
    try:
        value = load(f"value: {written}", place)
    except DescriptorError as error:
        raise DescriptorError(f"{place}: `{written}` is not a YAML value", why=error.why, fix=error.fix) from error
    if list(value.data) != ["value"]:
        raise DescriptorError(f"{place}: `{written}` is not a single value", fix="give one --set for each value")
    document.put(path, value, place)


def _path(document: Document, key: str) -> Path:
    """Split a dotted path; a number is an index where the document has a list."""
    steps: list[str | int] = []
    position = 0
    while match := _STEP.match(key, position):
        step: str | int = re.sub(r"\\(.)", r"\1", match[1] if match[1] is not None else match[2])
        if isinstance(step, str) and step.isdigit() and document.has((*steps, int(step))):
            step = int(step)
        steps.append(step)
        position = match.end()
        if position == len(key):
            return tuple(steps)
        if key[position] != ".":
            return ()
        position += 1
    return ()


def _check_parents(document: Document, place: str, path: Path, known: Callable[[Path], list[str]]) -> None:
    value: object = document.data
    for length, step in enumerate(path):
        parent, last = path[:length], length == len(path) - 1
        name = path_text(parent) or document.name
        if isinstance(value, list) and not isinstance(step, int):
            raise DescriptorError(f"{place}: `{name}` is a list, which has no key `{step}`",
                                  fix=f"write `{name}` as a mapping in {document.name}, or set the whole list")
        if not isinstance(value, (dict, list)) and value is not None:
            raise DescriptorError(f"{place}: `{name}` is a single value, which has no key `{step}`",
                                  fix=f"set `{name}` itself")
        if document.has(path[:length + 1]):
            value = document.at(path[:length + 1])
            continue
        if not last and step not in (keys := known(parent)):
            choices: Sequence[str] = keys or [str(key) for key in value] if isinstance(value, dict) else keys
            raise DescriptorError(f"{place}: there is no `{path_text(path[:length + 1])}` in {document.name}",
                                  why=f"known here: {', '.join(choices)}" if choices else "",
                                  fix=did_you_mean(str(step), choices) or "mend the path")
        value = None
