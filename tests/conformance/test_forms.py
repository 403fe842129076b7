"""What is true of every form: the same statements for a container, a virtual machine, a container in one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from isoform.errors import NotFound, StepFailed, WrongState
from isoform.host import cgroup, run
from isoform.model import ExecSpec, File, Instance, Mount, Size, User
from isoform.model.hosts import hosts_file
from tests.conformance.lab import LINK, MEMORY, PATH, Lab, filter_image, until

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

RULES = b"""table inet own {
    chain incoming {
        type filter hook input priority 0; policy accept;
        tcp dport 8081 drop
    }
}
"""
SERVER = "trap 'exit 0' TERM; httpd -p 8080 -h /etc; echo ready; while :; do sleep 3600 & wait $!; done"


@dataclass
class Resident:
    """The instance that all statements share that do not need one of their own."""

    on: Lab
    one: Instance

    async def sh(self, script: str) -> str:
        return await self.on.sh(self.one, script)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def resident(on: Lab) -> AsyncIterator[Resident]:
    volume = Mount("data", "/data", str(on.home.volumes / "t.resident"), 16 << 20)
    one = on.instance(
        SERVER, env=(("COLOUR", "two words"), ("EMPTY", "")), cwd="/tmp",
        user=User(1000, 1000, (5, 2000), "someone", "/home/someone"),
        files=(File("/etc/motd", b"hello\n"), File("/opt/new/run.sh", b"#!/bin/sh\necho ran\n", 0o755),
               File("/etc/secret", b"x", 0o600)),
        mounts=(volume,), sysctls=(("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")),
        hosts=(("10.77.0.200", "neighbour"), ("fd77::200", "neighbour")),
    )
    await on.run(one)
    await until(lambda: on.said(one.id, "ready"))
    yield Resident(on, one)
    await on.delete(one)


async def test_create_and_start_twice_are_create_and_start_once(resident: Resident) -> None:
    first = await resident.on.form.observe(resident.one.id)
    assert first.state == "running"
    assert first.pid > 0 and first.memory_bytes > 0 and first.started_at is not None and first.exit_code is None
    await resident.on.form.create(resident.one, await resident.on.attach(resident.one))
    await resident.on.form.start(resident.one.id)
    again = await resident.on.form.observe(resident.one.id)
    assert replace(again, memory_bytes=0) == replace(first, memory_bytes=0)  # the same PID: nothing was restarted
    assert resident.one.id in await resident.on.form.known()


async def test_the_environment_is_the_process_s(resident: Resident) -> None:
    assert await resident.sh('echo "$COLOUR|${EMPTY-unset}|$PATH"') == f"two words||{PATH}"
    assert (await resident.sh("tr '\\0' '\\n' </proc/$$/environ | grep ^COLOUR=")) == "COLOUR=two words"


async def test_user_and_groups_are_the_process_s(resident: Resident) -> None:
    assert await resident.sh("id -u; id -g; id -G") == "1000\n1000\n1000 5 2000"


async def test_the_working_directory_is_the_process_s(resident: Resident) -> None:
    assert await resident.sh("pwd") == "/tmp"
    elsewhere = await resident.on.form.run(resident.one.id, ExecSpec(("pwd",), cwd="/opt/new"), 30)
    assert elsewhere.out == "/opt/new\n"


async def test_the_hostname_is_the_instance_s(resident: Resident) -> None:
    assert await resident.sh("hostname; cat /etc/hostname") == f"{resident.one.hostname}\n{resident.one.hostname}"


async def test_files_are_laid_with_their_modes_owned_by_root(resident: Resident) -> None:
    assert await resident.sh("cat /etc/motd; /opt/new/run.sh") == "hello\nran"
    assert await resident.sh("stat -c '%a %u %g' /etc/motd /opt/new/run.sh /etc/secret /opt/new") == (
        "644 0 0\n755 0 0\n600 0 0\n755 0 0")


async def test_names_are_known_and_change_while_it_runs(resident: Resident) -> None:
    assert "10.77.0.200\tneighbour" in (await resident.sh("cat /etc/hosts")).splitlines()
    changed = replace(resident.one, hosts=(("10.77.0.201", "newcomer"),))
    for _ in range(2):
        await resident.on.form.put(resident.one.id, [File("/etc/hosts", hosts_file(changed).encode())])
        lines = (await resident.sh("cat /etc/hosts")).splitlines()
        assert "10.77.0.201\tnewcomer" in lines and not any("neighbour" in line for line in lines)


@pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])
async def test_it_is_reached_from_another_port_of_its_link(resident: Resident, version: int) -> None:
    address = resident.one.ports[0].addresses[version].split("/")[0]

    async def answers() -> bool:
        return await asyncio.to_thread(resident.on.connect, address, 8080)

    await until(answers, 20)
    assert not await asyncio.to_thread(resident.on.connect, address, 8081)
    gateway = LINK.probe[version].split("/")[0]
    assert gateway in await resident.sh(f"ip neigh show; ping -c1 -W3 {gateway} | head -1")


async def test_it_has_its_interfaces_and_no_other(resident: Resident) -> None:
    port = resident.one.ports[0]
    assert await resident.sh("ls /sys/class/net") == "eth0\nlo"
    assert await resident.sh("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu") == f"{port.mac}\n{port.mtu}"


async def test_sysctls_are_set(resident: Resident) -> None:
    assert await resident.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding") == "1\n1"


async def test_run_gives_output_and_exit_status(resident: Resident) -> None:
    result = await resident.on.form.run(resident.one.id, ExecSpec(("/bin/sh", "-c", "echo a; echo b >&2; exit 7")), 30)
    assert (result.code, result.out, result.err) == (7, "a\n", "b\n")
    added = await resident.on.form.run(resident.one.id, ExecSpec(("/bin/sh", "-c", "echo $A"), env=(("A", "b c"),)), 30)
    assert added.out == "b c\n"


async def test_a_command_that_is_not_there_is_127_and_one_that_cannot_run_126(resident: Resident) -> None:
    run, one = resident.on.form.run, resident.one.id
    assert (await run(one, ExecSpec(("no-such-command",)), 30)).code == 127
    assert (await run(one, ExecSpec(("/no/such/command",)), 30)).code == 127
    assert (await run(one, ExecSpec(("/etc/motd",)), 30)).code == 126


async def test_a_command_that_hangs_ends_at_its_deadline(resident: Resident) -> None:
    with pytest.raises(StepFailed, match="did not end within"):
        await resident.on.form.run(resident.one.id, ExecSpec(("sleep", "4321")), 2)
    async def is_gone() -> bool:
        return "4321" not in await resident.sh("ps -o args | grep '[s]leep 4321' || true")

    await until(is_gone, 10)


async def test_exec_takes_stdin_and_gives_the_exit_status(resident: Resident) -> None:
    argv = resident.on.form.exec_argv(resident.one.id, ExecSpec(("/bin/sh", "-c", "cat; id -u; exit 5")))
    done = await asyncio.to_thread(subprocess.run, argv, input=b"one\ntwo\n", capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (5, b"one\ntwo\n1000\n"), done.stderr
    argv = resident.on.form.exec_argv(resident.one.id, ExecSpec(("no-such-command",)))
    assert (await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=60)).returncode == 127


async def test_exec_carries_a_megabyte_both_ways(resident: Resident) -> None:
    data = os.urandom(1 << 20)
    argv = resident.on.form.exec_argv(resident.one.id, ExecSpec(("cat",)))
    done = await asyncio.to_thread(subprocess.run, argv, input=data, capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stdout == data


async def test_exec_gives_a_terminal(resident: Resident) -> None:
    argv = resident.on.form.exec_argv(
        resident.one.id, ExecSpec(("/bin/sh", "-c", "tty; read line; echo got $line; exit 3"), tty=True))
    said, code = await asyncio.to_thread(_in_terminal, argv, b"typed\n")
    assert code == 3, said
    assert b"/dev/pts/" in said and b"got typed" in said


def _in_terminal(argv: list[str], typed: bytes) -> tuple[bytes, int]:
    """Run a command in a terminal of its own, type once it has said something, return what it said and its code."""
    main, side = pty.openpty()
    child = subprocess.Popen(argv, stdin=side, stdout=side, stderr=side, start_new_session=True)
    os.close(side)
    said, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([main], [], [], 0.1)[0]:
            try:
                data = os.read(main, 4096)
            except OSError:  # EIO: the other side is closed
                break
            said += data
            if typed and b"/dev/pts" in said:
                os.write(main, typed)
                typed = b""
        elif child.poll() is not None:
            break
    os.close(main)
    return said, child.wait(timeout=10)


async def test_the_cpu_limit_holds(on: Lab) -> None:
    one = await on.ready("echo ready; while :; do :; done", size=Size(0.5, MEMORY[on.form.name]))
    group = on.home.cgroup((one.machine or one).id)
    if on.form.name != "container":
        await asyncio.sleep(5)  # what a guest still does after its command has started is not the command's
    before, began = _cpu_s(group), time.monotonic()
    await asyncio.sleep(3)
    share = (_cpu_s(group) - before) / (time.monotonic() - began)
    assert 0.2 < share < 0.75
    await on.delete(one)


def _cpu_s(group: str) -> float:
    """CPU time that the processes of a group have used, seconds."""
    ticks = 0
    for number in cgroup.processes(group):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime, stime: proc_pid_stat(5)
    return ticks / os.sysconf("SC_CLK_TCK")


async def test_volumes_keep_their_data_and_pass_between_forms(on: Lab) -> None:
    from isoform.forms import Container

    volume = Mount("data", "/data", str(on.home.volumes / "t.kept"), 16 << 20)
    one = await on.ready(mounts=(volume,))
    await on.sh(one, "echo kept >/data/file; sync")
    await on.form.stop(one.id, 20)
    await on.delete(one)
    again = await on.ready(mounts=(replace(volume, read_only=True),))
    assert await on.sh(again, "cat /data/file") == "kept"
    assert "ead-only" in await on.fails(again, "echo x >/data/file")
    await on.form.stop(again.id, 20)
    await on.delete(again)
    other = Container(on.home, on.facts)  # another form reads what this one wrote
    reader = replace(again, id="t.reader.0", form="container", ports=(), mounts=(volume,), machine=None,
                     size=Size(1, 64 << 20))
    try:
        await other.create(reader, ())
        await other.start(reader.id)
        assert (await other.run(reader.id, ExecSpec(("cat", "/data/file")), 30)).out == "kept\n"
    finally:
        await other.delete(reader.id)


async def test_exit_code_and_log_of_a_command_that_ends(on: Lab) -> None:
    one = await on.run(on.instance("echo first; echo second >&2; printf 'no newline'; exit 42"))
    lines = [line.text async for line in on.form.logs(one.id, follow=True)]  # until it is gone
    assert sorted(lines) == ["first", "no newline", "second"]
    seen = await on.stopped(one)
    assert (seen.state, seen.exit_code, seen.reason) == ("stopped", 42, "")
    assert await on.form.observe(one.id) == seen
    with pytest.raises(WrongState):
        await on.form.start(one.id)
    await on.form.stop(one.id, 1)  # nothing is left to stop
    await on.delete(one)
    await on.delete(one)
    assert (await on.form.observe(one.id)).state == "absent"
    assert one.id not in await on.form.known()


async def test_logs_follow_until_the_end(on: Lab) -> None:
    one = await on.run(on.instance("echo ready; i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done; sleep 1; "
                                   "printf 'long %05000d\\n' 7; exit 0"))
    lines = [line.text async for line in on.form.logs(one.id, follow=True)]
    assert lines[:301] == ["ready", *(f"line {i}" for i in range(1, 301))]
    assert lines[301:] == [f"long {7:05000d}"]
    assert (await on.stopped(one)).exit_code == 0
    await on.delete(one)


async def test_a_command_that_is_not_there_says_so(on: Lab) -> None:
    one = on.instance(argv=("/no/such/command",))
    try:
        await on.run(one)
        seen = await on.stopped(one)
        assert seen.exit_code == 127
    except StepFailed as error:  # a form that finds out in time
        assert "/no/such/command" in str(error)
        assert (await on.form.observe(one.id)).state == "absent"  # and leaves nothing half-made
    await on.delete(one)


async def test_a_memory_hog_is_stopped(on: Lab) -> None:
    one = await on.run(on.instance("echo ready; exec tail /dev/zero"))
    seen = await on.stopped(one, 120)
    assert (seen.exit_code, seen.reason) == (137, "out of memory")
    await on.delete(one)


async def test_stop_sends_the_image_s_signal_and_waits(on: Lab) -> None:
    one = await on.ready("trap 'echo bye; exit 9' USR1; trap : TERM; echo ready; while :; do sleep 0.2; done",
                         stop_signal="SIGUSR1")
    for _ in range(2):
        await on.form.stop(one.id, 30)
        seen = await on.form.observe(one.id)
        assert (seen.state, seen.exit_code) == ("stopped", 9)
    assert await on.said(one.id, "bye")
    await on.delete(one)


async def test_stop_kills_what_does_not_listen(on: Lab) -> None:
    one = await on.ready("trap '' TERM; echo ready; while :; do sleep 1; done")
    began = time.monotonic()
    await on.form.stop(one.id, 1)
    assert time.monotonic() - began >= 1
    seen = await on.form.observe(one.id)
    assert (seen.state, seen.exit_code) == ("stopped", 137)
    await on.delete(one)


async def test_a_killed_process_is_seen_as_stopped(on: Lab) -> None:
    one = await on.ready()
    os.kill((await on.form.observe(one.id)).pid, signal.SIGKILL)
    seen = await on.stopped(one, 10)
    assert seen.reason == ("" if on.form.name == "container" else "machine lost")
    await on.delete(one)


async def test_created_is_not_running(on: Lab) -> None:
    one = await on.create(on.instance("echo ran"))
    seen = await on.form.observe(one.id)
    assert seen.state == "created"
    await on.form.create(one, await on.attach(one))
    again = await on.form.observe(one.id)
    assert replace(again, memory_bytes=0) == replace(seen, memory_bytes=0)  # a paused QEMU may move by a page
    assert await on.log(one.id) == []
    await on.form.stop(one.id, 5)
    assert (await on.form.observe(one.id)).state == "stopped"
    await on.delete(one)


async def test_what_is_not_there_is_absent(on: Lab) -> None:
    assert (await on.form.observe("t.nobody.0")).state == "absent"
    await on.form.delete("t.nobody.0")
    await on.form.stop("t.nobody.0", 1)
    with pytest.raises(WrongState):
        await on.form.start("t.nobody.0")
    with pytest.raises(NotFound):
        on.form.exec_argv("t.nobody.0", ExecSpec(("true",)))
    with pytest.raises(NotFound):
        await on.form.run("t.nobody.0", ExecSpec(("true",)), 5)


# Each of these would be felt by the host if it got through.
ATTACKS = (
    "hostname hacked", "echo 1 >/proc/sys/net/ipv4/ip_forward", "echo 1 >/proc/sys/kernel/panic_on_oops",
    "mount -t tmpfs none /mnt", "mount -o remount,rw /sys", "mount -o bind /etc /mnt", "unshare -m true",
    "mknod /x b 7 0 && cat /x", "echo 1 >/proc/sys/vm/drop_caches", "echo s >/proc/sysrq-trigger", "cat /dev/mem",
    '[ -n "$(head -c 1 /proc/kcore)" ]', "insmod /none", 'date -s 2000-01-01; [ $(date +%Y) = 2000 ]',
    "nsenter -t 1 -n true", "chmod 777 /proc/sys/kernel/core_pattern", "echo x >/sys/kernel/uevent_helper",
)


async def test_it_has_no_power_over_the_host(on: Lab) -> None:
    def host() -> tuple[object, ...]:
        watched = ("kernel/hostname", "net/ipv4/ip_forward", "kernel/panic_on_oops")
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(on.home.path) in line]
        return (sorted(path.name for path in Path("/sys/class/net").iterdir()),
                *(Path("/proc/sys", name).read_text() for name in watched), mounts)

    one = await on.ready(capabilities=("CAP_NET_ADMIN",))
    before = host()
    assert await on.sh(one, "ls /sys/class/net") == "eth0\nlo"
    await on.sh(one, "ip link add veth8 type veth peer name veth9 && ip route add 10.9.0.0/16 via 10.77.0.254")
    if on.form.name == "container":  # the others have a kernel of their own, which is theirs to spoil
        for attack in ATTACKS:
            await on.fails(one, attack)
    assert host() == before
    await on.delete(one)


async def test_it_filters_with_rules_of_its_own(on: Lab) -> None:
    one = await on.ready(
        "trap 'exit 0' TERM; nft -f /etc/rules.nft && httpd -p 8080 && httpd -p 8081 && echo ready; "
        "while :; do sleep 3600 & wait $!; done",
        image=await filter_image(on.home), capabilities=("CAP_NET_ADMIN",), files=(File("/etc/rules.nft", RULES),),
    )
    address = one.ports[0].addresses[0].split("/")[0]

    async def answers() -> bool:
        return await asyncio.to_thread(on.connect, address, 8080)

    await until(answers, 20)
    assert not await asyncio.to_thread(on.connect, address, 8081)
    assert "tcp dport 8081" in await on.sh(one, "nft list ruleset")
    host_rules = await run(["nft", "list", "ruleset"])
    assert "8081" not in host_rules.out
    await on.delete(one)
