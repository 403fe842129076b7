"""Most users have control groups of version 2 alone. Where this host has not, a guest has: its kernel is real too."""

import asyncio
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import isoform
from isoform.host import probe, tsc
from isoform.images.guest import Guest
from tests.images import ARCHITECTURE, shared

pytestmark = [pytest.mark.root, pytest.mark.guest]

DEADLINE_S = 120
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t tmpfs -o mode=755 root /new  # out of the initramfs, from which no runtime can pivot
cp -a /bin /usr /lib /lib64 /sbin /root /inside /new 2>/dev/null
mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run
exec switch_root /new /inside/start
"""
START = """\
#!/bin/busybox sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export PATH=/usr/bin:/bin:/usr/sbin HOME=/ PYTHONHOME={home} PYTHONPATH=/inside PYTHONDONTWRITEBYTECODE=1
{python} /inside/v2_inside.py {runtimes} >/dev/ttyS0 2>&1
echo "ended with $?" >/dev/ttyS0
reboot -f
"""
UNUSED = shutil.ignore_patterns("test", "tests", "site-packages", "dist-packages", "idlelib", "ensurepip", "lib2to3",
                                "tkinter", "turtledemo", "pydoc_data", "config-*", "__pycache__", "*.a")


def libraries(program: str) -> set[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return set(re.findall(r"(/\S+) \(0x", listed))


def put(file: str, root: Path) -> None:
    target = root / file.lstrip("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(file).resolve(), target)


def make_root(root: Path, runtimes: list[str]) -> None:
    for name in ("usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "new", "inside", "proc", "dev", "sys"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64", "sbin"):  # as on every Debian and Ubuntu of these years
        (root / name).symlink_to(f"usr/{name}")
    put("/bin/busybox", root)
    (root / "usr/bin/true").symlink_to("busybox")
    python, stdlib = str(Path(sys.executable).resolve()), sysconfig.get_path("stdlib")
    shutil.copytree(stdlib, root / stdlib.lstrip("/"), ignore=UNUSED)
    for program in (python, *runtimes):
        put(program, root)
        for library in libraries(program):
            put(library, root)
    for extension in Path(stdlib, "lib-dynload").glob("_ctypes.*"):
        for library in libraries(str(extension)):
            put(library, root)
    package = Path(isoform.__file__).parent
    for name in ("__init__.py", "errors.py", "units.py", "host"):
        source, target = package / name, root / "inside/isoform" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    shutil.copy(Path(__file__).with_name("v2_inside.py"), root / "inside")
    for path, text in (("init", INIT), ("inside/start", START.format(python=python, home=sys.base_prefix,
                                                                     runtimes=" ".join(runtimes)))):
        (root / path).write_text(text)
        (root / path).chmod(0o755)


async def test_groups_and_runtimes_with_version_2_alone(home):
    facts = await probe.facts(home)
    guest = await Guest(shared(), ARCHITECTURE).ensure()
    runtimes = [facts.tools[name] for name in ("crun", "runc") if facts.tools[name]]
    root, initrd = home.path / "root", home.path / "initrd"
    await asyncio.to_thread(make_root, root, runtimes)
    listing = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-F", str(initrd)], cwd=root, input=listing.encode(),  # noqa: ASYNC221
                   check=True)
    command = [facts.qemu, "-M", "microvm", "-cpu", "max", "-m", "1024", "-nodefaults", "-no-user-config", "-display",
               "none", "-no-reboot", "-serial", "stdio", "-kernel", str(guest.kernel), "-initrd", str(initrd),
               "-append", f"console=ttyS0 quiet panic=-1 tsc_early_khz={tsc.measure()}"]
    qemu = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL,
                                                stdout=asyncio.subprocess.PIPE)
    try:
        printed, _ = await asyncio.wait_for(qemu.communicate(), DEADLINE_S)
    except TimeoutError:
        qemu.kill()
        await qemu.wait()
        raise
    said = printed.decode(errors="replace")
    print(said)
    assert "everything passed" in said
    assert "ended with 0" in said
