"""A recipe becomes an OCI image of two layers: Debian packages, shared by all recipes that name them, and files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isoform.images.debian import suite_and_sources, unpack_packages
from isoform.images.mend import add_users, mend, shape
from isoform.images.overlay import lay_files, make_parents, sources_of
from isoform.images.pack import MEDIA_TYPE, Packed, level_times, pack
from isoform.images.recipe import Recipe, read
from isoform.images.reference import Reference
from isoform.images.store import MAKER, MANIFEST, Entry, Stamp, Store, hex_of, stamp, write
from isoform.images.unpack import keep
from isoform.model.progress import Progress
from isoform.model.yamlpos import Document

SETTLED_NS = 20_000_000  # a file changed twice within one tick of the kernel's clock (4 to 10 ms) shows one time
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Base:
    """The layer of packages below a recipe's files."""

    layer: Packed | None = None
    epoch_s: int = 0  # time of the newest packaged file: all that is made here gets it
    passwd: str = ""
    group: str = ""
    folders: dict[str, list[int]] = field(default_factory=dict)  # path -> mode, owner, group
    links: dict[str, str] = field(default_factory=dict)  # path -> target


async def build(store: Store, wanted: Reference, entry: Entry, architecture: str, work: tuple[Path, int],
                progress: Progress, fresh: bool) -> tuple[str, Entry]:
    """Make the image of a recipe in a workplace; return the digest of its manifest and how to file it.

    Raises: DescriptorError with the place of a fault; HostLacks; StepFailed.
    """
    assert wanted.path is not None
    folder, _ = work
    (folder / "blobs" / "sha256").mkdir(parents=True)
    recipe, document = read(wanted.path)
    inputs = _stamps([wanted.path, *sources_of(recipe, document, wanted.path.parent)])
    subject = f"image {wanted.text}"
    base = await _packages(store, recipe, document, architecture, work, progress, subject, fresh)
    layers = [base.layer] if base.layer else []
    if recipe.files or recipe.users:
        progress(subject, "adding files")
        layers.append(await _files(store, recipe, document, base, work))
    digest = _image(recipe, architecture, layers, base.epoch_s, folder / "blobs" / "sha256")
    return digest, replace(entry, inputs=inputs, maker=MAKER)


def _stamps(paths: Iterable[Path]) -> tuple[Stamp, ...]:
    while True:
        stamps = tuple(stamp(path) for path in paths)
        if time.time_ns() - max(max(s[3], s[4]) for s in stamps) > SETTLED_NS or any(
                s[3] > time.time_ns() for s in stamps):
            return stamps
        time.sleep(SETTLED_NS / 1e9)


async def _packages(store: Store, recipe: Recipe, document: Document, architecture: str, work: tuple[Path, int],
                    progress: Progress, subject: str, fresh: bool) -> Base:
    if not recipe.packages:
        return Base()
    suite, _ = (recipe.suite, []) if recipe.suite else await suite_and_sources("")
    names = sorted(set(recipe.packages))
    key = hashlib.sha256(json.dumps([MAKER, suite, architecture, names]).encode()).hexdigest()[:32]
    kept = store.packages / f"{key}.json"
    async with store.lock(f"packages-{key}"):
        if fresh or (base := _load_base(store, kept)) is None:
            progress(subject, f"unpacking {len(names)} packages of {suite} and what they need")
            base = await _make_base(store, recipe, document, suite, architecture, work, kept, progress, subject)
    return base


def _load_base(store: Store, kept: Path) -> Base | None:
    try:
        known = json.loads(kept.read_bytes())
    except FileNotFoundError:
        return None
    layer = Packed(known["diff_id"], known["digest"], known["size"])
    if not store.blob(layer.digest).exists():
        return None
    return Base(layer, known["epoch_s"], known["passwd"], known["group"], known["folders"], known["links"])


async def _make_base(store: Store, recipe: Recipe, document: Document, suite: str, architecture: str,
                     work: tuple[Path, int], kept: Path, progress: Progress, subject: str) -> Base:
    folder, lock = work
    tree, began_s = folder / "packages", time.time()
    packages = await unpack_packages(recipe.packages, suite, architecture, tree, work, document)
    progress(subject, f"packing {len(packages)} packages")
    await mend(tree, packages)
    epoch_s = level_times(tree, began_s)
    layer = await pack(tree, folder / "blobs" / "sha256", lock)
    folders, links = shape(tree)
    passwd, group = ((tree / "etc" / name).read_text() for name in ("passwd", "group"))
    await _keep_layer(store, tree, layer, work)
    known = {**asdict(layer), "epoch_s": epoch_s, "passwd": passwd, "group": group, "folders": folders,
             "links": links, "packages": {package.name: package.version for package in packages}}
    async with store.lock("index"):  # kept even where the rest of this build fails: it took seconds
        (folder / "blobs" / "sha256" / hex_of(layer.digest)).rename(store.blob(layer.digest))
        write(kept, json.dumps(known).encode())
    shutil.rmtree(tree)
    return Base(layer, epoch_s, passwd, group, folders, links)


async def _keep_layer(store: Store, tree: Path, layer: Packed, work: tuple[Path, int]) -> None:
    """Make the layer's EROFS file while its tree is at hand, rather than unpack it again."""
    async with store.lock(f"layer-{hex_of(layer.diff_id)}"):
        if not store.has_layer(layer.diff_id):
            await keep(tree, layer.diff_id, store.layer(layer.diff_id), store.users(layer.diff_id), work, sparse=False)


async def _files(store: Store, recipe: Recipe, document: Document, base: Base, work: tuple[Path, int]) -> Packed:
    folder, lock = work
    tree = folder / "files"
    tree.mkdir()
    tree.chmod(0o755)
    passwd, group = add_users(base.passwd, base.group, recipe.users)
    lay_files(tree, recipe, document, base.folders, base.links)
    if recipe.users:
        for name, content in (("passwd", passwd), ("group", group)):
            path = tree / "etc" / name
            make_parents(tree, path, base.folders)
            if not path.exists():  # the recipe's own file wins
                path.write_text(content)
                path.chmod(0o644)
    level_times(tree, 0, base.epoch_s)
    layer = await pack(tree, folder / "blobs" / "sha256", lock)
    await _keep_layer(store, tree, layer, work)
    return layer


def _image(recipe: Recipe, architecture: str, layers: list[Packed], epoch_s: int, blobs: Path) -> str:
    """Write configuration and manifest and return the manifest's digest."""
    env = {"PATH": PATH, **recipe.env}
    config: dict[str, Any] = {
        "created": datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": recipe.entrypoint or None, "Cmd": recipe.command or None, "User": recipe.user,
                   "Env": [f"{name}={value}" for name, value in env.items()], "WorkingDir": recipe.workdir,
                   "StopSignal": recipe.stop_signal},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }
    config_digest, config_size = _put(blobs, config)
    manifest = {
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest,
                   "size": config_size},
        "layers": [{"mediaType": MEDIA_TYPE, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    return _put(blobs, manifest)[0]


def _put(blobs: Path, value: dict[str, Any]) -> tuple[str, int]:
    content = json.dumps(value, separators=(",", ":")).encode()
    digits = hashlib.sha256(content).hexdigest()
    with (blobs / digits).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return f"sha256:{digits}", len(content)

