"""The command lines of machines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from isoform.forms.qemu.argv import Disk, Machine, Nic, kernel_arguments, qemu_argv, vcpus

MACHINE = Machine(
    name="edge.web.0", folder=Path("/h/instances/edge.web.0"), qemu="/usr/bin/qemu-system-x86_64",
    architecture="amd64", kvm=False, kernel=Path("/g/kernel"), initrd=Path("/g/initrd"), append="quiet", cpus=0.5,
    memory_bytes=128 << 20, disks=[Disk("config", "/h/c,1.tar"), Disk("disk", "/h/d", read_only=False, fleeting=True)],
    nics=[Nic("02:00:00:00:00:01", 7), Nic("02:00:00:00:00:02", 9)],
)


def after(argv: list[str], option: str) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


@pytest.mark.parametrize(("cpus", "whole"), [(0.1, 1), (1, 1), (1.5, 2), (4, 4)])
def test_a_part_of_a_core_needs_a_whole_processor(cpus: float, whole: int) -> None:
    assert vcpus(cpus) == whole


def test_emulation_is_told_the_rate_of_the_counter_and_kvm_is_not() -> None:
    assert "tsc_early_khz=2300000" in kernel_arguments("amd64", False, 2300000).split()
    assert "tsc_early" not in kernel_arguments("amd64", True, 2300000)
    assert "tsc_early" not in kernel_arguments("amd64", False, None)
    assert "tsc_early" not in kernel_arguments("arm64", False, 2300000)


def test_a_panic_ends_the_machine() -> None:
    assert "panic=-1" in kernel_arguments("amd64", True, None).split()
    assert "-no-reboot" in qemu_argv(MACHINE)


def test_acceleration_decides_the_processor() -> None:
    assert after(qemu_argv(MACHINE), "-cpu") == ["max"]
    assert after(qemu_argv(replace(MACHINE, kvm=True)), "-cpu") == ["host"]
    assert after(qemu_argv(replace(MACHINE, kvm=True)), "-accel") == ["kvm"]


def test_other_architectures_have_other_machines() -> None:
    assert after(qemu_argv(MACHINE), "-machine")[0].startswith("microvm")
    assert after(qemu_argv(replace(MACHINE, architecture="arm64")), "-machine")[0].startswith("virt")


def test_it_waits_to_be_started_and_cannot_start_programs() -> None:
    argv = qemu_argv(MACHINE)
    assert "-S" in argv
    assert "spawn=deny" in after(argv, "-sandbox")[0]


def test_disks_are_found_by_serial_whatever_their_paths_hold() -> None:
    argv = qemu_argv(MACHINE)
    nodes = [json.loads(text) for text in after(argv, "-blockdev")]
    assert [node["file"]["filename"] for node in nodes] == ["/h/c,1.tar", "/h/d"]
    assert [node["read-only"] for node in nodes] == [True, False]
    assert [node["cache"]["no-flush"] for node in nodes] == [False, True]
    assert [word for word in argv if word.startswith("virtio-blk")] == [
        "virtio-blk-device,drive=disk0,serial=config", "virtio-blk-device,drive=disk1,serial=disk"]


def test_no_path_of_a_socket_or_pipe_grows_with_the_names_of_home_service_and_function() -> None:
    long = replace(MACHINE, logs=2, folder=Path("/a,b" * 20) / "x" / "instances")
    assert after(qemu_argv(long), "-chardev") == after(qemu_argv(replace(MACHINE, logs=2)), "-chardev")


def test_a_comma_in_the_name_is_written_twice() -> None:
    assert after(qemu_argv(replace(MACHINE, name="a,b")), "-name") == ["guest=a,,b"]


def test_taps_are_handed_over_open() -> None:
    argv = qemu_argv(MACHINE)
    assert after(argv, "-netdev") == ["tap,id=net0,fd=7", "tap,id=net1,fd=9"]
    assert [word.rpartition("mac=")[2] for word in argv if word.startswith("virtio-net")] == [
        nic.mac for nic in MACHINE.nics]


def ports(argv: list[str]) -> list[str]:
    return [word.partition("name=")[2] for word in argv if word.startswith("virtserialport")]


def test_a_function_has_one_port_and_a_machine_a_log_for_each_container() -> None:
    assert ports(qemu_argv(MACHINE)) == ["isoform.main"]
    assert ports(qemu_argv(replace(MACHINE, logs=2))) == [
        "isoform.main", "isoform.agent", "isoform.log.0", "isoform.log.1"]
