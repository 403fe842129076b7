"""The command lines of conmon and of OCI runtimes, on a host as in a guest. Pure."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isoform.model import ExecSpec

LONGEST_LOG_BYTES = 64 << 20  # conmon then starts anew: a chatty function must not fill the disk

# An OCI runtime tells by its exit status alone neither whether the command inside failed or the runtime did, nor
# whether that was for want of the command. Users expect what a shell says: 127 not found, 126 found but not to be run.
# The runtime's own words go to stderr and to its log; the log is empty where the command inside did run.
# What a process has in common with the entrypoint, its environment above all, is read from a file: command lines are
# seen by every user of a host.
_EXEC = """\
log=$1 process=$2
IFS= read -r common <"$3" || [ -n "$common" ] || exit 255
(umask 077 && printf '%s%s%s' "$4" "$common" "$5" >"$process") || exit 255
shift 5
"$@"
code=$?
if [ $code -ne 0 ] && [ -s "$log" ]; then
  case $(cat "$log") in
    *chdir*) code=126 ;;
    *"not found"* | *"o such file"*) code=127 ;;
    *) code=126 ;;
  esac
fi
rm -f "$log" "$process"
exit $code
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI runtime and where it keeps its state."""

    name: str
    path: str
    prefix: tuple[str, ...]  # before a command that creates a container
    root: str

    def argv(self, *verb: str, log: str = "") -> list[str]:
        """Return the command line of a verb that creates nothing."""
        logged = ["--log", log] if log else []
        return [self.path, *self.options, *logged, *verb]

    @property
    def options(self) -> list[str]:
        """The options that stand before every verb."""
        manager = ["--cgroup-manager=cgroupfs"] if self.name == "crun" else []  # the others' default
        return ["--root", self.root, *manager]


@dataclass(frozen=True, slots=True)
class Supervised:
    """The paths that conmon is told, as seen where it runs."""

    conmon: str
    bundle: str  # the folder with config.json
    log: str
    pidfile: str  # of the container's first process
    conmon_pidfile: str
    exits: str  # a folder: the exit status appears there in a file
    sockets: str  # a folder with a short path, for the socket that conmon opens for terminals


def signal_number(name: str) -> int:
    """Return the number of a signal as OCI images name it: "SIGTERM", "TERM", "15" or "SIGRTMIN+3"; else SIGTERM's."""
    if name.isdigit():
        return int(name)
    start, _, more = name.upper().removeprefix("SIG").partition("+")
    try:
        return int(signal.Signals[f"SIG{start}"]) + int(more or 0)
    except (KeyError, ValueError):
        return int(signal.SIGTERM)


def socket_name(container_id: str) -> str:
    """Return what conmon calls the container's socket: short, because such paths are limited."""
    return hashlib.sha256(container_id.encode()).hexdigest()[:12]


def conmon_argv(runtime: Runtime, container_id: str, paths: Supervised, log_limit_bytes: int = LONGEST_LOG_BYTES,
                exit_command: Sequence[str] = (), no_pivot: bool = False) -> list[str]:
    """Return the command that creates a container and watches over it.

    Args:
        log_limit_bytes: 0 where the log is no plain file.
        exit_command: run by conmon once the container has ended.
        no_pivot: where the system itself lives in an initramfs, which pivot_root(2) cannot leave.
    """
    words = [*runtime.prefix, runtime.path, *runtime.options]
    return [
        paths.conmon, "-c", container_id, "-n", container_id, "-u", socket_name(container_id),
        "-b", paths.bundle, "-p", paths.pidfile, "-P", paths.conmon_pidfile, "--exit-dir", paths.exits,
        "--socket-dir-path", paths.sockets, "-l", f"k8s-file:{paths.log}", "--no-sync-log",
        *(("--log-size-max", str(log_limit_bytes)) if log_limit_bytes else ()), *(("--no-pivot",) if no_pivot else ()),
        "-r", words[0], *(part for option in words[1:] for part in ("--runtime-arg", option)),
        *(("--exit-command", exit_command[0]) if exit_command else ()),
        *(part for argument in exit_command[1:] for part in ("--exit-command-arg", argument)),
    ]


def common(entrypoint: Mapping[str, Any]) -> str:
    """Return what every process of a container has in common with its entrypoint: one line, a part of a JSON text.

    The entrypoint has an environment: HOME at least.
    """
    kept = {name: value for name, value in entrypoint.items() if name not in ("args", "cwd", "terminal", "env")}
    return json.dumps({**kept, "env": entrypoint["env"]})[1:-2]  # open at both ends: see `_parts`


def _parts(spec: ExecSpec, cwd: str) -> tuple[str, str]:
    """Return what makes an OCI process of `spec`, before and after the text of `common`."""
    own = {"args": list(spec.argv), "cwd": spec.cwd or cwd, "terminal": spec.tty}
    added = json.dumps([f"{name}={value}" for name, value in spec.env])[1:]
    return json.dumps(own)[:-1] + ", ", (", " if spec.env else "") + added + "}"


def exec_argv(runtime: Runtime, container_id: str, spec: ExecSpec, entrypoint: Mapping[str, Any], file: str,
              scratch: str, pidfile: str = "") -> list[str]:
    """Return the command that runs a process beside the container's entrypoint, with that one's exit status.

    Args:
        entrypoint: the OCI process of the entrypoint: user, capabilities and environment are taken over.
        file: where, as seen where the command runs, the text of `common` is.
        scratch: the start of file names that nothing else uses; gone afterwards.
        pidfile: where to leave the command's PID.
    """
    log, process = f"{scratch}.log", f"{scratch}.json"
    options = ["--process", process, *(("--pid-file", pidfile) if pidfile else ())]
    return ["/bin/sh", "-c", _EXEC, "sh", log, process, file, *_parts(spec, entrypoint["cwd"]),
            *runtime.argv("exec", *options, container_id, log=log)]
