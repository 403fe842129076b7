"""OCI images made by hand, byte by byte, so that tests can make wrong ones too."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
Member = tuple[tarfile.TarInfo, bytes]


def sh(*argv: str | Path) -> bytes:
    """Run a command that must succeed and return what it printed."""
    return subprocess.run(argv, capture_output=True, check=True).stdout


def member(name: str, content: bytes | str = b"", **fields: Any) -> Member:
    """Return one entry of a layer; fields are those of TarInfo (type, linkname, mode, uid, pax_headers, …)."""
    data = content.encode() if isinstance(content, str) else content
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def folder(name: str, mode: int = 0o755) -> Member:
    return member(name, type=tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str) -> Member:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> Member:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*members: Member) -> bytes:
    """Return a layer's tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def packed(data: bytes, how: str) -> tuple[bytes, str]:
    """Return a layer's blob and media type; how: "", "gzip" or "zstd"."""
    if how == "gzip":
        return gzip.compress(data, mtime=0), f"{LAYER}+gzip"
    if how == "zstd":
        return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout, f"{LAYER}+zstd"
    return data, LAYER


def layout(path: Path, layers: Sequence[bytes], *, how: str = "gzip", architecture: str = "amd64", tag: str = "",
           diff_ids: Sequence[str] = (), **config: Any) -> Path:
    """Write an OCI layout with one image, or add one under another tag; return its path.

    Args:
        diff_ids: what the configuration says of the layers' content; () for the truth.
        config: Entrypoint, Cmd, Env, User, WorkingDir, StopSignal.
    """
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    rows = [put(*packed(layer, how)) for layer in layers]
    about = {"architecture": architecture, "os": "linux", "config": config,
             "rootfs": {"type": "layers", "diff_ids": list(diff_ids) or [digest(layer) for layer in layers]}}
    row = put(json.dumps(about).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = put(json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": row, "layers": rows}).encode(),
                   MANIFEST)
    if tag:
        manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = path / "index.json"
    before = json.loads(index.read_text())["manifests"] if index.exists() else []
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*before, manifest]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path
