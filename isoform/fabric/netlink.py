"""Rtnetlink as the fabric needs it: many messages in one system call, each error named after what it concerns.

pyroute2 takes 0.1 to 0.3 s to import and some 0.1 ms to pack one message; a container is to be up in 0.05 s. So the few
messages that the fabric sends are packed here. Source: netlink(7), rtnetlink(7), linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from isoform.errors import HostLacks, StepFailed
from isoform.host import netns

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUDE, CREATE = 0x100, 0x200, 0x400

_ERROR, _DONE = 2, 3
_DUMP_INTERRUPTED = 0x10
_CAPPED, _HAS_ATTRIBUTES = 0x100, 0x200  # flags of an error message: the request is not echoed; attributes follow
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_INT = struct.Struct("=i")
_RECEIVE_BYTES = 1 << 16  # more than the kernel ever puts into one datagram of a dump (32 KiB)
_DUMP_TRIES = 5


class NetlinkError(StepFailed):
    """The kernel refused a message."""

    def __init__(self, subject: str, code: int, said: str) -> None:
        super().__init__(f"{subject}: {os.strerror(code).lower()}", why=f"the kernel says: {said}" if said else "")
        self.code = code


class Request(NamedTuple):
    """One message to the kernel."""

    kind: int  # RTM_…
    flags: int  # beside REQUEST
    body: bytes  # the fixed header and the attributes
    subject: str  # what it is about, in the user's words, for errors: "edge.web.0: address 10.0.1.2/24 on eth0"
    accept: tuple[int, ...] = ()  # error numbers that mean that the wish is already fulfilled


def attribute(kind: int, *values: bytes) -> bytes:
    """Return one attribute, padded; several values make a nested one."""
    length = 4 + sum(map(len, values))
    return b"".join((_ATTRIBUTE.pack(length, kind), *values, bytes(-length & 3)))


def number(kind: int, value: int) -> bytes:
    """Return an attribute that holds a 32-bit number."""
    return struct.pack("=HHI", 8, kind, value)


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a string, ended by a zero byte."""
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the attributes that begin at `offset`, by type, flags of the type removed."""
    found = {}
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def pack(requests: Sequence[Request], first: int) -> bytes:
    """Return the requests as one datagram, numbered from `first`.

    Only the last asks for an acknowledgement: the kernel carries them out in order, and reports each error anyway.
    """
    parts = []
    for i, request in enumerate(requests):
        flags = REQUEST | request.flags
        if i == len(requests) - 1 and request.flags & DUMP != DUMP:
            flags |= ACK
        parts += [_HEADER.pack(16 + len(request.body), request.kind, flags, first + i, 0), request.body]
        parts.append(bytes(-len(request.body) & 3))
    return b"".join(parts)


class Netlink:
    """A rtnetlink socket in one network namespace. Calls are answered by the kernel before they return."""

    def __init__(self, netns_name: str) -> None:
        self._socket = netns.socket_in(netns_name, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self._sequence = 0
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def change(self, requests: Sequence[Request]) -> None:
        """Carry out all requests in one system call.

        Raises: NetlinkError for the first that failed; HostLacks if that is for want of privilege or of a module.
        """
        failed = []
        for request, _, error in self._exchange(requests):
            if error and error[0] not in request.accept:
                failed.append((request, *error))
        if failed:
            raise _ours(*failed[0])

    def ask(self, requests: Sequence[Request]) -> list[bytes | None]:
        """Return the answer to each request, in one system call; None where its subject does not exist."""
        answers: dict[int, bytes] = {}
        for request, body, error in self._exchange(requests):
            if error and error[0] not in (errno.ENODEV, errno.ENOENT):
                raise _ours(request, *error)
            if body:
                answers[id(request)] = body
        return [answers.get(id(request)) for request in requests]

    def dump(self, request: Request) -> list[bytes]:
        """Return all objects that `request` (with DUMP in its flags) asks for."""
        for _ in range(_DUMP_TRIES):
            try:
                return self._dump(request)
            except InterruptedError:
                continue  # the kernel's tables changed on the way: part of the answer is stale
        raise StepFailed(f"{request.subject}: changed faster than it could be read", fix="run the command again")

    def _dump(self, request: Request) -> list[bytes]:
        found = []
        for _, body, error in self._exchange([request]):
            if error:
                raise _ours(request, *error)
            found.append(body)
        return found

    def _exchange(self, requests: Sequence[Request]) -> Iterator[tuple[Request, bytes, tuple[int, str] | None]]:
        """Yield each answer with its request, until the last is answered: (request, body, (errno, text) or None)."""
        if not requests:
            return
        first = self._sequence + 1
        self._sequence += len(requests)
        self._socket.send(pack(requests, first))
        done = interrupted = False
        while not done:
            data = self._socket.recv(_RECEIVE_BYTES)
            offset = 0
            while offset < len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
                message = data[offset + 16 : offset + length]
                offset += (length + 3) & ~3
                if sequence < first:
                    continue  # the rest of a dump that was given up
                interrupted |= bool(flags & _DUMP_INTERRUPTED)
                if kind not in (_ERROR, _DONE):
                    yield requests[sequence - first], message, None
                    continue
                done |= sequence == self._sequence
                if code := -_INT.unpack_from(message)[0]:
                    yield requests[sequence - first], b"", (code, _said(kind, flags, message))
        if interrupted:
            raise InterruptedError


def _said(kind: int, flags: int, message: bytes) -> str:
    """Return the words with which the kernel explains an error, "" where it has none."""
    if not flags & _HAS_ATTRIBUTES:
        return ""
    skip = 4 if kind == _DONE else 20  # the error number; with an error also the header of the request
    if kind == _ERROR and not flags & _CAPPED:
        skip += _INT.unpack_from(message, 4)[0] - 16
    return attributes(message, skip).get(_ERROR_TEXT, b"").rstrip(b"\0").decode(errors="replace")


def _ours(request: Request, code: int, said: str) -> NetlinkError | HostLacks:
    if code == errno.EPERM:
        return HostLacks(f"{request.subject}: not permitted", why="networks are root's to make", fix="run as root")
    if code == errno.EOPNOTSUPP:
        why = said or "the kernel has no such kind of device"
        return HostLacks(f"{request.subject}: not supported by this kernel", why=why, fix="run: isoform doctor")
    return NetlinkError(request.subject, code, said)
