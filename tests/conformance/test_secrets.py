"""What the environment of a function holds is not to be read by other users of the host."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from isoform.model import ExecSpec
from tests.conformance.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]
SECRET = "pass word's {\"é\n"


def shown() -> list[str]:
    """The command lines of all processes of this host that show the secret, as it is or inside a JSON text."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().decode(errors="replace")
        except OSError:
            continue  # ended between the listing and the reading
        if "pass word" in line or json.dumps(SECRET)[1:-1] in line:
            found.append(line)
    return found


async def test_no_command_line_shows_it_and_every_command_has_it(on: Lab) -> None:
    one = await on.ready(env=(("SECRET", SECRET), ("PLAIN", "1")))
    spec = ExecSpec(("/bin/sh", "-c", 'printf "%s|%s|%s|%s" "$SECRET" "$PLAIN" "$MORE" "$PWD"; sleep 1'),
                    env=(("MORE", 'x "y"'), ("PLAIN", "2")), cwd="/tmp")
    argv = on.form.exec_argv(one.id, spec)
    assert not any("pass word" in word for word in argv)
    wanted, seen = f'{SECRET}|2|x "y"|/tmp', []
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    running = asyncio.create_task(child.communicate())
    while not running.done():
        seen += shown()
        await asyncio.sleep(0.02)
    out, err = await running
    assert (out.decode(), err, child.returncode) == (wanted, b"", 0)
    captured = asyncio.create_task(on.form.run(one.id, spec, 60))
    while not captured.done():
        seen += shown()
        await asyncio.sleep(0.02)
    assert (await captured).out == wanted
    assert seen == []
    left = [path.name for path in on.home.instance(one.id).iterdir() if path.name.startswith("exec.")]
    assert [name for name in left if not name.endswith((".lock", ".sock", ".plugged"))] == []
    await on.delete(one)
