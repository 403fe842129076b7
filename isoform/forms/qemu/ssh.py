"""The host command that reaches into a guest with stdin, stdout, stderr, terminal and exit status. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import join

from isoform.forms.qemu import bridge

SESSIONS = 4  # at once; each holds 4 MiB of the guest once it was used
_OPTIONS = {
    "BatchMode": "yes", "IdentitiesOnly": "yes", "IdentityAgent": "none", "ControlMaster": "no", "ControlPath": "none",
    # the line goes from our own socket to our own guest: there is no network on which another could answer
    "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "GlobalKnownHostsFile": "/dev/null",
    "PreferredAuthentications": "publickey", "LogLevel": "ERROR", "EscapeChar": "none", "ServerAliveInterval": "0",
    # the quickest of what both sides speak where there is no AES instruction, as under emulation
    "Ciphers": "chacha20-poly1305@openssh.com", "KexAlgorithms": "curve25519-sha256", "Compression": "no",
    "ForwardX11": "no", "ForwardAgent": "no", "ClearAllForwardings": "yes",
}


def ssh_argv(folder: Path, key: Path, argv: Sequence[str], tty: bool, ssh: str = "ssh") -> list[str]:
    """Return the command that runs `argv` in the root of the guest whose machine has `folder`.

    Its exit status is that of the command, 128 + N where signal N ended it, 255 where the guest was not reached.
    """
    proxy = join([sys.executable, "-I", "-S", bridge.__file__, str(folder), str(SESSIONS)])
    options = {**_OPTIONS, "IdentityFile": f'"{key}"', "ProxyCommand": proxy.replace("%", "%%")}
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    # The ssh server has a network of its own. Its shell stays, to turn a signal into 128 + N, and must outlive the
    # keys that end the command; the command does not inherit a trap, as it would inherit that a signal is ignored.
    inside = f"trap : INT QUIT; nsenter -t 1 -n {join(argv)}; exit $?"
    return [ssh, "-F", "none", *words, "-tt" if tty else "-T", "root@isoform", inside]
