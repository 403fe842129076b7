"""The image store with real skopeo, mmdebstrap and mkfs.erofs: where images come from, and how they go."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from isoform.errors import DescriptorError, HostLacks, NotFound, WrongState
from isoform.host import Home
from isoform.images import Images
from isoform.model import User
from tests.conftest import leftovers
from tests.images import ARCHITECTURE, RECIPES, busybox_image
from tests.oci import folder, layout, member, sh, tar

pytestmark = pytest.mark.root
OTHER = "arm64" if ARCHITECTURE == "amd64" else "amd64"


@pytest.fixture
def images(home):
    return Images(home, ARCHITECTURE)


def small(path: Path, text: str = "x", **options: object) -> Path:
    options = {"architecture": ARCHITECTURE, "Entrypoint": ["/x"], **options}
    return layout(path, [tar(folder("base"), member("base/f", "shared")), tar(member("x", text))], **options)


def files(home: Home) -> list[str]:
    """Return all files of the store that grow with images."""
    return sorted(str(p.relative_to(home.images)) for name in ("blobs", "layers", "ready", "tmp", "locks", "packages")
                  for p in (home.images / name).rglob("*") if p.is_file())


def archive(source: Path, kind: str, target: Path) -> Path:
    sh("skopeo", "copy", "--insecure-policy", "-q", f"oci:{source}", f"{kind}:{target}")
    return target


def refuse(subject: str, doing: str, fraction: float | None = None) -> None:
    raise AssertionError(f"{subject} was not at hand: {doing}")


# --- where images come from ---

async def test_layouts_and_archives_of_one_image_share_its_layers(images, tmp_path):
    lay = small(tmp_path / "lay")
    found = [await images.resolve(text, tmp_path) for text in (
        "./lay", f"oci:{lay}", str(archive(lay, "oci-archive", tmp_path / "o.tar")),
        str(archive(lay, "docker-archive", tmp_path / "d.tar")), "docker-archive:d.tar")]
    assert len({image.layers for image in found}) == 1
    assert {image.entrypoint for image in found} == {("/x",)}
    assert len(list(Path(found[0].layers[0].path).parent.glob("*.erofs"))) == 2
    assert [info.kind for info in images.list()] == ["docker-archive", "oci", "oci-archive"]


async def test_an_unchanged_image_is_answered_from_the_store_and_a_changed_one_is_not(images, tmp_path):
    small(tmp_path / "lay")
    first = await images.resolve("./lay", tmp_path)
    assert await images.resolve("./lay", tmp_path, refuse) == first
    shutil.rmtree(tmp_path / "lay")
    small(tmp_path / "lay", "other")
    second = await images.resolve("./lay", tmp_path)
    assert second.digest != first.digest and second.layers[0] == first.layers[0] != second.layers[1]


async def test_one_of_several_images_is_named_by_its_tag(images, tmp_path):
    small(tmp_path / "lay", "one", tag="one")
    small(tmp_path / "lay", "two", tag="two")
    one, two = await images.resolve("./lay:one", tmp_path), await images.resolve("./lay:two", tmp_path)
    assert one.layers[0] == two.layers[0] and one.layers[1] != two.layers[1]
    for text in ("./lay", "./lay:three"):
        with pytest.raises(DescriptorError, match="cannot be read") as caught:
            await images.resolve(text, tmp_path)
        assert "tags" in caught.value.fix


async def test_a_digest_pins_the_manifest_or_the_configuration(images, tmp_path):
    lay = small(tmp_path / "lay")
    image = await images.resolve("./lay", tmp_path)
    manifest = json.loads((lay / "blobs/sha256" / image.digest[7:]).read_text())
    for pin in (image.digest, manifest["config"]["digest"]):
        assert (await images.resolve(f"./lay@{pin}", tmp_path)).digest == image.digest
    with pytest.raises(DescriptorError, match="does not match its digest"):
        await images.resolve("./lay@sha256:" + "1" * 64, tmp_path)


async def test_an_image_for_another_architecture_names_both(images, home, tmp_path):
    small(tmp_path / "lay", architecture=OTHER)
    with pytest.raises(DescriptorError, match=f"made for {OTHER}; this host is {ARCHITECTURE}"):
        await images.resolve("./lay", tmp_path)
    assert files(home) == []


async def test_an_index_without_our_architecture_says_so(images, home, tmp_path):
    lay = small(tmp_path / "lay", architecture=OTHER)
    index = json.loads((lay / "index.json").read_text())
    inner = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {**index["manifests"][0], "platform": {"architecture": OTHER, "os": "linux"}}]}).encode()
    digest = hashlib.sha256(inner).hexdigest()
    (lay / "blobs/sha256" / digest).write_bytes(inner)
    (lay / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": f"sha256:{digest}", "size": len(inner)}]}))
    with pytest.raises(DescriptorError, match=f"no variant for this host, {ARCHITECTURE}"):
        await images.resolve("./lay", tmp_path)
    assert files(home) == []


async def test_damaged_images_are_refused_and_leave_nothing(images, home, tmp_path):
    lay = small(tmp_path / "cut")
    biggest = max((lay / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    biggest.write_bytes(biggest.read_bytes()[:-20])
    whole = archive(small(tmp_path / "lay"), "oci-archive", tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar").write_text("hello")
    shutil.copytree(small(tmp_path / "lost"), tmp_path / "lost2")
    min((tmp_path / "lost2/blobs/sha256").iterdir(), key=lambda p: p.stat().st_size).unlink()
    for text in ("./cut", "./cut.tar", "./text.tar", "./lost2", "./none", "./none.yaml", "oci:none", "oci-archive:cut"):
        with pytest.raises(DescriptorError) as caught:
            await images.resolve(text, tmp_path)
        assert caught.value.fix and text in caught.value.what, text
    assert files(home) == [] and images.list() == []


async def test_a_name_that_nothing_has_is_told(images, tmp_path):
    with pytest.raises(NotFound, match="image 'nginx:1' does not exist") as caught:
        await images.resolve("nginx:1", tmp_path)
    assert "docker://nginx:1" in caught.value.fix


@contextlib.contextmanager
def registry(lay: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a layout's one image as web:1 on loopback; yields its reference and the paths that were asked for."""
    asked: list[str] = []
    manifest = json.loads((lay / "index.json").read_text())["manifests"][0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            name = self.path.rpartition("/")[2].replace("1", manifest["digest"]) if self.path.endswith("/1") else \
                self.path.rpartition("/")[2]
            path = lay / "blobs/sha256" / name.removeprefix("sha256:")
            if self.path != "/v2/" and not (path.is_file() and "/web/" in self.path):
                self.send_error(404)
                return
            body = path.read_bytes() if path.is_file() else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", manifest["mediaType"] if "manifests" in self.path else "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"127.0.0.1:{server.server_port}"
    (tmp_path / ".config/containers").mkdir(parents=True)
    (tmp_path / ".config/containers/registries.conf").write_text(
        f'[[registry]]\nlocation = "{place}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    try:
        yield f"docker://{place}/web:1", asked
    finally:
        server.shutdown()
        server.server_close()


async def test_a_registrys_image_is_pulled_once_and_anew_when_asked(images, monkeypatch, tmp_path):
    with registry(small(tmp_path / "lay"), monkeypatch, tmp_path) as (reference, asked):
        image = await images.resolve(reference, tmp_path)
        assert len(image.layers) == 2 and image.reference == reference
        before = len(asked)
        assert await images.resolve(reference, tmp_path) == image and len(asked) == before
        assert (await images.pull(reference)).digest == image.digest
        assert any("manifests" in path for path in asked[before:])
        manifest = json.loads((tmp_path / "lay/blobs/sha256" / image.digest[7:]).read_text())
        layers = {layer["digest"] for layer in manifest["layers"]}
        assert len(layers) == 2 and not any(path.rpartition("/")[2] in layers for path in asked[before:])
        pinned = await images.resolve(f"{reference}@{image.digest}", tmp_path)
        assert pinned.digest == image.digest
        with pytest.raises(DescriptorError, match="cannot be pulled"):
            await images.resolve(reference.replace("web", "none"), tmp_path)
    assert [info.kind for info in images.list()] == ["docker", "docker"]


# --- recipes ---

def recipe(folder: Path, text: str, name: str = "web.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


async def test_a_recipe_becomes_two_layers_and_an_unchanged_one_no_work(images, home, tmp_path):
    base = await busybox_image(home)
    (tmp_path / "motd").write_text("hello\n")
    path = recipe(tmp_path, """\
packages: [busybox-static]
users: [dns]
files: {/etc/motd: motd, /bin/run: {content: "#!/bin/sh\\n", mode: 0755}}
entrypoint: [/bin/run]
user: dns
stop_signal: SIGQUIT
env: {A: b}
""")
    said = []
    image = await images.resolve("web.yaml", tmp_path, lambda _, doing, *rest: said.append(doing))
    assert said == ["adding files"]  # the packages were there
    assert image.layers[0] == base.layers[0] and len(image.layers) == 2
    assert image.user == User(101, 101, (), "dns", "/nonexistent")
    assert (image.entrypoint, image.stop_signal, image.env[1:]) == (("/bin/run",), "SIGQUIT", (("A", "b"),))
    assert await images.resolve(str(path), Path("/"), refuse) == replace(image, reference=str(path))
    await images.build(path, name="web")
    sh("skopeo", "copy", "-q", "--insecure-policy", f"oci:{home.images}:web", f"oci:{tmp_path}/copy")  # a real layout


async def test_an_unchanged_image_is_answered_without_the_costly_imports(home, tmp_path):
    await busybox_image(home)
    code = CHILD + "print([name for name in ('pydantic', 'yaml', 'tarfile') if name in sys.modules])"
    said = sh(sys.executable, "-c", code, str(home.path), str(RECIPES / "busybox.yaml"), ARCHITECTURE)
    assert said.decode().splitlines()[1] == "[]"


async def test_a_changed_file_makes_one_new_layer_and_the_same_content_the_same_image(images, home, tmp_path):
    await busybox_image(home)
    (tmp_path / "motd").write_text("one")
    recipe(tmp_path, "packages: [busybox-static]\nfiles: {/etc/motd: motd}\n")
    one = await images.resolve("web.yaml", tmp_path)
    (tmp_path / "motd").write_text("two")
    two = await images.resolve("web.yaml", tmp_path)
    assert one.layers[0] == two.layers[0] and one.layers[1] != two.layers[1]
    (tmp_path / "motd").write_text("one")
    again = await images.resolve("web.yaml", tmp_path)
    assert again == one
    recipe(tmp_path, "files: {/etc/motd: motd}\npackages:\n- busybox-static\n", "copy.yaml")
    assert (await images.resolve("copy.yaml", tmp_path)).digest == one.digest


async def test_packages_unpacked_anew_make_the_same_layer(images, home, tmp_path):
    image = await busybox_image(home)
    for path in (*(home.images / "layers").iterdir(), *(home.images / "packages").iterdir()):
        path.unlink()
    fresh = await images.resolve(str(recipe(tmp_path, "packages: [busybox-static]\n")), tmp_path)
    assert [layer.digest for layer in fresh.layers] == [layer.digest for layer in image.layers]
    shown = images.inspect(str(tmp_path / "web.yaml"))
    assert shown["packages"].keys() == {"busybox-static"}


async def test_a_package_that_does_not_exist_leaves_nothing(images, home, tmp_path):
    path = recipe(tmp_path, "packages:\n- busybox-static\n- no-such-package\n")
    with pytest.raises(DescriptorError) as caught:
        await images.resolve("web.yaml", tmp_path)
    assert caught.value.what.startswith(f"{path}:3:3: package 'no-such-package' does not exist in ")
    assert files(home) == [] and images.list() == []


async def test_an_image_of_older_code_is_made_anew(images, home, tmp_path, monkeypatch):
    await busybox_image(home)
    recipe(tmp_path, "files: {/x: {content: one}}\n")
    said = []

    def listen(subject: str, doing: str, fraction: float | None = None) -> None:
        said.append(doing)

    image = await images.resolve("web.yaml", tmp_path, listen)
    assert await images.resolve("web.yaml", tmp_path, listen) == image and said == ["adding files"]
    monkeypatch.setattr("isoform.images.store.MAKER", 2)
    assert await images.resolve("web.yaml", tmp_path, listen) == image and said == ["adding files"] * 2


async def test_a_built_image_is_found_by_its_name(images, home, tmp_path):
    await busybox_image(home)
    path = recipe(tmp_path, "packages: [busybox-static]\nfiles: {/x: {content: one}}\n")
    image = await images.build(path, name="web")
    assert (await images.resolve("web", Path("/"))).digest == image.digest
    recipe(tmp_path, "packages: [busybox-static]\nfiles: {/x: {content: two}}\n")
    changed = await images.resolve("web", Path("/"))
    assert changed.digest != image.digest and changed.reference == "web"  # a name stands for its recipe
    path.unlink()
    assert (await images.resolve("web", Path("/"))).digest == changed.digest
    with pytest.raises(DescriptorError, match="is not a recipe"):
        await images.build(small(tmp_path / "lay"))


async def test_packages_run_without_their_scripts(images, home, tmp_path):
    """Accounts, alternatives, the linker's cache and applets are there although no postinst ran."""
    recipe(tmp_path, "packages: [busybox-static, iptables, mawk]\nuser: www-data\n")
    image = await images.resolve("web.yaml", tmp_path)
    assert image.user == User(33, 33, (), "www-data", "/var/www")
    root = tmp_path / "root"
    root.mkdir()
    sh("mount", "-t", "erofs", "-o", "loop,ro", image.layers[0].path, root)
    try:
        said = sh("chroot", root, "/bin/sh", "-c",
                  "iptables --version; awk 'BEGIN{print 6*7}'; id -un www-data; realpath /usr/bin/awk /bin/ls")
        assert said.decode().splitlines()[1:] == ["42", "www-data", "/usr/bin/mawk", "/usr/bin/busybox"]
        assert said.startswith(b"iptables v")
        assert (root / "etc/ld.so.cache").exists()
        assert b"Package: iptables" in (root / "var/lib/dpkg/status").read_bytes()
        for path in ("etc/hostname", "etc/resolv.conf", "etc/apt", "var/cache/apt", "usr/share/man", "dev/null"):
            assert not (root / path).exists(), path
    finally:
        sh("umount", root)


async def test_no_umask_shows_in_an_image(images, home, tmp_path):
    image = await busybox_image(home)
    text = "packages: [busybox-static]\nusers: [dns]\nfiles: {/srv/a/b: {content: x}, /opt/d: d}\n"
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("x")
    one = await images.resolve(str(recipe(tmp_path, text)), tmp_path)
    (home.images / "index.json").unlink()
    for name in ("packages", "layers", "ready"):
        for path in (home.images / name).iterdir():
            path.unlink()
    before = os.umask(0o077)
    try:
        two = await images.resolve(str(recipe(tmp_path, text)), tmp_path)
    finally:
        os.umask(before)
    assert two == one and two.layers[0] == image.layers[0]


async def test_a_missing_tool_is_told_with_its_package(images, home, tmp_path, monkeypatch):
    only = tmp_path / "bin"
    only.mkdir()
    for tool in ("tar", "gzip", "zstd", "setpriv", "unshare", "dpkg-deb", "ldconfig", "skopeo"):
        (only / tool).symlink_to(shutil.which(tool) or "/nowhere")
    monkeypatch.setenv("PATH", str(only))
    recipe(tmp_path, "packages: [busybox-static]\n")
    with pytest.raises(HostLacks, match=r"mkfs.erofs, mmdebstrap") as caught:
        await images.resolve("web.yaml", tmp_path)
    assert "apt-get install erofs-utils mmdebstrap" in caught.value.fix


async def test_a_damaged_blob_of_the_store_is_dropped_and_fetched_anew(images, home, tmp_path):
    small(tmp_path / "lay")
    image = await images.resolve("./lay", tmp_path)
    blob = max((home.images / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    for path in (home.images / "blobs/sha256").iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            path.write_bytes(path.read_bytes()[:-9])
    Path(image.layers[0].path).unlink()
    Path(image.layers[1].path).unlink()
    for _ in range(2):  # each layer is found damaged once
        with contextlib.suppress(DescriptorError):
            await images.resolve("./lay", tmp_path)
    assert await images.resolve("./lay", tmp_path) == image and blob.exists()


# --- together, and cut off ---

CHILD = """
import asyncio, sys
from pathlib import Path
from isoform.host import Home
from isoform.images import Images
said = []
image = asyncio.run(Images(Home(Path(sys.argv[1])), sys.argv[3]).resolve(
    sys.argv[2], Path("/"), lambda subject, doing, fraction=None: said.append(doing)))
print(image.digest, any("unpacking" in doing for doing in said))
"""


def child(home: Home, reference: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(home.path), str(reference), ARCHITECTURE],
                            stdout=subprocess.PIPE, text=True)


def big(path: Path) -> Path:
    noise = random.Random(7).randbytes(24 << 20)
    return layout(path, [tar(member("big", noise)), tar(*(member(f"f{i}", noise[i:i + 9000]) for i in range(1500)))],
                  architecture=ARCHITECTURE)


async def test_processes_that_want_one_image_do_its_work_once(home, images, tmp_path):
    lay = big(tmp_path / "lay")
    children = [child(home, lay) for _ in range(3)]
    said = [(await asyncio.to_thread(c.communicate))[0].split() for c in children]
    assert [c.returncode for c in children] == [0, 0, 0]
    assert len({digest for digest, _ in said}) == 1
    assert [worked for _, worked in said].count("True") == 1


async def test_images_that_share_a_layer_unpack_it_once_at_the_same_time(images, tmp_path):
    small(tmp_path / "a", "a")
    small(tmp_path / "b", "b")
    a, b, again = await asyncio.gather(*(images.resolve(f"./{n}", tmp_path) for n in ("a", "b", "a")))
    assert a == again and a.layers[0] == b.layers[0]


@pytest.mark.parametrize("after_s", [0.15, 0.25, 0.35, 0.5, 0.7])
async def test_kill_9_leaves_only_what_the_next_call_removes(home, images, tmp_path, after_s):
    lay = big(tmp_path / "lay")
    victim = child(home, lay)
    time.sleep(after_s)  # noqa: ASYNC251  the loop has nothing else to do
    victim.kill()
    victim.communicate()
    layers = home.images / "layers"
    assert not layers.exists() or all(p.suffix == ".json" or p.with_suffix(".json").exists() for p in layers.iterdir())
    image = await images.resolve(str(lay), tmp_path)
    assert [layer.size_bytes > 1 << 20 for layer in image.layers] == [True, True]
    deadline = time.monotonic() + 5
    while list((home.images / "tmp").iterdir()) and time.monotonic() < deadline:
        await images.prune(())  # a command of the dead may end a little after it
        await asyncio.sleep(0.05)
    assert [p for p in files(home) if p.startswith(("tmp", "locks"))] == []


async def test_kill_9_of_a_build_ends_mmdebstrap_too(home, images, tmp_path):
    path = recipe(tmp_path, "packages: [busybox-static, mawk]\n")
    victim = child(home, path)
    while not list((home.images / "tmp").glob("*/packages/var/lib/apt")) and victim.poll() is None:
        time.sleep(0.02)  # noqa: ASYNC251  the loop has nothing else to do
    victim.kill()
    victim.communicate()
    deadline = time.monotonic() + 5
    while list((home.images / "tmp").iterdir()) and time.monotonic() < deadline:
        await images.prune(())
        await asyncio.sleep(0.02)
    assert files(home) == [] and list((home.images / "tmp").iterdir()) == []
    assert leftovers(home) == []
    assert len((await images.resolve(str(path), tmp_path)).layers) == 1


async def test_a_cancelled_call_leaves_nothing(home, images, tmp_path):
    lay = big(tmp_path / "lay")
    task = asyncio.create_task(images.resolve(str(lay), tmp_path))
    await asyncio.sleep(0.4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [p for p in files(home) if p.startswith(("tmp", "locks", "ready"))] == [] and images.list() == []


async def test_progress_says_what_is_done_and_how_far(images, tmp_path):
    said = []
    await images.resolve(str(big(tmp_path / "lay")), tmp_path, lambda *what: said.append(what))
    assert {subject for subject, *_ in said} == {f"image {tmp_path / 'lay'}"}
    assert [d for d in dict.fromkeys(doing for _, doing, *_ in said)] == [
        "fetching", "unpacking layer 1 of 2", "unpacking layer 2 of 2"]
    fractions = [rest[0] for *_, rest in ((s[0], s[2:]) for s in said) if rest]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1


# --- how they go ---

async def test_listing_says_what_is_shared(images, tmp_path):
    assert images.list() == []
    small(tmp_path / "a", "a")
    await images.resolve("./a", tmp_path)
    (alone,) = images.list()
    assert alone.shared_bytes == 0 and alone.unique_bytes > 0 and len(alone.layers) == 2
    small(tmp_path / "b", "b")
    await images.resolve("./b", tmp_path)
    a, b = images.list()
    assert (a.reference, b.reference) == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert a.shared_bytes == b.shared_bytes > 0 and a.size_bytes == alone.size_bytes


async def test_removal_takes_what_no_other_image_needs_and_nothing_in_use(images, home, tmp_path):
    small(tmp_path / "a", "a")
    small(tmp_path / "b", "b")
    a, b = await images.resolve("./a", tmp_path), await images.resolve("./b", tmp_path)
    used = {layer.digest for layer in a.layers}
    with pytest.raises(WrongState, match="in use"):
        await images.remove(str(tmp_path / "a"), used)
    assert len(images.list()) == 2
    await images.remove(b.digest[7:19], used)
    assert [Path(layer.path).exists() for layer in (*a.layers, b.layers[1])] == [True, True, False]
    assert await images.resolve("./a", tmp_path) == a
    with pytest.raises(NotFound):
        await images.remove(str(tmp_path / "b"), ())
    await images.remove(str(tmp_path / "a"), ())
    assert files(home) == []
    assert await images.resolve("./b", tmp_path) == b  # and it comes back


async def test_prune_takes_older_builds_but_for_layers_in_use(images, home, tmp_path):
    await busybox_image(home)
    path = recipe(tmp_path, "packages: [busybox-static]\nfiles: {/x: {content: one}}\n")
    one = await images.resolve("web.yaml", tmp_path)
    recipe(tmp_path, "packages: [busybox-static]\nfiles: {/x: {content: two}}\n")
    two = await images.resolve("web.yaml", tmp_path)
    report = await images.prune([layer.digest for layer in one.layers])
    assert report.layers == () and report.images == ()
    report = await images.prune(())
    assert report.layers == (one.layers[1].digest,) and report.freed_bytes > 0
    assert await images.resolve("web.yaml", tmp_path) == two
    report = await images.prune([layer.digest for layer in two.layers], every=True)
    assert not {str(path), str(RECIPES / "busybox.yaml")} & set(report.images)  # an instance may be of either
    report = await images.prune((), every=True)
    assert str(path) in report.images and files(home) == []


async def test_prune_of_a_home_without_images(images):
    assert (await images.prune(())).freed_bytes == 0


async def test_a_lost_layer_file_is_made_again(images, tmp_path):
    small(tmp_path / "a")
    image = await images.resolve("./a", tmp_path)
    Path(image.layers[0].path).unlink()
    assert await images.resolve("./a", tmp_path) == image
