"""What is said to a guest's shell to make, start and remove a container there. Pure."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import join, quote
from typing import Any

from isoform.forms import names
from isoform.forms.oci import bundle, commands
from isoform.forms.oci.commands import Runtime, Supervised
from isoform.forms.oci.root import short
from isoform.model import File, Instance, Route

RUNTIME = Runtime("crun", "/usr/bin/crun", (), "/run/isoform/oci")  # of the guest's tools
_CONMON = "/usr/bin/conmon"
# crun makes sure that a container cannot write to its program by starting anew from a copy, unless it was told that it
# did, and it is on a read-only file system: which the guest's tools are.
_CLONED = "_LIBCONTAINER_CLONED_BINARY=1"
_PATH = "/bin:/sbin:/usr/bin:/usr/sbin"  # busybox first: it needs no loading of libraries
_FUNCTIONS = Path(__file__).with_name("guest.sh").read_text()
_OVER = Path(__file__).with_name("over.sh")


def base(instance_id: str) -> str:
    """Return the folder in the guest that holds what belongs to one container."""
    return f"/run/isoform/in/{instance_id}"


def shell(instance_id: str, calls: str) -> list[str]:
    """Return the guest's command for `calls` to the functions of guest.sh."""
    lines = [f"export PATH={_PATH} {_CLONED}",
             f"id={quote(instance_id)} base={quote(base(instance_id))} state={RUNTIME.root}", _FUNCTIONS, calls]
    return ["/bin/sh", "-c", "\n".join(lines)]


def create(instance: Instance, number: int, seccomp: Mapping[str, Any], annotations: Mapping[str, str]
           ) -> tuple[list[str], bytes]:
    """Return the command that makes the container, all but running, and its stdin.

    It prints, in base64, what the runtime has compiled `seccomp` to, unless `annotations` held that already.

    Args:
        number: which of the machine's log ports is the container's.
    """
    at = base(instance.id)
    config = bundle.config(replace(instance, sysctls=()), bundle.Site(
        rootfs=f"{at}/rootfs", netns="", cgroup=f"/{instance.id}", seccomp=seccomp, tun=True, annotations=annotations,
        volumes={mount.volume: f"/run/isoform/volumes/{mount.volume}" for mount in instance.mounts},
    ))
    # What is ours goes right into the empty upper folder, where no symbolic link of the image can lead it astray; what
    # the descriptor names goes through the root, because there may be links on its way that are meant.
    upper = f"disk/in/{instance.id}/upper"
    unpacked = tar(
        {f"in/{instance.id}/{name}": content for name, content in {
            "config.json": json.dumps(config).encode(), "calls": _calls(instance, number).encode(),
            "over": _OVER.read_bytes(), "files.tar": files_tar(instance.files)}.items()}
        | {upper + file.path: file.content for file in names.own_files(instance)},
        folders=("oci", *(f"in/{instance.id}/{name}" for name in ("rootfs", "exits", "s")),
                 f"disk/in/{instance.id}/work", upper, f"{upper}/etc"),
    )
    calls = ["umask 022", "remove", "tar xf - -C /run/isoform", '. "$base/calls"',
             *([] if annotations else ['base64 "$state/$id/seccomp.bpf"'])]
    return shell(instance.id, "\n".join(calls)), unpacked


def _calls(instance: Instance, number: int) -> str:
    assert instance.image is not None
    at, log = base(instance.id), f"/dev/virtio-ports/isoform.log.{number}"
    lower = ":".join(f"/run/isoform/layers/{short(layer.digest)}" for layer in reversed(instance.image.layers))
    conmon = commands.conmon_argv(
        RUNTIME, instance.id, Supervised(_CONMON, at, log, f"{at}/pid", f"{at}/conmon.pid", f"{at}/exits", f"{at}/s"),
        log_limit_bytes=0, no_pivot=True, exit_command=("/bin/sh", f"{at}/over", instance.id, at, log),
    )
    return "\n".join([
        f"overlay {quote(lower)}", *(['files <"$base/files.tar"'] if instance.files else []),
        f"supervise {join(conmon)}",
        *(f"give {port.mac} {port.interface} n{number}p{index}" for index, port in enumerate(instance.ports)),
        f"configure {quote(_network(instance))}",
    ])


def _network(instance: Instance) -> str:
    """Return the script that sets up the NICs in the container's network namespace."""
    lines = ["echo 1 >/proc/sys/net/ipv4/conf/all/arp_notify",
             "echo 1 >/proc/sys/net/ipv6/conf/all/ndisc_notify", "ip link set lo up"]
    # before the NICs are up: the fabric gives each address once, and nobody waits for the kernel to find that out
    lines += [f"echo 0 >/proc/sys/net/ipv6/conf/{port.interface}/accept_dad" for port in instance.ports]
    lines += [f"ip addr add {address} dev {port.interface}" for port in instance.ports for address in port.addresses]
    lines += [f"ip link set {port.interface} mtu {port.mtu} up" for port in instance.ports]
    lines += [_route(route) for route in instance.routes]
    lines += [f"echo {quote(value)} >/proc/sys/{quote(name.replace('.', '/'))}" for name, value in instance.sysctls]
    return "\n".join(lines)


def _route(route: Route) -> str:
    family = "-6" if ":" in route.via else "-4"
    return f"ip {family} route add {'default' if route.to == 'default6' else route.to} via {route.via}"


def start(instance_id: str) -> list[str]:
    """Return the command that starts the container; starting it again is no error."""
    waits = f"{RUNTIME.root}/{instance_id}/exec.fifo"
    return shell(instance_id, f"[ ! -p {quote(waits)} ] || {join(RUNTIME.argv('start', instance_id))} || "
                              f"[ ! -p {quote(waits)} ]")


def signal(instance_id: str, number: int) -> list[str]:
    """Return the command that sends a signal to the container's first process; it may be gone."""
    return shell(instance_id, f'read -r pid <"$base/pid"; kill -{number} "$pid" 2>/dev/null; true')


def kill(instance_id: str) -> list[str]:
    """Return the command that ends all processes of the container."""
    return shell(instance_id, '[ ! -d "$group" ] || echo 1 >"$group/cgroup.kill"')


def remove(instance_id: str) -> list[str]:
    """Return the command that removes all that there is of the container."""
    return shell(instance_id, "remove")


def put(instance_id: str) -> list[str]:
    """Return the command that unpacks its stdin (see `files_tar`) in the container's root."""
    return shell(instance_id, "umask 022\nfiles")


def limit(instance_id: str, cpus: float, memory_bytes: int) -> list[str]:
    """Return the command that changes the container's limits."""
    quota = max(1000, round(cpus * bundle.CPU_PERIOD_US))
    return shell(instance_id, f'echo "{quota} {bundle.CPU_PERIOD_US}" >"$group/cpu.max" && '
                              f'echo {memory_bytes} >"$group/memory.max"')


def files_tar(files: Sequence[File]) -> bytes:
    """Return an archive of `files`, owned by root, relative to the function's root."""
    return tar({file.path.lstrip("/"): file.content for file in files}, {file.path.lstrip("/"): file.mode
                                                                         for file in files})


def tar(members: Mapping[str, bytes], modes: Mapping[str, int] | None = None, folders: Sequence[str] = ()) -> bytes:
    """Return a tar archive of folders, and of plain files of mode 0644 where `modes` says nothing else; all root's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in folders:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), (modes or {}).get(name, 0o644)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()
