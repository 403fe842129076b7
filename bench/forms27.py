"""Run examples/edge in every assignment of forms to its three functions: 27, from the same images.

    python -m bench.forms27 [--third] [--home FOLDER] [ASSIGNMENT …]

An assignment is three letters for subscriber, gateway and web: c(ontainer), v(m), n(ested: container-in-vm), as "cvn".
Each is brought up, sent all requests of scripts/edge.py, and taken down, after which nothing of it may be left on the
host. Prints one JSON line for each; the exit status is 0 only if all are good. `--third` takes nine assignments that
hold each form of each function three times and each pair of forms of two functions once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from isoform.host import Home
from scripts.edge import SERVICE, CommandFailed, Edge
from tests.conftest import leftovers

FORMS = ("container", "vm", "container-in-vm")
LETTER = {"c": "container", "v": "vm", "n": "container-in-vm"}
FUNCTIONS = ("subscriber", "gateway", "web")

ALL = tuple(itertools.product(FORMS, repeat=3))
# A Latin square, the example's own assignment among it: the third form follows from the first two, so that any two
# functions meet in each pair of forms once.
THIRD = tuple((FORMS[a], FORMS[b], FORMS[(a + b + 1) % 3]) for a in range(3) for b in range(3))


def used(edge: Edge, forms: tuple[str, ...]) -> list[str]:
    """Bring the service up with `forms` and try it; return what was wrong. Raises: CommandFailed."""
    wanted = dict(zip(FUNCTIONS, forms, strict=True))
    up = edge.isoform("up", SERVICE, *(f"--form={function}={form}" for function, form in wanted.items()))
    if up.returncode != 0:
        raise CommandFailed(f"up: exit status {up.returncode}: {up.stderr.strip()[-2000:]}")
    ran = {row["function"]: row["form"] for row in edge.instances()}
    found = [] if ran == wanted else [f"ps says the forms are {ran}"]
    return found + [f"{check.title}: {check.detail}" for check in edge.checks() if not check.good]


def faults(edge: Edge, home: Home, forms: tuple[str, ...]) -> list[str]:
    """Bring the service up with `forms`, try it, take it down; return what was wrong, in words."""
    try:
        found = used(edge, forms)
    except CommandFailed as error:
        found = [str(error)]
    down = edge.isoform("down", "edge")
    if down.returncode != 0:
        found.append(f"down: exit status {down.returncode}: {down.stderr.strip()[-2000:]}")
    return found + [f"left after down: {thing}" for thing in leftovers(home)] + [
        f"left after down: {path}" for path in (home.instances.iterdir() if home.instances.exists() else ())]


def trial(edge: Edge, home: Home, forms: tuple[str, ...]) -> dict[str, Any]:
    """Return how one assignment went, as one JSON object."""
    start = time.monotonic()
    found = faults(edge, home, forms)
    return dict(zip(FUNCTIONS, forms, strict=True)) | {"took_s": round(time.monotonic() - start, 1), "faults": found}


def discard(path: Path) -> bool:
    """Remove a home that nothing uses; return False, and leave it alone, if something of it is still there."""
    if leftovers(Home(path)):
        return False  # removing it would reach through its mounts
    shutil.rmtree(path)
    return True


def main() -> int:
    """Return 0 if every assignment worked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--third", action="store_true", help="nine assignments that cover all pairs")
    parser.add_argument("--home", type=Path, help="keeps images and the guest for the next run; default: a new one")
    parser.add_argument("assignments", nargs="*", help='three letters each, as "cvn"')
    options = parser.parse_args()
    chosen = tuple(tuple(LETTER[letter] for letter in word) for word in options.assignments)
    path = options.home or Path(tempfile.mkdtemp(prefix="iso-", dir="/tmp"))
    bad = 0
    try:
        for forms in chosen or (THIRD if options.third else ALL):
            result = trial(Edge(path), Home(path), forms)
            bad += bool(result["faults"])
            print(json.dumps(result), flush=True)
    finally:
        if not options.home and not discard(path):
            print(f"something still runs or is mounted in {path}, so it is kept", file=sys.stderr)
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
