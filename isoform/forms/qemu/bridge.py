"""Joins ssh to a machine: `python bridge.py FOLDER PORTS`, run by ssh as its ProxyCommand. Needs nothing of isoform.

It takes a session port that no other bridge holds, asks init for an ssh server on it, skips what an earlier session
left on that port, and then carries bytes until either side ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import select
import socket
import sys
import time

PATIENCE_S = 60.0  # a guest that boots on a busy host without KVM
_CHUNK = 65536


def take(folder: str, ports: int) -> int:
    """Return the number of a free port, which stays ours until this process ends. Raises: TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for number in range(ports):
            fd = os.open(f"{folder}/exec.{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return number
            except BlockingIOError:
                os.close(fd)
        time.sleep(0.02)
    raise TimeoutError(f"all {ports} sessions of this machine are in use")


def plug(folder: str, name: str) -> None:
    """Give the machine a serial port `isoform.NAME` that we reach at NAME.sock; one that it has stays."""
    if os.path.exists(f"{folder}/{name}.plugged"):  # noqa: PTH110  importing pathlib would double our start
        return
    address = {"type": "unix", "data": {"path": f"{name}.sock"}}  # QEMU works in its folder
    backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
    with _connected(folder, "qmp.sock") as line, line.makefile("rw") as monitor:
        for command, arguments in (
            ("qmp_capabilities", {}),
            ("chardev-add", {"id": name, "backend": backend}),
            ("device_add", {"driver": "virtserialport", "id": name, "chardev": name, "name": f"isoform.{name}"}),
        ):
            monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            monitor.flush()
            # an error: we were cut off in between before, and half of it is there; if not, the connecting fails
            while not {"return", "error"} & json.loads(monitor.readline() or '{"error": 0}').keys():
                pass
    os.close(os.open(f"{folder}/{name}.plugged", os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connected(folder: str, name: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(PATIENCE_S)
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            try:
                line.connect(f"/proc/self/fd/{at}/{name}")  # the folder's own path may be too long for connect(2)
                return line
            except BlockingIOError:  # EAGAIN: QEMU lets one caller wait, and there are more
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    finally:
        os.close(at)


def call(folder: str, number: int) -> tuple[socket.socket, bytes, bytes]:
    """Return the connection to the ssh server, what it has said already, and the mark with which it will end."""
    plug(folder, f"exec.{number}")
    line = _connected(folder, f"exec.{number}.sock")
    nonce = secrets.token_hex(16)
    control = os.open(f"{folder}/main.in", os.O_WRONLY | os.O_NONBLOCK)
    os.write(control, f"session {number} {nonce}\n".encode())
    os.close(control)
    said, mark = b"", nonce.encode() + b"\n"
    while mark not in said:
        more = line.recv(_CHUNK)
        if not more:
            raise ConnectionError("the machine has stopped")
        said += more
    line.settimeout(None)
    return line, said.partition(mark)[2], mark


def carry(line: socket.socket, first: bytes, mark: bytes) -> None:
    """Carry bytes between our stdin and stdout and the machine until one of them ends.

    Args:
        mark: what the machine sends at its end, at random points cut into two; a port has no other end of file.
    """
    _write(1, first)
    tail = first[-len(mark):]
    while not tail.endswith(mark):
        ready = select.select([0, line.fileno()], [], [])[0]
        if line.fileno() in ready:
            data = line.recv(_CHUNK)
            if not data:
                return
            _write(1, data)
            tail = (tail + data)[-len(mark):]
        if 0 in ready:
            data = os.read(0, _CHUNK)
            if not data:
                return
            line.sendall(data)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data):]


def main(folder: str, ports: str) -> int:
    """Serve one session and return the exit status."""
    try:
        carry(*call(folder, take(folder, int(ports))))
    except (BrokenPipeError, ConnectionError):
        return 0
    except OSError as error:  # TimeoutError is one
        print(f"isoform: cannot reach the machine: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
