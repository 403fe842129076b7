"""Which Linux capabilities a function on the host's own kernel gets, and which it may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from isoform.errors import DescriptorError

# Docker's default set: https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
DEFAULT = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)

# What reaches no further than the function's own namespaces, files and processes. The rest (CAP_SYS_ADMIN,
# CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_TIME, CAP_BPF, …) gives power over the kernel, which is the host's own.
SHAREABLE = frozenset({
    *DEFAULT, "CAP_NET_ADMIN", "CAP_NET_BROADCAST", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE", "CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_TTY_CONFIG",
})


def normal(name: str) -> str:
    """Return a capability's name as the OCI writes it: "net_admin" and "CAP_NET_ADMIN" are the same."""
    upper = name.upper()
    return upper if upper.startswith("CAP_") else f"CAP_{upper}"


def check_shareable(label: str, asked: Iterable[str]) -> None:
    """Refuse capabilities that give power over the kernel, where that kernel is the host's. Raises: DescriptorError."""
    powers = sorted({normal(name) for name in asked} - SHAREABLE)
    if powers:
        raise DescriptorError(
            f"{label}: {' and '.join(powers)} would give a container power over this host",
            why="it shares the host's kernel, and this capability is not confined to the container's namespaces",
            fix="run the function with a kernel of its own (form: vm), or leave the capability out",
        )


def granted(extra: Sequence[str]) -> dict[str, list[str]]:
    """Return the five sets of an OCI process.

    What was asked for in the descriptor is ambient too, so that a function whose user is not root has it as well;
    the default set is not: it would make every user nearly root.
    """
    asked = list(dict.fromkeys(normal(name) for name in extra))
    every = sorted({*DEFAULT, *asked})
    return {"bounding": every, "effective": every, "permitted": every, "inheritable": asked, "ambient": asked}
