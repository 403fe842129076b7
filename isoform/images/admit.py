"""An image that came from somewhere is checked, unpacked and filed."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from isoform.errors import DescriptorError, StepFailed
from isoform.images.store import Entry, Store, hex_of
from isoform.images.unpack import CHUNK, unpack
from isoform.images.users import resolve_user
from isoform.images.whiteout import merged
from isoform.model.image import Image
from isoform.model.progress import Progress

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(path: Path) -> str:
    """Return the digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


class Parts:
    """An OCI image in parts: its manifest, its configuration, and where each blob lies."""

    def __init__(self, digest: str, find: Callable[[str], Path], place: str) -> None:
        self.digest, self._find, self.place = digest, find, place
        self.manifest = self._json(digest, "manifest")
        config = self.manifest.get("config")
        self.config_digest = self._digest(config, "configuration")
        self.config = self._json(self.config_digest, "configuration")
        self.layers = [self._digest(layer, "layer") for layer in self._list(self.manifest.get("layers"))]
        rootfs = self.config.get("rootfs")
        diff_ids = self._list(rootfs.get("diff_ids") if isinstance(rootfs, dict) else None)
        self.diff_ids = [self._digest({"digest": diff_id}, "layer") for diff_id in diff_ids]
        if len(self.layers) != len(self.diff_ids) or not self.layers:
            raise self._bad(f"it lists {len(self.layers)} layers and {len(self.diff_ids)} digests of their content")

    @property
    def blobs(self) -> list[str]:
        """Digests of all that the image is made of."""
        return [self.digest, self.config_digest, *self.layers]

    def blob(self, digest: str) -> Path:
        """Return where a blob lies. Raises: DescriptorError if it is missing."""
        path = self._find(digest)
        if not path.exists():
            raise self._bad(f"blob {digest} is missing")
        return path

    def _bad(self, why: str) -> DescriptorError:
        return DescriptorError(f"{self.place} is not a valid OCI image", why=why, fix="get or make the image anew")

    def _list(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self._bad("its layers are not listed")
        return value

    def _digest(self, value: Any, what: str) -> str:
        digest = value.get("digest") if isinstance(value, dict) else None
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise self._bad(f"the digest of its {what} is {digest!r}")  # else it could name a path
        return digest

    def _json(self, digest: str, what: str) -> dict[str, Any]:
        content = self.blob(digest).read_bytes()
        found = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if found != digest:
            raise self._bad(f"its {what} has the digest {found}, not {digest}")
        try:
            value = json.loads(content)
        except ValueError as error:
            raise self._bad(f"its {what} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise self._bad(f"its {what} is not a JSON object")
        return value


def check(parts: Parts, architecture: str, pin: str) -> None:
    """Refuse an image that is for another machine, or another one than the digest names.

    Raises: DescriptorError.
    """
    theirs = parts.config.get("architecture") or "no architecture"
    if theirs != architecture:
        raise DescriptorError(f"{parts.place} is made for {theirs}; this host is {architecture}",
                              fix=f"give an image for {architecture}")
    if pin and pin not in (parts.digest, parts.config_digest):
        raise DescriptorError(f"{parts.place} does not match its digest",
                              why=f"{pin} is asked for; the image has {parts.digest}",
                              fix="get the right image, or mend the digest after `@`")


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return ["/bin/sh", "-c", value]
    return [str(word) for word in value or ()]


def _signal(text: str) -> str:
    if text.isdecimal() and int(text) in {int(s) for s in signal.Signals}:
        return signal.Signals(int(text)).name
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    return name if name in signal.Signals.__members__ or name.startswith("SIGRT") else "SIGTERM"


async def unpack_layers(store: Store, parts: Parts, work: tuple[Path, int], progress: Progress) -> None:
    """Unpack those layers of an image that are not yet, each once, whoever else wants it."""
    count = len(parts.layers)
    for index, (blob, diff_id) in enumerate(zip(parts.layers, parts.diff_ids, strict=True)):
        if store.has_layer(diff_id):
            continue
        doing, where = f"unpacking layer {index + 1} of {count}", f"layer {index + 1} of {parts.place}"
        progress(parts.place, doing, index / count)

        def say(fraction: float, doing: str = doing, done: int = index) -> None:
            progress(parts.place, doing, (done + fraction) / count)

        async with store.lock(f"layer-{hex_of(diff_id)}"):
            if store.has_layer(diff_id):
                continue  # another process was as quick
            try:
                await unpack(parts.blob(blob), diff_id, store.layer(diff_id), store.users(diff_id), work, where, say)
            except DescriptorError:
                _drop_damaged(store.blob(blob), blob)
                raise


def _drop_damaged(path: Path, digest: str) -> None:
    """Remove a blob of the store that is not what its name says, so that it is fetched anew."""
    if path.exists() and digest_of(path) != digest:
        path.unlink()


def describe(store: Store, parts: Parts) -> dict[str, Any]:
    """Return what the store keeps of an image whose layers are unpacked, for `Store.load_image`.

    Raises: DescriptorError if the image's user does not exist.
    """
    config = parts.config.get("config") or {}
    users = [json.loads(store.users(diff_id).read_bytes()) for diff_id in parts.diff_ids]
    user = resolve_user(str(config.get("User") or ""), merged(users, "passwd"), merged(users, "group"), parts.place)
    pairs = [text.partition("=") for text in config.get("Env") or ()]
    return {
        "layers": parts.diff_ids, "blobs": parts.blobs,
        "entrypoint": _words(config.get("Entrypoint")), "command": _words(config.get("Cmd")),
        "env": [(name, value) for name, _, value in pairs], "workdir": config.get("WorkingDir") or "/",
        "user": {name: getattr(user, name) for name in user.__slots__},
        "stop_signal": _signal(str(config.get("StopSignal") or "SIGTERM")),
        "architecture": parts.config["architecture"],
    }


async def admit(store: Store, parts: Parts, entry: Entry, work: tuple[Path, int], progress: Progress) -> Image:
    """Unpack an image's layers and file it; until the end nobody sees any of it.

    Raises: DescriptorError, HostLacks.
    """
    for _ in range(3):
        await unpack_layers(store, parts, work, progress)
        async with store.lock("index"):  # against a prune that meets layers which no image has yet
            if not all(store.has_layer(diff_id) for diff_id in parts.diff_ids):
                continue
            kept = describe(store, parts)
            for digest in parts.blobs:
                if not store.blob(digest).exists():
                    parts.blob(digest).rename(store.blob(digest))
            store.save_image(parts.digest, kept)
            size = store.blob(parts.digest).stat().st_size
            store.put(replace(entry, digest=parts.digest, size=size))
        image = store.load_image(parts.digest, entry.key)
        if image is not None:
            return image
    raise StepFailed(f"layers of {parts.place} vanish while it is unpacked", fix="let `isoform image prune` end first")
