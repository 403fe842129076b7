"""Real images for the tests of the forms, built once on this machine and shared between homes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from isoform.host import Home
from isoform.images import Images
from isoform.model import Image

RECIPES = Path(__file__).parent / "recipes"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def shared() -> Home:
    """Return the home whose store the tests' homes are filled from. It stays on the machine between sessions."""
    return Home(Path(f"/tmp/iso-images-{os.geteuid()}"))


async def recipe_image(home: Home, recipe: Path) -> Image:
    """Return the image of a recipe, in the store of `home`; mmdebstrap runs at most once per machine."""
    await Images(shared(), ARCHITECTURE).resolve(str(recipe), RECIPES)
    if not home.images.exists():  # files of the store are replaced, never changed: links do for copies
        shutil.copytree(shared().images, home.images, copy_function=os.link,
                        ignore=lambda folder, names: names if folder.endswith(("/tmp", "/locks")) else ())
    return await Images(home, ARCHITECTURE).resolve(str(recipe), RECIPES)


async def busybox_image(home: Home) -> Image:
    """Return an image with busybox alone; its entrypoint is `/bin/sh -c`, its command sleeps until SIGTERM."""
    return await recipe_image(home, RECIPES / "busybox.yaml")
