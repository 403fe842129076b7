"""Volumes as files: made once whoever asks, grown, never shrunk, mended before the host's kernel reads them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from isoform.errors import DescriptorError, StepFailed, WrongState
from isoform.forms import volume as module
from isoform.forms.volume import check_volume, ensure_volume
from isoform.host import Home, mount, run
from isoform.model import Mount

pytestmark = pytest.mark.root
MI = 1 << 20


@pytest.fixture
def volume(home: Home) -> Mount:
    return Mount("data", "/data", str(home.volumes / "t" / "data.img"), 8 * MI)


def capacity(one: Mount, home: Home, write: str = "") -> tuple[int, list[str]]:
    """Bytes and files of the mounted volume; `write` is the name of a file to add."""
    place = home.path / "place"
    place.mkdir(exist_ok=True)
    mount.mount_ext4_loop(one.source, str(place))
    try:
        if write:
            (place / write).write_text("kept")
        found = os.statvfs(place)
        return found.f_blocks * found.f_frsize, sorted(path.name for path in place.iterdir())
    finally:
        mount.unmount_all(str(place))


async def test_many_at_once_make_one(volume: Mount, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    async def counted(argv: list[str], **options: object) -> object:
        made.append(argv)
        return await run(argv, **options)

    monkeypatch.setattr(module, "run", counted)
    await asyncio.gather(*(ensure_volume(volume) for _ in range(5)))
    assert len(made) == 5  # they did collide
    assert [path.name for path in Path(volume.source).parent.iterdir()] == ["data.img"]
    await run(["e2fsck", "-fn", volume.source])
    first = Path(volume.source).stat()
    await ensure_volume(volume)
    assert Path(volume.source).stat().st_ino == first.st_ino


async def test_it_grows_and_keeps_its_data(volume: Mount, home: Home) -> None:
    await ensure_volume(volume)
    before, _ = capacity(volume, home, "file")
    await ensure_volume(replace(volume, size_bytes=64 * MI))
    after, files = capacity(volume, home)
    assert before < 8 * MI and after > 48 * MI and "file" in files
    assert Path(volume.source).stat().st_size == 64 * MI
    assert os.listxattr(volume.source) == []


async def test_growing_that_was_cut_off_is_finished(volume: Mount, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    await ensure_volume(volume)
    capacity(volume, home, "file")
    bigger = replace(volume, size_bytes=64 * MI)

    async def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(module, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            await ensure_volume(bigger)
    assert Path(volume.source).stat().st_size == 64 * MI
    await ensure_volume(bigger)
    after, files = capacity(volume, home)
    assert after > 48 * MI and "file" in files and os.listxattr(volume.source) == []


async def test_it_does_not_shrink(volume: Mount) -> None:
    await ensure_volume(volume)
    with pytest.raises(DescriptorError, match="8Mi and cannot shrink to 5Mi"):
        await ensure_volume(replace(volume, size_bytes=5 * MI))
    assert Path(volume.source).stat().st_size == 8 * MI


async def test_it_does_not_grow_under_who_uses_it(volume: Mount, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FREE_S", 0.1)
    await ensure_volume(volume)
    bigger = replace(volume, size_bytes=16 * MI)
    (home.path / "place").mkdir()
    mount.mount_ext4_loop(volume.source, str(home.path / "place"))
    with pytest.raises(WrongState, match="cannot grow") as caught:
        await ensure_volume(bigger)
    assert "/dev/loop" in caught.value.why
    await ensure_volume(volume)
    mount.unmount_all(str(home.path / "place"))
    with Path(volume.source).open("rb") as image:  # as QEMU has it
        other = subprocess.Popen(["sleep", "60"], stdin=image)  # noqa: ASYNC220  it goes on meanwhile
    try:
        with pytest.raises(WrongState, match="cannot grow") as caught:
            await ensure_volume(bigger)
        assert f"PID {other.pid}" in caught.value.why
    finally:
        other.kill()
        other.wait()
    assert Path(volume.source).stat().st_size == 8 * MI


async def test_it_is_mounted_so_that_it_cannot_hurt_the_host(volume: Mount, home: Home) -> None:
    await ensure_volume(volume)
    await run(["tune2fs", "-e", "panic", volume.source])
    for read_only in (False, True):
        place = home.path / "place"
        place.mkdir(exist_ok=True)
        mount.mount_ext4_loop(volume.source, str(place), read_only)
        line = next(one.split() for one in Path("/proc/self/mountinfo").read_text().splitlines()
                    if one.split()[4] == str(place))
        assert {"nosuid", "nodev"} <= set(line[5].split(","))
        assert "errors=panic" not in line[-1] and "errors=remount-ro" in line[-1]
        mount.unmount_all(str(place))


async def test_what_was_left_in_a_hurry_is_mended_and_what_is_broken_refused(volume: Mount) -> None:
    await ensure_volume(volume)
    await check_volume(volume)
    await run(["debugfs", "-w", "-R", "set_super_value state 0", volume.source])
    await check_volume(volume)
    with Path(volume.source).open("rb") as image:
        assert module._is_clean(image.fileno())
    with Path(volume.source).open("r+b") as image:  # it says itself that it is bad, and is
        image.seek(1024 + 58)
        image.write(b"\2\0")
        image.seek(16384)
        image.write(os.urandom(1 << 20))
    with pytest.raises(StepFailed, match="is broken") as caught:
        await check_volume(volume)
    assert "e2fsck" in caught.value.fix
