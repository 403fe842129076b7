"""The one interface behind which a function's form hides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from isoform.host.process import Result
from isoform.model import Attachment, ExecSpec, File, Instance, Lack, LogLine, Observation, Size


class Form(Protocol):
    """One way to run an instance. Every verb may be repeated: the second call changes nothing.

    Any process may die at any line, so each verb copes with what a half-done call left behind. What a form keeps
    of an instance is under `home.instance(id)`; `delete` removes that folder last.
    """

    name: str  # "container", "vm" or "container-in-vm"
    live: frozenset[str]  # what may change while it runs, of "cpu", "memory", "ports"
    attaches: str  # the kind of attachment that it is handed: "netns" or "tap"
    weight: int  # 1 is the lightest; `form: auto` takes the lightest that fits
    own_kernel: bool  # whether the function runs on a kernel of its own, whose memory is then set aside for it
    in_machine: bool  # whether its instances live in machines, which several of them may share
    least_memory_bytes: int  # below this an instance of this form cannot start

    async def missing(self) -> list[Lack]:
        """Return what this host lacks to run this form; an empty list means that it is usable."""
        ...

    async def create(self, instance: Instance, ports: Sequence[Attachment]) -> None:
        """Make the instance, all but running. Raises: StepFailed, HostLacks."""
        ...

    async def start(self, instance_id: str) -> None:
        """Let a created instance run its command. Raises: StepFailed, WrongState if it is not created."""
        ...

    async def resize(self, instance_id: str, size: Size) -> None:
        """Change what `live` names, without a restart. Raises: WrongState for anything else."""
        ...

    async def stop(self, instance_id: str, grace_s: float) -> None:
        """Send the image's stop signal, wait up to `grace_s`, then kill."""
        ...

    async def delete(self, instance_id: str) -> None:
        """Remove the instance and all that was made for it, running or not."""
        ...

    async def observe(self, instance_id: str) -> Observation:
        """Ask the kernel and the runtime, not the journal. Spawns no process on its usual way."""
        ...

    async def known(self) -> list[str]:
        """Return the ids of all instances of this form that have left anything on this host, half-made ones too."""
        ...

    async def put(self, instance_id: str, files: Sequence[File]) -> None:
        """Write files into a running instance's root (used when the names of its neighbours change)."""
        ...

    async def run(self, instance_id: str, spec: ExecSpec, deadline_s: float) -> Result:
        """Run a command inside, without stdin, and return its exit status and output (readiness probes, tools)."""
        ...

    def exec_argv(self, instance_id: str, spec: ExecSpec) -> list[str]:
        """Return the host command that runs `spec` inside.

        Its stdin, stdout, stderr, terminal and exit status are those of the command inside; the caller spawns it
        (or becomes it) with whatever descriptors it likes.
        """
        ...

    def logs(self, instance_id: str, follow: bool) -> AsyncIterator[LogLine]:
        """Yield what the entrypoint printed, oldest first; with `follow`, go on until the instance is gone."""
        ...
