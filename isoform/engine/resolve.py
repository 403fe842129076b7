"""From the descriptor to the service as wanted: forms chosen, images unpacked, addresses given, files read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isoform.engine.choose import Choice, Need, choose
from isoform.engine.desired import Desired, Ready, Wish
from isoform.engine.journal import Row
from isoform.errors import DescriptorError
from isoform.forms.form import Form
from isoform.images import Images
from isoform.model import File, Image, Instance, Lack, Link, Mount, Port, Process, Progress, Route, Size
from isoform.model.addresses import plan_hosts, plan_links, plan_ports
from isoform.model.descriptor import FunctionSpec, Parsed, ReadySpec, ServiceSpec, with_forms
from isoform.units import format_bytes

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a machine needs beside its containers' memory: its kernel, init, agent, and the runtime in it.
_MACHINE_OVERHEAD_BYTES = 96 << 20
_LONGEST_FILE_BYTES = 16 << 20  # a `files:` entry is configuration; more belongs into an image or a volume


@dataclass(frozen=True, slots=True)
class Resolver:
    """Resolves one descriptor; `engine.up` calls it with what is remembered of the service."""

    parsed: Parsed
    source: Path  # the descriptor's file, absolute: the paths in it are relative to its folder
    forms: Mapping[str, Form]
    images: Images
    volumes: Path
    progress: Progress
    asked_forms: Mapping[str, str]  # --form: function -> form

    async def __call__(self, rows: Mapping[str, Row]) -> Desired:
        """Return the service as wanted. Raises: DescriptorError, HostLacks."""
        choices = await self._choose(with_forms(self.parsed.spec, self.asked_forms))
        spec = with_forms(self.parsed.spec, {name: choice.form for name, choice in choices.items()})
        for name, function in spec.functions.items():
            self._check_memory(name, function)
        images = await self._images(spec)
        taken = {(row.function, row.replica, port.link): port for row in rows.values() for port in row.ports}
        ports = plan_ports(spec, taken)
        links, hosts = plan_links(spec), plan_hosts(spec, ports)
        made = [
            self._instance(spec, name, replica, images[name], ports[name, replica], hosts[name, replica])
            for name, function in spec.functions.items()
            for replica in range(function.replicas)
        ]
        machines = _machines(spec, [one for one in made if self.forms[one.form].in_machine])
        wishes = tuple(
            Wish(
                replace(one, machine=machines.get(one.id)),
                _ready(spec.functions[one.function].ready),
                tuple(other.id for other in made if other.function in spec.functions[one.function].after),
                choices[one.function].why,
            )
            for one in made
        )
        kept = tuple(name for name, volume in spec.volumes.items() if volume.keep)
        return Desired(spec.service, str(self.source), tuple(_in_use(links, made)), wishes, kept)

    async def _choose(self, spec: ServiceSpec) -> dict[str, Choice]:
        asked = {function.form for function in spec.functions.values()}
        names = [name for name in self.forms if "auto" in asked or name in asked]
        lacks: dict[str, list[Lack]] = dict(
            zip(names, await asyncio.gather(*(self.forms[name].missing() for name in names)), strict=True)
        )
        return {
            name: choose(
                f"{spec.service}/{name}",
                function.form,
                Need(function.needs.own_kernel, function.needs.modules, function.needs.devices, bool(function.vm)),
                [self.forms[each] for each in names] if function.form == "auto" else [],
                lacks,
            )
            for name, function in spec.functions.items()
        }

    def _check_memory(self, name: str, function: FunctionSpec) -> None:
        least = self.forms[function.form].least_memory_bytes
        if function.memory_bytes < least:
            place = self.parsed.document.where(("functions", name, "memory"))
            raise DescriptorError(
                f"{place}: {format_bytes(function.memory_bytes)} of memory is too little for form {function.form}",
                why=f"it needs {format_bytes(least)} to start",
                fix=f"ask for {format_bytes(least)} or more, or for a lighter form",
            )

    async def _images(self, spec: ServiceSpec) -> dict[str, Image]:
        references = {function.image for function in spec.functions.values()}

        async def resolve(reference: str) -> tuple[str, Image]:
            try:
                return reference, await self.images.resolve(reference, self.source.parent, self.progress)
            except DescriptorError as error:
                name = next(name for name, one in spec.functions.items() if one.image == reference)
                error.add_note(f"asked for at {self.parsed.document.where(('functions', name, 'image'))}")
                raise

        resolved = dict(await asyncio.gather(*(resolve(reference) for reference in sorted(references))))
        return {name: resolved[function.image] for name, function in spec.functions.items()}

    def _instance(
        self,
        spec: ServiceSpec,
        name: str,
        replica: int,
        image: Image,
        ports: tuple[Port, ...],
        hosts: Sequence[tuple[str, str]],
    ) -> Instance:
        function = spec.functions[name]
        hostname = f"{name}-{replica}" if replica else name  # that of the first stays when others come and go
        return Instance(
            id=f"{spec.service}.{name}.{replica}",
            service=spec.service,
            function=name,
            replica=replica,
            form=function.form,
            hostname=hostname,
            image=image,
            process=self._process(name, function, image, hostname),
            size=Size(function.cpus, function.memory_bytes),
            ports=ports,
            routes=tuple(Route(route.to, str(route.via)) for route in function.routes),
            hosts=tuple(hosts),
            files=self._files(name, function),
            mounts=tuple(
                self._mount(spec, use.volume, replica, use.path, use.read_only)
                for use in function.volumes
            ),
            sysctls=tuple(sorted(function.sysctls.items())),
            capabilities=tuple(function.capabilities),
        )

    def _process(self, name: str, function: FunctionSpec, image: Image, hostname: str) -> Process:
        command = image.command if function.command is None else tuple(function.command)
        if function.entrypoint is None:
            argv = (*image.entrypoint, *command)
        else:
            argv = (*function.entrypoint, *(function.command or ()))
        if not argv:
            raise DescriptorError(
                f"{self.parsed.document.where(('functions', name))}: function {name} has nothing to run",
                why=f"image {function.image} names no entrypoint and no command",
                fix="add `command:`",
            )
        env = {"PATH": _PATH, "HOME": image.user.home, "HOSTNAME": hostname, **dict(image.env), **function.env}
        return Process(argv, tuple(env.items()), image.workdir, image.user, image.stop_signal)

    def _files(self, name: str, function: FunctionSpec) -> tuple[File, ...]:
        return tuple(
            self._file(path, spec.source, spec.content, spec.mode, ("functions", name, "files", path))
            for path, spec in function.files.items()
        )

    def _file(self, path: str, source: str, content: str | None, mode: int | None, key: tuple[str, ...]) -> File:
        if content is not None:
            return File(path, content.encode(), 0o644 if mode is None else mode)
        file, place = self.source.parent / source, self.parsed.document.where(key)
        try:
            found = file.stat()
            if found.st_size > _LONGEST_FILE_BYTES:
                raise DescriptorError(
                    f"{place}: {file} is too large for `files`",
                    why=f"it has {format_bytes(found.st_size)}; at most {format_bytes(_LONGEST_FILE_BYTES)} fit",
                    fix="put it into an image or a volume",
                )
            return File(path, file.read_bytes(), found.st_mode & 0o7777 if mode is None else mode)
        except OSError as error:
            why = str(error.strerror)
            raise DescriptorError(f"{place}: cannot read {file}", why=why, fix="mend the path") from error

    def _mount(self, spec: ServiceSpec, volume: str, replica: int, path: str, read_only: bool) -> Mount:
        # Numbered always: the first replica keeps its own when others come.
        source = self.volumes / spec.service / f"{volume}.{replica}.img"
        return Mount(volume, path, str(source), spec.volumes[volume].size_bytes, read_only)


def _ready(spec: ReadySpec | None) -> Ready | None:
    if spec is None:
        return None
    if spec.tcp is not None:
        return Ready("tcp", spec.tcp, interval_s=spec.interval_s, deadline_s=spec.deadline_s)
    if spec.http is not None:
        return Ready("http", spec.http.port, spec.http.path, spec.http.status or 0,
                     interval_s=spec.interval_s, deadline_s=spec.deadline_s)
    return Ready("exec", argv=tuple(spec.exec or ()), interval_s=spec.interval_s, deadline_s=spec.deadline_s)


def _in_use(links: Sequence[Link], instances: Sequence[Instance]) -> list[Link]:
    used = {port.link for instance in instances for port in instance.ports}
    return [link for link in links if link.name in used]


def _machines(spec: ServiceSpec, inside: Sequence[Instance]) -> dict[str, Instance]:
    """Return the machine that each of the instances lives in, by the instance's id."""
    members: dict[str, list[Instance]] = {}
    for one in inside:
        group = spec.functions[one.function].vm
        members.setdefault(f"{one.service}.{group or one.function}.{one.replica}.vm", []).append(one)
    return {one.id: _machine(name, company) for name, company in members.items() for one in company}


def _machine(name: str, inside: Sequence[Instance]) -> Instance:
    """Return the VM that holds `inside`: room for all of them, their ports as its own, their layers as its disks."""
    first = inside[0]
    ports = [port for one in inside for port in one.ports]
    images = {one.image.digest: one.image for one in inside if one.image}
    return Instance(
        id=name,
        service=first.service,
        function=first.function,
        replica=first.replica,
        form="vm",
        hostname=f"{name.split('.')[1]}-vm",
        image=None,
        process=None,
        size=Size(
            float(math.ceil(sum(one.size.cpus for one in inside))),
            sum(one.size.memory_bytes for one in inside) + _MACHINE_OVERHEAD_BYTES,
        ),
        ports=tuple(replace(port, interface=f"eth{index}") for index, port in enumerate(ports)),
        mounts=_disks(inside),
        members=tuple(one.id for one in inside),
        carries=tuple(images.values()),
    )


def read_descriptor(path: Path) -> bytes:
    """Return the text of the descriptor at `path`. Raises: DescriptorError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DescriptorError(
            f"cannot read {path}", why=str(error.strerror), fix="name the service's file, for example service.yaml"
        ) from error


def _disks(inside: Sequence[Instance]) -> tuple[Mount, ...]:
    """Return the volumes of a machine's members, each once, to be written if any of them writes."""
    found: dict[str, Mount] = {}
    for mount in (mount for one in inside for mount in one.mounts):
        before = found.get(mount.source, mount)
        found[mount.source] = replace(before, read_only=before.read_only and mount.read_only)
    return tuple(found.values())
