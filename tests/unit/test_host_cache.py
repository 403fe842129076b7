import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from isoform.errors import HostLacks
from isoform.host import Home, cache, kvm, tsc


async def test_what_is_kept_is_read_back_until_its_key_changes(home):
    async with cache.lock(home):
        cache.write(home, "a", "key", {"x": [1]})
        cache.write(home, "b", "key", 2)
    assert cache.read(home, "a", "key") == {"x": [1]}
    assert cache.read(home, "a", "other key") is None
    assert cache.last(home, "a") == {"x": [1]}
    assert cache.read(home, "b", "key") == 2
    assert cache.read(home, "c", "key") is None


async def test_what_failed_is_forgotten_in_time(home):
    async with cache.lock(home):
        cache.write(home, "a", "key", "bad", keep_s=0)
        cache.write(home, "b", "key", "bad", keep_s=60)
    assert cache.read(home, "a", "key") is None
    assert cache.read(home, "b", "key") == "bad"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
async def test_a_broken_file_counts_as_none(home, content):
    (home.path / "host.json").write_bytes(content)
    assert cache.read(home, "a", "key") is None
    async with cache.lock(home):
        cache.write(home, "a", "key", 1)
    assert cache.read(home, "a", "key") == 1


async def test_one_probes_at_a_time(home):
    inside = 0

    async def probe():
        nonlocal inside
        async with cache.lock(home):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.03)
            inside -= 1

    await asyncio.gather(*(probe() for _ in range(3)))


async def test_a_home_that_cannot_be_written_is_an_error_that_says_what_to_do():
    with pytest.raises(HostLacks, match="cannot write in the home folder") as caught:
        async with cache.lock(Home(Path("/dev/null/home"))):
            raise AssertionError("nobody may probe there")
    assert (caught.value.why, bool(caught.value.fix)) == ("Not a directory", True)


async def test_a_full_disk_keeps_nothing_and_harms_nothing(home):
    (home.path / "host.json.new").symlink_to("/dev/full")
    async with cache.lock(home):
        cache.write(home, "a", "key", 1)
    assert cache.read(home, "a", "key") is None
    assert not (home.path / "host.json.new").is_symlink()
    async with cache.lock(home):
        cache.write(home, "a", "key", 2)
    assert cache.read(home, "a", "key") == 2


def test_the_stamp_changes_with_a_file(tmp_path):
    file = tmp_path / "tool"
    absent = cache.stamp([str(file)])
    file.write_text("1")
    first = cache.stamp([str(file)])
    assert absent != first == cache.stamp([str(file)])
    file.write_text("12")
    assert first != cache.stamp([str(file)])
    assert cache.stamp([str(file)], "more") != cache.stamp([str(file)])


def test_a_kept_answer_imports_nothing_heavy():
    code = ("import sys, isoform.host.probe, isoform.host.netns, isoform.host.mount, isoform.host.cgroup\n"
            "print(*sorted(set(sys.modules) & {'pyroute2', 'pydantic', 'yaml', 'rich', 'qemu', 'typer'}))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_the_counter_runs_at_a_rate_that_two_measurements_agree_on():
    first, second = tsc.measure(), tsc.measure(0.03)
    if first is None:
        pytest.skip("no x86-64, or no code at run time")
    assert second == pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize(("ticks", "nanoseconds", "khz"), [
    (46_000_000, 20_000_000, 2_300_000), (0, 20_000_000, None), (10**12, 1000, None), (5, 0, None)])
def test_rates_that_no_counter_has_are_refused(ticks, nanoseconds, khz):
    assert tsc.rate_khz(ticks, nanoseconds) == khz


def test_no_device_no_acceleration(tmp_path):
    assert kvm.refusal(str(tmp_path / "kvm")).startswith(f"no {tmp_path}/kvm")
    (tmp_path / "file").write_text("")
    assert "makes no virtual machine: Inappropriate ioctl" in kvm.refusal(str(tmp_path / "file"))


async def test_without_a_device_the_answer_is_immediate_and_not_kept(tmp_path, home: Home):
    found = await kvm.kvm_works(home, "/nowhere", tmp_path, tmp_path, "", device=str(tmp_path / "kvm"))
    assert (found.usable, found.why[:3]) == (False, "no ")
    assert not (home.path / "host.json").exists()
