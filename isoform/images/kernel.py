"""The guest's kernel: which package apt offers, and the uncompressed image that QEMU starts fastest."""

from __future__ import annotations

import contextlib
import lzma
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from isoform.errors import HostLacks, StepFailed
from isoform.host import attempt, run

# Small kernels for virtual machines first: Debian's, then Ubuntu's, then Debian's for any machine.
METAPACKAGES = ("linux-image-cloud-{0}", "linux-image-virtual", "linux-image-{0}")
_MODULES = re.compile(r"linux-modules(?:-extra)?-[0-9]")  # Ubuntu packs modules beside the image
_IMAGE = re.compile(r"linux-image-(?:unsigned-)?[0-9]")
# Source: Linux, arch/x86/boot/header.S and Documentation/x86/boot.rst: setup_sects, payload_offset, payload_length.
_SETUP_SECTORS, _PAYLOAD_OFFSET, _PAYLOAD_LENGTH, _SECTOR = 0x1F1, 0x248, 0x24C, 512
_MAGICS = ((b"\x1f\x8b", "gzip"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4"))
# The ELF note (namesz 4, type 18 XEN_ELFNOTE_PHYS32_ENTRY, "Xen") without which QEMU cannot start a vmlinux.
_PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """A kernel that apt offers: all packages that hold its image and its modules."""

    packages: tuple[str, ...]  # the image's first
    version: str  # of the image's package: "6.1.192-2"

    @property
    def release(self) -> str:
        """What `uname -r` says in it: "6.1.0-56-cloud-amd64"."""
        return re.sub(r"^linux-image-(unsigned-)?", "", self.packages[0])


def depends(show: str) -> list[str]:
    """Return the names in `Depends:` of the first package that `apt-cache show` printed; of alternatives, the first."""
    line = re.search(r"^Depends: (.*)$", show, re.MULTILINE)
    return [entry.split("|")[0].split()[0].split(":")[0] for entry in line[1].split(",")] if line else []


def version(show: str) -> str:
    """Return `Version:` of the first package in the output of `apt-cache show`."""
    line = re.search(r"^Version: (\S+)$", show, re.MULTILINE)
    return line[1] if line else ""


async def _show(package: str) -> str:
    return (await attempt(["apt-cache", "show", "--no-all-versions", package])).out


async def newest(architecture: str) -> KernelPackage:
    """Return the newest kernel for guests that this host's apt offers.

    Raises: HostLacks if it offers none.
    """
    for name in (pattern.format(architecture) for pattern in METAPACKAGES):
        image = next((entry for entry in depends(await _show(name)) if _IMAGE.match(entry)), None)
        shown = await _show(image) if image else ""
        if image and version(shown):
            modules = tuple(entry for entry in depends(shown) if _MODULES.match(entry))
            return KernelPackage((image, *modules), version(shown))
    raise HostLacks("apt offers no kernel for virtual machines",
                    why=f"none of {', '.join(METAPACKAGES).format(architecture)} is known to it",
                    fix="run: apt-get update")


def payload(image: bytes) -> tuple[str, bytes]:
    """Return (compression, data) of the kernel inside an x86 bzImage; ("", b"") where `image` is none.

    compression: "gzip", "xz", "zstd", "lz4" or "".
    """
    if image[0x202:0x206] != b"HdrS":
        return "", b""
    setup = image[_SETUP_SECTORS] or 4  # 0 means 4, for very old kernels
    offset, length = (struct.unpack_from("<I", image, at)[0] for at in (_PAYLOAD_OFFSET, _PAYLOAD_LENGTH))
    start = (setup + 1) * _SECTOR + offset
    data = image[start:start + length]
    return next(((name, data) for magic, name in _MAGICS if data.startswith(magic)), ("", b""))


def starts_by_pvh(vmlinux: bytes) -> bool:
    """Return whether QEMU can start this uncompressed kernel by itself, without the decompressor in front."""
    return vmlinux.startswith(b"\x7fELF") and _PVH_NOTE.search(vmlinux) is not None


async def _decompress(compression: str, data: bytes, target: Path) -> None:
    if compression == "gzip":
        target.write_bytes(zlib.decompressobj(wbits=31).decompress(data))
    elif compression == "xz":
        target.write_bytes(lzma.LZMADecompressor().decompress(data))
    else:
        packed = target.with_name(f"{target.name}.{compression}")
        packed.write_bytes(data[:-4])  # the last four bytes, its unpacked size, were appended by the kernel's build
        await run([compression, "-dqf", str(packed), *(["-o"] if compression == "zstd" else []), str(target)])
        packed.unlink()


async def unpack_kernel(image: Path, target: Path) -> None:
    """Write to `target` the kernel that QEMU starts fastest: the vmlinux inside `image`, or `image` itself.

    Source: measured under TCG, microvm: 0.8 s less than with the decompressor running in the guest.
    """
    data = image.read_bytes()
    compression, packed = payload(data)
    if compression:
        with contextlib.suppress(lzma.LZMAError, zlib.error, HostLacks, StepFailed):  # slower is better than none
            await _decompress(compression, packed, target)
            if starts_by_pvh(target.read_bytes()):
                return
    target.write_bytes(data)
