"""The requests that show that examples/edge works, whatever the forms of its functions, and what they must bring."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE = "examples/edge/service.yaml"
ISOFORM = Path(sys.executable).parent / "isoform"

GATEWAY = {4: "10.10.2.2", 6: "fd00:10:2::2"}  # its own addresses on the link to the web server
WEB = {4: "10.10.2.10", 6: "[fd00:10:2::10]"}
PAGE = "This page came through the gateway."


@dataclass(frozen=True)
class Check:
    """One request and whether it brought what it must."""

    title: str
    good: bool
    detail: str


class CommandFailed(Exception):
    """An isoform command that must succeed did not; holds what it said."""


class Edge:
    """The example's service in one home, steered by the `isoform` command as any user would."""

    def __init__(self, home: Path | None = None) -> None:
        self._env = os.environ | ({"ISOFORM_HOME": str(home)} if home else {})

    def isoform(self, *argv: str, shown: bool = False, deadline_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `isoform ARGV …`; with `shown`, its output goes where ours goes."""
        return subprocess.run([str(ISOFORM), *argv], env=self._env, text=True, check=False, capture_output=not shown,
                              stdin=subprocess.DEVNULL, timeout=deadline_s)

    def instances(self) -> list[dict[str, Any]]:
        """Return what `isoform ps --json` says of the service. Raises: CommandFailed."""
        done = self.isoform("ps", "--json")
        if done.returncode != 0:
            raise CommandFailed(f"isoform ps: {done.stderr.strip()}")
        return [row for row in json.loads(done.stdout) if row["service"] == "edge"]

    def _curl(self, url: str) -> subprocess.CompletedProcess[str]:
        return self.isoform("exec", "edge/subscriber", "--", "curl", "-sS", "-g", "--max-time", "10", url)

    def _page(self, version: int, token: str) -> Check:
        url = f"http://{WEB[version]}/?{token}"
        done = self._curl(url)
        first = (done.stdout or done.stderr).strip().splitlines()
        return Check(f"the subscriber gets the page over IPv{version}", done.returncode == 0 and PAGE in done.stdout,
                     first[-1] if first else "nothing")

    def _closed(self, version: int) -> Check:
        done = self._curl(f"http://{WEB[version]}:8080/")
        said = (done.stderr or done.stdout).strip().splitlines()
        return Check(f"port 8080 stays closed to it over IPv{version}", done.returncode in (7, 28),
                     said[-1] if said else f"exit status {done.returncode}")

    def _open_on_link(self) -> Check:
        """Port 8080 serves on its own link: it is the gateway that closes it to subscribers."""
        done = self.isoform("exec", "edge/gateway", "--", "busybox", "wget", "-q", "-O", "-",
                            f"http://{WEB[4]}:8080/")
        return Check("port 8080 serves on the web server's own link", done.returncode == 0 and PAGE in done.stdout,
                     (done.stderr.strip().splitlines() or ["asked from the gateway"])[-1])

    def _lines(self, token: str) -> list[str]:
        """Return the web server's log lines about one request; a guest's log may come a moment after the answer."""
        for _ in range(20):
            lines = [line for line in self.isoform("logs", "edge/web").stdout.splitlines() if token in line]
            if lines:
                return lines
            time.sleep(0.2)
        return []

    def _translated(self, version: int, token: str) -> Check:
        lines = self._lines(token)
        return Check(f"the web server's log shows the gateway's IPv{version} address",
                     len(lines) == 1 and f"{GATEWAY[version]} " in lines[0],
                     lines[-1].strip() if lines else "no line of this request")

    def checks(self) -> Iterator[Check]:
        """Send the requests, one after the other, and judge each."""
        token = secrets.token_hex(4)  # finds our own lines in a log that may hold an earlier run's
        for version in (4, 6):
            yield self._page(version, f"{token}-v{version}")
        for version in (4, 6):
            yield self._closed(version)
        yield self._open_on_link()
        for version in (4, 6):
            yield self._translated(version, f"{token}-v{version}")
