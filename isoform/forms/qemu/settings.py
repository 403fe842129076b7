"""What the guest's init is told: a script of calls to its functions, laid over its initramfs. Pure."""

from __future__ import annotations

import hashlib
import io
import signal
import stat
import tarfile
from collections.abc import Mapping, Sequence
from shlex import quote

from isoform.model import ExecSpec, File, Image, Instance, Mount, Port, Process, Route
from isoform.model.hosts import hosts_file

BASE = "run/isoform"  # in the guest's own root
ROOT = "/fn"  # the function's root, there
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # where an image sets none; as Docker's


def layer_serial(digest: str) -> str:
    """Return the serial of the disk that holds the layer `digest`: a virtio serial has at most 20 characters."""
    return digest.removeprefix("sha256:")[:20]


def volume_serial(volume: str) -> str:
    """Return the serial of a volume's disk."""
    return "v" + hashlib.sha256(volume.encode()).hexdigest()[:19]


def signal_number(name: str) -> int:
    """Return the number of a signal as OCI images name it: "SIGTERM", "TERM", "15" or "SIGRTMIN+3"."""
    if name.isdigit():
        return int(name)
    base, _, more = name.upper().removeprefix("SIG").partition("+")
    return int(signal.Signals[f"SIG{base}"]) + int(more or 0)


def command_script(argv: Sequence[str], env: Mapping[str, str], cwd: str, tty: bool = False,
                   given: Mapping[str, str] | None = None) -> str:
    """Return a shell script that becomes `argv` with exactly that environment, for busybox inside the root.

    Args:
        given: what the script's own arguments ("A=1 B=2"), of which it says nothing, put into the environment before.

    A name without a slash is looked up here: busybox would take its own command of that name first.
    """
    whole = {**(given or {}), **env}
    name, path = quote(argv[0]), quote(whole.get("PATH", _PATH))
    lines = [f"cd {quote(cwd)} || exit 126", f"p={name}"]
    if "/" not in argv[0]:
        lines += [f"IFS=: P={path}",
                  'for d in $P; do [ ! -f "$d/$p" ] || [ ! -x "$d/$p" ] || { p=$d/$p; break; }; done',
                  f'case $p in */*) ;; *) echo "isoform: no command "{name}" in "{path} >&2; exit 127 ;; esac']
    words = [quote(f"{key}={value}") for key, value in env.items()]
    words += ['TERM="$TERM"'] if tty and "TERM" not in whole else []
    return "\n".join([*lines, " ".join(["exec env -i", '"$@"', *words, '"$p"', *map(quote, argv[1:])])])


def exec_script(process: Process, spec: ExecSpec) -> str:
    """Return the script that runs `spec` beside an instance's own `process`, for `enter` in the guest.

    It is part of command lines, which every user of this host sees: the environment of `process` stays in the guest.
    """
    return command_script(spec.argv, dict(spec.env), spec.cwd or process.cwd, spec.tty, dict(process.env))


def environment(process: Process) -> str:
    """Return the script by which `enter` gets the environment of `process`."""
    return _call("set", "--", *(f"{name}={value}" for name, value in process.env))


def credentials(process: Process) -> list[str]:
    """Return UID, GID and the supplementary groups ("+4,+27"), as init's `launch` and `enter` take them."""
    user = process.user
    groups = [f"+{group}" for group in user.groups if group != user.gid]
    return [str(user.uid), str(user.gid), ",".join(groups)]


def _call(*words: object) -> str:
    return " ".join(quote(str(word)) for word in words)


def _network(ports: Sequence[Port], routes: Sequence[Route]) -> list[str]:
    calls = [_call("interface", port.mac, port.interface) for port in ports]
    calls += [_call("address", port.interface, address) for port in ports for address in port.addresses]
    calls += [_call("up", port.interface, port.mtu) for port in ports]
    for route in routes:
        family = "6" if ":" in route.via else "4"
        calls.append(_call("route", family, "default" if route.to == "default6" else route.to, route.via))
    return calls


def _volumes(mounts: Sequence[Mount], below: str) -> list[str]:
    """Return calls that mount volumes: each under its path below `below`, parents before what is inside them."""
    return [_call("volume", volume_serial(mount.volume), f"{below}{mount.path}", "ro" if mount.read_only else "rw")
            for mount in sorted(mounts, key=lambda mount: mount.path)]


def _layers(images: Sequence[Image]) -> list[str]:
    """Return the serials of all layers of `images`, highest first."""
    return list(dict.fromkeys(layer_serial(layer.digest) for image in images for layer in reversed(image.layers)))


def _function(instance: Instance, process: Process) -> list[str]:
    sysctls = [_call("setting", name.replace(".", "/"), value) for name, value in instance.sysctls]
    return [
        _call("echo", environment(process)) + f" >/{BASE}/env",
        "disk", *(_call("layer", serial) for serial in _layers([instance.image] if instance.image else [])), "overlay",
        *_volumes(instance.mounts, ROOT),
        _call("text", "/etc/hostname", f"{instance.hostname}\n"), _call("text", "/etc/hosts", hosts_file(instance)),
        *(["files"] if instance.files else []), *_network(instance.ports, instance.routes), *sysctls,
        _call("launch", *credentials(process), command_script(process.argv, dict(process.env), process.cwd)), "serve",
    ]


def _machine(instance: Instance) -> list[str]:
    calls = ["disk", *(_call("layer", serial) for serial in _layers(instance.carries))]
    for mount in instance.mounts:
        calls.append(_call("volume", volume_serial(mount.volume), f"/{BASE}/volumes/{mount.volume}",
                           "ro" if mount.read_only else "rw"))
    ports = " ".join(f"log.{number}" for number in range(len(instance.members)))
    return [*calls, _call("machine", ports)]


def script(instance: Instance) -> str:
    """Return what init does for `instance`, one call of its functions to a line."""
    named = [_call("echo", instance.hostname) + " >/proc/sys/kernel/hostname"]
    body = _machine(instance) if instance.process is None else _function(instance, instance.process)
    return "\n".join([*named, *body, ""])


def files_tar(files: Sequence[File]) -> bytes:
    """Return an archive of `files`, owned by root, to be unpacked at the function's root."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for file in files:
            member = tarfile.TarInfo(file.path.lstrip("/"))
            member.mode, member.size = file.mode, len(file.content)
            archive.addfile(member, io.BytesIO(file.content))
    return out.getvalue()


def settings_cpio(instance: Instance) -> bytes:
    """Return what the kernel unpacks over the guest's initramfs: init's script, files, folders for the layers."""
    images = [*([instance.image] if instance.image else []), *instance.carries]
    folders = [f"{BASE}/layers", *(f"{BASE}/layers/{serial}" for serial in _layers(images))]  # parents first
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    entries.append((f"{BASE}/config", stat.S_IFREG | 0o600, script(instance).encode()))
    if instance.files:
        entries.append((f"{BASE}/files.tar", stat.S_IFREG | 0o600, files_tar(instance.files)))
    return b"".join(_newc(number, *entry) for number, entry in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1))


def _newc(inode: int, name: str, mode: int, content: bytes) -> bytes:
    """Return one entry of a cpio archive. Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst."""
    path = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
