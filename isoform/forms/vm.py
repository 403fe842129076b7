"""The form `vm`: a QEMU microvm with our guest, the image's layers as its disks, its entrypoint run by our init."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from isoform.errors import HostLacks, NotFound, StepFailed, WrongState
from isoform.fabric.tap import open_tap
from isoform.forms.forms import FORM, form_in
from isoform.forms.qemu import process, settings, ssh
from isoform.forms.qemu.agent import Agent
from isoform.forms.qemu.argv import Disk, Machine, Nic, kernel_arguments, qemu_argv
from isoform.forms.qemu.control import ring
from isoform.forms.qemu.disk import make_disk
from isoform.forms.qemu.ending import add, ending
from isoform.forms.qemu.logs import bound, log_lines
from isoform.forms.qemu.qmp import Monitor
from isoform.forms.volume import ensure_volume
from isoform.host import Home, Result, cgroup
from isoform.host.facts import Facts
from isoform.host.kvm import Acceleration, kvm_works
from isoform.host.tsc import tsc_khz
from isoform.images.guest import Guest, GuestFiles
from isoform.model import (
    Attachment,
    ExecSpec,
    File,
    Instance,
    Lack,
    LogLine,
    Observation,
    Size,
    dump_instance,
    fingerprint,
    load_instance,
)

_TRIAL, _TRIAL_MARK = "isoform.trial", "isoform: the guest is up"  # see images/initramfs/init.sh
_HALT_S = 5.0  # for a guest whose command was killed to write back its volumes
_MOST_DISKS_AND_NICS = 20  # of a microvm's 24 devices, less serial ports, balloon, root, tools


class Vm:
    """A QEMU process driven over QMP. `create` leaves it paused, so `start` means what OCI means by it."""

    name = "vm"
    live = frozenset({"memory"})
    attaches = "tap"
    weight = 3
    own_kernel = True
    in_machine = False
    least_memory_bytes = 96 << 20

    def __init__(self, home: Home, facts: Facts, guest: Guest) -> None:
        self._home, self._facts, self._guest = home, facts, guest

    # --- what it needs -------------------------------------------------------------------------------------------

    async def missing(self) -> list[Lack]:
        """Return what this host lacks: QEMU, the tools that make a guest, a kernel to put into it."""
        packages = {"qemu": "qemu-system-x86", "mkfs.ext4": "e2fsprogs", "mkfs.erofs": "erofs-utils", "cpio": "cpio",
                    "ssh": "openssh-client", "ssh-keygen": "openssh-client", "depmod": "kmod", "lz4": "lz4",
                    "zstd": "zstd", "busybox": "busybox-static", "dpkg-deb": "dpkg", "apt-get": "apt"}
        have = {**self._facts.tools, "qemu": self._facts.qemu}
        lacks = [Lack(f"{tool} is not installed", fix=f"apt-get install {package}")
                 for tool, package in packages.items() if not have.get(tool)]
        if not lacks:
            try:
                await self._guest.ensure()
                await self.acceleration()  # a trial boot may take seconds: now, not on the first machine's way
            except (HostLacks, StepFailed) as error:
                lacks.append(Lack(error.what, error.why, error.fix))
        return lacks

    # --- making --------------------------------------------------------------------------------------------------

    async def create(self, instance: Instance, ports: Sequence[Attachment]) -> None:
        """Make the machine, paused before its first instruction."""
        folder = self._home.instance(instance.id)
        if process.kept(folder):
            return
        await self.delete(instance.id)  # what a call left that was cut off
        guest = await self._guest.ensure()
        folder.mkdir(parents=True)
        (folder / FORM).write_text(self.name)  # whose it is, before there is anything to clean up
        try:
            await self._make(folder, instance, ports, guest)
        except BaseException:
            with contextlib.suppress(StepFailed):
                await self.delete(instance.id)
            raise

    async def _make(self, folder: Path, instance: Instance, ports: Sequence[Attachment], guest: GuestFiles) -> None:
        (folder / "instance.json").write_text(dump_instance(instance))
        (folder / "fingerprint").write_text(fingerprint(instance))
        (folder / "key").symlink_to(guest.key)
        (folder / "main.out").touch()
        for name in ("main.in", "agent.in", "agent.out"):
            os.mkfifo(folder / name, 0o600)
        for mount in instance.mounts:
            await ensure_volume(mount)
        await make_disk(folder)
        cgroup.create(self._home.cgroup(instance.id), cpus=instance.size.cpus)
        with contextlib.ExitStack() as taps:
            nics = []
            for port in ports:
                fd = open_tap(port.netns, port.device)
                taps.callback(os.close, fd)
                nics.append(Nic(port.port.mac, fd))
            machine = await self._machine(folder, instance, nics, guest)
            _write_initrd(machine.initrd, guest.initrd, instance)
            number = await process.start(folder, qemu_argv(machine), [nic.fd for nic in nics])
            machine.initrd.unlink()  # QEMU has read it
        cgroup.enter(self._home.cgroup(instance.id), number)
        if machine.logs is not None:
            (folder / "agent.plugged").touch()  # from the start, and init starts it unasked
        process.note(folder, number)

    async def _machine(self, folder: Path, instance: Instance, nics: Sequence[Nic], guest: GuestFiles) -> Machine:
        kvm = (await self.acceleration()).usable
        append = kernel_arguments(self._facts.architecture, kvm, None if kvm else await tsc_khz(self._home))
        return Machine(
            name=instance.id, folder=folder, qemu=self._facts.qemu, architecture=self._facts.architecture, kvm=kvm,
            kernel=guest.kernel, initrd=folder / "initrd", append=append, cpus=instance.size.cpus,
            memory_bytes=instance.size.memory_bytes, disks=disks(folder, instance, guest), nics=nics,
            logs=len(instance.members) if instance.process is None else None,
        )

    async def acceleration(self) -> Acceleration:
        """Return whether machines run on KVM here, found out by a trial boot of the guest."""
        guest = await self._guest.ensure()
        append = f"{kernel_arguments(self._facts.architecture, True, None)} {_TRIAL}"
        return await kvm_works(self._home, self._facts.qemu, guest.kernel, guest.initrd, append, marker=_TRIAL_MARK)

    # --- its life ------------------------------------------------------------------------------------------------

    async def start(self, instance_id: str) -> None:
        """Let the machine run its first instruction."""
        folder = self._home.instance(instance_id)
        seen = await self.observe(instance_id)
        if seen.state == "running":
            return
        if seen.state != "created":
            raise WrongState(f"{instance_id} is {seen.state} and cannot be started", fix="delete it and create it anew")
        await Monitor(folder / "qmp.sock").execute("cont")
        (folder / "started").touch()

    async def resize(self, instance_id: str, size: Size) -> None:
        """Take memory from the machine or give it back, by its balloon; it never has more than it booted with."""
        folder = self._folder(instance_id)
        now = load_instance((folder / "instance.json").read_text()).size
        if size.cpus != now.cpus:
            raise WrongState(f"{instance_id} cannot change its processors while it runs", fix="create it anew")
        if size.memory_bytes > now.memory_bytes:
            raise WrongState(f"{instance_id} cannot have more memory than it booted with",
                             why=f"its machine has {now.memory_bytes >> 20}Mi", fix="create it anew")
        await Monitor(folder / "qmp.sock").execute("balloon", {"value": size.memory_bytes})

    async def stop(self, instance_id: str, grace_s: float) -> None:
        """Send the entrypoint its stop signal, wait, then kill it, and at last the machine."""
        folder = self._home.instance(instance_id)
        state = (await self.observe(instance_id)).state
        if state in ("absent", "stopped"):
            return
        if state == "running":
            instance = load_instance((folder / "instance.json").read_text())
            asked = settings.signal_number(instance.process.stop_signal if instance.process else "TERM")
            for number, wait_s in ((asked, grace_s), (9, _HALT_S)):
                with contextlib.suppress(WrongState):
                    ring(folder, "stop", number)
                if await self._ended(folder, wait_s):
                    return
        await process.end(folder)
        add(folder, 137)

    async def _ended(self, folder: Path, deadline_s: float) -> bool:
        return await process.gone(folder, deadline_s)

    async def delete(self, instance_id: str) -> None:
        """End QEMU and remove the machine's cgroup and folder."""
        folder = self._home.instance(instance_id)
        if folder.exists():
            await process.end(folder)
        await cgroup.remove(self._home.cgroup(instance_id))
        if folder.exists():
            shutil.rmtree(folder)

    # --- looking -------------------------------------------------------------------------------------------------

    async def observe(self, instance_id: str) -> Observation:
        """Look at the process and the files of the machine; QMP is asked only where it was not seen to start."""
        folder = self._home.instance(instance_id)
        qemu = process.kept(folder)
        if qemu is None:
            return Observation("absent")
        made_from = (folder / "fingerprint").read_text()
        started_at = _changed_at(folder / "started")
        if not qemu.alive:
            how = ending(folder)
            return Observation("stopped", fingerprint=made_from, exit_code=how.code, started_at=started_at,
                               reason=how.reason)
        state = "running"
        if started_at is None:
            state = "created" if await Monitor(folder / "qmp.sock").status() == "prelaunch" else "running"
            if state == "running":  # `start` was cut off after its command
                (folder / "started").touch()
                started_at = time.time()
        await bound(folder / "main.out")
        return Observation(state, pid=qemu.pid, fingerprint=made_from, started_at=started_at,
                           memory_bytes=process.anonymous_bytes(qemu.pid))

    async def known(self) -> list[str]:
        """Return the ids of all machines in the home, half-made ones too."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(at.name for at in self._home.instances.iterdir() if form_in(str(at)) == self.name)
        return []

    async def put(self, instance_id: str, files: Sequence[File]) -> None:
        """Write files into the function's root."""
        archive = settings.files_tar(files)
        unpack = ["/sbin/enter", "0", "0", "", "exec /dev/.isoform/busybox tar xf - -C /"]
        result = await self.guest_run(instance_id, unpack, stdin=archive)
        if result.code != 0:
            raise StepFailed(f"files cannot be written into {instance_id}", why=result.err.strip())

    async def run(self, instance_id: str, spec: ExecSpec, deadline_s: float) -> Result:
        """Run a command inside the function's root, as its user."""
        return await self.guest_run(instance_id, self._enter(instance_id, spec), deadline_s=deadline_s)

    def exec_argv(self, instance_id: str, spec: ExecSpec) -> list[str]:
        """Return the ssh command that runs `spec` inside the function's root, as its user."""
        return self.guest_argv(instance_id, self._enter(instance_id, spec), spec.tty)

    def logs(self, instance_id: str, follow: bool) -> AsyncIterator[LogLine]:
        """Yield what the entrypoint printed."""
        folder = self._folder(instance_id)
        return log_lines(folder / "main.out", follow, lambda: _lives(folder))

    def _enter(self, instance_id: str, spec: ExecSpec) -> list[str]:
        instance = load_instance((self._folder(instance_id) / "instance.json").read_text())
        if instance.process is None:
            raise WrongState(f"{instance_id} is a machine and has no function to run commands in")
        return ["/sbin/enter", *settings.credentials(instance.process), settings.exec_script(instance.process, spec)]

    def _folder(self, instance_id: str) -> Path:
        folder = self._home.instance(instance_id)
        if process.kept(folder) is None:
            raise NotFound(f"there is no instance {instance_id}")
        return folder

    # --- the guest around the function ---------------------------------------------------------------------------

    async def guest_run(self, instance_id: str, argv: Sequence[str], *, stdin: bytes | None = None,
                        deadline_s: float = 60.0) -> Result:
        """Run a command in the guest's own root. Raises: NotFound, WrongState, StepFailed when the deadline passes."""
        return await Agent(self._folder(instance_id)).run(argv, stdin=stdin, deadline_s=deadline_s)

    def guest_argv(self, instance_id: str, argv: Sequence[str], tty: bool) -> list[str]:
        """Return the host command that runs `argv` in the guest's own root with inherited stdio. Raises: NotFound."""
        folder = self._folder(instance_id)
        return ssh.ssh_argv(folder, folder / "key", argv, tty)


def disks(folder: Path, instance: Instance, guest: GuestFiles) -> list[Disk]:
    """Return the machine's disks: tools, its own, the layers, the volumes.

    Raises: StepFailed if they are more than a machine has room for.
    """
    images = [*([instance.image] if instance.image else []), *instance.carries]
    layers = {settings.layer_serial(layer.digest): layer.path for image in images for layer in image.layers}
    many = len(layers) + len(instance.mounts) + len(instance.ports)
    if many > _MOST_DISKS_AND_NICS:
        raise StepFailed(f"{instance.id} needs {many} layers, volumes and ports",
                         why=f"a machine has room for {_MOST_DISKS_AND_NICS}",
                         fix="build the image with fewer layers, or run it as a container")
    return [
        Disk("tools", str(guest.tools)),
        Disk("disk", str(folder / "disk.ext4"), read_only=False, fleeting=True),
        *(Disk(serial, path) for serial, path in layers.items()),
        *(Disk(settings.volume_serial(mount.volume), mount.source, mount.read_only) for mount in instance.mounts),
    ]


def _write_initrd(target: Path, guest: Path, instance: Instance) -> None:
    """Write the guest's initramfs with what is its own of `instance` after it: the kernel unpacks one over the other.

    Raises: HostLacks where the disk is full.
    """
    try:
        shutil.copyfile(guest, target)
        with target.open("ab") as file:
            file.write(settings.settings_cpio(instance))
    except OSError as error:
        raise HostLacks("cannot write the machine's initramfs", why=f"{target}: {error.strerror}",
                        fix="free some disk space") from error


def _changed_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _lives(folder: Path) -> bool:
    qemu = process.kept(folder)
    return qemu is not None and qemu.alive
