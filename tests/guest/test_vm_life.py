"""What is true of machines alone, beside what every form must do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from isoform.errors import NotFound, StepFailed, WrongState
from isoform.fabric import Fabric
from isoform.forms.qemu import process as qemu
from isoform.forms.vm import Vm
from isoform.host import Home, cgroup
from isoform.model import ExecSpec, Instance, Size
from tests.guests import attached, process, running, vm_form, vm_instance
from tests.images import busybox_image

pytestmark = [pytest.mark.root, pytest.mark.guest]


async def until(holds: Callable[[], Awaitable[bool]], deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not await holds():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.05)


async def stopped(form: Vm, one: Instance) -> None:
    async def over() -> bool:
        return (await form.observe(one.id)).state == "stopped"

    await until(over)


async def sh(form: Vm, one: Instance, script: str) -> str:
    result = await form.run(one.id, ExecSpec(("/bin/sh", "-c", script)), 60)
    assert result.code == 0, result
    return result.out.strip()


async def test_a_killed_machine_is_seen_and_made_anew(home: Home) -> None:
    async with running(home) as (form, one):
        seen = await form.observe(one.id)
        os.kill(seen.pid, signal.SIGKILL)
        await stopped(form, one)
        lost = await form.observe(one.id)
        assert (lost.reason, lost.exit_code, lost.fingerprint) == ("machine lost", None, seen.fingerprint)
        await form.stop(one.id, 1)
        with pytest.raises(WrongState):
            await form.start(one.id)
        await form.delete(one.id)
        assert (await form.observe(one.id)).state == "absent"
        taps = Fabric(home).attachments(one, "tap")
        await form.create(one, taps)
        await form.start(one.id)
        assert await sh(form, one, "echo $((6 * 7))") == "42"


@pytest.mark.parametrize("cut", ["folder", "QEMU not noted", "QEMU without a PID file"])
async def test_a_create_that_was_cut_off_is_known_and_cleaned(
    home: Home, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, image = await vm_form(home), await busybox_image(home)
    one = vm_instance(image, process("/bin/sleep", "1000"))
    folder = home.instance(one.id)
    async with attached(home, one) as (_, (taps,)):
        if cut == "folder":
            folder.mkdir(parents=True)
            (folder / "form").write_text("vm")
        else:
            def killed(*_: object) -> None:
                raise KeyboardInterrupt  # as `kill -9` here, for `delete` is cut off as well

            with monkeypatch.context() as patch:
                patch.setattr(qemu, "note", killed)
                patch.setattr(form, "delete", killed_later(form))
                with pytest.raises(KeyboardInterrupt):
                    await form.create(one, taps)
            if cut == "QEMU without a PID file":
                (folder / "qemu.pid").unlink()
        assert await form.known() == [one.id]
        assert (await form.observe(one.id)).state == "absent"
        await form.create(one, taps)
        first = await form.observe(one.id)
        assert first.state == "created"
        await form.create(one, taps)
        assert (await form.observe(one.id)).pid == first.pid
        await form.delete(one.id)
        await form.delete(one.id)
        assert await form.known() == []


def killed_later(form: Vm) -> Callable[[str], Awaitable[None]]:
    """A delete that works once, for what is left from before, and then no more."""
    calls = []
    true_delete = form.delete

    async def delete(instance_id: str) -> None:
        if not calls:
            calls.append(instance_id)
            await true_delete(instance_id)

    return delete


async def test_no_process_stays_but_qemu_and_its_processors_are_limited(home: Home) -> None:
    async with running(home, size=Size(0.5, 128 << 20)) as (form, one):
        seen = await form.observe(one.id)
        assert cgroup.processes(home.cgroup(one.id)) == [seen.pid]
        parent = int(Path(f"/proc/{seen.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        assert parent != os.getpid()


async def test_qemu_that_cannot_start_says_why_and_leaves_nothing(home: Home) -> None:
    form, image = await vm_form(home), await busybox_image(home)
    wrong = replace(image, layers=(replace(image.layers[0], path="/nowhere.erofs"),))
    one = vm_instance(wrong, process("/bin/true"))
    async with attached(home, one) as (_, (taps,)):
        with pytest.raises(StepFailed, match="QEMU did not start") as failed:
            await form.create(one, taps)
        assert "/nowhere.erofs" in failed.value.why
        assert await form.known() == []


async def test_a_disk_that_is_no_layer_ends_the_machine_with_the_reason(home: Home) -> None:
    form, image = await vm_form(home), await busybox_image(home)
    bad = home.path / "bad.erofs"
    bad.write_bytes(bytes(1 << 20))
    one = vm_instance(replace(image, layers=(replace(image.layers[0], path=str(bad)),)), process("/bin/true"))
    async with attached(home, one) as (_, (taps,)):
        try:
            await form.create(one, taps)
            await form.start(one.id)
            await stopped(form, one)
            seen = await form.observe(one.id)
            assert seen.exit_code == 125
            assert "layers" in seen.reason
        finally:
            await form.delete(one.id)


async def test_interfaces_have_their_names_whatever_the_kernel_calls_them(home: Home) -> None:
    form, image = await vm_form(home), await busybox_image(home)
    one = vm_instance(image, process("/bin/sleep", "1000"))
    first = one.ports[0]
    second = replace(first, interface="wan", mac="02:00:00:00:77:01", addresses=("10.0.0.77/24",), mtu=1400)
    third = replace(first, interface="eth0", mac="02:00:00:00:77:02", addresses=("10.0.0.78/24",))
    one = replace(one, ports=(replace(first, interface="eth1"), second, third))
    async with attached(home, one) as (_, (taps,)):
        try:
            await form.create(one, taps)
            await form.start(one.id)
            for port in one.ports:
                shown = await sh(form, one, f"ip addr show {port.interface}")
                assert f"link/ether {port.mac}" in shown
                assert f"inet {port.addresses[0]}" in shown
                assert f"mtu {port.mtu}" in shown
        finally:
            await form.delete(one.id)


async def balloons(form: Vm, one: Instance) -> bool:
    return "virtio_balloon" in await sh(form, one, "cat /proc/modules")


async def test_memory_is_taken_back_and_given_again_while_it_runs(home: Home) -> None:
    async with running(home, size=Size(1, 256 << 20)) as (form, one):
        total = "awk '/MemAvailable/ {print $2}' /proc/meminfo"
        await until(lambda: balloons(form, one))
        before = int(await sh(form, one, total))
        await form.resize(one.id, Size(1, 192 << 20))

        async def smaller() -> bool:
            return int(await sh(form, one, total)) < before - (40 << 10)

        await until(smaller)
        await form.resize(one.id, Size(1, 256 << 20))

        async def as_before() -> bool:
            return int(await sh(form, one, total)) > before - (16 << 10)

        await until(as_before)
        with pytest.raises(WrongState, match="booted with"):
            await form.resize(one.id, Size(1, 512 << 20))
        with pytest.raises(WrongState, match="processors"):
            await form.resize(one.id, Size(2, 256 << 20))


async def test_the_kernel_loads_modules_when_the_function_needs_them(home: Home) -> None:
    async with running(home) as (form, one):
        made = await sh(form, one, "ip link add dummy7 type dummy && ip link add br7 type bridge && ls /sys/class/net")
        assert {"dummy7", "br7"} <= set(made.split())


async def test_a_machine_that_is_not_there_is_not_found(home: Home) -> None:
    form = await vm_form(home)
    with pytest.raises(NotFound):
        await form.run("edge.none.0", ExecSpec(("true",)), 5)
    with pytest.raises(NotFound):
        form.exec_argv("edge.none.0", ExecSpec(("true",)))
    await form.stop("edge.none.0", 1)
    await form.delete("edge.none.0")


async def test_too_many_disks_are_refused_before_anything_is_made(home: Home) -> None:
    form, image = await vm_form(home), await busybox_image(home)
    layers = tuple(replace(image.layers[0], digest=f"sha256:{n:020x}{0:044x}") for n in range(40))
    one = vm_instance(replace(image, layers=layers), process("/bin/true"))
    async with attached(home, one) as (_, (taps,)):
        with pytest.raises(StepFailed, match="layers, volumes and ports"):
            await form.create(one, taps)
        assert await form.known() == []


