"""What the crash tests share: a command that dies at a chosen line of its journal, then a look at what is left."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from isoform.assemble import Assembly, assembled
from isoform.host import Home

from .conftest import leftovers

ROOT = Path(__file__).resolve().parent.parent


async def die(home: Home, file: Path, verb: str, at: int) -> bool:
    """Run the command until it kills itself at note `at` of its journal; return whether it did."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.crash_child", str(home.path), str(file), verb, str(at), cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(child.communicate(), 180)
    assert child.returncode in (0, -9), err.decode()
    print(out.decode().strip())
    return child.returncode == -9


async def converges(assembly: Assembly, file: Path, expected: dict[str, str]) -> None:
    """Prove that `up` makes the service whole, whatever is there, and that there is then nothing left to do."""
    await assembly.up(file)
    seen = await assembly.engine.ps()
    assert {one.function: one.form for one in seen} == expected
    assert all(one.state == "running" and one.ready for one in seen)
    again = await assembly.up(file)
    assert again.changes == ()


async def is_gone(assembly: Assembly, home: Home, service: str) -> None:
    """Prove that `down` leaves neither a process nor anything of the kernel's, nor a file of the service."""
    await assembly.engine.down(service, grace_s=0)
    assert leftovers(home) == []
    left = [str(path) for folder in (home.instances, home.volumes) if folder.exists() for path in folder.rglob("*")]
    assert left == []
    assert await assembly.engine.ps() == []


async def survives(home: Home, file: Path, expected: dict[str, str], verb: str, at: int) -> bool:
    """Let `verb` die at note `at`, then prove that the next commands finish. Return whether it died at all."""
    assembly = await assembled(home.path)
    service = assembly.service_of(file)
    if verb == "down":
        await assembly.up(file)
    died = await die(home, file, verb, at)
    if verb == "up":
        await converges(assembly, file, expected)
    if verb == "up" or died:
        await is_gone_or_finished(assembly, home, service)
    assert leftovers(home) == []
    return died


async def is_gone_or_finished(assembly: Assembly, home: Home, service: str) -> None:
    """Take down what is left; a `down` that died at its last line has left nothing to take down."""
    from isoform.errors import NotFound

    try:
        await is_gone(assembly, home, service)
    except NotFound:
        assert leftovers(home) == []
