"""A folder of Debian packages: apt's choice, the host's own mirrors and keys, unpacked by mmdebstrap."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isoform.errors import DescriptorError, HostLacks, IsoformError, StepFailed
from isoform.host import process
from isoform.images.unpack import WITH_US, disk_full, is_full
from isoform.model.yamlpos import Document

DEFAULT_SUITE = "bookworm"
LONGEST_S = 1800.0
TARGET = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"  # of `apt-get indextargets`
KEYRINGS = {"debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
            "ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg"}
# Packages still ship /bin/x beside /usr/bin/x; the links must be there first, and tar then keeps to them.
_MERGE_USR = 'for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d" && ln -s "usr/$d" "$1/$d" || exit 1; done'
# The host's own package lists: apt verifies them again, and fetches only what has changed since.
_HOST_LISTS = 'cp -a /var/lib/apt/lists/*_* "$1/var/lib/apt/lists/" 2>/dev/null || true'
# mmdebstrap and all its children end with us: they are in a PID namespace of their own.
_ALONE = (*WITH_US, "unshare", "--fork", "--pid", "--kill-child", "--mount-proc")
_ABSENT = re.compile(r"E: (?:Unable to locate package |Package '?|Couldn't find any package by \S+ ')"
                     r"([a-z0-9][a-z0-9+.-]*)")
_NOISE = re.compile("^I:|unsandboxed|mmdebstrap failed to run|APT::Status-Fd")
_CLASH = re.compile(" : (?:Pre-?)?(?:Depends|Conflicts|Breaks): ")


@dataclass(frozen=True, slots=True)
class Package:
    """An unpacked package."""

    name: str
    version: str
    control: str  # its control file
    postinst: str  # its script, which was not run; "" where it has none


def host_release(os_release: str) -> tuple[str, str]:
    """Return distribution and suite of this host, ("debian", "bookworm"), from /etc/os-release's content."""
    words = dict(line.partition("=")[::2] for line in os_release.splitlines() if "=" in line)
    distribution, suite = (words.get(key, "").strip("\"'") for key in ("ID", "VERSION_CODENAME"))
    return (distribution, suite) if distribution in KEYRINGS and suite else ("debian", DEFAULT_SUITE)


def source_lines(targets: str, distribution: str, suite: str, keyring: str) -> list[str]:
    """Return sources.list lines for `suite` out of what apt on this host uses.

    Args:
        targets: output of `apt-get indextargets` in our format: URI, release, component, origin, one source a line.
    """
    releases = {suite, f"{suite}-updates", f"{suite}-security", f"{suite}/updates"}
    found: dict[tuple[str, str], list[str]] = {}
    for line in targets.splitlines():
        uri, release, component, origin = [*line.split("|"), "", "", ""][:4]
        if release in releases and origin.lower() in (distribution, ""):
            found.setdefault((uri, release), []).append(component)
    signed = f"[signed-by={keyring}] " if keyring else ""
    return [f"deb {signed}{uri} {release} {' '.join(dict.fromkeys(parts))}" for (uri, release), parts in found.items()]


async def suite_and_sources(suite: str) -> tuple[str, list[str]]:
    """Return the suite to build from, and its sources.list lines; none where mmdebstrap's own defaults serve."""
    distribution, own = host_release(Path("/etc/os-release").read_text())
    suite = suite or own
    if suite != own:
        return suite, []
    keyring = KEYRINGS[distribution]
    asked = await process.attempt(
        ["apt-get", "indextargets", "--format", TARGET, "Created-By: Packages"])
    return suite, source_lines(asked.out, distribution, suite, keyring if Path(keyring).exists() else "")


async def _apt_options() -> list[str]:
    """Return how this host's apt reaches its mirrors and keeps its lists: proxies, certificates, compression."""
    dump = (await process.attempt(["apt-config", "dump"])).out
    wanted = re.compile(r'Acquire::(?:https?::|Check-|Retries|ForceIPv|GzipIndexes)[^ ]* "[^"]+";')
    return [f"--aptopt={line}" for line in dump.splitlines() if wanted.fullmatch(line)]


async def unpack_packages(names: Sequence[str], suite: str, architecture: str, tree: Path, work: tuple[Path, int],
                          document: Document) -> list[Package]:
    """Unpack packages and all that they depend on below `tree`, which must not exist; no script of theirs runs.

    Raises: DescriptorError with the place of a package or suite that does not exist; HostLacks; StepFailed.
    """
    folder, lock = work
    suite, sources = await suite_and_sources(suite)
    hooks = (_MERGE_USR, _HOST_LISTS) if sources else (_MERGE_USR,)
    result = await process.attempt(
        [*_ALONE, "mmdebstrap", "--mode=root", "--variant=extract", f"--architectures={architecture}",
         f"--include={' '.join(names)}", *(f"--setup-hook={hook}" for hook in hooks),
         "--format=directory", "--skip=cleanup,chroot/mount", *await _apt_options(), suite, str(tree), *sources],
        # Its own temporary folders go where a build that is cut off is swept up.
        env={**os.environ, "TMPDIR": str(folder)}, pass_fds=(lock,), deadline_s=LONGEST_S,
    )
    if result.code != 0:
        raise _failure(result.err, names, suite, document, folder)
    return await _read_packages(tree / "var/cache/apt/archives", folder / "control")


def _failure(said: str, names: Sequence[str], suite: str, document: Document, folder: Path) -> IsoformError:
    for name in _ABSENT.findall(said):
        if name in names:
            place = document.where(("packages", list(names).index(name)))
            return DescriptorError(f"{place}: package {name!r} does not exist in {suite}",
                                   fix=f"search for its name at https://packages.debian.org/{suite}/{name}, or mend it")
    why = _gist(said)
    if is_full(StepFailed(said)):
        return disk_full(f"image {document.name}", folder)
    if "NO_PUBKEY" in said or "not signed" in said:
        return HostLacks(f"the archive keys of {suite} are not on this host", why=why,
                         fix="run: apt-get install debian-archive-keyring ubuntu-keyring")
    if "does not have a Release file" in said:
        return DescriptorError(f"{document.where(('suite',))}: suite {suite!r} does not exist", why=why,
                               fix="name a release of Debian or Ubuntu, for example bookworm")
    if "unmet dependencies" in said:
        return DescriptorError(f"{document.where(('packages',))}: these packages cannot be installed together", why=why,
                               fix="remove one of those that exclude each other")
    return StepFailed(f"building {document.name} failed", why=why, fix="check that `apt-get update` works on this host")


def _gist(said: str) -> str:
    """Return those lines of what apt and mmdebstrap said that tell a user why."""
    lines = [line.strip() for line in said.splitlines() if not _NOISE.search(line)]
    telling = [line for line in lines if line.startswith("E:") or _CLASH.search(line)]
    return "\n       ".join((telling or lines)[-6:])


async def _read_packages(archives: Path, into: Path) -> list[Package]:
    into.mkdir()
    script = 'for deb in "$0"/*.deb; do dpkg-deb --control "$deb" "$1/${deb##*/}" || exit 1; done'
    await process.run(["sh", "-c", script, str(archives), str(into)])
    return sorted((_package(folder) for folder in into.iterdir()), key=lambda package: package.name)


def _package(folder: Path) -> Package:
    control = (folder / "control").read_text(errors="replace")
    fields = dict(line.partition(": ")[::2] for line in control.splitlines() if not line.startswith(" "))
    postinst = folder / "postinst"
    return Package(fields["Package"], fields["Version"], control,
                   postinst.read_text(errors="replace") if postinst.exists() else "")
