import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from isoform.errors import StepFailed, WrongState
from isoform.host import libc, netns

pytestmark = pytest.mark.root


@pytest.fixture
def name(home):
    name = home.netns("a.b.0")
    yield name
    netns.delete(name)


def ours() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def number(name: str) -> int:
    return Path(netns.path(name)).stat().st_ino


def count(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def inside(name: str, *argv: str) -> str:
    return subprocess.run(["ip", "netns", "exec", name, *argv], capture_output=True, text=True, check=True).stdout


def test_a_new_namespace_has_lo_up_forwards_nothing_and_is_seen_by_ip(home, name):
    before = ours()
    netns.create(name)
    assert ours() == before
    assert netns.exists(name)
    assert netns.names(home.mark) == [name]
    assert name in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout.split()
    assert "LOOPBACK,UP" in inside(name, "ip", "link", "show", "lo")
    assert inside(name, "cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding") == "0\n0\n"


def test_forwarding_is_off_though_the_maker_forwards(home, name):
    host = home.netns("host")
    netns.create(host)
    try:
        with netns.entered(host):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            netns.create(name)
    finally:
        netns.delete(host)
    files = ["ipv4/conf/all/forwarding", "ipv4/conf/default/forwarding", "ipv6/conf/default/forwarding"]
    assert inside(name, "cat", *(f"/proc/sys/net/{file}" for file in files)) == "0\n0\n0\n"


def test_create_and_delete_may_be_repeated(name):
    netns.create(name)
    first = number(name)
    netns.create(name)
    assert number(name) == first
    netns.delete(name)
    netns.delete(name)
    assert not netns.exists(name)
    assert not Path(netns.path(name)).exists()


def test_what_a_crash_left_half_made_is_repaired(home, name):
    netns.create(home.netns("other"))  # makes the folder
    netns.delete(home.netns("other"))
    Path(netns.path(name)).touch()
    assert not netns.exists(name)
    assert netns.names(home.mark) == [name]  # found, so that it can be deleted
    netns.create(name)
    assert netns.exists(name)


def test_a_namespace_made_by_ip_is_as_good(name):
    subprocess.run(["ip", "netns", "add", name], check=True)
    assert netns.exists(name)
    netns.create(name)
    subprocess.run(["ip", "netns", "delete", name], check=True)
    assert not netns.exists(name)


def test_a_name_mounted_twice_is_deleted_whole(name):
    netns.create(name)
    libc.mount(netns.path(name), netns.path(name), "", 4096, "")
    netns.delete(name)
    assert not Path(netns.path(name)).exists()


def test_the_body_of_entered_is_inside_and_we_come_back_even_from_an_error(name):
    netns.create(name)
    before = ours()
    with pytest.raises(RuntimeError, match="inside"), netns.entered(name):
        assert ours() == f"net:[{number(name)}]"
        raise RuntimeError("inside")
    assert ours() == before


def test_a_socket_stays_where_it_was_made(name):
    netns.create(name)
    with netns.socket_in(name, socket.AF_INET, socket.SOCK_STREAM) as server, \
            netns.socket_in(name, socket.AF_INET, socket.SOCK_STREAM) as client, socket.socket() as outside:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        outside.settimeout(2)
        with pytest.raises(ConnectionRefusedError):
            outside.connect(server.getsockname())


@pytest.mark.parametrize("half_made", [False, True])
def test_entering_what_does_not_exist_leaves_us_where_we_are(home, name, half_made):
    netns.create(home.netns("other"))
    netns.delete(home.netns("other"))
    if half_made:
        Path(netns.path(name)).touch()
    before, files = ours(), count("/proc/self/fd")
    with pytest.raises(WrongState, match="cannot enter"), netns.entered(name):
        raise AssertionError("the body must not run")
    assert (ours(), count("/proc/self/fd")) == (before, files)


def test_a_failed_create_leaves_nothing(home):
    before = ours()
    with pytest.raises(StepFailed, match="cannot make the network namespace"):
        netns.create("x" * 300)
    assert ours() == before


def test_many_at_once(home):
    names = [home.netns(f"many.{n}") for n in range(8)]
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(netns.create, names))
        assert netns.names(home.mark) == names
        assert len({number(name) for name in names}) == 8
    finally:
        for name in names:
            netns.delete(name)
