"""What is in the store, what it costs, and how it goes again."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoform.errors import NotFound, WrongState
from isoform.images.lock import sweep
from isoform.images.store import Entry, Store, hex_of


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image of the store, as `image ls` shows it."""

    name: str  # the short name, "" where it has none
    reference: str  # the name, docker://…, or the path that it was made from
    kind: str  # "recipe", "oci", "oci-archive", "docker-archive", "docker"
    digest: str
    created: float  # when it came into the store, seconds since the epoch
    layers: tuple[str, ...]  # diff_ids, lowest first
    unique_bytes: int  # on disk; what its removal frees
    shared_bytes: int  # on disk; what other images use too

    @property
    def size_bytes(self) -> int:
        """Return all that it takes on disk."""
        return self.unique_bytes + self.shared_bytes


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune removed."""

    images: tuple[str, ...]  # references
    layers: tuple[str, ...]  # diff_ids
    blobs: tuple[str, ...]  # digests
    freed_bytes: int


def _kept(store: Store, digest: str) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads((store.ready / f"{hex_of(digest)}.json").read_bytes())
    except FileNotFoundError:
        return {"layers": [], "blobs": [digest]}
    return kept


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _files(store: Store, digest: str) -> set[Path]:
    kept = _kept(store, digest)
    return {store.layer(d) for d in kept["layers"]} | {store.blob(d) for d in kept["blobs"]}


def images(store: Store) -> list[ImageInfo]:
    """Return all images, by name."""
    entries = store.entries()
    files = {digest: _files(store, digest) for digest in {e.digest for e in entries}}
    users = Counter(path for paths in files.values() for path in paths)
    sizes = {path: _size(path) for path in users}
    return sorted(
        (ImageInfo(
            e.name, e.reference, e.kind, e.digest, e.added, tuple(_kept(store, e.digest)["layers"]),
            sum(sizes[p] for p in files[e.digest] if users[p] == 1),
            sum(sizes[p] for p in files[e.digest] if users[p] > 1),
        ) for e in entries),
        key=lambda info: info.reference,
    )


def find(store: Store, reference: str) -> Entry:
    """Return the image that a user means by its name, reference, path, or the begin of its digest.

    Raises: NotFound; WrongState if it could be several.
    """
    entry = store.find(reference) or store.find(str(Path(reference).absolute()))
    if entry:
        return entry
    digits = reference.removeprefix("sha256:")
    found = [e for e in store.entries() if len(digits) >= 6 and hex_of(e.digest).startswith(digits)]
    if len({e.digest for e in found}) > 1:
        raise WrongState(f"image {reference!r} is ambiguous", why=", ".join(e.digest for e in found),
                         fix="give more digits")
    if not found:
        raise NotFound(f"image {reference!r} does not exist", fix="list the images: isoform image ls")
    return found[0]


def inspect(store: Store, reference: str) -> dict[str, object]:
    """Return all that is known of an image. Raises: NotFound."""
    entry = find(store, reference)
    info = next(i for i in images(store) if i.reference == entry.reference)
    manifest = json.loads(store.blob(entry.digest).read_bytes())
    config = json.loads(store.blob(manifest["config"]["digest"]).read_bytes())
    layers = [{"digest": d, "path": str(store.layer(d)), "size_bytes": _size(store.layer(d))} for d in info.layers]
    return {
        "reference": entry.reference, "name": entry.name, "kind": entry.kind, "source": entry.key,
        "digest": entry.digest, "created": entry.added, "architecture": config.get("architecture"),
        "unique_bytes": info.unique_bytes, "shared_bytes": info.shared_bytes, "layers": layers,
        "packages": _packages(store, info.layers), "config": config.get("config", {}),
    }


def _packages(store: Store, layers: Collection[str]) -> dict[str, str]:
    """Return name -> version of the Debian packages in layers that were built here."""
    for path in store.packages.glob("*.json"):
        kept = json.loads(path.read_bytes())
        if kept["diff_id"] in layers:
            return dict(sorted(kept["packages"].items()))
    return {}


async def remove(store: Store, reference: str, in_use: Collection[str]) -> None:
    """Remove an image and what no other image needs. Raises: NotFound; WrongState if an instance uses it."""
    find(store, reference)
    async with store.lock("index"):
        entry = find(store, reference)
        others = [e for e in store.entries() if e != entry]
        still = {layer for e in others for layer in _kept(store, e.digest)["layers"]}
        mine = set(_kept(store, entry.digest)["layers"])
        if used := (mine - still) & set(in_use):
            raise WrongState(f"image {reference!r} is in use", why=f"running instances need its layer {used.pop()}",
                             fix="take down the service that uses it first (isoform ps, isoform down)")
        store.save(others)
        if all(e.digest != entry.digest for e in others):
            _collect(store, in_use, within=_files(store, entry.digest))


async def prune(store: Store, in_use: Collection[str], every: bool) -> PruneReport:
    """Remove older builds, cut-off work and, with `every`, the images that no instance uses."""
    if not store.path.exists():
        return PruneReport((), (), (), 0)
    sweep(store.tmp)
    async with store.lock("index"):
        entries, used = store.entries(), set(in_use)
        gone = [e for e in entries if every and not (set(_kept(store, e.digest)["layers"]) <= used)]
        if gone:
            store.save([e for e in entries if e not in gone])
        return _collect(store, in_use, gone)


def _collect(store: Store, in_use: Collection[str], gone: Collection[Entry] = (), within: set[Path] | None = None
             ) -> PruneReport:
    """Remove what no image and no instance needs. The caller holds the lock "index".

    Args:
        within: remove nothing but these files, and what tells of them.
    """
    needed: set[Path] = {store.layer(diff_id) for diff_id in in_use}
    digests = {e.digest for e in store.entries()}
    for digest in digests:
        needed |= _files(store, digest)
    for path in store.packages.glob("*.json"):
        kept = json.loads(path.read_bytes())
        if store.blob(kept["digest"]) not in needed and (within is None or store.blob(kept["digest"]) in within):
            path.unlink()
        elif within is not None:
            needed.add(store.blob(kept["digest"]))
    if within is None:
        _sweep_halves(store)
    layers: list[str] = []
    blobs: list[str] = []
    freed = 0
    for folder, names in ((store.layers, layers), (store.blobs, blobs)):
        for path in list(folder.iterdir()):
            if path.suffix == ".json" or path in needed or (within is not None and path not in within):
                continue
            freed += _size(path)
            path.unlink()
            if folder == store.layers:
                path.with_suffix(".json").unlink(missing_ok=True)
            names.append(f"sha256:{path.name.removesuffix('.erofs')}")
    for path in store.ready.glob("*.json"):
        if f"sha256:{path.stem}" not in digests and not all(
                store.layer(d).exists() for d in json.loads(path.read_bytes())["layers"]):
            path.unlink()
    return PruneReport(tuple(e.reference for e in gone), tuple(layers), tuple(blobs), freed)


def _sweep_halves(store: Store) -> None:
    """Remove what killed processes left: files not yet renamed, users without their layer, locks that nobody holds."""
    for path in (store.path / ".index.json", *store.ready.glob(".*"), *store.packages.glob(".*")):
        path.unlink(missing_ok=True)
    for path in store.layers.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # whose layer appears just now: `has_layer` asks for both
            if not path.with_suffix(".erofs").exists():
                path.unlink()
    store.sweep_locks()
