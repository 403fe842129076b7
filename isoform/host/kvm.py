"""Whether hardware acceleration works here. /dev/kvm may open and yet run no guest: only a trial boot tells."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from isoform.host import cache
from isoform.host.home import Home
from isoform.host.process import end

DEADLINE_S = 8.0  # a guest under KVM takes less than one
# The kernel's last words before it runs the initramfs' init; shown at loglevel 7.
MARKER = "Run /init as init process"
_GET_API_VERSION, _CREATE_VM, _API_VERSION = 0xAE00, 0xAE01, 12  # linux/kvm.h
_SECTION = "kvm 1"
_RETRY_S = 86400.0  # the host may just have been busy
_MACHINES = {"x86_64": "microvm", "aarch64": "virt"}


@dataclass(frozen=True, slots=True)
class Acceleration:
    """Whether QEMU can use KVM here."""

    usable: bool
    why: str  # the reason where it is not; what was seen where it is


async def kvm_works(home: Home, qemu: str, kernel: Path, initrd: Path, append: str, *, marker: str = MARKER,
                    device: str = "/dev/kvm", deadline_s: float = DEADLINE_S, refresh: bool = False) -> Acceleration:
    """Return whether a guest of this kernel boots under KVM; the verdict of a trial boot is kept.

    Args:
        qemu: path of QEMU.
        append: kernel parameters; those for the console and for a quick end are added.
        marker: what the guest prints on its serial console, in one piece, once it has booted.
        deadline_s: how long the boot may take, seconds.
        refresh: boot again, whatever was found before.
    """
    lack = await asyncio.to_thread(refusal, device)
    if lack:
        return Acceleration(False, lack)  # cheap to find out, so it is never kept: it may be mended any time
    key = cache.stamp([qemu, os.path.realpath(kernel), device], append, marker)
    async with cache.lock(home):
        kept = None if refresh else cache.read(home, _SECTION, key)
        if kept is None:
            found = await boots(home, argv(qemu, kernel, initrd, append), marker, deadline_s)
            cache.write(home, _SECTION, key, {"usable": found.usable, "why": found.why},
                        None if found.usable else _RETRY_S)
            return found
    return Acceleration(kept["usable"], kept["why"])


def verdict(home: Home, device: str = "/dev/kvm") -> Acceleration | None:
    """Return what is known without a boot: what the device says, else the last trial's verdict; None if none was."""
    lack = refusal(device)
    if lack:
        return Acceleration(False, lack)
    found = cache.last(home, _SECTION)
    return Acceleration(found["usable"], found["why"]) if found else None


def refusal(device: str = "/dev/kvm") -> str:
    """Return why KVM cannot work, as far as its device alone tells; "" where it may."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"no {device}: the processor's virtualisation is off, or this machine is a guest without it"
    except OSError as error:
        return f"cannot open {device}: {error.strerror}"
    try:
        version = fcntl.ioctl(fd, _GET_API_VERSION)
        if version != _API_VERSION:
            return f"{device} speaks version {version} of its API, not {_API_VERSION}"
        os.close(fcntl.ioctl(fd, _CREATE_VM, 0))
    except OSError as error:
        return f"{device} makes no virtual machine: {error.strerror}"
    finally:
        os.close(fd)
    return ""


def argv(qemu: str, kernel: Path, initrd: Path, append: str, accelerator: str = "kvm") -> list[str]:
    """Return the command that starts a trial guest, its serial console on stdout."""
    machine = _MACHINES.get(os.uname().machine, "virt")
    console = "ttyAMA0" if machine == "virt" else "ttyS0"
    return [qemu, "-M", machine, "-accel", accelerator, "-cpu",
            "host" if accelerator == "kvm" else "max", "-m", "256", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd),
            "-append", f"{append} console={console} loglevel=7 panic=-1"]


async def boots(home: Home, command: list[str], marker: str, deadline_s: float) -> Acceleration:
    """Start a guest by `command`, end it, and return whether it printed `marker` before the deadline passed."""
    console, errors = home.path / "kvm-trial.console", home.path / "kvm-trial.err"
    try:
        with console.open("wb") as out, errors.open("wb") as err:
            # QEMU dies with us: nothing would find it after a kill -9 but a guest that hangs burns a core for ever
            child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL,  # noqa: ASYNC220
                                     stdout=out, stderr=err, process_group=0)
        try:
            return await _watch(child, console, errors, marker, deadline_s)
        finally:
            end(child)
    except OSError as error:
        return Acceleration(False, f"cannot start a trial guest: {error}")
    finally:
        for file in (console, errors):
            file.unlink(missing_ok=True)


async def _watch(child: subprocess.Popen[bytes], console: Path, errors: Path, marker: str,
                 deadline_s: float) -> Acceleration:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        over = child.poll() is not None  # asked before reading: nothing is printed after it
        printed = console.read_bytes()
        took_s = loop.time() - began
        if marker.encode() in printed:
            return Acceleration(True, f"a trial guest booted in {took_s:.1f} s")
        if over:
            said = (errors.read_bytes().strip() or printed.strip() or b"silently").decode(errors="replace")
            return Acceleration(False, f"QEMU ended before a trial guest had booted: {said.splitlines()[-1]}")
        if took_s >= deadline_s:
            return Acceleration(False, f"a trial guest did not boot within {deadline_s:g} s")
        await asyncio.sleep(0.05)
