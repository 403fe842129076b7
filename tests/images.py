"""Real images for the tests of the forms, built once on this machine and shared between homes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import isoform.images
from isoform.host import Home
from isoform.images import Images
from isoform.model import Image

RECIPES = Path(__file__).parent / "recipes"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


MAKERS = ("build", "debian", "mend", "overlay", "pack", "recipe", "unpack", "whiteout")


def shared() -> Home:
    """Return the home that tests share; it stays on the machine between sessions."""
    return Home(Path(f"/tmp/iso-images-{os.geteuid()}"))


def source() -> Home:
    """Return the home whose store the tests' homes are filled from: one for each state of the code that makes it."""
    code = b"".join(Path(isoform.images.__path__[0], f"{name}.py").read_bytes() for name in MAKERS)
    return Home(Path(f"/tmp/iso-images-{os.geteuid()}-{hashlib.sha256(code).hexdigest()[:8]}"))


async def recipe_image(home: Home, recipe: Path) -> Image:
    """Return the image of a recipe, in the store of `home`; mmdebstrap runs at most once per machine."""
    await Images(source(), ARCHITECTURE).resolve(str(recipe), RECIPES)
    fill(home)
    return await Images(home, ARCHITECTURE).resolve(str(recipe), RECIPES)


def fill(home: Home) -> None:
    """Link what the source has into the store of `home`: the files of a store are replaced, never changed."""
    ours, theirs = home.images, source().images
    for name in ("blobs/sha256", "layers", "ready", "packages", "tmp", "locks"):
        (ours / name).mkdir(parents=True, exist_ok=True)
    found = [path for name in ("blobs/sha256", "layers", "ready", "packages") for path in (theirs / name).iterdir()]
    for path in (*found, theirs / "index.json", theirs / "oci-layout"):
        if not path.name.startswith("."):
            with contextlib.suppress(FileExistsError):
                os.link(path, ours / path.relative_to(theirs))


async def busybox_image(home: Home) -> Image:
    """Return an image with busybox alone; its entrypoint is `/bin/sh -c`, its command sleeps until SIGTERM."""
    return await recipe_image(home, RECIPES / "busybox.yaml")
