"""Containers inside machines: several in one, machines that are lost, calls that are cut off."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from isoform.errors import StepFailed, WrongState
from isoform.forms import Nested, nested
from isoform.forms.qemu import qmp
from isoform.host import pid
from isoform.model import File, Instance, Mount
from tests.conformance.lab import Lab, lab, machine, until

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.asyncio(loop_scope="module")]
SERVER = "httpd -p 8080 -h /etc; echo ready; while :; do sleep 1; done"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on() -> AsyncIterator[Lab]:
    async with lab("container-in-vm") as one:
        yield one


def pair(on: Lab, **changes: object) -> tuple[Instance, Instance]:
    """Two instances for one machine."""
    both = [on.instance(SERVER, machine=None, **changes) for _ in range(2)]
    holder = machine(both)
    first, second = (replace(one, machine=holder) for one in both)
    on.made[-2:] = [first, second]
    return first, second


async def machines(on: Lab) -> list[str]:
    assert isinstance(on.form, Nested)
    return [path.name for path in on.home.instances.iterdir() if path.name.endswith(".vm")]


async def test_two_share_a_machine_until_the_last_is_gone(on: Lab) -> None:
    first, second = pair(on)
    ports = await on.attach(first)
    await asyncio.gather(*(on.form.create(one, ports) for one in (first, second)))
    await asyncio.gather(*(on.form.start(one.id) for one in (first, second)))
    for one in (first, second):
        await until(lambda one=one: on.said(one.id, "ready"))  # type: ignore[misc]
        assert await on.sh(one, "hostname; ls /sys/class/net") == f"{one.hostname}\neth0\nlo"
    seen = [await on.form.observe(one.id) for one in (first, second)]
    assert seen[0].pid == seen[1].pid and {one.state for one in seen} == {"running"}
    other = second.ports[0].addresses[0].split("/")[0]
    await on.sh(first, f"wget -qO /dev/null http://{other}:8080/hostname")
    assert await machines(on) == [f"{first.id}.vm"]
    await on.form.delete(first.id)
    assert (await on.form.observe(first.id)).state == "absent"
    assert (await on.form.observe(second.id)).state == "running"
    assert await on.sh(second, "cat /etc/hostname") == second.hostname
    await on.form.create(first, ports)  # again, into the machine that runs
    await on.form.start(first.id)
    await until(lambda: on.said(first.id, "ready"))
    await on.form.stop(first.id, 1)
    assert (await on.form.observe(first.id)).exit_code in (137, 143)
    await on.form.delete(first.id)
    await on.form.delete(second.id)
    assert await machines(on) == []
    await on.fabric.detach(f"{first.id}.vm")


async def test_a_lost_machine_is_the_end_of_all_in_it_and_a_new_one_can_be_made(on: Lab) -> None:
    first, second = pair(on)
    ports = await on.attach(first)
    for one in (first, second):
        await on.form.create(one, ports)
        await on.form.start(one.id)
    os.kill((await on.form.observe(first.id)).pid, signal.SIGKILL)
    for one in (first, second):
        seen = await on.stopped(one, 10)
        assert (seen.exit_code, seen.reason) == (None, "machine lost")
    with pytest.raises(WrongState):
        await on.form.create(first, ports)
    await on.form.delete(first.id)
    await on.form.create(first, ports)  # while the other is still remembered
    await on.form.start(first.id)
    assert (await on.form.observe(first.id)).state == "running"
    assert (await on.form.observe(second.id)).reason == "machine lost"
    await on.delete(second)
    await on.delete(first)
    assert await machines(on) == []


async def test_a_guest_that_hangs_is_no_reason_to_stay(on: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "_ANSWER_S", 2.0)
    first, second = pair(on)
    ports = await on.attach(first)
    for one in (first, second):
        await on.form.create(one, ports)
        await on.form.start(one.id)
    qemu = (await on.form.observe(first.id)).pid
    started = pid.start_time(qemu) or 0
    os.kill(qemu, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StepFailed, match="could not be stopped") as caught:
        await on.form.stop(first.id, 1)
    assert "mount" not in str(caught.value)  # what was to be run there is nobody's business
    await on.form.delete(first.id)
    assert time.monotonic() - began < 30
    assert await on.form.known() == [second.id]
    with pytest.raises(WrongState, match="cannot take in"):  # the old one runs in there once it goes on
        await on.form.create(first, ports)
    assert await on.form.known() == [second.id]
    os.kill(qemu, signal.SIGCONT)
    await until(lambda: on.said(second.id, "ready"))
    os.kill(qemu, signal.SIGSTOP)
    await on.form.delete(second.id)
    assert not pid.is_alive(qemu, started) and await machines(on) == []
    await on.form.create(first, ports)
    await on.form.start(first.id)
    assert (await on.form.observe(first.id)).state == "running"
    await on.delete(first)


async def test_a_machine_that_hangs_before_its_start_is_deleted_too(on: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "_ANSWER_S", 1.0)
    monkeypatch.setattr(qmp, "DEADLINE_S", 1.0)
    first, second = pair(on)
    volume = Mount("data", "/data", str(on.home.volumes / "t.hung"), 16 << 20)
    first = replace(first, mounts=(volume,))
    holder = machine((first, second))
    first, second = (replace(one, machine=holder) for one in (first, second))
    ports = await on.attach(first)
    for one in (first, second):
        await on.form.create(one, ports)
    qemu = (await on.form.observe(first.id)).pid
    (on.home.instance(f"{first.id}.vm") / "started").unlink()  # as after a `create` that was cut off
    os.kill(qemu, signal.SIGSTOP)
    await on.form.delete(first.id)
    await on.form.delete(second.id)
    assert await on.form.known() == [] and await machines(on) == []


@pytest.mark.parametrize("stage", ["_make", "_hear"])
async def test_what_a_killed_create_leaves_is_known_deleted_and_created_over(
    on: Lab, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def killed(*_: object, **__: object) -> None:
        raise Killed

    one = on.instance(SERVER)
    ports = await on.attach(one)
    with monkeypatch.context() as cut:
        cut.setattr(on.form, stage, killed)
        cut.setattr(on.form, "delete", killed)  # dead processes do not clean up
        with pytest.raises(Killed):
            await on.form.create(one, ports)
    assert await on.form.known() == [one.id]
    assert (await on.form.observe(one.id)).state == "absent"
    await on.form.create(one, ports)
    await on.form.start(one.id)
    assert (await on.form.observe(one.id)).state == "running"
    await on.delete(one)
    assert await on.form.known() == [] and await machines(on) == []


async def test_a_start_that_was_cut_off_after_its_effect_is_completed(on: Lab) -> None:
    one = await on.ready(SERVER)
    (on.home.instance(one.id) / "started").unlink()
    assert (await on.form.observe(one.id)).state == "created"
    await on.form.start(one.id)
    assert (await on.form.observe(one.id)).state == "running"
    await on.form.put(one.id, [File("/opt/a/b", b"put", 0o600)])
    assert await on.sh(one, "stat -c %a /opt/a/b; cat /opt/a/b") == "600\nput"
    await on.delete(one)


async def test_other_members_need_another_machine(on: Lab) -> None:
    first, second = pair(on)
    ports = await on.attach(first)
    await on.form.create(first, ports)
    assert first.machine is not None
    changed = replace(machine((second, first)), id=first.machine.id)
    with pytest.raises(WrongState, match="other members"):
        await on.form.create(replace(second, machine=changed), ports)
    assert await on.form.known() == [first.id]
    await on.delete(second)
    await on.delete(first)


async def test_a_refused_setting_is_told_with_its_reason(on: Lab) -> None:
    one = on.instance(SERVER, sysctls=(("net.no.such.key", "1"),))
    with pytest.raises(StepFailed) as caught:
        await on.form.create(one, await on.attach(one))
    assert "net/no/such/key" in caught.value.why
    assert await on.form.known() == [] and await machines(on) == []
    assert not Path(on.home.instance(one.id)).exists()
    await on.delete(one)
