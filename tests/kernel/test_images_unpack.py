"""Layers become EROFS files that the kernel mounts: whatever a tar may hold, and whatever it may try."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from isoform.errors import DescriptorError, HostLacks
from isoform.images import Images
from isoform.model import Image, User
from tests.images import ARCHITECTURE
from tests.oci import folder, hard, layout, link, member, sh, tar

pytestmark = pytest.mark.root


@contextlib.contextmanager
def mounted(image: Image, tmp_path: Path) -> Iterator[Path]:
    """Show an image's merged root, as a container sees it."""
    points = []
    try:
        for index, layer in enumerate(image.layers):
            point = tmp_path / f"lower-{index}"
            point.mkdir()
            sh("mount", "-t", "erofs", "-o", "loop,ro", layer.path, point)
            points.append(point)
        root = tmp_path / "root"
        root.mkdir()
        lower = ":".join(str(p) for p in [*reversed(points), tmp_path / "empty"])
        (tmp_path / "empty").mkdir()
        sh("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower}", root)
        points.append(root)
        yield root
    finally:
        for point in reversed(points):
            sh("umount", point)


@pytest.fixture
def images(home):
    return Images(home, ARCHITECTURE)


async def resolve(images, path, *layers, **options):
    return await images.resolve(str(layout(path / "layout", layers, architecture=ARCHITECTURE, **options)), path)


@pytest.mark.parametrize("how", ["", "gzip", "zstd"])
async def test_a_layer_of_any_compression_is_mounted_as_it_was_packed(images, tmp_path, how):
    long = "d/" + "n" * 200
    data = tar(
        folder("d", 0o2750), member("d/f", "text", uid=7, gid=8, mode=0o4711), link("d/l", "../d/f"),
        hard("d/h", "d/f"), member("d/fifo", type=tarfile.FIFOTYPE), member(long, "long"), folder("tmp", 0o1777),
        member("d/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("d/x", "x", pax_headers={"SCHILY.xattr.user.note": "hi", "SCHILY.xattr.trusted.overlay.opaque": "y"}),
        member("d/ü\n", "odd name"),
    )
    with mounted(await resolve(images, tmp_path, data, how=how), tmp_path) as root:
        seen = (root / "d/f").stat()
        assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777, seen.st_nlink) == (7, 8, 0o4711, 2)
        assert seen.st_mtime == 1_600_000_000
        assert (root / "d/h").stat().st_ino == seen.st_ino
        assert (root / "d/l").readlink() == Path("../d/f")
        assert (root / "d").stat().st_mode & 0o7777 == 0o2750
        assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
        assert stat.S_ISFIFO((root / "d/fifo").stat().st_mode)
        assert (root / "d/null").stat().st_rdev == os.makedev(1, 3)
        assert (root / long).read_text() == "long"
        assert (root / "d/ü\n").read_text() == "odd name"
        assert os.getxattr(root / "d/x", "user.note") == b"hi"
        assert os.listxattr(tmp_path / "lower-0/d/x") == ["user.note"]  # overlayfs's own are not an image's to set


async def test_capabilities_of_files_are_kept(images, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "ping").write_bytes(b"x")
    sh("setcap", "cap_net_raw+ep", source / "ping")
    was = os.getxattr(source / "ping", "security.capability")
    data = sh("tar", "-C", source, "--xattrs", "--xattrs-include=*", "-c", ".")
    with mounted(await resolve(images, tmp_path, data), tmp_path) as root:
        assert os.getxattr(root / "ping", "security.capability") == was


async def test_whiteouts_hide_what_is_below_and_nothing_of_their_own_layer(images, tmp_path):
    low = tar(folder("keep"), member("keep/a", "a"), member("keep/b", "b"), folder("gone"), member("gone/x", "x"),
              folder("new"), member("new/old", "old"), folder("again"), member("again/old", "old"))
    high = tar(
        folder("keep"), member("keep/.wh.a"), member("keep/c", "c"), member(".wh.gone"),
        folder("new"), member("new/fresh", "fresh"), member("new/.wh..wh..opq"),  # the mark after what it must spare
        member(".wh.again"), folder("again"), member("again/fresh", "fresh"), member(".wh..wh.plnk", "AUFS"),
    )
    with mounted(await resolve(images, tmp_path, low, high), tmp_path) as root:
        found = sorted(str(p.relative_to(root)) for p in root.rglob("*"))
    assert found == ["again", "again/fresh", "keep", "keep/b", "keep/c", "new", "new/fresh"]


async def test_a_sparse_file_stays_sparse(images, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    with (source / "lastlog").open("wb") as file:
        file.write(b"begin")
        file.truncate(400 << 20)
        file.seek(200 << 20)
        file.write(b"middle")
    data = sh("tar", "-C", source, "--sparse", "--format=posix", "-c", ".")
    assert len(data) < 1 << 20
    image = await resolve(images, tmp_path, data)
    assert image.layers[0].size_bytes < 8 << 20
    with mounted(image, tmp_path) as root, (root / "lastlog").open("rb") as file:
        assert (root / "lastlog").stat().st_size == 400 << 20
        assert file.read(6) == b"begin\0"
        file.seek(200 << 20)
        assert file.read(6) == b"middle"


def attacks(outside: Path) -> dict[str, bytes]:
    up = "../" * 12
    return {
        "dots": tar(member(f"{up}{outside}/planted", "x")),
        "absolute": tar(member(f"{outside}/planted", "x")),
        "link": tar(link("way", str(outside)), member("way/planted", "x")),
        "relative link": tar(link("way", f"{up}{outside}"), member("way/planted", "x")),
        "two links": tar(link("a", "b"), link("b", str(outside)), member("a/planted", "x")),
        "link to the parent": tar(folder("d"), link("d/up", ".."), link("d/up/way", str(outside)),
                                  member("way/planted", "x")),
        "hard link": tar(hard("taken", f"{outside}/victim"), member("taken", "overwritten")),
        "hard link through a link": tar(link("way", str(outside)), hard("taken", "way/victim"),
                                        member("taken", "overwritten")),
        "file through a link": tar(link("way", f"{outside}/victim"), member("way", "overwritten")),
        "whiteout through a link": tar(link("way", str(outside)), member("way/.wh.victim")),
        "opaque through a link": tar(link("way", str(outside)), member("way/.wh..wh..opq")),
        "whiteout of the parent": tar(folder("d"), member("d/.wh..."), member("d/.wh.."), member("d/.wh.")),
        "folder over a link": tar(link("way", str(outside)), folder("way", 0o777), member("way/planted", "x")),
        "users by a link": tar(link("etc", f"{outside}"), folder("x")),
        "passwd by a link": tar(folder("etc"), link("etc/passwd", f"{outside}/victim")),
    }


@pytest.mark.parametrize("name", attacks(Path("/x")))
async def test_a_layer_writes_and_reads_nothing_outside(images, home, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "victim").write_text("root:x:0:0:secret:/secret:/bin/sh\n")
    try:
        image = await resolve(images, tmp_path, attacks(outside)[name])
    except DescriptorError:
        assert images.list() == []  # refused: as good, when nothing of it stays
    else:
        assert image.user == User()
    assert sorted(p.name for p in outside.iterdir()) == ["victim"]
    assert (outside / "victim").read_text() == "root:x:0:0:secret:/secret:/bin/sh\n"
    assert (outside / "victim").stat().st_nlink == 1 and outside.stat().st_mode & 0o777 == 0o755
    assert os.listxattr(outside) == []
    assert list((home.images / "tmp").iterdir()) == []


async def test_the_user_is_looked_up_in_the_merged_image(images, tmp_path):
    low = tar(folder("etc"), member("etc/passwd", "web:x:33:33::/var/www:/x\n"), member("etc/group", "adm:x:4:web\n"))
    high = tar(folder("etc"), member("etc/group", "tty:x:5:web\n"))
    image = await resolve(images, tmp_path, low, high, User="web", Entrypoint=["/srv"], Cmd="serve it",
                          Env=["A=1=2", "B"], WorkingDir="/w", StopSignal="3")
    assert image.user == User(33, 33, (5,), "web", "/var/www")
    assert (image.entrypoint, image.command) == (("/srv",), ("/bin/sh", "-c", "serve it"))
    assert (image.env, image.workdir, image.stop_signal) == ((("A", "1=2"), ("B", "")), "/w", "SIGQUIT")


async def test_a_user_that_no_layer_has_is_refused_and_nothing_is_filed(images, home, tmp_path):
    with pytest.raises(DescriptorError, match="user 'web' is not in the image's /etc/passwd"):
        await resolve(images, tmp_path, tar(member("x")), User="web")
    assert images.list() == []


async def test_a_layer_whose_content_has_another_digest_is_refused(images, home, tmp_path):
    with pytest.raises(DescriptorError, match=r"layer 1 of image .* is damaged"):
        await resolve(images, tmp_path, tar(member("x")), diff_ids=["sha256:" + "0" * 64])
    assert images.list() == [] and list((home.images / "layers").iterdir()) == []


async def test_a_layer_that_is_no_tar_is_refused(images, home, tmp_path):
    with pytest.raises(DescriptorError, match="damaged"):
        await resolve(images, tmp_path, b"no tar at all" * 100)
    assert list((home.images / "layers").iterdir()) == [] and list((home.images / "tmp").iterdir()) == []


@pytest.mark.parametrize("size, where", [("2m", "fetching"), ("8m", "tar"), ("18m", "mkfs.erofs"), ("8k", "folders")])
async def test_a_full_disk_is_told_and_leaves_nothing(home, tmp_path, size, where):
    sh("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", home.path)
    try:
        noise = random.Random(1).randbytes(6 << 20)
        with pytest.raises(HostLacks, match="does not fit on the disk") as caught:
            await resolve(Images(home, ARCHITECTURE), tmp_path, tar(member("big", noise + bytes(4 << 20))))
        assert "are free" in caught.value.why and "prune" in caught.value.fix
        assert ("unpacking needs about 20Mi" in caught.value.why) == (where in ("tar", "mkfs.erofs"))
        if where == "folders":
            return
        assert list((home.images / "layers").iterdir()) == [] and list((home.images / "tmp").iterdir()) == []
        image = await resolve(Images(home, ARCHITECTURE), tmp_path / "small", tar(member("small", b"x")))
        assert len(image.layers) == 1
    finally:
        sh("umount", home.path)
