"""What a descriptor's `image:` may say, and what each way of saying it stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from isoform.errors import DescriptorError

_PIN = re.compile(r"@(sha256:[0-9a-f]{64})$")
_TRANSPORT = re.compile(r"([a-z][a-z0-9-]*):")
FILES = ("oci", "oci-archive", "docker-archive")
KINDS = ("a recipe (*.yaml), an OCI layout folder, an OCI or Docker archive, docker://NAME, "
         "oci:PATH, oci-archive:PATH, docker-archive:PATH, or the name of an image in the store")


@dataclass(frozen=True, slots=True)
class Reference:
    """An `image:` taken apart, without a look at the disk beyond whether a path exists."""

    text: str  # as written
    key: str  # what it is filed under in the store: docker://…, an absolute path with its tag, or a name
    transport: str = ""  # "docker", "oci", "oci-archive", "docker-archive"; "": a path whose content tells, or a name
    path: Path | None = None  # absolute; None: not a file
    tag: str = ""  # of the image inside a layout or an archive
    pin: str = ""  # "sha256:…" that the manifest or config must have; docker:// pins are skopeo's to check


def _split_tag(text: str, base: Path) -> tuple[Path, str]:
    whole = base / text
    if whole.exists() or ":" not in text:
        return whole, ""
    path, _, tag = text.partition(":")
    return base / path, tag


def parse(text: str, base: Path) -> Reference:
    """Return the parts of an `image:`.

    Args:
        base: the folder that relative paths are below.
    Raises: DescriptorError if it is of no known kind.
    """
    bare = text.strip()
    if not bare:
        raise DescriptorError("image: no image is named", fix=f"give {KINDS}")
    if bare.startswith("docker://"):
        if len(bare) == len("docker://") or any(c.isspace() for c in bare):
            raise DescriptorError(f"image {text!r} names nothing", fix="write for example docker://debian:12")
        return Reference(text, bare, "docker")
    pinned = _PIN.search(bare)
    pin, bare = (pinned[1], bare[: pinned.start()]) if pinned else ("", bare)
    match = _TRANSPORT.match(bare)
    if match and match[1] in FILES:
        path, tag = _split_tag(bare[match.end():], base)
        return _file(text, path, tag, pin, match[1])
    if match and bare[match.end():].startswith("//"):
        raise DescriptorError(f"image {text!r} is of an unknown kind, {match[1]}://", fix=f"give {KINDS}")
    path, tag = _split_tag(bare, base)
    if "/" in bare or bare.endswith((".yaml", ".yml")) or bare in (".", "..") or path.exists():
        return _file(text, path, tag, pin, "")
    return Reference(text, bare, pin=pin)


def _file(text: str, path: Path, tag: str, pin: str, transport: str) -> Reference:
    path = Path(*path.absolute().parts)
    return Reference(text, f"{path}:{tag}" if tag else str(path), transport, path, tag, pin)


def kind_of(reference: Reference) -> str:
    """Return what a reference's path holds: "recipe", "oci", "oci-archive" or "docker-archive".

    Raises: DescriptorError if it does not exist or is none of these.
    """
    path = reference.path
    assert path is not None
    if not path.exists():
        raise DescriptorError(f"image {reference.text!r}: {path} does not exist", fix="mend the path")
    if reference.transport:
        return reference.transport
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return "recipe"
    if path.is_dir():
        if (path / "oci-layout").is_file():
            return "oci"
        raise DescriptorError(f"image {reference.text!r}: folder {path} is not an OCI image layout",
                              why="it has no file oci-layout", fix=f"give {KINDS}")
    return _archive_kind(reference, path)


def _archive_kind(reference: Reference, path: Path) -> str:
    import tarfile

    names = set()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                names.add(member.name.removeprefix("./"))
                if "manifest.json" in names:  # newer Docker writes both kinds into one file; this one is complete
                    return "docker-archive"
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DescriptorError(f"image {reference.text!r}: {path} cannot be read as an archive",
                              why=str(error), fix=f"give {KINDS}") from error
    if "oci-layout" in names:
        return "oci-archive"
    raise DescriptorError(f"image {reference.text!r}: {path} is not an image",
                          why="it has neither oci-layout nor manifest.json", fix=f"give {KINDS}")
