"""Kernel modules of the guest: the few that it boots with, and the tree from which it loads the rest on demand."""

from __future__ import annotations

import lzma
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from isoform.errors import StepFailed
from isoform.host import run

# What every guest needs before its function starts; those that a kernel has built in are left out. What the kernel
# finishes in the background comes first: ports to be learnt of, a carrier to be found.
BOOT = ("virtio_mmio", "virtio_console", "virtio_net", "virtio_blk", "erofs", "overlay")
LATER = ("virtio_balloon",)  # loaded once the function runs
# What network functions ask for, relative to the modules' kernel/ folder.
ON_DEMAND = ("net", "drivers/net", "drivers/virtio", "drivers/block/loop", "crypto", "arch/x86/crypto",
             "arch/arm64/crypto", "lib", "fs/erofs", "fs/overlayfs", "fs/fuse", "fs/nls", "drivers/vhost",
             "drivers/char/hw_random", "drivers/md/dm", "drivers/scsi/virtio_scsi", "drivers/scsi/sd_mod",
             "drivers/scsi/scsi")
_SIGNED = b"~Module signature appended~\n"
_LEFT_OUT = ("drivers/net/ethernet", "drivers/net/wireless", "drivers/net/usb", "net/bluetooth", "net/wireless",
             "net/mac80211", "drivers/net/can", "net/can", "net/nfc", "drivers/net/phy", "drivers/net/fddi")


def names(modules_dep: str) -> dict[str, str]:
    """Return module name -> its path in modules.dep; a name has underscores, whatever its file's name has."""
    paths = (line.partition(":")[0] for line in modules_dep.splitlines())
    return {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in paths}


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """Return the paths of the `wanted` modules and of all that they need, each after those that it needs.

    Args:
        modules_dep: the text of modules.dep: "path: path path"; wanted names that it lacks are built in.
    Source: modules.dep(5): a module's dependencies stand in the order in which to remove them.
    """
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in modules_dep.splitlines())}
    paths, order = names(modules_dep), dict[str, None]()
    for name in wanted:
        if name in paths:
            order.update(dict.fromkeys([*reversed(needs[paths[name]]), paths[name]]))
    return list(order)


def on_demand(path: str) -> bool:
    """Return whether the module at `path`, relative to kernel/, belongs into a network function's guest."""
    return path.startswith(ON_DEMAND) and not path.startswith(_LEFT_OUT)


def unsigned(module: bytes) -> bytes:
    """Return the module without the signature appended to it: to verify eleven of them is a tenth of a guest's boot.

    Source: Linux, kernel/module/signing.c and include/linux/module_signature.h: the last four of twelve bytes before
    the marker are the length of what is in front of them.
    """
    if not module.endswith(_SIGNED):
        return module
    end = len(module) - len(_SIGNED)
    (length,) = struct.unpack_from(">I", module, end - 4)
    return module[:end - 12 - length]


async def _copy(source: Path, target: Path) -> None:
    if source.suffix == ".zst":
        await run(["zstd", "-dqf", "-o", str(target), str(source)])
        data = target.read_bytes()
    else:
        data = source.read_bytes()
        data = lzma.decompress(data) if source.suffix == ".xz" else data
    target.write_bytes(unsigned(data))


async def copy_boot_modules(tree: Path, target: Path) -> None:
    """Copy what the guest boots with to `target`, numbered in the order of loading, and `LATER` likewise.

    Args:
        tree: lib/modules/RELEASE with its modules.dep.
    """
    dep = (tree / "modules.dep").read_text()
    builtin = (tree / "modules.builtin").read_text() if (tree / "modules.builtin").exists() else ""
    early = load_order(dep, BOOT)
    late = [path for path in load_order(dep, LATER) if path not in early]
    known: Mapping[str, str] = names(dep) | names(builtin.replace("\n", ":\n"))
    if missing := [name for name in BOOT if name not in known]:
        raise StepFailed(f"the guest's kernel has no module {', '.join(missing)}", why=f"looked in {tree}")
    for folder, paths in (("boot", early), ("later", late)):
        (target / folder).mkdir(parents=True)
        for number, path in enumerate(paths):
            await _copy(tree / path, target / folder / f"{number:02d}-{Path(path).name.split('.ko')[0]}.ko")


async def copy_demand_modules(tree: Path, root: Path) -> None:
    """Copy the modules that network functions need to `root`/lib/modules/RELEASE and index them there."""
    target = root / "lib/modules" / tree.name
    for source in sorted(tree.glob("kernel/**/*.ko*")):
        below = source.relative_to(tree)
        if on_demand(str(below.relative_to("kernel"))):
            place = target / below.parent / (below.name.split(".ko")[0] + ".ko")
            place.parent.mkdir(parents=True, exist_ok=True)
            await _copy(source, place)
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        if (tree / name).exists():
            shutil.copyfile(tree / name, target / name)
    await run(["depmod", "-b", str(root), tree.name])
    for index in target.glob("modules.*.bin"):
        index.unlink()  # busybox reads the text
