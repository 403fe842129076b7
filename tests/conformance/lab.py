"""What the statements about forms stand on: a home with a fabric, images, and instances of one form."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isoform.fabric import Fabric, mac_for
from isoform.forms import Container, Form, Nested
from isoform.host import Home
from isoform.host.facts import Facts
from isoform.host.probe import facts as probe
from isoform.model import (
    Attachment,
    ExecSpec,
    Image,
    Instance,
    Link,
    Observation,
    Port,
    Process,
    Size,
    User,
)
from tests.conftest import leftovers
from tests.guests import vm_form
from tests.images import RECIPES, busybox_image, recipe_image

LINK = Link("t", "lan", "10.77.0.0/24", "fd77::/64", 1500, ("10.77.0.254/24", "fd77::fe/64"))
FORMS = ("container", "vm", "container-in-vm")
MEMORY = {"container": 64 << 20, "vm": 192 << 20, "container-in-vm": 64 << 20}
MACHINE_BYTES = 224 << 20  # beside its members, for the machine's kernel and tools
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SLEEPER = "trap 'exit 0' TERM; echo ready; while :; do sleep 3600 & wait $!; done"


@dataclass
class Lab:
    """One home and one form; instances are numbered, so that no two tests share an address."""

    home: Home
    facts: Facts
    form: Form
    fabric: Fabric
    image: Image
    made: list[Instance] = field(default_factory=list)

    def instance(self, script: str = SLEEPER, **changes: Any) -> Instance:
        """An instance that runs `script`, not attached yet; `changes` are its fields, or its process's."""
        number = len(self.made) + 1
        name = f"t.f.{number}"
        port = Port("lan", "eth0", mac_for(name, "lan"), (f"10.77.0.{number}/24", f"fd77::{number}/64"), 1500)
        process = Process(
            argv=changes.pop("argv", ("/bin/sh", "-c", script)), env=(("PATH", PATH), *changes.pop("env", ())),
            cwd=changes.pop("cwd", "/"), user=changes.pop("user", User()),
            stop_signal=changes.pop("stop_signal", "SIGTERM"),
        )
        one = Instance(
            id=name, service="t", function="f", replica=number, form=self.form.name, hostname=f"f-{number}",
            image=self.image, process=process, size=Size(1, MEMORY[self.form.name]), ports=(port,),
        )
        one = replace(one, **changes)
        if self.form.name == "container-in-vm" and one.machine is None:
            one = replace(one, machine=machine((one,)))
        self.made.append(one)
        return one

    async def attach(self, one: Instance) -> Sequence[Attachment]:
        holder = one.machine or one
        return await self.fabric.attach(holder, self.form.attaches)

    async def create(self, one: Instance) -> Instance:
        await self.form.create(one, await self.attach(one))
        return one

    async def run(self, one: Instance) -> Instance:
        """Create and start it, and wait until its script printed its first line."""
        await self.create(one)
        await self.form.start(one.id)
        return one

    async def ready(self, script: str = SLEEPER, **changes: Any) -> Instance:
        one = await self.run(self.instance(script, **changes))
        await until(lambda: self.said(one.id, "ready"))
        return one

    async def said(self, instance_id: str, text: str) -> bool:
        return any(text in line.text for line in await self.log(instance_id))

    async def log(self, instance_id: str) -> list[Any]:
        return [line async for line in self.form.logs(instance_id, follow=False)]

    async def sh(self, one: Instance, script: str, deadline_s: float = 30) -> str:
        """What `script` prints inside; it must succeed."""
        result = await self.form.run(one.id, ExecSpec(("/bin/sh", "-c", script)), deadline_s)
        assert result.code == 0, f"{script}: {result.code} {result.out} {result.err}"
        return result.out.strip()

    async def fails(self, one: Instance, script: str) -> str:
        """What `script` says inside while it fails."""
        result = await self.form.run(one.id, ExecSpec(("/bin/sh", "-c", script)), 30)
        assert result.code != 0, f"{script} succeeded: {result.out}"
        return result.err

    async def stopped(self, one: Instance, deadline_s: float = 60) -> Observation:
        """Wait until its entrypoint has ended."""
        async def is_over() -> bool:
            return (await self.form.observe(one.id)).state == "stopped"

        await until(is_over, deadline_s)
        return await self.form.observe(one.id)

    async def delete(self, one: Instance) -> None:
        await self.form.delete(one.id)
        await self.fabric.detach((one.machine or one).id)

    def connect(self, address: str, port: int) -> bool:
        """Try a TCP connection from the fabric's own port of the link."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.fabric.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(1)
            return one.connect_ex((address, port)) == 0


async def filter_image(home: Home) -> Image:
    """An image with busybox and nft."""
    return await recipe_image(home, RECIPES / "filter.yaml")


def machine(members: Sequence[Instance]) -> Instance:
    """The virtual machine that holds `members`."""
    first = members[0]
    return Instance(
        id=f"{first.id}.vm", service=first.service, function=first.function, replica=first.replica, form="vm",
        hostname=f"{first.hostname}-vm", image=None, process=None,
        size=Size(1, sum(one.size.memory_bytes for one in members) + MACHINE_BYTES),
        ports=tuple(replace(port, interface=f"eth{index}")
                    for index, port in enumerate(port for one in members for port in one.ports)),
        mounts=tuple(mount for one in members for mount in one.mounts), members=tuple(one.id for one in members),
        carries=tuple({one.image.digest: one.image for one in members if one.image}.values()),
    )


async def until(holds: Callable[[], Awaitable[bool]], deadline_s: float = 60) -> None:
    """Wait until `holds`; fails when the deadline passes."""
    end = time.monotonic() + deadline_s
    while not await holds():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.05)


async def form_of(name: str, home: Home) -> tuple[Form, Facts]:
    if name == "container":
        facts = await probe(home)
        return Container(home, facts), facts
    vm = await vm_form(home)  # first: it brings along what other tests have found out about this host
    facts = await probe(home)
    return vm if name == "vm" else Nested(vm, home, facts), facts


@asynccontextmanager
async def lab(name: str) -> AsyncIterator[Lab]:
    """A lab for one form; fails if anything of it stays on the host."""
    home = Home(Path(tempfile.mkdtemp(prefix="iso-", dir="/tmp")))
    fabric = Fabric(home)
    try:
        form, facts = await form_of(name, home)
        one = Lab(home, facts, form, fabric, await busybox_image(home))
        await fabric.add_link(LINK)
        try:
            yield one
        finally:
            failures = []
            for instance in one.made:
                try:
                    await one.delete(instance)
                except Exception as error:
                    failures.append(error)
            await fabric.remove_link(LINK.id)
            assert failures == []
            assert await one.form.known() == []
        assert leftovers(home) == []
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(home.path)
