"""The system call filter: the profile that podman and CRI-O use, translated into the OCI's own form."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from isoform.errors import HostLacks
from isoform.forms.oci import capability
from isoform.model import Lack

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


def missing() -> list[Lack]:
    """Return what is missing for a filter."""
    if find_profile():
        return []
    return [Lack("a system call filter", f"none of {', '.join(PROFILES)} is there", f"sudo apt-get install {PACKAGE}")]


def rules(capabilities: Sequence[str], architecture: str) -> dict[str, Any]:
    """Return `linux.seccomp` for a process with these capabilities beside the default ones. Raises: HostLacks."""
    for lack in missing():
        raise HostLacks(f"this host lacks {lack.what}", why=lack.why, fix=lack.fix)
    return filter_for(find_profile(), frozenset(capability.granted(capabilities)["bounding"]), architecture)


class Compiled:
    """Filters as the kernel takes them, kept once a runtime has compiled them: libseccomp needs 20 ms for each.

    crun leaves what it compiled in its state, and takes it back by an annotation. Other runtimes know neither, and
    compile the filter that the configuration has all the same.
    Source: crun(1), "run.oci.seccomp_bpf_data".
    """

    ANNOTATION = "run.oci.seccomp_bpf_data"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, rules: Mapping[str, Any], runtime: str) -> Path:
        text = json.dumps([runtime, rules], sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def annotations(self, rules: Mapping[str, Any], runtime: str) -> dict[str, str]:
        """Return the annotation for `rules`, {} where they have not been compiled yet.

        Args:
            runtime: name and version.
        """
        try:
            return {self.ANNOTATION: base64.b64encode(self._file(rules, runtime).read_bytes()).decode()}
        except FileNotFoundError:
            return {}

    def keep(self, rules: Mapping[str, Any], runtime: str, compiled: bytes) -> None:
        """Keep what `rules` were compiled to, for the next time."""
        if not compiled:
            return
        file = self._file(rules, runtime)
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(f".{os.getpid()}")
        beside.write_bytes(compiled)
        beside.rename(file)


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
