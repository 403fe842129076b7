"""What a form is asked to run: an instance with its process, size, ports and files. Frozen values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isoform.model.image import Image, User


@dataclass(frozen=True, slots=True)
class Link:
    """One L2 segment of the fabric, addresses resolved."""

    service: str
    name: str
    cidr: str  # "10.0.1.0/24"; "" where the link has IPv6 alone
    cidr6: str  # "fd00:1::/64"; "" where the link has none
    mtu: int
    probe: tuple[str, ...]  # the fabric's own addresses there, with prefix length, from which readiness is probed

    @property
    def id(self) -> str:
        """Name of the link within a home: "edge.access"."""
        return f"{self.service}.{self.name}"


@dataclass(frozen=True, slots=True)
class Port:
    """Where an instance meets a link. Its MAC and addresses stay the same for the instance's life."""

    link: str  # the link's name within the service
    interface: str  # its name inside the instance: "eth0"
    mac: str  # "02:…", lower case
    addresses: tuple[str, ...]  # with prefix length: ("10.0.1.2/24", "fd00:1::2/64")
    mtu: int


@dataclass(frozen=True, slots=True)
class Route:
    """A static route inside the instance."""

    to: str  # "default", "default6" (::/0), or a network "10.9.0.0/16"
    via: str  # the next hop's address


@dataclass(frozen=True, slots=True)
class Process:
    """The one command that an instance runs."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]  # complete: the image's, then the descriptor's; PATH always set
    cwd: str
    user: User
    stop_signal: str = "SIGTERM"


@dataclass(frozen=True, slots=True)
class Size:
    """How much of the host an instance may take."""

    cpus: float  # cores
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class File:
    """A file laid into the instance's root before its command runs; owned by root."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"val_json_bytes": "hex"}  # as `codec.dump` writes bytes

    path: str  # absolute, inside the function
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of the service in an instance. On the host it is one sparse ext4 image file, whatever the form."""

    volume: str  # name within the service
    path: str  # absolute, inside the function
    source: str  # the image file on the host, absolute
    size_bytes: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a function, fully resolved."""

    id: str  # "edge.web.0": service, function, replica
    service: str
    function: str
    replica: int
    form: str
    hostname: str
    image: Image | None  # None: a bare guest, the machine that holds nested containers
    process: Process | None
    size: Size
    ports: tuple[Port, ...] = ()
    routes: tuple[Route, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()  # (address, name) of every function on the same links
    files: tuple[File, ...] = ()
    mounts: tuple[Mount, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    capabilities: tuple[str, ...] = ()  # beside the default set, as "CAP_NET_ADMIN"
    machine: Instance | None = None  # container-in-vm: the VM, with the ports and mounts of all its members
    members: tuple[str, ...] = ()  # of a machine: ids of the instances inside it
    carries: tuple[Image, ...] = ()  # of a machine: the images of its members, whose layers it gets as disks

    @property
    def label(self) -> str:
        """What users type and read: "edge/web", or "edge/web-1" where there are several."""
        return f"{self.service}/{self.hostname}"


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a form is handed for one port: a device that is made, named, and on its link.

    kind "netns": `device` is in the network namespace `netns` under the port's interface name, with MAC,
    addresses, MTU and routes set; the form joins that namespace and does nothing else.
    kind "tap": `device` is a persistent tap in the network namespace `netns` (the fabric's own); the form opens
    it there and the guest configures MAC, addresses, MTU and routes.
    """

    port: Port
    kind: str  # "netns" or "tap"
    netns: str  # name under /run/netns
    device: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What the kernel and the runtime say of one instance right now."""

    state: str  # "absent", "created", "running", "stopped" (ended, not deleted), "paused"
    pid: int = 0  # of the entrypoint (container) or QEMU (vm) on the host; 0: none
    fingerprint: str = ""  # of the Instance it was created from; "" where absent
    exit_code: int | None = None  # of the entrypoint, where stopped and known
    started_at: float | None = None  # seconds since the epoch
    memory_bytes: int = 0  # of host memory held right now
    reason: str = ""  # why it ended, where known: "out of memory", "machine lost"


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A command to run inside an instance, with its surroundings."""

    argv: tuple[str, ...]
    tty: bool = False
    env: tuple[tuple[str, str], ...] = ()  # added to the instance's own
    cwd: str = ""  # "": the instance's own


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of what an instance printed."""

    text: str
    stream: str = "stdout"  # or "stderr"; "stdout" where the form cannot tell
    at: float | None = None  # seconds since the epoch, where the form keeps it


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that a form needs and this host does not have."""

    what: str
    why: str = ""
    fix: str = ""  # the one command that mends it, where there is one
