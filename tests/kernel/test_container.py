"""Containers on the real kernel: what a call that was cut off leaves, shared layers, hostile images, capabilities."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from isoform.errors import DescriptorError, StepFailed, WrongState
from isoform.forms import Container
from isoform.forms.oci import commands
from isoform.forms.oci.root import short
from isoform.host import Home, cgroup, mount, netns, run
from isoform.host.facts import fastest
from isoform.host.probe import facts
from isoform.model import ExecSpec, File, Image, Instance, Layer, Mount, Process, Size
from tests.images import busybox_image

pytestmark = pytest.mark.root
PATH = (("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),)


@pytest_asyncio.fixture(params=["crun", "runc"])
async def container(home: Home, request: pytest.FixtureRequest) -> AsyncIterator[Container]:
    """A container form on each of the runtimes that this host has."""
    found = await facts(home)
    runtime = next((fastest((trial,)) for trial in found.runtimes if trial.name == request.param), None)
    if runtime is None:
        pytest.skip(f"{request.param} does not run here")
    form = Container(home, replace(found, runtime=runtime))
    yield form
    for one in await form.known():
        await form.delete(one)
    assert await form.known() == []
    assert not (home.path / "mounts").exists() or not list((home.path / "mounts").iterdir())
    assert not home.instances.exists() or list(home.instances.iterdir()) == []


@pytest_asyncio.fixture
async def image(home: Home) -> Image:
    return await busybox_image(home)


def instance(image: Image, script: str = "while :; do sleep 60; done", replica: int = 0, **changes: object) -> Instance:
    process = Process(("/bin/sh", "-c", script), PATH, "/", image.user)
    one = Instance(f"t.f.{replica}", "t", "f", replica, "container", "f", image, process, Size(1, 64 << 20))
    return replace(one, **changes)  # type: ignore[arg-type]


async def until_stopped(form: Container, one: Instance) -> None:
    for _ in range(500):
        if (await form.observe(one.id)).state == "stopped":
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not stop")


async def test_layers_are_mounted_once_and_unmounted_with_the_last(home: Home, container: Container,
                                                                   image: Image) -> None:
    places = [home.path / "mounts" / short(layer.digest) / "root" for layer in image.layers]
    for replica in range(3):
        await container.create(instance(image, replica=replica), ())
    lines = Path("/proc/self/mountinfo").read_text()
    assert all(lines.count(f" {place} ") == 1 for place in places)
    for replica in range(2):
        await container.delete(f"t.f.{replica}")
    assert all(mount.is_mounted(str(place)) for place in places)
    await container.delete("t.f.2")
    assert not any(place.exists() for place in places)


async def test_many_are_removed_side_by_side(home: Home, container: Container, image: Image,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    ones = [instance(image, replica=replica) for replica in range(4)]
    for one in ones:
        await container.create(one, ())
    both, remove = threading.Barrier(2), container._roots.remove

    def met(instance_id: str) -> None:
        both.wait(20)  # until another is being removed too
        remove(instance_id)

    with monkeypatch.context() as slow:
        slow.setattr(container._roots, "remove", met)
        await asyncio.gather(*(container.delete(one.id) for one in ones))
    assert await container.known() == []
    assert mount.mounts_below(str(home.path)) == [] and list((home.path / "mounts").iterdir()) == []


@pytest.mark.parametrize("stage", ["folder", "namespace", "root", "volumes", "conmon", "noted"])
async def test_what_a_killed_create_leaves_is_known_deleted_and_created_over(
    home: Home, container: Container, image: Image, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is cut off right after each stage: no clean-up of its own runs."""
    one = instance(image, mounts=(Mount("v", "/v", str(home.volumes / "v"), 8 << 20),))

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    async def killed_later(*_: object, **__: object) -> None:
        raise Killed

    targets: dict[str, tuple[object, str]] = {
        "folder": (container, "_namespace"), "namespace": (container._roots, "make"),
        "root": (container._roots, "mount_volumes"), "volumes": (commands, "conmon_argv"),
        "conmon": (container, "_remember"), "noted": (container, "start"),
    }
    with monkeypatch.context() as cut:
        cut.setattr(*targets[stage], killed)
        cut.setattr(container, "delete", killed_later)  # dead processes do not clean up
        if stage == "noted":
            await container.create(one, ())
        else:
            with pytest.raises(Killed):
                await container.create(one, ())
    assert await container.known() == [one.id]
    assert (await container.observe(one.id)).state == ("created" if stage == "noted" else "absent")
    await container.create(one, ())
    await container.start(one.id)
    assert (await container.observe(one.id)).state == "running"
    await container.delete(one.id)
    await container.delete(one.id)
    assert await container.known() == []
    assert cgroup.processes(home.cgroup()) == [] and netns.names(home.mark) == []


async def test_a_killed_supervisor_is_survived(home: Home, container: Container, image: Image) -> None:
    one = instance(image)
    await container.create(one, ())
    await container.start(one.id)
    os.kill(int((home.instance(one.id) / "conmon.pid").read_text()), signal.SIGKILL)
    seen = await container.observe(one.id)
    assert seen.state == "running"
    os.kill(seen.pid, signal.SIGKILL)
    await until_stopped(container, one)
    seen = await container.observe(one.id)
    assert seen.exit_code is None and "supervisor" in seen.reason


async def test_a_descriptor_that_changed_is_refused_until_deleted(container: Container, image: Image) -> None:
    await container.create(instance(image), ())
    with pytest.raises(WrongState, match="exists already"):
        await container.create(instance(image, "echo other"), ())


async def test_a_link_in_the_image_leads_no_file_out_of_the_root(home: Home, container: Container,
                                                                 image: Image) -> None:
    first = instance(image, "ln -s /etc /lure; ln -s ../../../../../../etc /deep; ln -s /nowhere /dangling; sleep 60")
    await container.create(first, ())
    await container.start(first.id)
    for _ in range(500):
        if (await container.run(first.id, ExecSpec(("test", "-L", "/dangling")), 5)).code == 0:
            break
    await container.put(first.id, [File("/lure/one", b"1"), File("/deep/two", b"2")])
    assert (await container.run(first.id, ExecSpec(("cat", "/etc/one", "/etc/two")), 5)).out == "12"
    assert not Path("/etc/one").exists() and not Path("/etc/two").exists()
    with pytest.raises(StepFailed, match="/dangling/three"):
        await container.put(first.id, [File("/dangling/three", b"3")])
    await container.put(first.id, [File("/lure", b"replaced")])
    assert (await container.run(first.id, ExecSpec(("cat", "/lure")), 5)).out == "replaced"


async def test_put_reaches_volumes(home: Home, container: Container, image: Image) -> None:
    one = instance(image, mounts=(Mount("v", "/v", str(home.volumes / "v"), 8 << 20),))
    await container.create(one, ())
    await container.start(one.id)
    await container.put(one.id, [File("/v/new/file", b"in it", 0o640)])
    assert (await container.run(one.id, ExecSpec(("stat", "-c", "%a %s", "/v/new/file")), 5)).out == "640 5\n"


async def test_two_containers_share_a_volume(home: Home, container: Container, image: Image) -> None:
    volume = Mount("v", "/v", str(home.volumes / "v"), 8 << 20)
    for replica, read_only in ((0, False), (1, True)):
        one = instance(image, replica=replica, mounts=(replace(volume, read_only=read_only),))
        await container.create(one, ())
        await container.start(one.id)
    await container.run("t.f.0", ExecSpec(("sh", "-c", "echo shared >/v/x")), 5)
    assert (await container.run("t.f.1", ExecSpec(("cat", "/v/x")), 5)).out == "shared\n"
    assert (await container.run("t.f.1", ExecSpec(("touch", "/v/y")), 5)).code != 0
    assert (await container.run("t.f.0", ExecSpec(("touch", "/v/y")), 5)).code == 0


@pytest.mark.parametrize("name", ["CAP_SYS_ADMIN", "sys_module", "CAP_BPF"])
async def test_power_over_the_kernel_is_refused(home: Home, container: Container, image: Image, name: str) -> None:
    with pytest.raises(DescriptorError, match="power over this host"):
        await container.create(instance(image, capabilities=(name,)), ())
    assert await container.known() == []


async def test_privileges_are_few_and_cannot_grow(container: Container, image: Image) -> None:
    one = instance(image, "grep -E '^(NoNewPrivs|Seccomp|CapEff)' /proc/self/status; sleep 60")
    await container.create(one, ())
    await container.start(one.id)
    lines: list[str] = []
    for _ in range(100):
        lines = [line.text async for line in container.logs(one.id, follow=False)]
        if len(lines) >= 3:
            break
        await asyncio.sleep(0.02)
    found = dict(line.split(":\t") for line in lines if "filters" not in line)
    assert found == {"CapEff": "00000000a80425fb", "NoNewPrivs": "1", "Seccomp": "2"}  # Docker's default set
    beside = (await container.run(one.id, ExecSpec(("grep", "-E", "^(NoNewPrivs|Seccomp:|CapEff)",
                                                    "/proc/self/status")), 5)).out
    assert dict(line.split(":\t") for line in beside.splitlines()) == found  # `exec` gives no more


async def test_a_fork_bomb_ends_at_the_limit(home: Home, container: Container, image: Image) -> None:
    one = instance(image)
    await container.create(one, ())
    limits = [Path(root + home.cgroup(one.id), "pids.max") for root in cgroup.layout().roots]
    assert [path.read_text().strip() for path in limits if path.exists()] == ["4096"]


async def test_resize_changes_the_limits_of_a_running_one(home: Home, container: Container, image: Image) -> None:
    one = instance(image, "while :; do sleep 1; done")
    await container.create(one, ())
    await container.start(one.id)
    for _ in range(2):
        await container.resize(one.id, Size(0.25, 32 << 20))
    roots = [Path(root + home.cgroup(one.id)) for root in cgroup.layout().roots]
    texts = [(root / name).read_text().strip() for root in roots
             for name in ("memory.limit_in_bytes", "memory.max") if (root / name).exists()]
    assert texts == [str(32 << 20)]
    assert (await container.observe(one.id)).state == "running"


async def test_no_process_of_ours_stays_beside_conmon(home: Home, container: Container, image: Image) -> None:
    one = instance(image)
    await container.create(one, ())
    await container.start(one.id)
    mark = f"{home.path}/".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        others = (os.getpid(), (await container.observe(one.id)).pid)  # the function's own may not have begun yet
        if mark in words and int(process.parent.name) not in others:
            found.append(words.split(b"\0")[0])
    assert len(found) == 1 and found[0].endswith(b"conmon")


async def test_a_runtime_without_its_own_words_for_an_error_gets_ours(container: Container, image: Image) -> None:
    with pytest.raises(StepFailed) as caught:
        await container.create(instance(image, sysctls=(("net.no.such.key", "1"),)), ())
    assert "net" in caught.value.why and "could not be created" in caught.value.what
    assert await container.known() == []


async def test_more_layers_fit_than_one_page_of_options_holds(home: Home, container: Container, image: Image) -> None:
    layers = []
    for number in range(100):
        tree, path = home.path / "many" / f"tree{number}", home.path / "many" / f"{number}.erofs"
        tree.mkdir(parents=True)
        (tree / f"file{number}").write_text(f"{number} ")
        await run(["mkfs.erofs", "--quiet", str(path), str(tree)])
        layers.append(Layer(f"sha256:{number:020x}{'0' * 44}", str(path), path.stat().st_size))
    one = instance(replace(image, layers=(*image.layers, *layers)))
    await container.create(one, ())
    await container.start(one.id)
    result = await container.run(one.id, ExecSpec(("sh", "-c", "cat /file0 /file99; ls / | grep -c file")), 5)
    assert result.out == "0 99 100\n"
