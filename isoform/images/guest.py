"""The guest of virtual machines: a kernel, an initramfs with our init, a disk of tools. Made once, shared by all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import platform
import shutil
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from isoform.errors import HostLacks, StepFailed
from isoform.host import Home, run
from isoform.images import kernel, modules
from isoform.images.lock import locked, workplace
from isoform.images.toolbox import TOOLS, make_tools
from isoform.model import Progress, silent

log = logging.getLogger(__name__)
SCRIPTS = Path(__file__).with_name("initramfs")
_PLACES = {"init.sh": "init", "tools.sh": "sbin/tools", "modprobe.sh": "sbin/modprobe", "enter.sh": "sbin/enter",
           "session.sh": "sbin/session"}
# The tools' disk is mounted where these point to; until then they lead nowhere.
_LINKS = {"usr": "run/isoform/tools/usr", "lib": "run/isoform/tools/usr/lib", "lib64": "run/isoform/tools/usr/lib64"}
_FOLDERS = ("dev", "proc", "sys", "fn", "tmp", "etc", "run/isoform/disk", "run/isoform/tools", "root/.ssh",
            "dev.d/pts", "dev.d/shm", "dev.d/.isoform", "dev.d/virtio-ports")
# Laid over /dev, which the kernel fills with devices alone.
_DEV_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
              "stderr": "/proc/self/fd/2"}
_RECIPE = 3  # counts up when this code changes what it makes
_AGAIN_S = 3600.0  # after a renewal that failed
_KEPT = 2  # versions: a machine may be starting from the one before


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """What QEMU is given to start a virtual machine."""

    kernel: Path
    initrd: Path
    tools: Path  # an EROFS image
    key: Path  # private key that the guest's ssh accepts
    version: str


class Guest:
    """Makes the guest from the kernel that apt offers, and keeps it in the home."""

    def __init__(self, home: Home, architecture: str, root: Path | None = None) -> None:
        """Take the folder that guests are kept in from `home`, or `root`, so that several homes share them."""
        self._architecture, self._root = architecture, root or home.guest

    async def ensure(self, progress: Progress = silent) -> GuestFiles:
        """Return the newest guest, made now if it is not there. Raises: HostLacks, StepFailed."""
        found = self._current()
        if found is None:
            self._root.mkdir(parents=True, exist_ok=True)
            async with locked(self._root / "lock"):
                found = self._current() or await self._renewed(progress)
        return found

    def _files(self, version: str) -> GuestFiles | None:
        folder = self._root / version
        files = GuestFiles(folder / "kernel", folder / "initrd", folder / "tools.erofs", self._root / "key", version)
        return files if version and folder.is_dir() and files.key.exists() else None

    def _current(self) -> GuestFiles | None:
        """Return the guest that was up to date when apt's lists were as they are now."""
        try:
            kept = json.loads((self._root / "current.json").read_text())
        except (OSError, ValueError):
            return None
        if kept["lists"] != _lists() or kept["recipe"] != recipe() or time.time() > kept.get("until_s", math.inf):
            return None
        return self._files(kept["version"])

    async def _renewed(self, progress: Progress) -> GuestFiles:
        lists = _lists()
        try:
            package = await kernel.newest(self._architecture)
            version = f"{package.release}-{package.version.replace(':', '_')}-{recipe()}"
            if self._files(version) is None:
                await self._make(version, package, progress)
        except (HostLacks, StepFailed) as error:  # apt's lists were removed, or the host is offline
            if (kept := self._any()) is None:
                raise
            log.warning("guest not renewed, the one before goes on", extra={"version": kept.version, "why": str(error)})
            self._note({"version": kept.version, "lists": lists, "recipe": recipe(), "until_s": time.time() + _AGAIN_S})
            return kept
        self._note({"version": version, "lists": lists, "recipe": recipe()})
        self._prune(version)
        found = self._files(version)
        assert found is not None
        return found

    def _note(self, current: dict[str, object]) -> None:
        note = self._root / "current.json.new"
        note.write_text(json.dumps(current))
        note.replace(self._root / "current.json")

    def _any(self) -> GuestFiles | None:
        made = sorted(self._root.glob(f"*-{recipe()}"), key=lambda path: path.stat().st_mtime)
        return self._files(made[-1].name) if made else None

    def _prune(self, version: str) -> None:
        others = [path for path in self._root.iterdir() if (path / "initrd").exists() and path.name != version]
        for path in sorted(others, key=lambda path: path.stat().st_mtime)[:1 - _KEPT]:
            shutil.rmtree(path, ignore_errors=True)

    async def _make(self, version: str, package: kernel.KernelPackage, progress: Progress) -> None:
        with workplace(self._root) as (work, _):
            made = work / "made"
            made.mkdir()
            progress("guest", f"downloading kernel {package.release}", 0.0)
            tree = await self._unpack_kernel(package, work, made)
            progress("guest", "making its initramfs", 0.3)
            await self._make_initrd(tree, work / "initramfs", made / "initrd")
            progress("guest", "downloading its tools", 0.4)
            await make_tools(tree, work, made / "tools.erofs")
            progress("guest", "made", 1.0)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._root / version)  # half of one cannot be there, one without its key can
            made.chmod(0o755)
            made.rename(self._root / version)

    async def _unpack_kernel(self, package: kernel.KernelPackage, work: Path, made: Path) -> Path:
        """Return lib/modules/RELEASE of the unpacked packages; the kernel goes to `made`."""
        unpacked = work / "kernel"
        await run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *package.packages], cwd=str(work),
                  deadline_s=600)
        for archive in sorted(work.glob("*.deb")):
            await run(["dpkg-deb", "-x", str(archive), str(unpacked)])
            archive.unlink()
        image = next(unpacked.glob("boot/vmlinu[xz]-*"))
        await kernel.unpack_kernel(image, made / "kernel")
        tree = next(path for place in ("lib/modules", "usr/lib/modules") for path in unpacked.glob(f"{place}/*"))
        base = unpacked / "usr" if tree.is_relative_to(unpacked / "usr") else unpacked
        await run(["depmod", "-b", str(base), tree.name])
        return tree

    async def _make_initrd(self, tree: Path, folder: Path, target: Path) -> None:
        for name in _FOLDERS:
            (folder / name).mkdir(parents=True)
        await _copy_busybox(folder)
        for name, place in _PLACES.items():
            (folder / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(SCRIPTS / name, folder / place)
            (folder / place).chmod(0o755)
        for name, place in _LINKS.items():
            (folder / name).symlink_to(f"/{place}")
        for name, target_path in _DEV_LINKS.items():
            (folder / "dev.d" / name).symlink_to(target_path)
        os.mkfifo(folder / "run/isoform/out", 0o600)
        (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (folder / "etc/group").write_text("root:x:0:\n")
        await self._add_key(folder / "root/.ssh/authorized_keys")
        await modules.copy_boot_modules(tree, folder / "modules")
        listing = "\0".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))).encode()
        await run(["cpio", "-o", "-0", "-H", "newc", "--quiet", "-R", "0:0", "-F", str(target)], stdin=listing,
                  cwd=str(folder))

    async def _add_key(self, authorized: Path) -> None:
        key = self._root / "key"
        if not key.exists():
            new = self._root / "key.new"
            for path in (new, Path(f"{new}.pub")):
                path.unlink(missing_ok=True)
            await run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "isoform", "-f", str(new)])
            Path(f"{new}.pub").replace(f"{key}.pub")
            new.replace(key)
        authorized.write_text(Path(f"{key}.pub").read_text())
        authorized.parent.chmod(0o700)
        authorized.chmod(0o600)


async def _copy_busybox(folder: Path) -> None:
    """Copy the host's static busybox with a link for each of its commands."""
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    data = Path(busybox).read_bytes() if busybox else b""
    if not _is_static(data):
        raise HostLacks("there is no static busybox", why=f"found {busybox or 'none'}",
                        fix="run: apt-get install busybox-static")
    (folder / "bin").mkdir()
    (folder / "bin/busybox").write_bytes(data)
    (folder / "bin/busybox").chmod(0o755)
    for name in (await run([str(busybox), "--list"])).out.split():
        if name != "busybox":
            (folder / "bin" / name).symlink_to("busybox")


def _is_static(program: bytes) -> bool:
    """Return whether a 64-bit ELF program runs without a loader: it has no PT_INTERP (3) header. Source: elf(5)."""
    if not program.startswith(b"\x7fELF\x02"):
        return False
    (start,), (size, count) = struct.unpack_from("<Q", program, 0x20), struct.unpack_from("<HH", program, 0x36)
    return all(struct.unpack_from("<I", program, start + at * size)[0] != 3 for at in range(count))


def recipe() -> str:
    """Return eight hex digits that change when the guest must be made anew from the same kernel."""
    text = hashlib.sha256(f"{_RECIPE} {' '.join(TOOLS)} {platform.machine()}".encode())
    for name in _PLACES:
        text.update((SCRIPTS / name).read_bytes())
    text.update(repr((modules.BOOT, modules.LATER, modules.ON_DEMAND)).encode())
    return text.hexdigest()[:8]


def _lists() -> int:
    """Return when apt's package lists last changed; 0 where there are none."""
    with contextlib.suppress(OSError):
        return Path("/var/lib/apt/lists").stat().st_mtime_ns
    return 0
