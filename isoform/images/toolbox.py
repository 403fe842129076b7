"""The guest's disk of tools: agent, ssh, a container runtime and kernel modules, from the host's own apt sources.

Pages of it are read only when a tool is used, and the host's page cache holds them once for all machines.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from isoform.host import run
from isoform.images import modules

TOOLS = ("qemu-guest-agent", "dropbear-bin", "crun", "conmon", "coreutils", "iproute2")
# Needed to install those packages, not to run them; the kernel's headers of a package are of no use either.
_LEFT_OUT = ("perl", "debconf", "dpkg", "usrmerge", "libperl", "libfile-", "libtext-", "libnumber-", "tar",
             "init-system-helpers", "gcc-", "libgdbm", "cdebconf", "libdebian")
_UNUSED = ("usr/share", "usr/include", "var", "etc", "usr/lib/systemd", "usr/lib/udev", "usr/lib/tmpfiles.d",
           "usr/lib/sysusers.d")


async def download(packages: tuple[str, ...], folder: Path) -> list[Path]:
    """Download `packages` with all that they depend on to `folder`; nothing is installed.

    An empty status file lets apt believe that nothing is there yet.
    """
    (folder / "partial").mkdir(parents=True)
    (folder / "status").touch()
    await run(["apt-get", "install", "-y", "-qq", "--download-only", "--no-install-recommends",
               "-o", f"Dir::State::status={folder / 'status'}", "-o", f"Dir::Cache::archives={folder}",
               "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", *packages], deadline_s=600)
    return sorted(folder.glob("*.deb"))


async def unpack(archives: list[Path], root: Path) -> None:
    """Unpack packages side by side into `root`, with /bin, /lib and /sbin merged into /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for archive in archives:
        if not archive.name.startswith(_LEFT_OUT):
            await run(["sh", "-c", 'dpkg-deb --fsys-tarfile "$0" | tar -x -C "$1" --keep-directory-symlink',
                       str(archive), str(root)])


async def make_tools(tree: Path, work: Path, target: Path) -> None:
    """Make the disk of tools.

    Args:
        tree: lib/modules/RELEASE of the guest's kernel.
        work: a folder to work in.
    """
    root = work / "tools"
    await unpack(await download(TOOLS, work / "archives"), root)
    for name in _UNUSED:
        shutil.rmtree(root / name, ignore_errors=True)
    await modules.copy_demand_modules(tree, root)
    await _add_host_key(root)
    await run(["mkfs.erofs", "-zlz4", "--all-root", "-T0", str(target), str(root)], deadline_s=300)


async def _add_host_key(root: Path) -> None:
    """Make the guest's host key with its own tool, which the host need not have."""
    key = root / "usr/lib/isoform/hostkey"
    key.parent.mkdir()
    loader = next((root / "usr").glob("lib*/ld-linux*.so.*"), None) or next((root / "usr/lib").glob("*/ld-linux*.so.*"))
    libraries = ":".join(str(path) for path in (root / "usr/lib").glob("*-linux-gnu*"))
    await run([str(loader), "--library-path", libraries, str(root / "usr/bin/dropbearkey"), "-t", "ed25519", "-f",
               str(key)])
