"""Reads YAML so that every value knows its place: the ground of all errors about what a user wrote."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isoform.errors import DescriptorError
from isoform.model.document import Document
from isoform.model.faults import Path, path_text, validation_error

if TYPE_CHECKING:
    import yaml

__all__ = ["Document", "Path", "load", "path_text", "resolve", "validation_error"]

DEEPEST = 100  # libyaml's composer recurses in C: a file nested some 20,000 deep would crash the process
MOST_VALUES = 100_000  # after aliases are expanded: ten lines of aliases can stand for billions of values

# YAML 1.2.2, section 10.3.2, the core schema: so `no` is a word, 22:22 is not a number, and 0o17 is octal, not 017.
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,100}|0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
                    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")  # c-printable
_TAG = "tag:yaml.org,2002:"
_PLAIN = "!plain"  # given to scalars without quotes and without a tag


def load(text: str | bytes, name: str, substitute: Callable[[str], str] | None = None) -> Document:
    """Return the one mapping that a YAML text holds, with the place of each value.

    Args:
        text: the file's content; bytes must be UTF-8.
        name: how the file is called in errors.
        substitute: applied to each scalar value (not to keys) before it is read as a number or truth value; the
            ValueError that it raises becomes an error with the scalar's place.
    Raises: DescriptorError.
    """
    import yaml

    text = _printable(_decoded(text, name) if isinstance(text, bytes) else text, name)
    try:
        node = _compose(text, name)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, name) from error
    if node is None:
        raise DescriptorError(f"{name}:1:1: the file is empty", fix="write a mapping of keys and values, `key: value`")
    if not isinstance(node, yaml.MappingNode):
        line, column = _mark(node)
        raise DescriptorError(f"{name}:{line}:{column}: the file must hold a mapping of keys, not {_kind(node)}",
                              fix="begin it with a key and its value, `key: value`")
    return _Builder(name, substitute).build(node)


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        good = content[: error.start].decode("utf-8")
        raise DescriptorError(f"{_place(good, len(good), name)}: the file is not UTF-8 text",
                              why=f"byte 0x{content[error.start]:02x} cannot be there",
                              fix="save the file as UTF-8, or give the right file") from error


def _printable(text: str, name: str) -> str:
    text = text.removeprefix("\ufeff")
    if bad := _UNPRINTABLE.search(text):
        raise DescriptorError(f"{_place(text, bad.start(), name)}: the file is not plain text",
                              why=f"it holds the character U+{ord(bad[0]):04X}, which YAML does not allow",
                              fix=f"give a YAML file; inside double quotes it is written \\u{ord(bad[0]):04x}")
    return text


def _place(text: str, offset: int, name: str) -> str:
    return f"{name}:{text.count(chr(10), 0, offset) + 1}:{offset - text.rfind(chr(10), 0, offset)}"


def _mark(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _kind(node: yaml.Node) -> str:
    return {"ScalarNode": "a single value", "SequenceNode": "a list"}.get(type(node).__name__, "a mapping")


def _compose(text: str, name: str) -> yaml.Node | None:
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a PyYAML built without libyaml is slower, no worse
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=base):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise DescriptorError(f"{name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}: nested too deep",
                                  why=f"at most {DEEPEST} levels are read", fix="write it with fewer levels")
    loader = type("_Loader", (base,), {"yaml_implicit_resolvers": {None: [(_PLAIN, re.compile(""))]}})
    node: yaml.Node | None = yaml.compose(text, Loader=loader)
    return node


_SYNTAX = (  # a part of libyaml's words -> what to do
    ("mapping values are not allowed", "put quotes around a value that holds `: `, or mend the indentation"),
    ("another document", "keep one document per file; remove the second `---`"),
    ("did not find expected key", "mend the indentation: keys of one mapping begin in one column"),
    ("undefined alias", "define it before its use, as `&name`, or put quotes around a value that begins with `*`"),
    ("duplicate anchor", "give each anchor a name of its own"),
    ("unexpected end of stream", "close the quotes or brackets that were opened"),
    ("cannot start any token", "put quotes around a value that begins with this character"),
    ("expected ',' or", "close the bracket, or put quotes around a value that holds brackets, as \"${NAME}\""),
)


def _syntax_error(error: yaml.MarkedYAMLError, text: str, name: str) -> DescriptorError:
    mark: Any = error.problem_mark or error.context_mark  # the parser gives one of them at least
    line, column = mark.line, mark.column
    lines = text.splitlines()
    written = lines[line] if line < len(lines) else ""
    problem = str(error.problem)
    fix = next((fix for part, fix in _SYNTAX if part in problem), "mend the YAML there")
    indent = written[: len(written) - len(written.lstrip())]
    if "\t" in indent:
        column, problem = indent.index("\t"), "a tab is used for indentation, which YAML does not allow"
        fix = "indent with spaces"
    elif written[column:column + 1] and "cannot start" in problem:
        problem = f"a value cannot begin with `{written[column]}`"
    elif "another document" in problem:
        return DescriptorError(f"{name}:{line + 1}:1: there is a second document in this file", fix=fix)
    begin = error.context_mark.line if error.context_mark else line
    context = f", {error.context} that begins in line {begin + 1}" if error.context and begin != line else ""
    return DescriptorError(f"{name}:{line + 1}:{column + 1}: not valid YAML", why=problem + context, fix=fix)


class _Builder:
    """Turns the composer's nodes into plain values and notes every place."""

    def __init__(self, name: str, substitute: Callable[[str], str] | None) -> None:
        self._document = Document(name, {})
        self._substitute = substitute
        self._open: list[yaml.Node] = []  # collections being built: an alias to one of them has no end
        self._left = MOST_VALUES

    def build(self, node: yaml.Node) -> Document:
        self._document.data.update(self._value(node, ()))
        return self._document

    def _fail(self, node: yaml.Node, what: str, why: str = "", fix: str = "") -> DescriptorError:
        line, column = _mark(node)
        return DescriptorError(f"{self._document.name}:{line}:{column}: {what}", why=why, fix=fix)

    def _value(self, node: yaml.Node, path: Path) -> Any:
        import yaml

        self._document.values[path] = _mark(node)
        self._left -= 1
        if self._left < 0:
            raise self._fail(node, "too many values", f"aliases counted, at most {MOST_VALUES} are read",
                             "use fewer aliases (`*name`) of aliases")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            raise self._fail(node, f"the tag `{_tag_text(node)}` is not known", fix="remove it")
        self._enter(node)
        if not getattr(node, "flow_style", False):
            self._document.blocks.add(path)
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else \
            [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        self._open.pop()
        return value

    def _enter(self, node: yaml.Node) -> None:
        if any(node is other for other in self._open):
            raise self._fail(node, "an alias stands for something that contains it", fix="write the value out")
        if len(self._open) >= DEEPEST:
            raise self._fail(node, "nested too deep", f"aliases counted, at most {DEEPEST} levels are read",
                             "write it with fewer levels")
        self._open.append(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        import yaml

        result: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._fail(key, f"a key must be a word, not {_kind(key)}",
                                 fix="put quotes around a key that holds brackets")
            if _is_merge(key):
                merged.append(value)
            elif key.value in result:
                line = self._document.keys[(*path, key.value)][0]
                raise self._fail(key, f"the key `{key.value}` is there twice", f"it is in line {line} already",
                                 "keep one of the two")
            else:
                self._pair(key, value, path, result)
        for value in merged:
            self._merge(value, path, result)
        return result

    def _pair(self, key: yaml.ScalarNode, value: yaml.Node, path: Path, result: dict[str, Any]) -> None:
        self._document.keys[(*path, key.value)] = _mark(key)
        result[key.value] = self._value(value, (*path, key.value))

    def _merge(self, node: yaml.Node, path: Path, result: dict[str, Any]) -> None:
        """Add what `<<: *name` names; keys that are written out win (yaml.org/type/merge.html)."""
        import yaml

        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                raise self._fail(source, f"`<<` takes a mapping, not {_kind(source)}", fix="write `<<: *name`")
            self._enter(source)
            for key, value in source.value:
                if isinstance(key, yaml.ScalarNode) and not _is_merge(key) and key.value not in result:
                    self._pair(key, value, path, result)
            for key, value in source.value:
                if isinstance(key, yaml.ScalarNode) and _is_merge(key):
                    self._merge(value, path, result)
            self._open.pop()

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text: str = node.value
        if self._substitute is not None and "$" in text:
            try:
                text = self._substitute(text)
            except ValueError as error:
                why, _, fix = str(error).partition("\n")
                raise self._fail(node, f"`{path_text(path)}` cannot be filled in", why, fix) from None
        if node.tag == _PLAIN:
            value = resolve(text)
        elif node.tag in (_TAG + "str", "!"):
            return text
        elif node.tag in (_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"):
            value = resolve(text)
            if isinstance(value, str):
                raise self._fail(node, f"`{text}` is not of the type that its tag `{_tag_text(node)}` names",
                                 fix="remove the tag")
        else:
            raise self._fail(node, f"the tag `{_tag_text(node)}` is not known", fix="remove it")
        if not isinstance(value, str):
            self._document.texts[path] = text
        return value


def _is_merge(key: yaml.ScalarNode) -> bool:
    return key.tag == _PLAIN and key.value == "<<"


def _tag_text(node: yaml.Node) -> str:
    return str(node.tag).replace(_TAG, "!!")


def resolve(text: str) -> str | int | float | bool | None:
    """Return what a scalar without quotes stands for in YAML 1.2's core schema."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").replace(".n", "n")
                     .replace(".N", "n"))
    return text
