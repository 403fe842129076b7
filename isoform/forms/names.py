"""The files by which a function knows itself and its neighbours, the same in every form. Pure."""

from __future__ import annotations

from isoform.model import File, Instance
from isoform.model.hosts import hosts_file

_RESOLV = b"# no name servers: functions find each other through /etc/hosts\n"


def own_files(instance: Instance) -> list[File]:
    """Return /etc/hosts, /etc/hostname and /etc/resolv.conf; what the descriptor has there comes after and wins."""
    return [
        File("/etc/hosts", hosts_file(instance).encode()),
        File("/etc/hostname", f"{instance.hostname}\n".encode()),
        File("/etc/resolv.conf", _RESOLV),
    ]
