"""What all tests share: a home of their own, and the proof that nothing of it stays on the host."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from isoform.host import Home

# Machines are busy at times: no test asserts an absolute time.
hypothesis.settings.register_profile("isoform", deadline=None)
hypothesis.settings.load_profile("isoform")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root: network namespaces, mounts, cgroups"))


def leftovers(home: Home) -> list[str]:
    """Return everything on this host that bears the home's mark: mounts, namespaces, cgroups, loops, processes."""
    found = [f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()
             if home.mark in line or f"{home.path}/" in line]
    netns = Path("/run/netns")
    found += [f"netns {p.name}" for p in (netns.iterdir() if netns.exists() else ()) if p.name.startswith(home.mark)]
    for root, folders, _ in os.walk("/sys/fs/cgroup"):
        found += [f"cgroup {root}/{name}" for name in folders if name == home.mark]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if str(home.path) in backing.read_text():
                found.append(f"loop device {backing}")
        except OSError:
            continue  # freed between the listing and the reading
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended between the listing and the reading
        if int(process.parent.name) != os.getpid() and f"{home.path}/" in line:
            found.append(f"process {process.parent.name} {line}")
    return found


@pytest.fixture
def home() -> Iterator[Home]:
    """A home in a folder with a short path, gone after the test; the test fails if anything outside it stays."""
    path = Path(tempfile.mkdtemp(prefix="iso-", dir="/tmp"))
    home = Home(path)
    yield home
    left = leftovers(home)
    if not left:  # else the folder stays: what is still mounted below it would be emptied too
        shutil.rmtree(path, ignore_errors=True)
    assert left == []
