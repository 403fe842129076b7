"""What goldens cannot show: variables, overrides and forms in detail, the schema, and stray data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoform.errors import DescriptorError
from isoform.model.descriptor import ServiceSpec, json_schema, parse, with_forms
from isoform.model.interpolate import substitute
from isoform.model.yamlpos import load

BASE = """\
service: edge
links: {core: 10.0.1.0/24}
functions:
  web: {image: ./web.yaml, form: container-in-vm, vm: group, ports: {core: }}
  db: {image: ./db.yaml, capabilities: [sys_admin], needs: {own_kernel: true}}
"""


def spec_of(text: str, *overrides: str) -> ServiceSpec:
    return parse(text, "f.yaml", {}, overrides).spec


@pytest.mark.parametrize(("text", "result"), [
    ("", ""), ("plain", "plain"), ("$A", "1"), ("${A}", "1"), ("x${A}y$A-z", "x1y1-z"), ("$$A", "$A"), ("$$$A", "$1"),
    ("${E}", ""), ("${E-d}", ""), ("${E:-d}", "d"), ("${U-d}", "d"), ("${U:-}", ""), ("${U:-a b:c}", "a b:c"),
    ("${U:-${A}}", "1"), ("${U:-${V:-deep}}", "deep"), ("${U:-{}", "{"), ("${A:?no}", "1"), ("${E?no}", ""),
    ("a}b", "a}b"),    ("${U:-$$}", "$"), ("_$A_", "_"),
])
def test_substitute(text: str, result: str) -> None:
    assert substitute(text, {"A": "1", "E": "", "A_": ""}) == result


@pytest.mark.parametrize(("text", "said"), [
    ("${U}", "the variable U is not set"), ("$U", "the variable U is not set"), ("${E:?}", "the variable E is empty"),
    ("${U:?say so}", "the variable U is not set: say so"), ("${U?x ${A}}", "the variable U is not set: x 1"),
    ("$", "a `$` begins a variable"), ("$5", "a `$` begins a variable"), ("${}", "`${}` is not a variable"),
    ("${A!}", "`${A!}` is not a variable"), ("${1A}", "`${1A}` is not"), ("${A", "`${A` has no closing"),
    ("${U:-${A}", "has no closing"), ("${ A }", "`${ A }` is not a variable"),
])
def test_what_cannot_be_substituted(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="\n") as caught:
        substitute(text, {"A": "1", "E": ""})
    assert said in str(caught.value)


@given(st.text("${}:-?A$", max_size=12))
def test_any_text_is_substituted_or_refused(text: str) -> None:
    try:
        substitute(text, {"A": "1"})
    except ValueError as error:
        assert "\n" in str(error)


def test_variables_are_values_not_yaml() -> None:
    data = load("a: ${X}\nb: '${N}'\nc: ${N}\n${N}: key", "f",
                lambda text: substitute(text, {"X": "[1, 2]: #", "N": "3"})).data
    assert data == {"a": "[1, 2]: #", "b": "3", "c": 3, "${N}": "key"}


@pytest.mark.parametrize(("overrides", "path", "value"), [
    (["functions.web.memory=1Gi"], ("web", "memory_bytes"), 1 << 30),
    (["functions.web.env.A=1", "functions.web.env.A=2"], ("web", "env"), {"A": "2"}),
    (["functions.web.env={A: 1}", 'functions.web.env."x.y"=007'], ("web", "env"), {"A": "1", "x.y": "007"}),
    ([r"functions.web.env.x\.y=a=b"], ("web", "env"), {"x.y": "a=b"}),
    (["functions.web.ready.tcp=80"], ("web", "ready.tcp"), 80),
    (["functions.web.command=sh -c 'echo hi'"], ("web", "command"), ("sh", "-c", "echo hi")),
    (["functions.web.after=[db]", "functions.web.after.0=db"], ("web", "after"), ("db",)),
    (["functions.web.cpus="], ("web", "cpus"), 1.0),
    (["functions.db.capabilities.0=net_raw"], ("db", "capabilities"), ("CAP_NET_RAW",)),
])
def test_overrides(overrides: list[str], path: tuple[str, str], value: Any) -> None:
    found: Any = spec_of(BASE, *overrides).functions[path[0]]
    for name in path[1].split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize("text", ["", "=", "a", "functions..web=1", ".a=1", "a.=1", '"a=1', "functions.web.=1", "x.y=1",
                                  "functions.web.vm=a\nb: 1", "functions.db.capabilities.7=net_raw"])
def test_overrides_that_name_nothing(text: str) -> None:
    with pytest.raises(DescriptorError, match=r"^--set 1: "):
        spec_of(BASE, text)


def test_a_fault_found_late_names_the_override() -> None:
    document = parse(BASE, "f.yaml", {}, ["functions.db.cpus=2", "functions.web.ports.core.address=10.0.1.9"]).document
    assert document.where(("functions", "web", "ports", "core", "address")) == "--set 2"
    assert document.where(("functions", "web", "ports", "core", "mac")) == "--set 2"
    assert document.where(("functions", "db", "cpus")) == "--set 1"
    assert document.where(("functions", "db", "image")) == "f.yaml:5:15"


def test_forms_given_on_the_command_line() -> None:
    spec = spec_of(BASE)
    changed = with_forms(spec, {"web": "vm", "db": "container-in-vm"})
    assert [(f.form, f.vm) for f in changed.functions.values()] == [("vm", ""), ("container-in-vm", "")]
    assert with_forms(spec, {"web": "auto"}).functions["web"].vm == "group"
    assert with_forms(spec, {}) == spec
    assert spec.functions["web"].form == "container-in-vm"
    with pytest.raises(DescriptorError, match=r"^--form db=container: "):
        with_forms(spec, {"db": "container"})


def test_the_schema_knows_every_key_and_shorthand() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["properties"]) == {"service", "links", "functions", "volumes"}
    assert schema["additionalProperties"] is False and schema["required"] == ["service", "functions"]
    function = schema["$defs"]["FunctionSpec"]["properties"]
    assert {"memory", "ports", "ready", "needs"} <= set(function) and "memory_bytes" not in function
    assert function["form"]["enum"] == ["auto", "container", "vm", "container-in-vm"]
    assert {"type": "string"} in schema["$defs"]["PortSpec"]["anyOf"]
    for name, definition in schema["$defs"].items():
        full = definition["anyOf"][0] if "anyOf" in definition else definition
        assert all("description" in field for field in full["properties"].values()), name


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(
    ["", "x", "web", "core", "10.0.1.5", "fd00::1", "1.5Gi", "30s", "data:/x", "./f", "-", "auto", "net_admin", "\n"])
KEYS = st.sampled_from(["web", "core", "tcp", "address", "source", "size", "path", "to", "via", "A", "/x", "cidr"])
STRAY = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
                     max_leaves=5)


def places() -> list[tuple[str, ...]]:
    schema = json_schema()
    function = schema["$defs"]["FunctionSpec"]["properties"]
    return [*((key,) for key in schema["properties"]), *(("functions", "web", key) for key in function),
            ("functions", "web", "ports", "core"), ("links", "core"), ("functions", "web"), ("volumes", "data"),
            ("functions", "web", "ready", "http"), ("functions", "web", "files", "/x")]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places()), STRAY)
def test_stray_values_are_taken_or_refused_with_their_place(path: tuple[str, ...], value: Any) -> None:
    data: dict[str, Any] = {"service": "edge", "links": {"core": "10.0.1.0/24"},
                            "functions": {"web": {"image": "./web.yaml", "ports": {"core": None}}}}
    parent = data
    for step in path[:-1]:
        parent = parent.setdefault(step, {})
    parent[path[-1]] = value
    text = json.dumps(data).replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf")
    try:
        spec = parse(text, "f.json", {}).spec
    except DescriptorError as error:
        assert error.what.startswith("f.json:1:") and error.fix
    else:
        assert isinstance(spec, ServiceSpec)
