import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from isoform.errors import StepFailed
from isoform.host import cgroup

pytestmark = pytest.mark.root

HOG = "import sys; sys.stdin.read(1); held = bytearray(int(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def group(home):
    return home.cgroup("a.b.0")


@pytest.fixture
def spawn():
    children = []

    def start(*argv):
        children.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def setting(group: str, controller: str, v1: str, v2: str) -> str:
    here = cgroup.layout()
    return Path(f"{here.folder(controller, group)}/{v2 if here.is_v2(controller) else v1}").read_text().strip()


async def test_limits_are_set_and_changed_up_and_down(group):
    for cpus, memory in ((0.5, 64 << 20), (1.5, 128 << 20), (0.25, 32 << 20)):
        cgroup.create(group, cpus, memory, 100)
        assert setting(group, "memory", "memory.limit_in_bytes", "memory.max") == str(memory)
        assert setting(group, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == str(int(cpus * 100_000))
        assert setting(group, "pids", "pids.max", "pids.max") == "100"
    await cgroup.remove(group)


async def test_a_group_holds_its_processes_and_knows_their_memory(group, spawn):
    cgroup.create(group, 1, 256 << 20, 10)
    hog = spawn(sys.executable, "-c", HOG, str(40 << 20))
    cgroup.enter(group, hog.pid)
    assert cgroup.processes(group) == [hog.pid]
    hog.stdin.write(b"g")
    hog.stdin.flush()
    assert hog.stdout.readline() == b"held\n"
    assert 40 << 20 <= cgroup.memory_bytes(group) < 100 << 20
    assert not cgroup.oom_killed(group)
    with pytest.raises(StepFailed, match="cannot remove") as caught:
        await asyncio.wait_for(cgroup.remove(group), 10)
    assert str(hog.pid) in caught.value.why
    hog.kill()  # dying, not reaped: remove waits for it
    await cgroup.remove(group)
    assert cgroup.processes(group) == []


async def test_a_hog_is_killed_and_the_group_tells(group, spawn):
    cgroup.create(group, 1, 32 << 20, 10)
    hog = spawn(sys.executable, "-c", HOG, str(200 << 20))
    cgroup.enter(group, hog.pid)
    hog.stdin.write(b"g")
    hog.stdin.flush()
    assert await asyncio.to_thread(hog.wait, 20) == -9
    assert cgroup.oom_killed(group)
    await cgroup.remove(group)


async def test_file_cache_that_can_go_is_not_counted(group, spawn, home):
    cgroup.create(group, 0, 256 << 20)
    file = home.path / "file"
    file.write_bytes(bytes(1 << 20) * 60)
    cat = spawn("sh", "-c", f"read go; sync {file}; dd if={file} of=/dev/null bs=1M 2>/dev/null; "
                            f"cp {file} {file}.2; sync {file}.2; echo read; read end")
    cgroup.enter(group, cat.pid)
    cat.stdin.write(b"go\n")
    cat.stdin.flush()
    assert cat.stdout.readline() == b"read\n"
    usage = int(setting(group, "memory", "memory.usage_in_bytes", "memory.current"))
    assert usage > 50 << 20
    assert cgroup.memory_bytes(group) < usage - (40 << 20)
    cat.kill()
    await cgroup.remove(group)


async def test_removing_takes_the_whole_tree_in_every_hierarchy_and_may_be_repeated(home, group):
    cgroup.create(group)
    for root in cgroup.layout().roots:  # a runtime makes its group in all of them
        Path(root + group, "deep", "er").mkdir(parents=True)
    other = home.cgroup("other")
    cgroup.create(other)
    await cgroup.remove(group)
    await cgroup.remove(group)
    assert Path(cgroup.layout().folder("memory", other)).exists()
    await cgroup.remove(home.cgroup())
    assert not [root for root in cgroup.layout().roots if Path(root + home.cgroup()).exists()]


async def test_what_is_not_there_is_empty(group):
    assert cgroup.memory_bytes(group) == 0
    assert not cgroup.oom_killed(group)
    assert cgroup.processes(group) == []


async def test_version_2_gets_its_controllers_enabled_on_the_way(home, group):
    here = cgroup.layout()
    root = Path(here.v2 or "/none", "cgroup.subtree_control")
    free = [name for name in here.v2_controllers if name not in root.read_text().split()] if here.v2 else []
    if not free:
        pytest.skip("version 2 has no controller here that is not enabled already")
    folder = here.folder(free[0], group)
    try:
        for _ in range(2):
            cgroup._make(here, free[0], folder)
        assert free[0] in Path(folder, "cgroup.controllers").read_text().split()
    finally:
        await cgroup.remove(group)
        root.write_text(f"-{free[0]}")
