"""The text of an instance's /etc/hosts: how functions find each other by name."""

from __future__ import annotations

from isoform.model.instance import Instance


def hosts_file(instance: Instance) -> str:
    """Return the whole file: loopback, then every function that shares a link with this one."""
    lines = [("127.0.0.1", "localhost"), ("::1", "localhost ip6-localhost ip6-loopback")]
    if all(name != instance.hostname for _, name in instance.hosts):
        lines.append(("127.0.1.1", instance.hostname))
    return "".join(f"{address}\t{name}\n" for address, name in (*lines, *instance.hosts))
