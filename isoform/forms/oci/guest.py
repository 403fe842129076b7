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
from isoform.model import ExecSpec, File, Instance, Route

_BASE = "/run/isoform"  # as the guest's init has it
RUNTIME = Runtime("crun", "/usr/bin/crun", (), f"{_BASE}/oci")  # of the guest's tools
_CONMON = "/usr/bin/conmon"
# crun makes sure that a container cannot write to its program by starting anew from a copy, unless it was told that it
# did, and it is on a read-only file system: which the guest's tools are.
_CLONED = "_LIBCONTAINER_CLONED_BINARY=1"
_PATH = "/bin:/sbin:/usr/bin:/usr/sbin"  # busybox first: it needs no loading of libraries
_FUNCTIONS = Path(__file__).with_name("guest.sh").read_text()
_OVER = Path(__file__).with_name("over.sh")


def base(instance_id: str) -> str:
    """Return the folder in the guest that holds what belongs to one container."""
    return f"{_BASE}/in/{instance_id}"


def _script(instance_id: str, calls: str) -> str:
    """Return a script with `calls` to the functions of guest.sh."""
    return "\n".join([
        f"export PATH={_PATH} {_CLONED}",
        f"id={quote(instance_id)} base={quote(base(instance_id))} state={RUNTIME.root}", _FUNCTIONS, calls,
    ])


def shell(instance_id: str, calls: str) -> list[str]:
    """Return the guest's command for `calls` to the functions of guest.sh."""
    return ["/bin/sh", "-c", _script(instance_id, calls)]


def create(instance: Instance, number: int, seccomp: Mapping[str, Any], annotations: Mapping[str, str]
           ) -> tuple[list[str], bytes]:
    """Return the agent's command that makes the container, all but running, and its stdin; it prints what `first` does.

    Args:
        number: which of the machine's log ports is the container's.
    """
    unpacked = tar(_files(instance, number, seccomp, annotations))
    return shell(instance.id, f'umask 022\nremove\ntar xf - -C {_BASE}\n. "$base/create"'), unpacked


def first(instance: Instance, number: int, seccomp: Mapping[str, Any], annotations: Mapping[str, str]
          ) -> tuple[File, ...]:
    """Return the files of a machine whose init shall make the container while it boots, sooner than an agent could.

    Init unpacks them and runs the file "first", whose output goes to the machine's log. It is, in base64, what the
    runtime has compiled `seccomp` to, unless `annotations` held that already, and then a line of `created`.
    """
    files = _files(instance, number, seccomp, annotations)
    return (*(File(f"{_BASE}/{name}", content) for name, content in files.items()),
            File(f"{_BASE}/first", _script(instance.id, '. "$base/create"').encode()))


def created(instance_id: str) -> str:
    """Return the line that says that the container was created."""
    return f"isoform: {instance_id} created"


def started(instance_id: str) -> str:
    """Return the line that says that the container was started."""
    return f"isoform: {instance_id} started"


def failed(instance_id: str) -> str:
    """Return the line that follows the reason why the container could not be created or started."""
    return f"isoform: {instance_id} failed"


def start_file(instance_id: str) -> str:
    """Return the file in the guest that starts the container, to be run by init; it prints `started`, or `failed`."""
    return f"{base(instance_id)}/start"


def _files(instance: Instance, number: int, seccomp: Mapping[str, Any], annotations: Mapping[str, str]
           ) -> dict[str, bytes]:
    """Return the content of all files that make the container, by their path below /run/isoform."""
    at = base(instance.id)
    config = bundle.config(replace(instance, sysctls=()), bundle.Site(
        rootfs=f"{at}/rootfs", netns="", cgroup=f"/{instance.id}", seccomp=seccomp, tun=True, annotations=annotations,
        volumes={mount.volume: f"{_BASE}/volumes/{mount.volume}" for mount in instance.mounts},
    ))
    create = _calls(instance, number) + ('' if annotations else '\nbase64 "$state/$id/seccomp.bpf"')
    own = {
        "config.json": json.dumps(config).encode(), "over": _OVER.read_bytes(),
        "create": f"{create}\necho {quote(created(instance.id))}\n".encode(),
        "process": commands.common(config["process"]).encode(),
        "start": _script(instance.id, _start(instance.id)).encode(), "files.tar": files_tar(instance.files),
    }
    # What is ours goes right into the empty upper folder, where no symbolic link of the image can lead it astray; what
    # the descriptor names goes through the root, because there may be links on its way that are meant.
    return ({f"in/{instance.id}/{name}": content for name, content in own.items()}
            | {f"disk/in/{instance.id}/upper{file.path}": file.content for file in names.own_files(instance)})


def _calls(instance: Instance, number: int) -> str:
    assert instance.image is not None
    at, log = base(instance.id), f"/dev/virtio-ports/isoform.log.{number}"
    lower = ":".join(f"{_BASE}/layers/{short(layer.digest)}" for layer in reversed(instance.image.layers))
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


def _start(instance_id: str) -> str:
    waits = quote(f"{RUNTIME.root}/{instance_id}/exec.fifo")
    return (f"[ ! -p {waits} ] || {join(RUNTIME.argv('start', instance_id))} || [ ! -p {waits} ] || "
            f"fail 'the runtime could not start it'\necho {quote(started(instance_id))}")


def execute(instance_id: str, spec: ExecSpec, entrypoint: Mapping[str, Any], scratch: str, pidfile: str) -> list[str]:
    """Return the command that runs `spec` beside the container's entrypoint; see `commands.exec_argv`."""
    return commands.exec_argv(RUNTIME, instance_id, spec, entrypoint, f"{base(instance_id)}/process", scratch, pidfile)


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


def tar(members: Mapping[str, bytes], modes: Mapping[str, int] | None = None) -> bytes:
    """Return a tar archive of plain files owned by root, 0644 where `modes` says nothing else."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), (modes or {}).get(name, 0o644)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()
