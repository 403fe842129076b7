"""Sessions in a guest: standard streams, terminals, exit codes, many at once and one after the other."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from isoform.forms.vm import Vm
from isoform.host import Home
from isoform.host.home import LONGEST_HOME
from isoform.model import ExecSpec, Instance
from tests.guests import running

pytestmark = [pytest.mark.root, pytest.mark.guest]
WAIT_S = 60


@pytest_asyncio.fixture
async def vm(home: Home) -> AsyncIterator[tuple[Vm, Instance]]:
    async with running(home) as (form, one):
        yield form, one


async def run(argv: list[str], stdin: bytes = b"") -> tuple[int | None, bytes, bytes]:
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await asyncio.wait_for(child.communicate(stdin), WAIT_S)
    return child.returncode, out, err


async def test_streams_and_exit_codes_are_those_of_the_command(vm: tuple[Vm, Instance]) -> None:
    form, one = vm
    data = os.urandom(300_000)
    code, out, err = await run(form.exec_argv(one.id, ExecSpec(("sh", "-c", "cat; echo oops >&2; exit 7"))), data)
    assert (code, out, err) == (7, data, b"oops\n")
    code, out, _ = await run(form.exec_argv(one.id, ExecSpec(("sh", "-c", "kill -9 $$"))))
    assert (code, out) == (137, b"")
    code, _, err = await run(form.exec_argv(one.id, ExecSpec(("nothing-of-that-name",))))
    assert code == 127
    assert b"nothing-of-that-name" in err


async def test_words_environment_and_folder_arrive_unchanged(vm: tuple[Vm, Instance]) -> None:
    form, one = vm
    spec = ExecSpec(("sh", "-c", 'printf "<%s>" "$@" "$A" "$PWD"', "x", "a b", "$HOME", "", "it's\n"),
                    env=(("A", "1 2"),), cwd="/tmp")
    assert await run(form.exec_argv(one.id, spec)) == (0, b"<a b><$HOME><><it's\n><1 2></tmp>", b"")


async def test_names_may_be_longer_than_the_paths_of_sockets(home: Home) -> None:
    deep = Home(home.path / ("h" * (LONGEST_HOME - len(str(home.path)) - 1)))
    deep.path.mkdir()
    async with running(deep, id=f"{'s' * 32}.{'f' * 32}.0") as (form, one):
        assert len(f"{deep.instance(one.id)}/qmp.sock") > 107
        assert (await run(form.exec_argv(one.id, ExecSpec(("echo", "in a session")))))[:2] == (0, b"in a session\n")
        assert (await form.run(one.id, ExecSpec(("echo", "captured")), WAIT_S)).out == "captured\n"
        await form.resize(one.id, replace(one.size, memory_bytes=one.size.memory_bytes - (8 << 20)))


async def test_as_many_at_once_as_there_are_ports_and_the_next_wait(vm: tuple[Vm, Instance]) -> None:
    form, one = vm
    ends = await asyncio.gather(*(
        run(form.exec_argv(one.id, ExecSpec(("sh", "-c", f"sleep 1; echo {number}; exit {number}"))))
        for number in range(6)))
    assert [end[:2] for end in ends] == [(number, b"%d\n" % number) for number in range(6)], ends


async def test_a_killed_session_makes_room_for_the_next(vm: tuple[Vm, Instance]) -> None:
    form, one = vm
    for _ in range(5):  # more than there are ports
        child = await asyncio.create_subprocess_exec(
            *form.exec_argv(one.id, ExecSpec(("sh", "-c", "echo here; exec yes"))),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        assert await asyncio.wait_for(child.stdout.readline(), WAIT_S) == b"here\n"
        child.kill()
        await child.communicate()
        assert (await run(form.exec_argv(one.id, ExecSpec(("echo", "next")))))[:2] == (0, b"next\n")

    async def left() -> int:
        return int((await form.guest_run(one.id, ["sh", "-c", "ps | grep -c '[y]es$'"])).out)

    for _ in range(100):
        if await left() == 0:
            break
        await asyncio.sleep(0.1)
    assert await left() == 0


async def test_a_terminal_has_the_size_and_the_keys_of_ours(vm: tuple[Vm, Instance]) -> None:
    form, one = vm
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
    script = "trap 'echo caught; exit 5' INT; stty size; tty; while :; do sleep 0.2; done"
    argv = form.exec_argv(one.id, ExecSpec(("sh", "-c", script), tty=True))
    child = await asyncio.create_subprocess_exec(
        *argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(theirs)
    seen = b""

    async def shows(text: bytes) -> None:
        nonlocal seen
        loop = asyncio.get_running_loop()
        while text not in seen:
            seen += await asyncio.wait_for(loop.run_in_executor(None, os.read, mine, 4096), WAIT_S)

    await shows(b"31 97")
    await shows(b"/dev/pts/")
    os.write(mine, b"\x03")
    await shows(b"caught")
    assert await asyncio.wait_for(child.wait(), WAIT_S) == 5
    os.close(mine)


async def test_captured_commands_run_side_by_side(vm: tuple[Vm, Instance]) -> None:
    form, one = vm
    ends = await asyncio.gather(*(
        form.run(one.id, ExecSpec(("sh", "-c", f"sleep 0.5; echo {number}; echo e >&2; exit {number}")), WAIT_S)
        for number in range(5)))
    assert [(end.code, end.out, end.err) for end in ends] == [(n, f"{n}\n", "e\n") for n in range(5)]


async def test_a_session_that_ends_in_the_guest_ends_here(vm: tuple[Vm, Instance]) -> None:
    form, one = vm
    child = await asyncio.create_subprocess_exec(
        *form.exec_argv(one.id, ExecSpec(("sh", "-c", "echo here; sleep 1000"))),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert await asyncio.wait_for(child.stdout.readline(), WAIT_S) == b"here\n"
    await form.stop(one.id, 0)
    assert await asyncio.wait_for(child.wait(), WAIT_S) == 255
    assert child.stdin is not None
    child.stdin.close()
