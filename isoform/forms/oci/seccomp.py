"""The system call filter: the profile that podman and CRI-O use, translated into the OCI's own form."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# Debian and Ubuntu: package golang-github-containers-common, which skopeo brings along
PROFILES = ("/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json")
PACKAGE = "golang-github-containers-common"

_GO_NAMES = {"armhf": "arm", "ppc64el": "ppc64le", "i386": "386"}  # what Debian calls otherwise
_ARCHITECTURES = {
    "amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64", "arm": "SCMP_ARCH_ARM", "386": "SCMP_ARCH_X86",
    "ppc64le": "SCMP_ARCH_PPC64LE", "s390x": "SCMP_ARCH_S390X", "riscv64": "SCMP_ARCH_RISCV64",
}


def find_profile() -> str:
    """Return the path of the profile on this host, "" where there is none."""
    return next((path for path in PROFILES if Path(path).is_file()), "")


@functools.lru_cache(maxsize=4)
def _loaded(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_bytes())
    return content


@functools.lru_cache(maxsize=16)
def filter_for(path: str, capabilities: frozenset[str], architecture: str) -> dict[str, Any]:
    """Return `linux.seccomp` for the profile in the file `path`; the caller must not change it.

    Args:
        architecture: as Debian names it.
    """
    return translate(_loaded(path), capabilities, architecture)


def translate(profile: Mapping[str, Any], capabilities: Collection[str], architecture: str) -> dict[str, Any]:
    """Return the OCI form of a profile: its conditions on capabilities and architecture decided, the rest kept.

    Source: https://github.com/containers/common/blob/main/pkg/seccomp/types.go and config-linux.md of the OCI.
    """
    name = _GO_NAMES.get(architecture, architecture)
    native = _ARCHITECTURES.get(name, "")
    subs = next((entry.get("subArchitectures") or [] for entry in profile.get("archMap") or []
                 if entry["architecture"] == native), [])
    rules = []
    for rule in profile["syscalls"]:
        if not _applies(rule, capabilities, name):
            continue
        kept: dict[str, Any] = {"names": rule["names"], "action": rule["action"]}
        if rule.get("errnoRet") is not None:
            kept["errnoRet"] = rule["errnoRet"]
        if rule.get("args"):
            kept["args"] = rule["args"]
        rules.append(kept)
    result: dict[str, Any] = {"defaultAction": profile["defaultAction"], "syscalls": rules}
    if profile.get("defaultErrnoRet") is not None:
        result["defaultErrnoRet"] = profile["defaultErrnoRet"]
    if native:
        result["architectures"] = [native, *subs]
    return result


def _applies(rule: Mapping[str, Any], capabilities: Collection[str], architecture: str) -> bool:
    wants, bars = rule.get("includes") or {}, rule.get("excludes") or {}
    return (
        (not wants.get("arches") or architecture in wants["arches"])
        and all(name in capabilities for name in wants.get("caps") or ())
        and architecture not in (bars.get("arches") or ())
        and not any(name in capabilities for name in bars.get("caps") or ())
    )
