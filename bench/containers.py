"""Containers: the start of one and of twenty, against the bare recipe and podman; memory and `ps` of many.

Run as root: `make bench`, or `.venv/bin/python bench/containers.py [--rounds N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import bare
from harness import Bound, Contender, alternate, emit, shell, timed

from isoform.assemble import Assembly, assembled
from isoform.host import Home, netns
from isoform.images import Images
from isoform.model import Image

HERE = Path(__file__).resolve().parent
SERVE = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/"]
MANY = 20


def write_service(folder: Path, form: str, replicas: int) -> Path:
    """Write a service of one function that serves on TCP port 80, and return its file."""
    file = folder / f"{form}-{replicas}.yaml"
    file.write_text(f"""
service: bench
links: {{lan: 10.8.0.0/24}}
functions:
  web:
    image: {HERE}/web.yaml
    form: {form}
    memory: 128Mi
    replicas: {replicas}
    ports: [lan]
    ready: {{tcp: 80}}
""")
    return file


async def unpack(image: Image, target: Path) -> None:
    """Copy an image's files into a plain folder: the root of the bare recipe."""
    from isoform.host.mount import mount_erofs, unmount

    target.mkdir()
    for number, layer in enumerate(image.layers):
        at = target.with_name(f"layer{number}")
        at.mkdir()
        mount_erofs(layer.path, str(at), "loop")
        try:
            await shell('cp -a "$1/." "$2/"', str(at), str(target))
        finally:
            unmount(str(at))


class Bench:
    """What the contenders share: a home, a plain root file system, and where bundles go."""

    def __init__(self, assembly: Assembly, folder: Path) -> None:
        runtime = assembly.facts.runtime
        assert runtime is not None, "no OCI runtime works on this host"
        self.assembly, self.folder, self.runtime = assembly, folder, runtime
        self.rootfs, self.state = folder / "rootfs", folder / "oci"
        self.environment = {**os.environ, "ISOFORM_HOME": str(assembly.home.path)}

    async def bare(self, count: int) -> float:
        """Start `count` servers by hand, side by side, until each answers."""
        name, command = f"isoform-bench-{os.getpid()}", bare.runtime_argv(self.runtime, self.state)

        async def one(number: int) -> None:
            await shell(bare.PORT_OF + f"{command} run -d -b $3/b$2 $1.$2", name, str(number), str(self.folder))
            await bare.until_answer(name, f"10.8.0.{2 + number}")

        async def all_of_them() -> None:
            await shell(bare.LINK, name)
            await asyncio.gather(*(one(number) for number in range(count)))

        for number in range(count):
            bare.write_bundle(self.folder / f"b{number}", self.rootfs, f"{name}.{number}", SERVE)
        try:
            return await timed(all_of_them())
        finally:
            await bare.remove(self.runtime, self.state, name, count)

    async def engine(self, count: int) -> float:
        """Start `count` replicas with the engine in this process."""
        file = write_service(self.folder, "container", count)
        try:
            return await timed(self.assembly.up(file))
        finally:
            await self.assembly.engine.down("bench", grace_s=0)

    async def command(self, count: int) -> float:
        """Start `count` replicas with the command line, Python's start included."""
        file = write_service(self.folder, "container", count)
        try:
            return await timed(self._isoform("up", "-q", str(file)))
        finally:
            await self.assembly.engine.down("bench", grace_s=0)

    async def podman(self, count: int) -> float:
        """Start `count` servers with podman, in a network namespace of its own."""
        name, root = f"isoform-bench-{os.getpid()}-podman", self.folder / "podman"
        # crun cannot be used by podman where control groups are mounted in both versions.
        runtime = "--runtime runc" if self.assembly.facts.cgroup == "hybrid" and shutil.which("runc") else ""
        podman = (f"nsenter --net={netns.path(name)} podman --root {root} --runroot {root}/run {runtime}"
                  " --cgroup-manager cgroupfs")

        async def one(number: int) -> None:
            # podman asks for more files and processes than a confined root may have.
            limits = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
            await shell(f"{podman} run -d {limits} --name w{number} bench:latest {' '.join(SERVE)}")
            address = await shell(f"{podman} inspect -f '{{{{.NetworkSettings.IPAddress}}}}' w{number}")
            await bare.until_answer(name, address.strip())

        async def all_of_them() -> None:
            await asyncio.gather(*(one(number) for number in range(count)))

        if not root.exists():
            await shell(f"ip netns add {name}; ip -n {name} link set lo up; tar -C {self.rootfs} -c . | "
                        f"{podman} import - bench:latest")
        try:
            return await timed(all_of_them())
        finally:
            await shell(f"{podman} rm -f -t 0 -a")

    async def _isoform(self, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("isoform")), *words, env=self.environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        out, err = await process.communicate()
        if process.returncode:
            raise RuntimeError(err.decode())
        return out.decode()

    async def idle(self, count: int) -> None:
        """Measure what an idle container holds beside the function's own memory, and how long `ps` takes."""
        file = write_service(self.folder, "container", count)
        await self.assembly.up(file)
        try:
            await asyncio.sleep(1)
            seen = await self.assembly.engine.ps("bench")
            own = {one.pid for one in seen}
            beside = [pss_bytes(pid) for pid in processes_naming(str(self.assembly.home.path)) if pid not in own]
            emit(bench="idle", containers=count, processes_beside=len(beside), mib_beside_each=round(
                sum(beside) / count / 2**20, 3), most_mib=1.2, holds=sum(beside) / count <= 1.2 * 2**20)
            times = [await timed(self._isoform("ps", "--json")) for _ in range(7)]
            emit(bench="ps", instances=count, median_s=round(statistics.median(times), 4), most_s=0.4,
                 holds=statistics.median(times) <= 0.4)
        finally:
            await self.assembly.engine.down("bench", grace_s=0)


def processes_naming(text: str) -> list[int]:
    """Return the processes whose command line names `text`, this one left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in entry.read_bytes().decode(errors="replace") and int(entry.parent.name) != os.getpid():
                found.append(int(entry.parent.name))
        except OSError:
            continue  # ended in between
    return found


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process, bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def contenders(bench: Bench, count: int) -> dict[str, Contender]:
    """Return who takes part on this host."""
    all_of_them: dict[str, Contender] = {
        "bare": lambda number: bench.bare(count),
        "engine": lambda number: bench.engine(count),
        "command": lambda number: bench.command(count),
    }
    if shutil.which("podman"):
        all_of_them["podman"] = lambda number: bench.podman(count)
    return all_of_them


async def main(rounds: int) -> None:
    """Run all container benchmarks in a home of their own."""
    folder = Path(tempfile.mkdtemp(prefix="iso-", dir="/tmp"))
    try:
        assembly = await assembled(folder / "home")
        images = Images(assembly.home, assembly.facts.architecture)
        bench = Bench(assembly, folder)
        await unpack(await images.resolve(str(HERE / "web.yaml"), HERE), bench.rootfs)
        emit(bench="host", runtime=bench.runtime.name, cgroup=assembly.facts.cgroup, kernel=assembly.facts.kernel,
             cpus=assembly.facts.cpus, at=time.strftime("%Y-%m-%d"))
        await alternate("one container", contenders(bench, 1), rounds, (
            Bound("engine", "bare", 1.5), Bound("engine", "podman", 0.25), Bound("command", "podman", 1.0)))
        await alternate(f"{MANY} containers at once", contenders(bench, MANY), max(3, rounds // 3), (
            Bound("engine", "bare", 2.0), Bound("engine", "podman", 0.2)))
        await bench.idle(50)
    finally:
        for name in (*netns.names(f"isoform-bench-{os.getpid()}"), *netns.names(Home(folder / "home").mark)):
            netns.delete(name)
        await shell('mount | grep -o "on $1[^ ]*" | cut -c4- | sort -r | xargs -r umount -l; rm -rf "$1"', str(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    asyncio.run(main(parser.parse_args().rounds))
