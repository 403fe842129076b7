"""An OCI image as every form sees it: read-only EROFS layers and what to run in them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """Who the entrypoint runs as, resolved from the image's own /etc/passwd and /etc/group."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    name: str = "root"
    home: str = "/root"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image, unpacked once into an EROFS file that all forms share."""

    digest: str  # the OCI diff_id, "sha256:…"
    path: str  # the EROFS file on the host, absolute
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is unpacked and ready to run in any form."""

    reference: str  # as the user wrote it
    digest: str  # of the OCI manifest, "sha256:…"
    layers: tuple[Layer, ...]  # lowest first, as in OCI
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    user: User = User()
    workdir: str = "/"
    stop_signal: str = "SIGTERM"
    architecture: str = "amd64"
