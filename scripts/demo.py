"""Bring up examples/edge, send real requests through it, and show what ran where. `make demo` runs it."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isoform.units import format_bytes, format_seconds
from scripts.edge import SERVICE, Edge

AFTERWARDS = """\
It is up. Look around (isoform is in .venv/bin):

  sudo .venv/bin/isoform ps
  sudo .venv/bin/isoform exec edge/subscriber -- curl http://10.10.2.10/
  sudo .venv/bin/isoform exec edge/gateway -- nft list ruleset
  sudo .venv/bin/isoform logs -f edge/web

Move functions to other forms, from the same images, and take it all down:

  sudo .venv/bin/isoform up examples/edge/service.yaml --form gateway=container --form web=vm
  sudo .venv/bin/isoform down edge
"""


def table(rows: list[dict[str, Any]]) -> Table:
    """Return what ran where, how long each took to be ready and what it holds."""
    shown = Table("function", "form", "ready after", "memory", "addresses", title="examples/edge", title_justify="left")
    for row in rows:
        ready = row["ready_after_s"]
        addresses = [*row["addresses"].values(), *row["addresses6"].values()]
        shown.add_row(row["function"], row["form"], "" if ready is None else format_seconds(ready),
                      format_bytes(row["memory_bytes"]), "\n".join(addresses))
    return shown


def main() -> int:
    """Return 0 if every request brought what it must."""
    console = Console(highlight=False)
    if os.geteuid() != 0:
        console.print("the demo makes network namespaces and mounts: run it as root (sudo make demo)")
        return 4
    edge = Edge()
    console.print("$ isoform up", SERVICE)
    up = edge.isoform("up", SERVICE, shown=True, deadline_s=1800)
    if up.returncode != 0:
        return up.returncode
    console.print()
    wrong = 0
    for check in edge.checks():
        wrong += not check.good
        line = Text.assemble(("ok     ", "green") if check.good else ("WRONG  ", "red"), f"{check.title}  ",
                             (check.detail, "dim"))
        console.print(line, soft_wrap=True)
    console.print()
    console.print(table(edge.instances()))
    console.print(AFTERWARDS, markup=False, soft_wrap=True)
    if wrong:
        console.print(f"{wrong} of the requests did not bring what they must.", style="red")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
