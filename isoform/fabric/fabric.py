"""The fabric of one home: all links and ports, in a network namespace of its own."""

from __future__ import annotations

import asyncio
import socket
import threading

from isoform.errors import WrongState
from isoform.fabric import link as links
from isoform.fabric import names, rtnl, state
from isoform.fabric import port as ports
from isoform.fabric.netlink import Netlink
from isoform.fabric.port import Ports
from isoform.fabric.state import FabricState
from isoform.host import Home, netns
from isoform.model import Attachment, Instance, Link


class Fabric:
    """Makes, mends, removes and shows links and ports. Every verb may be repeated, and copes with half-made things.

    The kernel's work is a few milliseconds, spent in a thread, so that other instances go on meanwhile.
    """

    def __init__(self, home: Home) -> None:
        self._home, self._netns, self._mark = home, home.netns(), home.mark
        self._shape = threading.Lock()  # held while links come or go: with the last the namespace goes

    async def add_link(self, link: Link) -> None:
        """Make the link, or mend it: its MTU and addresses become as asked. Raises: StepFailed, HostLacks."""
        await asyncio.to_thread(self._add_link, link)

    async def remove_link(self, link_id: str) -> None:
        """Remove the link; with the last link or port the fabric's namespace goes. Raises: StepFailed."""
        await asyncio.to_thread(self._remove_link, link_id)

    async def attach(self, instance: Instance, kind: str) -> tuple[Attachment, ...]:
        """Make all ports of `instance`, as `kind` ("netns" or "tap"); ports of the other kind go.

        Raises: WrongState if a link does not exist; StepFailed, HostLacks. After an error nothing new is left.
        """
        await asyncio.to_thread(self._ports(instance, kind).attach)
        return self.attachments(instance, kind)

    async def detach(self, instance_id: str) -> None:
        """Remove all ports of an instance and its network namespace, half-made ones too. Raises: StepFailed.

        Processes that still run in the namespace keep it alive, nameless and joined to nothing.
        """
        await asyncio.to_thread(self._detach, instance_id)

    def attachments(self, instance: Instance, kind: str) -> tuple[Attachment, ...]:
        """Return what `attach` returns, without making anything."""
        return names.attachments(self._home.netns(instance.id), self._netns, instance, kind)

    def is_attached(self, instance: Instance, kind: str) -> bool:
        """Whether all ports of `instance` are there as wanted, and none beside them."""
        return self._ports(instance, kind).are_attached()

    def has_ports(self, instance_id: str) -> bool:
        """Whether anything of an instance's ports is there: a device in the fabric, or a namespace of its own."""
        if netns.exists(self._home.netns(instance_id)):
            return True
        if not netns.exists(self._netns):
            return False
        with Netlink(self._netns) as netlink:
            return bool(state.look(netlink, self._mark, instance_id).ports)

    async def observe(self) -> FabricState:
        """Return all links and ports of the home."""
        prefix = f"{self._netns}-"
        namespaces = [name.removeprefix(prefix) for name in netns.names(prefix)]
        if not netns.exists(self._netns):
            return FabricState({}, dict.fromkeys(namespaces, "netns"), {})
        with Netlink(self._netns) as netlink:
            seen = state.look(netlink, self._mark)
            addresses = rtnl.addresses(netlink) if seen.bridges else {}
        return state.state(seen, self._mark, addresses, namespaces)

    def socket(self, family: int, kind: int, link_id: str = "") -> socket.socket:
        """Return a non-blocking socket inside the fabric, from which ports of its links can be reached.

        Args:
            link_id: bind it to that link, as two services' links may have the same addresses.
        Raises: WrongState if the fabric or the link does not exist.
        """
        made = netns.socket_in(self._netns, family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            if link_id:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, names.link_device(link_id).encode() + b"\0")
        except OSError as error:
            made.close()
            raise WrongState(f"link {link_id} does not exist", why=str(error)) from error
        return made

    def _ports(self, instance: Instance, kind: str) -> Ports:
        return Ports(self._netns, self._home.netns(instance.id), self._mark, instance, kind)

    def _add_link(self, link: Link) -> None:
        with self._shape:
            try:
                links.add(self._netns, self._mark, link)
            except BaseException as error:
                try:
                    self._remove_if_empty()
                except Exception as second:
                    error.add_note(f"and cleaning up after it failed: {second}")
                raise

    def _remove_link(self, link_id: str) -> None:
        with self._shape:
            links.remove(self._netns, self._mark, link_id)
            self._remove_if_empty()

    def _detach(self, instance_id: str) -> None:
        if netns.exists(self._netns):
            with Netlink(self._netns) as netlink:
                ports.remove(netlink, state.look(netlink, self._mark, instance_id).ports)
        netns.delete(self._home.netns(instance_id))
        with self._shape:
            self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        if netns.exists(self._netns):
            with Netlink(self._netns) as netlink:
                seen = state.look(netlink, self._mark)
            if seen.bridges or seen.ports:
                return
        netns.delete(self._netns)
