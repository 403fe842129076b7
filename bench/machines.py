"""Virtual machines: the start of one against bare QEMU, and of a container in a fresh one against that.

Run as root: `make bench`, or `.venv/bin/python bench/machines.py [--rounds N]`. Bare QEMU gets the same kernel, the
same initramfs (with an /init of six lines laid over it), the same machine type, memory and network card.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import bare
from containers import write_service
from harness import Bound, alternate, emit, shell, timed

from isoform.assemble import Assembly, assembled
from isoform.fabric import open_tap
from isoform.host import netns
from isoform.host.kvm import kvm_works
from isoform.host.tsc import tsc_khz
from isoform.images.guest import Guest

MEMORY_MIB = 128
INIT = """#!/bin/busybox sh
mount -t devtmpfs dev /dev
for module in /modules/boot/*; do insmod "$module"; done
ip link set eth0 up
ip addr add 10.8.0.2/24 dev eth0
httpd -p 80 -h /
while :; do sleep 3600; done
"""
TAP = """
ip -n $1 tuntap add dev tap0 mode tap vnet_hdr
ip -n $1 link set tap0 master br0 up
"""


class Bench:
    """A home, and the initramfs of the bare recipe."""

    def __init__(self, assembly: Assembly, folder: Path) -> None:
        self.assembly, self.folder = assembly, folder

    async def prepare(self) -> None:
        """Make the guest, the bare recipe's initramfs, and QEMU's command line."""
        self.guest = await Guest(self.assembly.home, self.assembly.facts.architecture).ensure()
        trial = await kvm_works(self.assembly.home, self.assembly.facts.qemu, self.guest.kernel, self.guest.initrd, "")
        self.kvm = trial.usable
        over = self.folder / "over"
        over.mkdir()
        (over / "init").write_text(INIT)
        (over / "init").chmod(0o755)
        await shell('cd "$1"; { cat "$2"; echo init | cpio -o -H newc --quiet; } >"$3"', str(over),
                    str(self.guest.initrd), str(self.folder / "initrd"))
        self.append = "console=ttyS0 quiet panic=-1 reboot=t 8250.nr_uarts=1 cryptomgr.notests random.trust_cpu=on"
        if not self.kvm:
            self.append += f" tsc_early_khz={await tsc_khz(self.assembly.home)}"

    async def bare(self, _: int) -> float:
        """Start a VM by hand until it answers."""
        name = f"isoform-bench-{os.getpid()}"
        machines: list[subprocess.Popen[bytes]] = []

        async def start() -> None:
            await shell(bare.LINK + TAP, name)
            tap = open_tap(name, "tap0")
            try:
                machines.append(subprocess.Popen(self._argv(tap), pass_fds=[tap], stdin=subprocess.DEVNULL))  # noqa: ASYNC220
            finally:
                os.close(tap)
            await bare.until_answer(name)

        try:
            return await timed(start())
        finally:
            for machine in machines:
                machine.kill()
                machine.wait()
            await shell("ip netns del $1", name)

    def _argv(self, tap: int) -> list[str]:
        return [
            self.assembly.facts.qemu, "-machine", "microvm,rtc=on,pcie=off,x-option-roms=off",
            "-accel", "kvm" if self.kvm else "tcg", "-cpu", "host" if self.kvm else "max", "-smp", "1",
            "-m", f"{MEMORY_MIB}M", "-kernel", str(self.guest.kernel), "-initrd", str(self.folder / "initrd"),
            "-append", self.append, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-serial", f"file:{self.folder}/console", "-global", "virtio-mmio.force-legacy=false",
            "-netdev", f"tap,id=n0,fd={tap}", "-device", "virtio-net-device,netdev=n0,mac=02:00:00:00:00:02",
        ]

    async def form(self, form: str) -> float:
        """Start one instance of the form with the engine in this process."""
        try:
            return await timed(self.assembly.up(write_service(self.folder, form, 1)))
        finally:
            await self.assembly.engine.down("bench", grace_s=0)


async def main(rounds: int) -> None:
    """Run the benchmarks of virtual machines in a home of their own."""
    folder = Path(tempfile.mkdtemp(prefix="iso-", dir="/tmp"))
    try:
        bench = Bench(await assembled(folder / "home"), folder)
        await bench.prepare()
        emit(bench="host", accelerated=bench.kvm, guest=bench.guest.version, qemu=bench.assembly.facts.qemu_version)
        await alternate("one machine", {
            "bare": bench.bare,
            "vm": lambda number: bench.form("vm"),
            "container-in-vm": lambda number: bench.form("container-in-vm"),
        }, rounds, (Bound("vm", "bare", 1.15), Bound("container-in-vm", "vm", 1.4)))
    finally:
        name = f"isoform-bench-{os.getpid()}"
        if netns.exists(name):
            netns.delete(name)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    asyncio.run(main(parser.parse_args().rounds))
