"""Images from registries, archives and layouts, fetched by skopeo."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from isoform.errors import DescriptorError, IsoformError
from isoform.host import process
from isoform.images.reference import Reference
from isoform.images.store import Store
from isoform.images.unpack import WITH_US, disk_full

_LOG = re.compile(r'level=(?:fatal|error|warning) msg="((?:[^"\\]|\\.)*)"')


def source_of(reference: Reference, kind: str) -> str:
    """Return what skopeo calls an image."""
    if kind == "docker":
        return re.sub(r":[^:/@]+@", "@", reference.text.strip())  # skopeo takes a tag or a digest; the digest says all
    suffix = f":{reference.tag}" if reference.tag else ""
    return f"{kind}:{reference.path}{suffix}"


async def fetch(store: Store, reference: Reference, kind: str, architecture: str, work: tuple[Path, int]) -> str:
    """Copy an image into a workplace, checking every digest, and return the digest of its manifest.

    Its blobs are then in `blobs/sha256` of the workplace; those that the store has already are linked there, not
    copied again. Raises: DescriptorError, HostLacks.
    """
    folder, lock = work
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for blob in store.blobs.iterdir():
        with contextlib.suppress(OSError):  # pruned meanwhile, or a file system without links: then it is fetched
            os.link(blob, blobs / blob.name)
    layout = folder / "layout"
    result = await process.attempt(
        [*WITH_US, "skopeo", "copy", "--insecure-policy", "--quiet", "--override-arch", architecture,
         "--override-os", "linux", "--dest-oci-accept-uncompressed-layers",
         "--dest-shared-blob-dir", str(blobs.parent), source_of(reference, kind), f"oci:{layout}:image"],
        pass_fds=(lock,), deadline_s=None,
    )
    if result.code != 0:
        raise _failure(reference, kind, architecture, result.err, folder)
    index = json.loads((layout / "index.json").read_bytes())
    return str(index["manifests"][0]["digest"])


def _failure(reference: Reference, kind: str, architecture: str, said: str, folder: Path) -> IsoformError:
    found = _LOG.findall(said)
    why = found[-1].replace('\\"', '"') if found else said.strip()
    what = f"image {reference.text!r} cannot be read"
    if "no space left on device" in said:
        return disk_full(f"image {reference.text!r}", folder)
    if "no image found in manifest list" in said or "no image found in image index" in said:
        return DescriptorError(f"image {reference.text!r} has no variant for this host, {architecture}",
                               why=why, fix=f"give an image for {architecture}")
    if kind == "docker":
        return DescriptorError(f"image {reference.text!r} cannot be pulled", why=why,
                               fix="check its name, the network, and your login (skopeo login REGISTRY)")
    if "more than one image" in said or "no descriptor found" in said:
        return DescriptorError(what, why=why, fix=f"add one of its tags, as {reference.path}:TAG")
    return DescriptorError(what, why=why, fix="get or make the image anew")
