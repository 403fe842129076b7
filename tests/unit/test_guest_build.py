"""Of the guest's build what needs no network: kernels, modules, packages."""

from __future__ import annotations

import json
import logging
import struct
import time
import zlib
from pathlib import Path

import pytest

from isoform.errors import StepFailed
from isoform.host import Home
from isoform.images import guest, kernel, modules

META = "Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n"
UBUNTU = ("Package: linux-image-6.8.0-1-generic\nVersion: 6.8.0-1.2\n"
          "Depends: kmod, linux-base (>= 4.5), linux-modules-6.8.0-1-generic\nDepends-Other: x\n")
DEP = """kernel/virtio-ring.ko.xz:
kernel/virtio.ko.xz: kernel/virtio-ring.ko.xz
kernel/net_failover.ko.xz: kernel/failover.ko.xz
kernel/failover.ko.xz:
kernel/virtio_net.ko.xz: kernel/net_failover.ko.xz kernel/failover.ko.xz kernel/virtio.ko.xz kernel/virtio-ring.ko.xz
"""


def bzimage(payload: bytes) -> bytes:
    head = bytearray(5 * 512)
    head[0x1F1] = 4
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + bytes(16) + payload + b"rest"


def test_packages_are_read_from_apt() -> None:
    assert kernel.depends(META) == ["linux-image-6.1.0-56-cloud-amd64"]
    assert kernel.depends(UBUNTU) == ["kmod", "linux-base", "linux-modules-6.8.0-1-generic"]
    assert kernel.version(UBUNTU) == "6.8.0-1.2"
    assert kernel.depends("") == []


def test_a_release_is_named_by_its_package() -> None:
    assert kernel.KernelPackage(("linux-image-unsigned-6.8.0-1-generic",), "1").release == "6.8.0-1-generic"


def test_the_payload_is_found_in_a_bzimage() -> None:
    packed = zlib.compress(b"kernel", wbits=31)
    assert kernel.payload(bzimage(packed)) == ("gzip", packed)
    assert kernel.payload(bzimage(b"????")) == ("", b"")
    assert kernel.payload(b"MZ" + bytes(4096)) == ("", b"")


@pytest.mark.parametrize("compressed", [True, False])
async def test_a_kernel_that_cannot_start_by_pvh_stays_as_it_is(tmp_path: Path, compressed: bool) -> None:
    image, target = tmp_path / "vmlinuz", tmp_path / "kernel"
    image.write_bytes(bzimage(zlib.compress(b"\x7fELF without a note", wbits=31)) if compressed else b"Image")
    await kernel.unpack_kernel(image, target)
    assert target.read_bytes() == image.read_bytes()


async def test_a_kernel_that_starts_by_pvh_is_unpacked(tmp_path: Path) -> None:
    image, target = tmp_path / "vmlinuz", tmp_path / "kernel"
    vmlinux = b"\x7fELF" + bytes(64) + struct.pack("<III", 4, 8, 18) + b"Xen\0" + bytes(8)
    image.write_bytes(bzimage(zlib.compress(vmlinux, wbits=31)))
    await kernel.unpack_kernel(image, target)
    assert target.read_bytes() == vmlinux


def test_modules_load_after_what_they_need() -> None:
    order = [Path(path).name.split(".")[0] for path in modules.load_order(DEP, ("virtio_net", "ext4"))]
    assert order.index("virtio-ring") < order.index("virtio") < order.index("virtio_net")
    assert order.index("failover") < order.index("net_failover") < order.index("virtio_net")
    assert len(order) == len(set(order)) == 5


def test_a_module_is_known_by_its_name_with_underscores() -> None:
    assert modules.names(DEP)["virtio_ring"] == "kernel/virtio-ring.ko.xz"


@pytest.mark.parametrize(("path", "wanted"), [
    ("net/netfilter/nf_tables.ko", True), ("drivers/net/tun.ko", True), ("drivers/net/ethernet/intel/e1000.ko", False),
    ("net/bluetooth/bluetooth.ko", False), ("drivers/gpu/drm/drm.ko", False)])
def test_modules_of_network_functions_come_along(path: str, wanted: bool) -> None:
    assert modules.on_demand(path) == wanted


def test_a_module_loses_its_signature_and_nothing_else() -> None:
    signed = b"\x7fELF module" + b"s" * 300 + struct.pack(">8BI", *[0] * 8, 300) + b"~Module signature appended~\n"
    assert modules.unsigned(signed) == b"\x7fELF module"
    assert modules.unsigned(b"\x7fELF module") == b"\x7fELF module"


def test_the_recipe_counts_what_goes_into_the_guest() -> None:
    assert len(guest.recipe()) == 8
    assert guest.recipe() == guest.recipe()
    assert all((guest.SCRIPTS / name).exists() for name in guest._PLACES)


async def test_a_guest_that_works_goes_on_where_a_newer_one_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(Path("/tmp/iso-none"))  # only the guest's own folder is used
    tries, one = [], guest.Guest(home, "amd64", root=tmp_path)

    async def newest(_: str) -> kernel.KernelPackage:
        return kernel.KernelPackage(("linux-image-6.1.0-60-cloud-amd64",), "6.1.200-1")

    async def offline(*_: object) -> None:
        tries.append(1)
        raise StepFailed("apt-get failed with exit status 100", why="Temporary failure resolving")

    monkeypatch.setattr(kernel, "newest", newest)
    monkeypatch.setattr(one, "_make", offline)
    with pytest.raises(StepFailed):
        await one.ensure()
    (tmp_path / f"6.1.0-50-cloud-amd64-6.1.100-1-{guest.recipe()}").mkdir()
    (tmp_path / "key").touch()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (await one.ensure()).version.startswith("6.1.0-50-cloud-amd64")
    assert len(tries) == 2 and "not renewed" in caplog.text  # and no command after it waits for the network again
    noted = json.loads((tmp_path / "current.json").read_text())
    (tmp_path / "current.json").write_text(json.dumps({**noted, "until_s": time.time() - 1}))
    await one.ensure()
    assert len(tries) == 3
