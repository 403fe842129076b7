"""The image store on disk: an OCI layout (blobs, index.json), the unpacked layers, and what is known of each.

    oci-layout, index.json, blobs/sha256/HEX    a layout that other tools can read; names live in index.json
    layers/HEX.erofs, layers/HEX.json           a layer by its diff_id: unpacked, and the users that it defines
    ready/HEX.json                              an image by its manifest: all that `resolve` answers with
    packages/KEY.json                           a layer of Debian packages, by suite and package list
    tmp/, locks/                                work under way
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isoform.model.image import Image, Layer, User

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
_OURS = "io.isoform."
MAKER = 1  # raise when the same recipe and packages would make another image: then all are made anew
Stamp = tuple[str, int, int, int, int]  # of an input file: path, inode, size, mtime in ns, ctime in ns


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that the store knows under a reference."""

    key: str  # docker://…, or an absolute path
    kind: str  # "recipe", "oci", "oci-archive", "docker-archive", "docker"
    digest: str  # of the manifest
    size: int  # of the manifest, bytes
    name: str = ""  # a short name that the user gave
    added: float = 0.0  # seconds since the epoch
    inputs: tuple[Stamp, ...] = ()  # the files that it was made from, as they were then
    maker: int = MAKER  # of a recipe's image: which generation of this code made it

    @property
    def current(self) -> bool:
        """Return whether it would come out the same if it were made now."""
        return unchanged(self.inputs) and (self.kind != "recipe" or self.maker == MAKER)

    @property
    def reference(self) -> str:
        """What users call it."""
        return self.name or self.key


def stamp(path: Path) -> Stamp:
    """Return what changes when a file does."""
    seen = path.stat()
    return (str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def unchanged(inputs: tuple[Stamp, ...]) -> bool:
    """Return whether all files are as they were."""
    try:
        return all(stamp(Path(old[0])) == old for old in inputs)
    except OSError:
        return False


def write(path: Path, content: bytes, folder: Path | None = None) -> None:
    """Write a file beside (or in `folder`), sync it, and rename it into place. Callers hold a lock on `path`."""
    beside = (folder or path.parent) / f".{path.name}"
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def sync_folder(path: Path) -> None:
    """Make renames in a folder last."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def hex_of(digest: str) -> str:
    """Return the digits of a digest "sha256:…"."""
    return digest.partition(":")[2]


class Store:
    """Where everything lies, and the index. Decisions are made elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs, self.layers = path / "blobs" / "sha256", path / "layers"
        self.ready, self.packages = path / "ready", path / "packages"
        self.tmp, self._locks = path / "tmp", path / "locks"

    def prepare(self) -> None:
        """Make the folders. For root alone: image content is setuid as often as not."""
        if (self.path / "oci-layout").exists():
            return
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.blobs, self.layers, self.ready, self.packages, self.tmp, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        mine = self.path / f".oci-layout.{os.getpid()}"  # no lock yet: several processes may be the first
        mine.write_bytes(b'{"imageLayoutVersion": "1.0.0"}')
        mine.rename(self.path / "oci-layout")

    def lock(self, what: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Return the lock on `what`. Whoever takes several takes them in the order image, packages, layer, index."""
        from isoform.images.lock import locked

        return locked(self._locks / what)

    def sweep_locks(self) -> None:
        """Remove lock files that nobody holds."""
        from isoform.images.lock import sweep_locks

        sweep_locks(self._locks)

    def blob(self, digest: str) -> Path:
        """Return where a blob is kept."""
        return self.blobs / hex_of(digest)

    def layer(self, diff_id: str) -> Path:
        """Return where an unpacked layer is kept."""
        return self.layers / f"{hex_of(diff_id)}.erofs"

    def users(self, diff_id: str) -> Path:
        """Return where a layer's own /etc/passwd and /etc/group are kept."""
        return self.layers / f"{hex_of(diff_id)}.json"

    def has_layer(self, diff_id: str) -> bool:
        """Return whether a layer is unpacked."""
        return self.layer(diff_id).exists() and self.users(diff_id).exists()

    def entries(self) -> list[Entry]:
        """Return the index. Reads one file."""
        try:
            manifests = json.loads((self.path / "index.json").read_bytes())["manifests"]
        except FileNotFoundError:
            return []
        return [entry for row in manifests if (entry := _entry(row))]

    def find(self, key: str) -> Entry | None:
        """Return the image filed under a key, or else under a name."""
        entries = self.entries()
        return next((e for e in entries if e.key == key), None) or next((e for e in entries if e.name == key), None)

    def save(self, entries: list[Entry]) -> None:
        """Replace the index. The caller holds the lock "index"."""
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                 "manifests": [_row(entry) for entry in entries]}
        write(self.path / "index.json", json.dumps(index, indent=1).encode())
        sync_folder(self.path)

    def put(self, entry: Entry) -> None:
        """File an image under its key and its name. The caller holds the lock "index"."""
        entries = self.entries()
        before = next((e for e in entries if e.key == entry.key), entry)
        entry = replace(entry, name=entry.name or before.name)
        others = [replace(e, name="") if e.name == entry.name else e for e in entries if e.key != entry.key]
        self.save([*others, entry])

    def load_image(self, digest: str, reference: str) -> Image | None:
        """Return the image of a manifest; None unless all its layers are unpacked."""
        try:
            kept = json.loads((self.ready / f"{hex_of(digest)}.json").read_bytes())
            layers = tuple(Layer(d, str(p := self.layer(d)), p.stat().st_size) for d in kept["layers"])
        except FileNotFoundError:
            return None
        user = dict(kept["user"], groups=tuple(kept["user"]["groups"]))
        return Image(
            reference=reference, digest=digest, layers=layers, entrypoint=tuple(kept["entrypoint"]),
            command=tuple(kept["command"]), env=tuple((k, v) for k, v in kept["env"]), user=User(**user),
            workdir=kept["workdir"], stop_signal=kept["stop_signal"], architecture=kept["architecture"],
        )

    def save_image(self, digest: str, kept: dict[str, Any]) -> None:
        """Keep what `load_image` reads back: the parts of an Image, and "blobs", the digests that it is made of."""
        write(self.ready / f"{hex_of(digest)}.json", json.dumps(kept).encode())


def _row(entry: Entry) -> dict[str, Any]:
    ours = {"key": entry.key, "kind": entry.kind, "added": str(entry.added), "name": entry.name,
            "inputs": json.dumps(entry.inputs), "maker": str(entry.maker)}
    notes = {_OURS + name: value for name, value in ours.items() if value}
    return {"mediaType": MANIFEST, "digest": entry.digest, "size": entry.size,
            "annotations": {REF_NAME: entry.name or entry.key.removeprefix("docker://").lstrip("/"), **notes}}


def _entry(row: dict[str, Any]) -> Entry | None:
    notes = row.get("annotations", {})
    if _OURS + "key" not in notes:
        return None  # put there by another tool
    inputs = tuple(tuple(one) for one in json.loads(notes.get(_OURS + "inputs", "[]")))
    return Entry(
        key=notes[_OURS + "key"], kind=notes[_OURS + "kind"], digest=row["digest"], size=row["size"],
        name=notes.get(_OURS + "name", ""), added=float(notes.get(_OURS + "added", "0")),
        inputs=inputs, maker=int(notes.get(_OURS + "maker", "0")),
    )
