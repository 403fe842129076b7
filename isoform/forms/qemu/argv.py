"""From a machine as wanted to QEMU's command line and the kernel's. Pure: no I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RUNNING = "qemu.running"  # there while QEMU runs; its path is the mark by which such a process is found
# Not quicker, but smaller: QEMU's default for translated code is a gigabyte. Source: measured, a boot fills 30 MiB.
_TRANSLATED_MIB = 64
# What of the kernel's start a function does not miss and an emulated processor takes half a second for: tests of
# cryptography, encrypted keys, names of enumerations in trace events, keys that sign modules (ours have no signature),
# /sys/kernel/slab. Source: measured with initcall_debug; a kernel without one of them does not mind.
_SKIPPED = ("crypto_kdf108_init", "init_encrypted", "trace_eval_init", "load_system_certificate_list",
            "slab_sysfs_init")


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw image that the guest sees as a virtio disk."""

    serial: str  # at most 20 characters; the guest finds it by this
    path: str
    read_only: bool = True
    fleeting: bool = False  # need not survive a crash of the host: flushes are not carried out


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card on a tap that is open."""

    mac: str
    fd: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine as wanted."""

    name: str
    folder: Path  # for its sockets, logs and pid file
    qemu: str
    architecture: str  # "amd64" or "arm64"
    kvm: bool
    kernel: Path
    initrd: Path
    append: str
    cpus: float
    memory_bytes: int
    disks: Sequence[Disk]
    nics: Sequence[Nic]
    logs: int | None = None  # for a machine that holds containers: how many of them have a log


def kernel_arguments(architecture: str, kvm: bool, tsc_khz: int | None) -> str:
    """Return the kernel's command line.

    Args:
        tsc_khz: rate of the host's time stamp counter, kHz, where it is known; used without KVM, where the kernel
            now and then fails to measure it by itself and hangs.
    """
    words = ["console=ttyS0" if architecture == "amd64" else "console=ttyAMA0", "quiet", "panic=-1"]
    words += ["random.trust_cpu=on"]
    if not kvm:
        words += ["cryptomgr.notests", f"initcall_blacklist={','.join(_SKIPPED)}"]
    if architecture == "amd64":
        words += ["reboot=t", "8250.nr_uarts=1"]
        words += [f"tsc_early_khz={tsc_khz}"] if tsc_khz and not kvm else []
    return " ".join(words)


def vcpus(cpus: float) -> int:
    """Return how many virtual processors give `cpus` cores, whose time is then limited to that."""
    return max(1, math.ceil(cpus))


def _machine(machine: Machine) -> list[str]:
    kind = {"amd64": "microvm,rtc=on,pcie=off,x-option-roms=off", "arm64": "virt,gic-version=max"}[machine.architecture]
    accel = "kvm" if machine.kvm else f"tcg,tb-size={_TRANSLATED_MIB}"
    return [
        "-name", f"guest={_escaped(machine.name)}", "-machine", kind, "-accel", accel,
        "-cpu", "host" if machine.kvm else "max", "-smp", str(vcpus(machine.cpus)),
        "-m", f"{machine.memory_bytes >> 20}M", "-kernel", str(machine.kernel), "-initrd", str(machine.initrd),
        "-append", machine.append, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
        "-pidfile", str(machine.folder / RUNNING),
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-global", "virtio-mmio.force-legacy=false",
    ]


def _escaped(text: object) -> str:
    return str(text).replace(",", ",,")  # qemu(1): a comma in a value is written twice


def _chardevs(machine: Machine) -> list[str]:
    """Return the console, the monitor and the serial ports, relative to the machine's folder, in which QEMU works.

    The path of a unix socket has at most 107 bytes, and the names of a home, service and function may be longer.
    As few ports as can be, for on virtio-mmio a port costs the guest 4 MiB; what a session needs is plugged in later.
    """
    argv = ["-chardev", "socket,id=qmp,path=qmp.sock,server=on,wait=off", "-mon", "chardev=qmp,mode=control",
            "-chardev", "file,id=console,path=console,append=on", "-serial", "chardev:console",
            "-device", "virtio-serial-device,id=ports"]
    # A pair of files: requests to init come in by a FIFO, which is always connected, so the guest waits on it without
    # polling; what the function prints goes out to a plain file.
    names = ["main", *(["agent"] if machine.logs is not None else [])]
    for name in names:
        argv += ["-chardev", f"pipe,id={name},path={name}"]
    for number in range(machine.logs or 0):
        names.append(f"log.{number}")
        argv += ["-chardev", f"file,id=log.{number},path=log.{number},append=on"]
    for name in names:
        argv += ["-device", f"virtserialport,chardev={name},name=isoform.{name}"]
    return argv


def _disks(disks: Sequence[Disk]) -> list[str]:
    argv = []
    for number, disk in enumerate(disks):
        # No lock on what nobody writes: many machines share one layer, and a lock is a descriptor of the host's.
        file = {"driver": "file", "filename": disk.path, "locking": "off" if disk.read_only else "on"}
        node = {"driver": "raw", "node-name": f"disk{number}", "read-only": disk.read_only, "discard": "unmap",
                "cache": {"no-flush": disk.fleeting}, "file": file}
        argv += ["-blockdev", json.dumps(node, separators=(",", ":")),
                 "-device", f"virtio-blk-device,drive=disk{number},serial={disk.serial}"]
    return argv


def qemu_argv(machine: Machine) -> list[str]:
    """Return the command that runs `machine`, paused; it is to be run in the machine's folder.

    Not -daemonize: that needs the fork(2) that the sandbox denies.
    Device order is the reverse of what a microvm's kernel finds, which nobody relies on: disks are found by serial,
    network cards by MAC, ports by name.
    """
    nics = [word for number, nic in enumerate(machine.nics) for word in (
        "-netdev", f"tap,id=net{number},fd={nic.fd}",
        "-device", f"virtio-net-device,netdev=net{number},mac={nic.mac}")]
    balloon = ["-device", "virtio-balloon-device,id=balloon,free-page-reporting=on,deflate-on-oom=on"]
    return [machine.qemu, *_machine(machine), *_chardevs(machine), *_disks(machine.disks), *nics, *balloon]
