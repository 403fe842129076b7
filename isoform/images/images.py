"""The images of a home: whatever the user names becomes layers that every form can use.

The common case, an image that is there and unchanged, is part of every start of a service: what only the others need
is imported where it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isoform.errors import DescriptorError, NotFound
from isoform.host.home import Home
from isoform.images.reference import KINDS, Reference, kind_of, parse
from isoform.images.store import Entry, Store, stamp
from isoform.model.image import Image
from isoform.model.progress import Progress, silent

if TYPE_CHECKING:
    from isoform.images.listing import ImageInfo, PruneReport


class Images:
    """Builds, pulls, unpacks, lists and removes images. Every verb may be repeated and may be cut off anywhere."""

    def __init__(self, home: Home, architecture: str) -> None:
        self._store, self._architecture = Store(home.images), architecture

    async def resolve(self, reference: str, base: Path, progress: Progress = silent) -> Image:
        """Return the image that a descriptor's `image:` names, unpacked; builds or fetches it only where needed.

        Args:
            base: the folder that relative paths are below.
        Raises: DescriptorError if it does not exist or is not valid; HostLacks; StepFailed.
        """
        wanted = parse(reference, base)
        return self._kept(wanted) or await self._obtain(wanted, progress)

    async def build(self, recipe: Path, progress: Progress = silent, name: str = "", fresh: bool = False) -> Image:
        """Build an image from a recipe; no work where nothing changed.

        Args:
            name: a short name by which descriptors can call it too.
            fresh: ask for the packages' newest versions, even where they are there already.
        """
        wanted = parse(str(recipe), Path())
        if kind_of(wanted) != "recipe":
            raise DescriptorError(f"{recipe} is not a recipe", fix="give a *.yaml file")
        if not fresh and (image := self._kept(wanted)) and (not name or self._named(wanted.key, name)):
            return image
        return await self._obtain(wanted, progress, name, fresh)

    async def pull(self, reference: str, progress: Progress = silent) -> Image:
        """Fetch an image anew from a registry, an archive or a layout."""
        wanted = parse(reference, Path())
        if not wanted.transport and wanted.path is None:
            raise NotFound(f"{reference!r} names no registry", fix=f"write docker://{reference}")
        return await self._obtain(wanted, progress, fresh=True)

    def list(self) -> Sequence[ImageInfo]:
        """Return all images of this home, by name."""
        from isoform.images.listing import images

        return images(self._store)

    def inspect(self, reference: str) -> dict[str, object]:
        """Return all that is known of an image. Raises: NotFound."""
        from isoform.images.listing import inspect

        return inspect(self._store, reference)

    async def remove(self, reference: str, in_use: Collection[str]) -> None:
        """Remove an image and those of its layers that no other image has.

        Args:
            in_use: digests of the layers that instances use.
        Raises: NotFound; WrongState if an instance uses it.
        """
        from isoform.images.listing import remove

        await remove(self._store, reference, in_use)

    async def prune(self, in_use: Collection[str], every: bool = False) -> PruneReport:
        """Remove what no image needs: older builds, packages no recipe names, what was cut off.

        Args:
            in_use: digests of the layers that instances use.
            every: also remove images that no instance uses.
        """
        from isoform.images.listing import prune

        return await prune(self._store, in_use, every)

    def _named(self, key: str, name: str) -> bool:
        entry = self._store.find(key)
        return entry is not None and entry.name == name

    def _kept(self, wanted: Reference) -> Image | None:
        """Return the image if it is in the store and what it was made from has not changed since."""
        entry = self._store.find(wanted.key)
        if entry is None or not entry.current:
            return None
        image = self._store.load_image(entry.digest, wanted.text)
        if image and wanted.pin and wanted.pin != entry.digest:
            return None  # the pin may be the configuration's: the long way tells
        return image

    async def _obtain(self, wanted: Reference, progress: Progress, name: str = "", fresh: bool = False) -> Image:
        from isoform.images.lock import sweep, workplace
        from isoform.images.unpack import disk_full, is_full

        try:
            self._store.prepare()
            sweep(self._store.tmp)
            async with self._store.lock(f"image-{name_of(wanted.key)}"):
                if not fresh and not name and (image := self._kept(wanted)):
                    return image  # another process had the same wish
                with workplace(self._store.tmp) as work:
                    return replace(await self._make(wanted, progress, name, fresh, work), reference=wanted.text)
        except OSError as error:
            if is_full(error):
                raise disk_full(f"image {wanted.text}", self._store.path) from error
            raise

    async def _make(self, wanted: Reference, progress: Progress, name: str, fresh: bool, work: tuple[Path, int]
                    ) -> Image:
        if wanted.path is None and not wanted.transport:
            return await self._again(wanted, progress, work)
        from isoform.images.tools import require

        kind = "docker" if wanted.path is None else kind_of(wanted)
        require(kind)
        entry = Entry(wanted.key, kind, "", 0, name, time.time())
        if kind == "recipe":
            from isoform.images.build import build  # pydantic and yaml: only where there is something to build

            digest, entry = await build(self._store, wanted, entry, self._architecture, work, progress, fresh)
        else:
            from isoform.images.transfer import fetch

            progress(f"image {wanted.text}", "fetching")
            inputs = () if wanted.path is None else (_stamp(wanted.path),)
            digest = await fetch(self._store, wanted, kind, self._architecture, work)
            entry = replace(entry, inputs=inputs)
        return await self._admit(wanted, digest, entry, work, progress)

    async def _again(self, wanted: Reference, progress: Progress, work: tuple[Path, int]) -> Image:
        """Return an image that is called by its name in the store, made anew where its sources changed."""
        entry = self._store.find(wanted.key)
        if entry is None:
            raise NotFound(f"image {wanted.text!r} does not exist",
                           why=f"neither a file nor an image in the store has that name; an image is {KINDS}",
                           fix=f"for an image of a registry write docker://{wanted.text}")
        if entry.current or not Path(entry.key).exists():
            return await self._admit(wanted, entry.digest, entry, work, progress)
        origin = replace(parse(entry.key, Path("/")), text=wanted.text, pin=wanted.pin)
        return await self._make(origin, progress, entry.name, False, work)

    async def _admit(self, wanted: Reference, digest: str, entry: Entry, work: tuple[Path, int],
                     progress: Progress) -> Image:
        from isoform.images.admit import Parts, admit, check

        fetched = work[0] / "blobs" / "sha256"

        def find(blob: str) -> Path:
            path = fetched / blob.removeprefix("sha256:")
            return path if path.exists() else self._store.blob(blob)

        parts = Parts(digest, find, f"image {wanted.text}")
        check(parts, self._architecture, wanted.pin)
        return await admit(self._store, parts, entry, work, progress)


def _stamp(path: Path) -> tuple[str, int, int, int, int]:
    return stamp(path / "index.json" if path.is_dir() else path)


def name_of(key: str) -> str:
    """Return a file name that stands for a key of any length."""
    from hashlib import sha256

    return sha256(key.encode()).hexdigest()[:32]
