"""What `isoform doctor` tells: facts turned into rows with a verdict and the one command that mends each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from isoform.host.cgroup import NEEDED as CONTROLLERS
from isoform.host.facts import Facts
from isoform.host.features import NEEDED as FEATURES
from isoform.host.features import WISHED
from isoform.host.kvm import Acceleration
from isoform.host.probe import qemu_name
from isoform.model import Lack
from isoform.units import format_bytes

YES, DEGRADED, NO = "yes", "degraded", "no"
# tool -> (Debian package, what cannot be done without it)
PACKAGES = {
    "crun": ("crun", "run containers"), "runc": ("runc", "run containers"), "conmon": ("conmon", "run containers"),
    "unshare": ("util-linux", "use crun"),
    "mkfs.erofs": ("erofs-utils", "unpack images"), "mkfs.ext4": ("e2fsprogs", "make volumes"),
    "skopeo": ("skopeo", "pull images"), "mmdebstrap": ("mmdebstrap", "build images from recipes"),
    "qemu-system-x86_64": ("qemu-system-x86", "run virtual machines"),
    "qemu-system-aarch64": ("qemu-system-arm", "run virtual machines"),
    "qemu-img": ("qemu-utils", "use disk images"), "ssh": ("openssh-client", "exec in virtual machines"),
    "nft": ("nftables", "steer chains"), "cpio": ("cpio", "make the guest"), "depmod": ("kmod", "make the guest"),
}
_IMAGE_TOOLS = ("mkfs.erofs", "skopeo", "mmdebstrap")
_MODULES = {"tun": "tun", "veth": "veth", "bridge": "bridge", "overlay": "overlay"}


@dataclass(frozen=True, slots=True)
class DoctorRow:
    """One line of the doctor's table."""

    subject: str
    verdict: str  # "yes", "degraded" or "no"
    detail: str
    fix: str = ""  # the one command that mends it, where there is one


def install(tools: Iterable[str]) -> str:
    """Return the command that installs the Debian packages of `tools`; "" if none is known."""
    packages = sorted({PACKAGES[tool][0] for tool in tools if tool in PACKAGES})
    return f"sudo apt-get install -y {' '.join(packages)}" if packages else ""


def rows(facts: Facts, lacks: Mapping[str, Sequence[Lack]],
         acceleration: Acceleration | None = None) -> list[DoctorRow]:
    """Return the doctor's table: the host first, then one row for each form.

    Args:
        lacks: form -> what it lacks here, as `Form.missing` says.
        acceleration: the verdict of a trial boot under KVM; None if none was made yet.
    """
    return [
        DoctorRow("kernel", YES, f"{facts.kernel} {facts.architecture}, {facts.cpus} CPUs, "
                                 f"{format_bytes(facts.memory_bytes)} of memory"),
        _cgroup(facts),
        *_runtimes(facts),
        _tool(facts, "conmon", PACKAGES["conmon"][1]),
        *_qemu(facts, acceleration),
        _erofs(facts),
        *_fabric(facts),
        *(_tool(facts, name, PACKAGES[name][1]) for name in _IMAGE_TOOLS),
        *(_form(form, lacks[form], facts, acceleration) for form in lacks),
    ]


def _cgroup(facts: Facts) -> DoctorRow:
    missing = [name for name in CONTROLLERS if name not in facts.controllers]
    found = f"{facts.cgroup or 'none mounted'}: {' '.join(facts.controllers) or 'no controllers'}"
    if not facts.cgroup:
        return DoctorRow("cgroups", NO, found, "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    if missing:
        return DoctorRow("cgroups", NO, f"{found}; missing: {' '.join(missing)} (the kernel's parameter "
                                        f"cgroup_enable={missing[0]} may turn it on)")
    return DoctorRow("cgroups", YES, found)


def _runtimes(facts: Facts) -> list[DoctorRow]:
    if not facts.runtimes:
        return [DoctorRow("OCI runtime", NO, "neither crun nor runc is installed", install(["crun"]))]
    found = []
    installed = {trial.name for trial in facts.runtimes}
    other = install([name for name in ("crun", "runc") if name not in installed][:1])
    for trial in facts.runtimes:
        chosen = facts.runtime is not None and trial.path == facts.runtime.path
        if trial.works:
            detail = f"{trial.version}, a container in {trial.seconds * 1000:.0f} ms{' (used)' if chosen else ''}"
            found.append(DoctorRow(f"runtime {trial.name}", YES, detail))
        else:
            found.append(DoctorRow(f"runtime {trial.name}", DEGRADED if facts.runtime else NO,
                                   f"{trial.version} runs nothing: {trial.why}", "" if facts.runtime else other))
    return found


def _tool(facts: Facts, name: str, what: str) -> DoctorRow:
    path = facts.tools.get(name, "")
    return DoctorRow(name, YES, path) if path else DoctorRow(name, NO, f"not installed: cannot {what}", install([name]))


def _qemu(facts: Facts, acceleration: Acceleration | None) -> list[DoctorRow]:
    if not facts.qemu:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(facts.architecture, facts.architecture)
        return [DoctorRow("QEMU", NO, "not installed: cannot run virtual machines", install([qemu_name(machine)]))]
    version = DoctorRow("QEMU", YES, f"{facts.qemu_version or 'version unknown'} {facts.qemu}")
    if acceleration is None:
        return [version, DoctorRow("KVM", DEGRADED, "not tried yet: the first virtual machine tells")]
    if acceleration.usable:
        return [version, DoctorRow("KVM", YES, acceleration.why)]
    fix = "sudo modprobe -a kvm_intel kvm_amd" if acceleration.why.startswith("no /dev/kvm") else ""
    return [version, DoctorRow("KVM", DEGRADED, f"{acceleration.why}; QEMU emulates (TCG), slower", fix)]


def _erofs(facts: Facts) -> DoctorRow:
    ways = {"file": "mounted from the file itself", "loop": "mounted through a loop device"}
    if facts.erofs:
        return DoctorRow("EROFS images", YES, ways.get(facts.erofs, facts.erofs))
    if not facts.tools.get("mkfs.erofs"):
        return DoctorRow("EROFS images", NO, "not tried: mkfs.erofs is not installed", install(["mkfs.erofs"]))
    return DoctorRow("EROFS images", NO, "mount neither from a file nor through a loop device",
                     "sudo modprobe -a erofs loop")


def _fabric(facts: Facts) -> list[DoctorRow]:
    missing = [name for name in FEATURES if not facts.features.get(name)]
    needed = DoctorRow("fabric", NO, f"missing: {' '.join(missing)}",
                       f"sudo modprobe -a {' '.join(_MODULES[name] for name in missing)}") if missing else (
        DoctorRow("fabric", YES, " ".join(FEATURES)))
    more = [name for name in facts.features if name not in FEATURES]
    absent = [name for name in more if not facts.features[name]]
    present = " ".join(name for name in more if facts.features[name])
    return [needed, DoctorRow("fabric, more", DEGRADED if set(absent) & set(WISHED) else YES,
                              f"{present or 'nothing'}; without: {' '.join(absent)}" if absent else present)]


def _form(name: str, lacks: Sequence[Lack], facts: Facts, acceleration: Acceleration | None) -> DoctorRow:
    if lacks:
        fix = _one_command([lack.fix for lack in lacks if lack.fix])
        return DoctorRow(f"form {name}", NO, "; ".join(f"{lack.what} ({lack.why})" if lack.why else lack.what
                                                      for lack in lacks), fix)
    emulated = name != "container" and facts.qemu and acceleration is not None and not acceleration.usable
    return DoctorRow(f"form {name}", DEGRADED if emulated else YES, "emulated (TCG)" if emulated else "works")


def _one_command(fixes: Sequence[str]) -> str:
    """Return all `fixes` as one command; installations become one installation."""
    start = "sudo apt-get install -y "
    packages = sorted({word for fix in fixes if fix.startswith(start) for word in fix.removeprefix(start).split()})
    others = list(dict.fromkeys(fix for fix in fixes if not fix.startswith(start)))
    return " && ".join([*([start + " ".join(packages)] if packages else []), *others])
