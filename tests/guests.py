"""Virtual machines for tests: one guest for all of them, and instances to run in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from isoform.fabric import Fabric
from isoform.forms.vm import Vm
from isoform.host import Home
from isoform.host.probe import facts
from isoform.images.guest import Guest
from isoform.model import Attachment, Image, Instance, Process, Size
from tests.images import ARCHITECTURE, busybox_image
from tests.kernel.fabric_lab import ACCESS, fabric_of
from tests.kernel.fabric_lab import instance as plain_instance

MEMORY = 128 << 20
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def shared_guest(home: Home) -> Guest:
    """Return a guest for `home` that is made once on this machine: it downloads and packs for some ten seconds."""
    guest = Guest(home, ARCHITECTURE, root=Path(f"/tmp/iso-guest-{os.geteuid()}"))
    await guest.ensure()
    return guest


async def vm_form(home: Home) -> Vm:
    """A form whose home knows already what the host can do: a trial boot that fails takes eight seconds."""
    known = Path(f"/tmp/iso-guest-{os.geteuid()}/host.json")
    if known.exists() and not (home.path / "host.json").exists():
        shutil.copyfile(known, home.path / "host.json")
    form = Vm(home, await facts(home), await shared_guest(home))
    await form.acceleration()
    shutil.copyfile(home.path / "host.json", f"{known}.{os.getpid()}")
    Path(f"{known}.{os.getpid()}").replace(known)
    return form


async def share_guest(home: Home) -> None:
    """Give `home` the guest that all tests share, and what is known of this host, as a used home has them."""
    await vm_form(home)
    home.guest.symlink_to(f"/tmp/iso-guest-{os.geteuid()}")


def process(*argv: str, **fields: Any) -> Process:
    return Process(argv, (("PATH", PATH),), "/", **{"user": fields.pop("user", None) or _root(), **fields})


def _root() -> Any:
    from isoform.model import User

    return User()


def vm_instance(image: Image | None, run: Process | None, replica: int = 0, **fields: Any) -> Instance:
    """An instance of the form vm with one port on the link ACCESS."""
    return replace(plain_instance(replica), **{
        "form": "vm", "image": image, "process": run, "size": Size(1, MEMORY), **fields})


@asynccontextmanager
async def attached(home: Home, *instances: Instance) -> AsyncIterator[tuple[Fabric, list[Sequence[Attachment]]]]:
    """A fabric with the link ACCESS and the taps of the instances; all of it gone afterwards."""
    async with fabric_of(home, ACCESS) as fabric:
        yield fabric, [await fabric.attach(one, "tap") for one in instances]


@asynccontextmanager
async def running(home: Home, run: Process | None = None, **fields: Any) -> AsyncIterator[tuple[Vm, Instance]]:
    """A started VM with busybox, deleted afterwards."""
    form = await vm_form(home)
    image = await busybox_image(home)
    one = vm_instance(image, run or process("/bin/sh", "-c", "sleep 1000"), **fields)
    async with attached(home, one) as (_, taps):
        try:
            await form.create(one, taps[0])
            await form.start(one.id)
            yield form, one
        finally:
            await form.delete(one.id)
