"""The bare recipes that isoform is measured against: an OCI runtime and ip(8), QEMU and a tap, by hand."""

from __future__ import annotations

import asyncio
import errno
import json
import time
from pathlib import Path

from harness import shell

from isoform.host import netns
from isoform.host.facts import Runtime

PORT, HOST, SERVER = 80, "10.8.0.254", "10.8.0.2"
_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW",
                 "CAP_SETGID", "CAP_SETUID"]

LINK = """
ip netns add $1
ip -n $1 link add br0 type bridge
ip -n $1 address add 10.8.0.254/24 dev br0
ip -n $1 link set br0 up
"""
PORT_OF = """
ip netns add $1.$2
ip -n $1 link add v$2 type veth peer name eth0 netns $1.$2
ip -n $1 link set v$2 master br0 up
ip -n $1.$2 address add 10.8.0.$((2 + $2))/24 dev eth0
ip -n $1.$2 link set eth0 up
ip -n $1.$2 link set lo up
"""


def write_bundle(folder: Path, rootfs: Path, namespace: str, argv: list[str]) -> None:
    """Write a plain OCI bundle that runs `argv` in the network namespace `namespace`, on a writable root."""
    folder.mkdir(parents=True, exist_ok=True)
    capabilities = dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES)
    config = {
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": argv, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                    "cwd": "/", "capabilities": capabilities, "noNewPrivileges": True},
        "root": {"path": str(rootfs), "readonly": False},
        "hostname": "bare",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                                 {"type": "network", "path": netns.path(namespace)}],
                  "resources": {"memory": {"limit": 128 << 20}},
                  "cgroupsPath": f"/{namespace}"},
    }
    (folder / "config.json").write_text(json.dumps(config))


def runtime_argv(runtime: Runtime, root: Path) -> str:
    """Return the runtime's command as a word of a shell script."""
    import shlex

    return shlex.join([*runtime.prefix, runtime.path, "--root", str(root)])


async def until_answer(namespace: str, address: str = SERVER, deadline_s: float = 60.0) -> None:
    """Connect to the server from the link's other end until it answers; a try every millisecond."""
    loop, end = asyncio.get_running_loop(), time.monotonic() + deadline_s
    tries: set[asyncio.Task[bool]] = set()

    async def attempt() -> bool:
        with netns.socket_in(namespace) as one:
            one.setblocking(False)
            try:
                await asyncio.wait_for(loop.sock_connect(one, (address, PORT)), 2.0)
            except (OSError, TimeoutError):
                return False
            return True

    while time.monotonic() < end:
        tries.add(asyncio.ensure_future(attempt()))
        done, tries = await asyncio.wait(tries, timeout=0.001 if len(tries) < 3 else 0.05,
                                         return_when=asyncio.FIRST_COMPLETED)
        if any(task.result() for task in done):
            for task in tries:
                task.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
            return
        await asyncio.sleep(0.001)
    raise TimeoutError(f"{address} did not answer within {deadline_s} s")


def answers(namespace: str, address: str = SERVER) -> bool:
    """Whether the server accepts a connection right now."""
    with netns.socket_in(namespace) as one:
        one.settimeout(0.2)
        return one.connect_ex((address, PORT)) not in (errno.ECONNREFUSED, errno.EAGAIN, errno.EHOSTUNREACH)


async def remove(runtime: Runtime, root: Path, name: str, count: int) -> None:
    """Take down what the container recipe made."""
    command = runtime_argv(runtime, root)
    for number in range(count):
        await shell(f"{command} delete -f {name}.{number}; ip netns del {name}.{number}")
    await shell(f"ip netns del {name}")
