"""Runs inside a guest whose kernel has control groups of version 2 alone; prints what the test outside reads."""

import asyncio
import subprocess
import sys
from pathlib import Path

from isoform.host import Home, cgroup, netns, pid, trial

HOG = "import sys; sys.stdin.read(1); held = bytearray(int(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def hog(group: str, size_bytes: int) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-S", "-c", HOG, str(size_bytes)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    cgroup.enter(group, child.pid)
    assert child.stdin is not None
    child.stdin.write(b"g")
    child.stdin.flush()
    return child


async def groups(home: Home) -> None:
    layout = cgroup.layout()
    assert (layout.mode, layout.v1) == ("v2", ()), layout
    assert set(cgroup.NEEDED) <= set(layout.controllers), layout
    group = home.cgroup("a.b.0")
    for _ in range(2):
        cgroup.create(group, 0.5, 64 << 20, 50)
    at = Path("/sys/fs/cgroup" + group)
    assert (at / "cpu.max").read_text() == "50000 100000\n"
    assert (at / "memory.max").read_text() == f"{64 << 20}\n"
    assert (at / "pids.max").read_text() == "50\n"
    child = hog(group, 20 << 20)
    assert child.stdout is not None and child.stdout.readline() == b"held\n"
    assert cgroup.processes(group) == [child.pid]
    assert 20 << 20 <= cgroup.memory_bytes(group) <= 40 << 20, cgroup.memory_bytes(group)
    assert not cgroup.oom_killed(group)
    started = pid.start_time(child.pid)
    assert started is not None and pid.end(child.pid, started)
    child.wait()
    assert hog(group, 200 << 20).wait() == -9
    assert cgroup.oom_killed(group)
    (at / "below").mkdir()
    await cgroup.remove(group)
    assert not Path("/sys/fs/cgroup" + home.cgroup()).exists()


async def runtimes(home: Home) -> None:
    async with trial.folder(home) as folder:
        for name in sys.argv[1:]:
            found = await trial.runtime(home, folder, Path(name).name, name, cgroup.layout())
            print(found)
            assert found.works and found.prefix == (), found
    assert not Path("/sys/fs/cgroup" + home.cgroup()).exists()


async def namespaces(home: Home) -> None:
    for _ in range(2):
        netns.create(home.netns("x"))
    with netns.entered(home.netns("x")):
        assert Path("/sys/fs/cgroup").exists()
    netns.delete(home.netns("x"))
    assert netns.names(home.mark) == []


async def main() -> None:
    home = Home(Path("/tmp/home"))
    for part in (groups, runtimes, namespaces):
        await part(home)
        print("passed:", part.__name__, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
    print("everything passed", flush=True)
