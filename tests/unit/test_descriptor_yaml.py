"""Places in YAML files, and values as YAML 1.2's core schema reads them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from isoform.errors import DescriptorError
from isoform.model.yamlpos import load, path_text, resolve, validation_error

TEXT = """\
a:
  b:
    - x: 1
      y: 2
  c: {z: [1, 2]}
"p q": "r"
names: [one, two=2]
"""


@pytest.mark.parametrize(("path", "place", "key_place"), [
    ((), "1:1", "1:1"),
    (("a",), "1:1", "1:1"),
    (("a", "b"), "2:3", "2:3"),
    (("a", "b", 0), "3:7", "3:7"),
    (("a", "b", 0, "y"), "4:10", "4:7"),
    (("a", "c"), "5:6", "5:3"),
    (("a", "c", "z", 1), "5:14", "5:14"),
    (("p q",), "6:8", "6:1"),
    (("a", "missing", "deeper"), "1:1", "1:1"),
    (("a", "b", 7), "2:3", "2:3"),
    (("names", "one"), "7:9", "7:9"),
    (("names", "two"), "7:14", "7:14"),
    (("a", 1), "5:6", "5:3"),
])
def test_where(path: tuple[str | int, ...], place: str, key_place: str) -> None:
    document = load(TEXT, "f.yaml")
    assert document.where(path) == f"f.yaml:{place}"
    assert document.where(path, key=True) == f"f.yaml:{key_place}"


@pytest.mark.parametrize(("text", "value"), [
    ("", None), ("~", None), ("null", None), ("Null", None), ("nULL", "nULL"),
    ("true", True), ("FALSE", False), ("yes", "yes"), ("no", "no"), ("on", "on"), ("y", "y"), ("tRue", "tRue"),
    ("12", 12), ("-7", -7), ("+3", 3), ("010", 10), ("0o17", 15), ("0x1F", 31), ("0b1", "0b1"), ("1_000", "1_000"),
    ("22:22", "22:22"), ("190:20:30", "190:20:30"), ("2024-01-01", "2024-01-01"), ("=", "="), ("1e3", 1000.0),
    (".5", 0.5), ("1.", 1.0), ("-1.5E-3", -0.0015), (".inf", math.inf), ("-.INF", -math.inf), ("1.2.3", "1.2.3"),
    ("0o8", "0o8"), ("-", "-"), (".", "."), ("e3", "e3"), ("9" * 5000, "9" * 5000), ("１２", "１２"),
])
def test_core_schema(text: str, value: Any) -> None:
    assert resolve(text) == value and type(resolve(text)) is type(value)


def test_not_a_number_is_one() -> None:
    assert math.isnan(resolve(".nan"))  # type: ignore[arg-type]


def test_text_as_written() -> None:
    document = load("a: 1.10\nb: 'x'\nc: 0644\nd: [~, true]", "f")
    assert [document.text(p) for p in (("a",), ("b",), ("c",), ("d", 0), ("d", 1), ("e",))] == \
        ["1.10", None, "0644", "~", "true", None]


def test_bytes_and_byte_order_mark() -> None:
    assert load("\ufeffgrüße: ☃".encode(), "f").data == {"grüße": "☃"}
    with pytest.raises(DescriptorError, match=r"^f:2:6: the file is not UTF-8"):
        load("ä: 1\nbäd: ".encode() + b"\xff", "f")


def test_many_levels_of_aliases_are_bounded() -> None:
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 300))
    with pytest.raises(DescriptorError, match="nested too deep"):
        load(chain, "f")


@pytest.mark.parametrize("deep", ["[" * 100_000, "a: " + "{a: " * 50_000, "- " * 100_000, "? " * 100_000])
def test_deep_nesting_does_not_crash(deep: str) -> None:
    with pytest.raises(DescriptorError, match="nested too deep"):
        load(deep, "f")


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab:- \n\t[]{}&*!|>'\"%@`#,?<\\0~\0é"), max_size=30) | st.binary(max_size=20))
@example("a: &a\n  <<: *a")
@example("? {a: 1}\n: 2")
@example("<<: [1]")
@example("<<: {[a]: 1}")
@example("%YAML 3.0\n---\na: 1")
@example("a: !!int x")
@example("!!set {a: }")
def test_any_text_is_read_or_refused_with_its_place(text: str | bytes) -> None:
    try:
        document = load(text, "f.yaml")
    except DescriptorError as error:
        assert error.what.startswith("f.yaml:") and error.fix
    else:
        assert isinstance(document.data, dict)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int
    names: list[str] = []


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: dict[str, Inner] = {}


@pytest.mark.parametrize(("text", "said"), [
    ("inner: {a: {number: 1, nmes: []}}", "f:1:24: unknown key `nmes` in `inner.a`"),
    ("inner:\n  a:\n    names: []", "f:2:3: `number` is missing in `inner.a`"),
    ("inner: {a: {number: x}}", "f:1:21: `inner.a.number` must be a whole number, not `x`"),
    ("inner: {a: {number: 1, names: [a, 5]}}", "f:1:35: `inner.a.names[1]` must be a text, not `5`"),
    ("inner: {a: {number: 1.50}}", "f:1:21: `inner.a.number` must be a whole number, not `1.50`"),
    ("inner: []", "f:1:8: `inner` must be a mapping of keys, not an empty list"),
    ("inner:", "f:1:7: `inner` must be a mapping of keys, not empty"),
    ("other: 1\ninner: {a: {}, b: {}}", "f:1:1: unknown key `other` (and 2 more)"),
])
def test_validation_errors(text: str, said: str) -> None:
    document = load(text, "f")
    with pytest.raises(DescriptorError) as caught:
        document.validate(Outer)
    assert caught.value.what == said and caught.value.fix
    with pytest.raises(ValidationError) as raw:
        Outer.model_validate(document.data)
    assert validation_error(raw.value, document).what == said


def test_an_unknown_key_has_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(DescriptorError) as caught:
        load("inner: {a: {number: 1, nmes: []}}", "f").validate(Outer)
    assert (caught.value.why, caught.value.fix) == ("known keys here: number, names", "did you mean `names`?")


def test_path_text() -> None:
    assert path_text(("functions", "web", "ports", 0, "mac")) == "functions.web.ports[0].mac"
