from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoform.model import (
    File,
    Image,
    Instance,
    Layer,
    Mount,
    Port,
    Process,
    Route,
    Size,
    User,
    dump_instance,
    fingerprint,
    load_instance,
)

pairs = st.tuples(st.tuples(st.text(max_size=5), st.text(max_size=5)))
images = st.builds(Image, layers=st.tuples(st.builds(Layer)), user=st.builds(User), env=pairs)
plain = st.builds(
    Instance,
    image=st.none() | images,
    process=st.none() | st.builds(Process, env=pairs),
    size=st.builds(Size, cpus=st.floats(0.01, 64)),
    ports=st.tuples(st.builds(Port)),
    routes=st.tuples(st.builds(Route)),
    hosts=pairs,
    files=st.tuples(st.builds(File, content=st.binary(max_size=20))),
    mounts=st.tuples(st.builds(Mount)),
    machine=st.none(),
    carries=st.just(()),
)
instances = plain | st.builds(lambda one, machine: replace(one, machine=machine), plain, plain)

IMAGE = Image("web.yaml", "sha256:aa", (Layer("sha256:bb", "/layers/bb", 4096),), env=(("A", "1"),))
MACHINE = Instance("edge.web.0.vm", "edge", "web", 0, "vm", "web-vm", None, None, Size(2.0, 1 << 28), carries=(IMAGE,))
INSTANCE = Instance(
    "edge.web.0", "edge", "web", 0, "container-in-vm", "web", IMAGE, Process(("httpd",), (("A", "1"),), "/", User()),
    Size(0.5, 1 << 27), (Port("core", "eth0", "02:00:00:00:00:01", ("10.0.1.2/24",), 1500),),
    hosts=(("10.0.1.2", "web"),), files=(File("/etc/x", b"\x00\xff", 0o600),), machine=MACHINE,
)


@settings(max_examples=50)
@given(instances)
def test_what_is_dumped_is_loaded_back(instance: Instance) -> None:
    assert load_instance(dump_instance(instance)) == instance


@settings(max_examples=50)
@given(instances)
def test_the_fingerprint_survives_the_file(instance: Instance) -> None:
    assert fingerprint(load_instance(dump_instance(instance))) == fingerprint(instance)


def test_json_is_canonical() -> None:
    text = dump_instance(INSTANCE)
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert json.loads(text)["files"] == [{"path": "/etc/x", "content": "00ff", "mode": 0o600}]


@pytest.mark.parametrize("text", ["", "{}", "[]", dump_instance(INSTANCE)[:-1], dump_instance(INSTANCE) + "x"])
def test_what_is_no_instance_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        load_instance(text)


@pytest.mark.parametrize("same", [
    replace(INSTANCE, hosts=(("10.0.1.9", "db"),)),
    replace(INSTANCE, image=replace(IMAGE, reference="docker://web")),
    replace(INSTANCE, machine=replace(MACHINE, hosts=(("10.0.1.9", "db"),))),
    replace(INSTANCE, machine=replace(MACHINE, carries=(replace(IMAGE, reference="other"),))),
    replace(INSTANCE, size=Size(0.5, 1 << 27)),
])
def test_names_of_neighbours_and_references_do_not_count(same: Instance) -> None:
    assert fingerprint(same) == fingerprint(INSTANCE)


CHANGED = {
    "id": "edge.web.1", "service": "core", "function": "db", "replica": 1, "form": "vm", "hostname": "w",
    "image": replace(IMAGE, digest="sha256:cc"), "process": None, "size": Size(1.0, 1 << 27), "ports": (),
    "routes": (Route("default", "10.0.1.1"),), "files": (), "mounts": (Mount("d", "/d", "/x.img", 1),),
    "sysctls": (("net.ipv4.ip_forward", "1"),), "capabilities": ("CAP_NET_ADMIN",),
    "machine": replace(MACHINE, size=Size(4.0, 1 << 28)), "members": ("edge.web.0",), "carries": (IMAGE,),
}


def test_all_else_counts() -> None:
    assert set(CHANGED) == {field.name for field in fields(Instance)} - {"hosts"}
    prints = {fingerprint(replace(INSTANCE, **{name: value})) for name, value in CHANGED.items()}  # type: ignore[arg-type]
    assert len(prints) == len(CHANGED) and fingerprint(INSTANCE) not in prints


def test_whole_and_broken_counts_of_cpus_are_one_wish() -> None:
    whole, broken = Size(1, 1 << 27), Size(1.0, 1 << 27)
    assert fingerprint(replace(INSTANCE, size=whole)) == fingerprint(replace(INSTANCE, size=broken))
