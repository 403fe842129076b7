"""What guests are told."""

from __future__ import annotations

import signal
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from shlex import quote

import pytest

from isoform.forms.qemu import settings
from isoform.model import ExecSpec, File, Image, Instance, Layer, Mount, Port, Process, Route, Size, User

LOW, HIGH = "sha256:" + "a" * 64, "sha256:" + "b" * 64
IMAGE = Image("i", "sha256:" + "0" * 64, (Layer(LOW, "/l/a", 1), Layer(HIGH, "/l/b", 1)))
WEB = Instance(
    id="edge.web.0", service="edge", function="web", replica=0, form="vm", hostname="web", image=IMAGE,
    process=Process(("/bin/httpd", "-p", "80 80"), (("PATH", "/bin"), ("A", "it's")), "/srv", User(33, 34, (34, 4, 5))),
    size=Size(1, 1 << 27), ports=(Port("lan", "eth0", "02:00:00:00:00:01", ("10.0.0.2/24", "fd00::2/64"), 1400),),
    routes=(Route("default", "10.0.0.1"), Route("default6", "fd00::1"), Route("10.9.0.0/16", "10.0.0.1")),
    sysctls=(("net.ipv4.ip_forward", "1"),),
    mounts=(Mount("data", "/srv/data", "/v/data", 1 << 20), Mount("conf", "/srv", "/v/conf", 1 << 20, True)),
    files=(File("/etc/motd", b"hi", 0o600),),
)


def test_layers_go_on_top_of_each_other_as_in_the_image() -> None:
    script = settings.script(WEB)
    assert script.index("layer " + "b" * 20) < script.index("layer " + "a" * 20) < script.index("overlay")


def test_serials_fit_into_a_virtio_disk() -> None:
    assert settings.layer_serial(HIGH) == "b" * 20
    assert len(settings.volume_serial("data")) == 20
    assert settings.volume_serial("data") != settings.volume_serial("conf")


def test_a_volume_is_mounted_before_what_is_inside_it() -> None:
    lines = [line.split() for line in settings.script(WEB).splitlines() if line.startswith("volume")]
    assert [line[2:] for line in lines] == [["/fn/srv", "ro"], ["/fn/srv/data", "rw"]]


def test_the_network_is_as_the_port_says() -> None:
    lines = settings.script(WEB).splitlines()
    network = [line for line in lines if line.split()[0] in ("interface", "address", "up", "route", "setting")]
    assert network == [
        "interface 02:00:00:00:00:01 eth0", "address eth0 10.0.0.2/24", "address eth0 fd00::2/64", "up eth0 1400",
        "route 4 default 10.0.0.1", "route 6 default fd00::1", "route 4 10.9.0.0/16 10.0.0.1",
        "setting net/ipv4/ip_forward 1"]


def test_the_user_has_its_groups_once() -> None:
    assert WEB.process is not None
    assert settings.credentials(WEB.process) == ["33", "34", "+4,+5"]


@pytest.mark.parametrize(("name", "number"), [
    ("SIGTERM", signal.SIGTERM), ("quit", signal.SIGQUIT), ("9", 9), ("SIGRTMIN+3", signal.SIGRTMIN + 3)])
def test_signals_as_images_name_them(name: str, number: int) -> None:
    assert settings.signal_number(name) == number


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["busybox", "sh", "-c", script], capture_output=True, text=True)


def test_a_command_gets_its_words_and_environment_and_nothing_else() -> None:
    script = settings.command_script(("env",), {"PATH": "/usr/bin:/bin", "A": "it's $HOME\nhere"}, "/tmp")
    assert run(script).stdout == "PATH=/usr/bin:/bin\nA=it's $HOME\nhere\n"
    script = settings.command_script(("printf", "<%s>", "a b", "", "$x"), {"PATH": "/usr/bin"}, "/")
    assert run(script).stdout == "<a b><><$x>"


def test_a_command_is_looked_up_in_the_path_of_the_image_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ls").write_text("#!/bin/sh\necho mine\n")
    (folder / "ls").chmod(0o755)
    assert run(settings.command_script(("ls",), {"PATH": f"/nowhere:{folder}"}, "/")).stdout == "mine\n"
    missing = run(settings.command_script(("ls",), {"PATH": "/nowhere"}, "/"))
    assert (missing.returncode, missing.stderr) == (127, "isoform: no command ls in /nowhere\n")


def test_a_command_starts_in_its_folder() -> None:
    assert run(settings.command_script(("/bin/pwd",), {}, "/usr")).stdout == "/usr\n"
    assert run(settings.command_script(("/bin/pwd",), {}, "/nowhere")).returncode == 126


def test_an_exec_adds_to_the_environment() -> None:
    process = Process(("x",), (("A", "it's\nhere"), ("B", "2")), "/tmp", User())
    script = settings.exec_script(process, ExecSpec(("/usr/bin/env",), env=(("B", "3"),), cwd="/usr"))
    entered = f"{settings.environment(process)}\nbusybox sh -c {quote(script)} sh \"$@\""
    assert run(entered).stdout == "A=it's\nhere\nB=3\n"
    assert "here" not in script  # the host's part of it


def test_the_kernel_can_unpack_what_init_expects(tmp_path: Path) -> None:
    archive = settings.settings_cpio(WEB)
    (tmp_path / "run/isoform").mkdir(parents=True)  # the guest's own; the kernel makes no parents
    subprocess.run(["cpio", "-im", "--quiet"], input=archive, cwd=tmp_path, check=True)
    base = tmp_path / "run/isoform"
    assert (base / "config").read_text() == settings.script(WEB)
    assert (base / "layers" / ("b" * 20)).is_dir()
    with tarfile.open(base / "files.tar") as files:
        assert [(file.name, file.mode, file.uid) for file in files] == [("etc/motd", 0o600, 0)]
    assert len(archive) % 4 == 0


def test_a_machine_runs_nothing_and_carries_layers() -> None:
    machine = replace(WEB, image=None, process=None, carries=(IMAGE,), members=("a", "b"), files=())
    lines = settings.script(machine).splitlines()
    assert lines[-1] == "machine 'log.0 log.1'"
    assert "layer " + "b" * 20 in lines
    assert not [line for line in lines if line.split()[0] in ("interface", "launch", "overlay")]
    assert [line.split()[2] for line in lines if line.startswith("volume")] == [
        "/run/isoform/volumes/data", "/run/isoform/volumes/conf"]
