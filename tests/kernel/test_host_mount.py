import os
import subprocess
import time
from pathlib import Path

import pytest

from isoform.errors import HostLacks, StepFailed
from isoform.host import mount

pytestmark = pytest.mark.root


@pytest.fixture
def place(home):
    for name in ("a", "b", "content"):
        (home.path / name).mkdir()
    (home.path / "content" / "file").write_text("content\n")
    yield home.path
    mount.unmount_all(str(home.path))
    wait_until_free(home.path)


def loops(path: Path) -> list[str]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().startswith(f"{path}/"):
                found.append(backing.parts[3])
        except OSError:
            continue
    return found


def wait_until_free(path: Path) -> None:
    for _ in range(100):  # the kernel frees a loop device a little after its last mount
        if not loops(path):
            return
        time.sleep(0.01)
    raise AssertionError(f"still there: {loops(path)}")


@pytest.fixture
def erofs(place):
    image = place / "image.erofs"
    subprocess.run(["mkfs.erofs", image, place / "content"], check=True, capture_output=True)
    return str(image)


@pytest.fixture
def volume(place):
    image = place / "volume.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    return str(image)


def way_or_skip(way: str, image: str, target: Path) -> None:
    try:
        mount.mount_erofs(image, str(target), way)
    except StepFailed as error:
        pytest.skip(f"this kernel cannot do it: {error.why}")


@pytest.mark.parametrize("way", ["file", "loop"])
def test_an_erofs_image_is_mounted_once_and_leaves_no_loop_device(place, erofs, way):
    way_or_skip(way, erofs, place / "a")
    mount.mount_erofs(erofs, str(place / "a"), way)
    assert (place / "a" / "file").read_text() == "content\n"
    assert mount.mounts_below(str(place)) == [str(place / "a")]
    assert len(loops(place)) == (way == "loop")
    with pytest.raises(OSError, match="Read-only"):
        (place / "a" / "new").touch()
    mount.unmount(str(place / "a"))
    mount.unmount(str(place / "a"))
    wait_until_free(place)


@pytest.mark.parametrize("way", ["file", "loop"])
def test_what_is_read_through_a_mount_is_in_memory_once(place, way):
    size = 8 << 20
    (place / "content" / "big").write_bytes(os.urandom(size))
    image = place / "big.erofs"
    subprocess.run(["mkfs.erofs", image, place / "content"], check=True, capture_output=True)
    way_or_skip(way, str(image), place / "a")
    if way == "file" and " directio" not in f" {options(place / 'a')}".replace(",", " "):
        pytest.skip("this kernel reads EROFS files through their own page cache")
    with image.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(image) > size // 4:
        pytest.skip("the file system of /tmp keeps files in memory")
    assert len((place / "a" / "big").read_bytes()) == size
    assert resident(image) < size // 4


def options(target: Path) -> str:
    return next(line.split()[3] for line in Path("/proc/self/mounts").read_text().splitlines()
                if line.split()[1] == str(target))


def resident(file: Path) -> int:
    return int(subprocess.run(["fincore", "-b", "-n", "-o", "RES", file], capture_output=True, text=True,
                              check=True).stdout)


def test_one_image_at_two_places_takes_one_loop_device(place, erofs):
    for name in ("a", "b"):
        mount.mount_erofs(erofs, str(place / name), "loop")
    assert len(loops(place)) == 1
    mount.unmount(str(place / "a"))
    assert (place / "b" / "file").read_text() == "content\n"


def test_no_way_is_an_error_that_says_what_to_do(place, erofs):
    with pytest.raises(HostLacks, match="cannot mount EROFS") as caught:
        mount.mount_erofs(erofs, str(place / "a"), "")
    assert caught.value.fix


def test_a_volume_is_one_file_system_wherever_it_is_mounted(place, volume):
    mount.mount_ext4_loop(volume, str(place / "a"), read_only=True)
    mount.mount_ext4_loop(volume, str(place / "b"))
    mount.mount_ext4_loop(volume, str(place / "b"))
    assert len(loops(place)) == 1
    (place / "b" / "file").write_text("written\n")
    assert (place / "a" / "file").read_text() == "written\n"
    with pytest.raises(OSError, match="Read-only"):
        (place / "a" / "file").write_text("no")
    mount.unmount_all(str(place))
    mount.mount_ext4_loop(volume, str(place / "a"))
    assert (place / "a" / "file").read_text() == "written\n"


def test_a_loop_device_that_nobody_mounted_vanishes(place, volume):
    with mount.loop_device(volume, read_only=False) as device:
        assert [device] == [f"/dev/{name}" for name in loops(place)]
    wait_until_free(place)


def test_what_is_no_image_leaves_neither_mount_nor_loop_device(place):
    (place / "bad").write_bytes(bytes(65536))
    for attempt in (mount.mount_ext4_loop, lambda image, target: mount.mount_erofs(image, target, "loop")):
        with pytest.raises(StepFailed, match="cannot mount"):
            attempt(str(place / "bad"), str(place / "a"))
    with pytest.raises(StepFailed, match="cannot open"):
        mount.mount_ext4_loop(str(place / "absent"), str(place / "a"))
    assert mount.mounts_below(str(place)) == []
    wait_until_free(place)


def test_bind_mounts_of_files_and_folders(place):
    mount.bind(str(place / "content"), str(place / "a"), read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (place / "a" / "file").write_text("no")
    (place / "target").touch()
    assert not mount.is_mounted(str(place / "target"))
    mount.bind(str(place / "content" / "file"), str(place / "target"))
    assert mount.is_mounted(str(place / "target"))
    (place / "target").write_text("through\n")
    assert (place / "content" / "file").read_text() == "through\n"


def test_a_busy_mount_says_so_and_goes_lazily(place):
    mount.mount("tmpfs", str(place / "a"), "tmpfs")
    held = os.open(place / "a", os.O_RDONLY)
    try:
        with pytest.raises(StepFailed, match="cannot unmount") as caught:
            mount.unmount(str(place / "a"))
        assert "busy" in caught.value.why
        mount.unmount(str(place / "a"), lazy=True)
        assert not mount.is_mounted(str(place / "a"))
    finally:
        os.close(held)


def test_everything_below_goes_stacked_and_oddly_named(place):
    odd = place / "a" / "with space\\and backslash"
    mount.mount("tmpfs", str(place / "a"), "tmpfs")
    odd.mkdir()
    mount.mount("tmpfs", str(odd), "tmpfs")
    mount.mount("tmpfs", str(odd), "tmpfs")
    assert mount.mounts_below(str(place)) == [str(odd), str(odd), str(place / "a")]
    mount.unmount_all(str(place))
    assert mount.mounts_below(str(place)) == []
    mount.unmount(str(place / "never was"))
