import asyncio
import json
import os
import sys
import time

import pytest

from isoform.images.lock import locked, sweep, workplace
from isoform.images.pack import level_times, pack
from isoform.images.store import Entry, Store, stamp, unchanged
from isoform.model import User

DIGEST = "sha256:" + "12" * 32


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "images")
    store.prepare()
    return store


def entry(key: str, name: str = "") -> Entry:
    return Entry(key, "recipe", DIGEST, 10, name, 1.5, (("/a", 1, 2, 3, 4),))


def test_the_index_is_a_layout_that_keeps_what_we_know(store):
    assert store.entries() == [] and store.find("/x") is None
    store.put(entry("/x", "web"))
    store.put(entry("/y"))
    assert store.entries() == [entry("/x", "web"), entry("/y")]
    assert store.find("web") == store.find("/x") == entry("/x", "web")
    index = json.loads((store.path / "index.json").read_text())
    assert [m["annotations"]["org.opencontainers.image.ref.name"] for m in index["manifests"]] == ["web", "y"]
    assert json.loads((store.path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_a_name_is_kept_by_a_new_build_and_moves_when_another_takes_it(store):
    store.put(entry("/x", "web"))
    store.put(entry("/x"))
    assert store.find("web").key == "/x"
    store.put(entry("/y", "web"))
    assert store.find("web").key == "/y" and store.find("/x").name == ""


def test_a_manifest_that_another_tool_added_is_passed_over(store):
    (store.path / "index.json").write_text(json.dumps({"manifests": [{"digest": DIGEST, "size": 1}]}))
    assert store.entries() == []


def test_an_image_comes_back_as_it_was_kept(store):
    kept = {"layers": [DIGEST], "blobs": [], "entrypoint": ["/x"], "command": [], "env": [["A", "b=c"]],
            "user": {"uid": 5, "gid": 6, "groups": [7], "name": "u", "home": "/h"}, "workdir": "/w",
            "stop_signal": "SIGQUIT", "architecture": "amd64"}
    store.save_image(DIGEST, kept)
    assert store.load_image(DIGEST, "web") is None  # its layer is not there
    store.layer(DIGEST).write_bytes(b"x" * 9)
    image = store.load_image(DIGEST, "web")
    assert (image.reference, image.env, image.user) == ("web", (("A", "b=c"),), User(5, 6, (7,), "u", "/h"))
    assert [(layer.digest, layer.size_bytes) for layer in image.layers] == [(DIGEST, 9)]


def test_inputs_are_unchanged_until_one_changes_or_goes(tmp_path):
    path = tmp_path / "f"
    path.write_text("a")
    inputs = (stamp(path), stamp(tmp_path))
    assert unchanged(inputs)
    was = path.stat()
    path.write_text("b")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))  # same size, same mtime: ctime tells
    assert not unchanged(inputs)
    path.unlink()
    assert not unchanged(inputs)


async def test_a_lock_keeps_others_out_and_leaves_no_file(tmp_path):
    inside, seen = 0, []

    async def enter():
        nonlocal inside
        async with locked(tmp_path / "l"):
            inside += 1
            seen.append(inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(8)))
    assert seen == [1] * 8
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_takes_the_folders_of_the_dead_alone(tmp_path):
    with workplace(tmp_path) as (mine, _):
        (mine / "f").write_text("x")
        (tmp_path / "dead").mkdir()
        (tmp_path / "dead/f").write_text("x")
        assert sweep(tmp_path) == 1
        assert (mine / "f").exists() and mine.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_a_folder_counts_as_owned_while_a_command_of_its_owner_runs(tmp_path):
    import subprocess

    code = ("import os,subprocess,sys;from pathlib import Path;from isoform.images.lock import workplace\n"
            f"with workplace(Path({str(tmp_path)!r})) as (p, fd):\n"
            "  child = subprocess.Popen(['sleep', '60'], pass_fds=(fd,), stdout=-3, stderr=-3)\n"  # -3: DEVNULL
            "  print(child.pid, flush=True); os.kill(os.getpid(), 9)")
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stdout)
    assert sweep(tmp_path) == 0
    os.kill(pid, 9)
    for _ in range(200):
        if sweep(tmp_path):
            break
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def tree(path):
    (path / "d").mkdir(parents=True)
    (path / "d/old").write_text("packaged")
    os.utime(path / "d/old", (1_000_000, 1_000_000))
    (path / "d/made").write_text("made here")
    (path / "link").symlink_to("d/old")
    return path


async def test_the_same_tree_packs_to_the_same_layer_whenever_it_was_made(tmp_path):
    packed = []
    for name in ("one", "two"):
        began_s = time.time() - 1
        found = tree(tmp_path / name)
        assert level_times(found, began_s) == 1_000_000
        blobs = tmp_path / f"{name}-blobs"
        blobs.mkdir()
        packed.append(await pack(found, blobs, os.open(blobs, os.O_RDONLY)))
        assert (blobs / packed[-1].digest.removeprefix("sha256:")).stat().st_size == packed[-1].size
        await asyncio.sleep(0.02)
    assert packed[0] == packed[1]
