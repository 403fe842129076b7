"""The real command line on the real kernel: what users type, what they read, and how commands end."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isoform.host import Home
from isoform.host.probe import facts
from tests.images import RECIPES, busybox_image

pytestmark = pytest.mark.root
ISOFORM = str(Path(sys.executable).with_name("isoform"))
Run = Callable[..., subprocess.CompletedProcess[str]]
WEB = f"""
service: shop
links: {{front: 10.9.1.0/24}}
functions:
  web:
    image: {RECIPES}/busybox.yaml
    form: container
    command: ["echo hello; echo woe >&2; httpd -p 80; trap 'exit 0' TERM; while :; do sleep 3600 & wait $$!; done"]
    ports: {{front: 10.9.1.10}}
    ready: {{tcp: 80}}
  client:
    image: {RECIPES}/busybox.yaml
    form: container
    ports: [front]
"""
NEVER = f"""
service: shop
links: {{front: 10.9.1.0/24}}
functions:
  client:
    image: {RECIPES}/busybox.yaml
    form: container
    ports: [front]
    ready: {{tcp: 81, deadline: 60s}}
"""


@pytest.fixture
async def file(home: Home, tmp_path: Path) -> Path:
    await busybox_image(home)
    await facts(home)  # else the first command tells that it is finding out
    path = tmp_path / "service.yaml"
    path.write_text(WEB)
    return path


@pytest.fixture
def isoform(home: Home, tmp_path: Path) -> Iterator[Run]:
    """Runs `isoform …` in the home of the test; whatever a test leaves up goes down."""
    env = {**os.environ, "ISOFORM_HOME": str(home.path)}

    def run(*arguments: object, prefix: tuple[str, ...] = (), **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*prefix, ISOFORM, *map(str, arguments)], env=env, capture_output=True, text=True,
                              timeout=60, cwd=tmp_path, **options)  # type: ignore[call-overload,no-any-return]

    yield run
    run("down", "shop")


def start(home: Home, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([ISOFORM, *map(str, arguments)], env={**os.environ, "ISOFORM_HOME": str(home.path)},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def refused(result: subprocess.CompletedProcess[str], code: int) -> str:
    """Return stderr of a command that told one error, with a remedy, and nothing else."""
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_service_from_up_to_down(file: Path, isoform: Run) -> None:
    first = isoform("up")  # ./service.yaml
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0] == "+ link front   10.9.1.0/24  made"
    assert set(lines[1:3]) == {"+ shop/client  container  created", "+ shop/web     container  created"}
    assert re.fullmatch(r"3 changed, 0 unchanged, 0 failed in [0-9.]+ s", lines[3])
    assert "shop/web: waiting until ready\n" in first.stderr

    again = isoform("up", file.parent)
    assert re.fullmatch(r"nothing to do: 3 unchanged in [0-9.]+ s\n", again.stdout)

    shown = isoform("ps", "shop", "--wide").stdout.splitlines()
    assert shown[0].split() == ["INSTANCE", "FORM", "STATE", "READY", "ADDRESSES", "MEMORY", "UPTIME", "READY-AFTER",
                                "IMAGE", "MACHINE", "PID", "WHY", "THIS", "FORM"]
    assert [line.split()[:5] for line in shown[1:]] == [
        ["shop/client", "container", "running", "yes", "front=10.9.1.1"],
        ["shop/web", "container", "running", "yes", "front=10.9.1.10"]]

    gone = isoform("down", file)
    assert gone.returncode == 0, gone.stderr
    assert re.search(r"3 changed, 0 unchanged, 0 failed in [0-9.]+ s\n$", gone.stdout)
    assert "there is no service shop" in refused(isoform("down", "shop"), 3)


def test_all_that_shows_speaks_json(file: Path, isoform: Run) -> None:
    def said(*arguments: object) -> object:
        result = isoform(*arguments, "--json")
        assert (result.returncode, result.stderr) == (0, ""), arguments
        return json.loads(result.stdout)

    plan = said("up", "--dry-run")
    assert (plan["dry_run"], plan["changed"]) == (True, 3)
    assert said("ps") == []
    done = said("up")
    assert (done["service"], done["changed"], done["unchanged"], done["failed"]) == ("shop", 3, 0, 0)
    web = next(one for one in said("ps") if one["function"] == "web")
    assert web["addresses"] == {"front": "10.9.1.10"}
    assert (web["state"], web["ready"], web["form"]) == ("running", True, "container")
    assert web["memory_bytes"] > 0 and 0 < web["ready_after_s"] < 60
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", web["started_at"])
    assert {"forms", "host", "kvm", "checks"} == set(said("doctor"))
    assert said("op", "ls")[0]["state"] == "COMPLETED"
    assert ("start shop.web.0", "done") in [(one["step"], one["state"]) for one in said("op", "show", 1)["steps"]]
    image = said("image", "ls")[0]
    assert said("image", "inspect", image["reference"])["digest"] == image["digest"]
    assert said("image", "build", RECIPES / "busybox.yaml")["digest"] == image["digest"]
    assert said("image", "prune")["images"] == []
    assert said("version")["version"]
    log = isoform("logs", "shop/web", "--json").stdout.splitlines()
    assert {json.loads(line)["text"] for line in log} == {"hello", "woe"}
    assert said("down", "shop")["changed"] == 3
    assert said("image", "rm", image["reference"]) == {"removed": [image["reference"]]}
    assert json.loads(isoform("schema").stdout)["properties"]["functions"]


def test_exec_passes_stdin_arguments_surroundings_and_exit_status(home: Home, file: Path, isoform: Run) -> None:
    isoform("up")
    piped = isoform("exec", "shop/web", "tr", "a-z", "A-Z", input="through\n")
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, "THROUGH\n", "")
    script = 'pwd; echo "$A"; echo x >&2; exit 7'
    result = isoform("exec", "shop/web", "-e", "A=1 2", "-w", "/etc", "--", "sh", "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (7, "/etc\n1 2\n", "x\n")
    assert isoform("exec", "shop/web", "sh", "-c", "kill -TERM $$").returncode == 143
    assert isoform("exec", "shop/web", "--", "test", "-t", "0").returncode == 1
    endless = f"{ISOFORM} exec -i shop/web yes | head -1"
    cut = subprocess.run(["bash", "-c", endless], env={**os.environ, "ISOFORM_HOME": str(home.path)},
                         capture_output=True, text=True, timeout=30)
    assert (cut.stdout, cut.stderr) == ("y\n", "")


def test_exec_in_a_terminal_gets_one(home: Home, file: Path, isoform: Run) -> None:
    isoform("up")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["ISOFORM_HOME"] = str(home.path)
        script = "test -t 0 && test -t 1 && read x && echo got $x; exit 5"
        os.execv(ISOFORM, [ISOFORM, "exec", "shop/web", "sh", "-c", script])
    os.write(terminal, b"typed\n")
    said = b""
    while more := _read(terminal):
        said += more
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert b"got typed" in said


def _read(terminal: int) -> bytes:
    if not select.select([terminal], [], [], 30)[0]:
        return b""
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: the other side has ended
        return b""


def test_logs_of_one_and_of_all(file: Path, isoform: Run) -> None:
    isoform("up")
    assert isoform("logs", "shop/web", "--tail", 1).stdout.count("\n") == 1
    assert sorted(isoform("logs", "shop").stdout.splitlines()) == ["web    | hello", "web    | woe"]
    stamped = isoform("logs", "shop/web", "-t").stdout.splitlines()
    assert all(re.match(r"20\d\d-.*Z (hello|woe)$", line) for line in stamped)


def test_logs_follow_until_told_to_stop(home: Home, file: Path, isoform: Run) -> None:
    isoform("up")
    follower = start(home, "logs", "shop", "-f", "--tail", 1)
    assert follower.stdout is not None
    assert follower.stdout.readline() in ("web    | hello\n", "web    | woe\n")
    isoform("exec", "shop/web", "sh", "-c", "echo later > /proc/1/fd/1")
    assert follower.stdout.readline() == "web    | later\n"
    follower.send_signal(signal.SIGINT)
    assert follower.communicate(timeout=20) == ("", "")
    assert follower.returncode == 130


@pytest.mark.parametrize(("good", "bad", "told"), [
    ("ports: [front]", "prots: [front]", "service.yaml:14:5: unknown key `prots` in `functions.client`\n"),
    ("service: shop", "service: [shop]", "service.yaml:2:10: `service` must be a text, not a list\n"),
    ("front: 10.9.1.10", "front: 10.8.1.10", "service.yaml:9:20: "),
    ("links: {", "links: {{", "service.yaml:4:1: not valid YAML\n"),
])
def test_wrong_file_is_told_by_line_and_column(file: Path, isoform: Run, good: str, bad: str, told: str) -> None:
    file.write_text(WEB.replace(good, bad))
    said = refused(isoform("up"), 2)
    assert said.startswith(f"error: {told}"), said
    assert "\n  fix: " in said
    assert isoform("ps", "--json").stdout == "[]\n"


def test_what_does_not_exist_is_told(file: Path, isoform: Run, tmp_path: Path) -> None:
    for arguments in (["ps", "nope"], ["down", "nope"], ["exec", "nope/web", "ls"], ["logs", "nope"],
                      ["op", "show", "99"], ["image", "rm", "nope"], ["image", "inspect", "nope"]):
        assert "nope" in refused(isoform(*arguments), 3) or arguments[0] == "op"
    assert "there is no file nowhere.yaml" in refused(isoform("up", "nowhere.yaml"), 2)
    isoform("up")
    assert "shop/client, shop/web" in refused(isoform("exec", "shop", "ls"), 2)
    assert "it has: client, web" in refused(isoform("exec", "shop/nope", "ls"), 3)
    assert "no function" in refused(isoform("logs", "shop/web", "--replica", 4), 3)


def test_without_root_nothing_is_made(file: Path, isoform: Run, home: Home) -> None:
    before = sorted(home.path.rglob("*"))
    said = refused(isoform("up", prefix=("unshare", "--user")), 4)
    assert "fix: run: sudo isoform up\n" in said
    assert sorted(home.path.rglob("*")) == before


def test_two_services_of_one_name_are_told_apart(file: Path, isoform: Run, tmp_path: Path) -> None:
    isoform("up")
    other = tmp_path / "other.yaml"
    other.write_text(WEB)
    said = refused(isoform("up", other), 3)
    assert "a service shop is already there, from another file" in said
    assert str(file) in said
    assert isoform("up").stdout.startswith("nothing to do")


def _waiting(home: Home, file: Path) -> subprocess.Popen[str]:
    """Start an `up` that waits for a function that never becomes ready; return it once it does so."""
    file.write_text(NEVER)
    child, said = start(home, "up", file), []
    assert child.stderr is not None
    for line in child.stderr:
        said.append(line)
        if "waiting until ready" in line:
            return child
    child.communicate(timeout=20)
    raise AssertionError(f"ended with {child.returncode}: {''.join(said)}")


def test_second_up_while_one_runs_is_refused(home: Home, file: Path, isoform: Run) -> None:
    child = _waiting(home, file)
    said = refused(isoform("up", file), 3)
    assert f"process {child.pid} (isoform up shop) holds the lock" in said
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cut_off_up_tells_what_is_left_and_the_next_one_goes_on(
    home: Home, file: Path, isoform: Run, number: signal.Signals
) -> None:
    child = _waiting(home, file)
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (128 + number, "")
    assert err.splitlines()[-1] == (
        f"interrupted: shop is left with 1 running, not ready; `isoform up {file}` goes on, "
        "`isoform down shop` removes it")
    assert json.loads(isoform("op", "ls", "--json").stdout)[0]["state"] == "FAILED_TEMP"
    file.write_text(NEVER.replace("ready:", "# ready:"))
    mended = isoform("up", file)
    assert mended.returncode == 0, mended.stderr
    assert json.loads(isoform("ps", "--json").stdout)[0]["ready"] is True
    file.write_text(NEVER)
    assert isoform("down", "shop").returncode == 0


def test_killed_up_is_finished_by_the_next(home: Home, file: Path, isoform: Run) -> None:
    child = _waiting(home, file)
    child.kill()
    child.communicate(timeout=20)
    file.write_text(WEB)
    assert isoform("up").returncode == 0
    assert all(one["ready"] for one in json.loads(isoform("ps", "--json").stdout))


def test_function_that_never_is_ready_leaves_nothing(file: Path, isoform: Run) -> None:
    file.write_text(NEVER.replace("60s", "1s"))
    said = refused_after_progress(isoform("up"), 5)
    assert "shop/client was not ready within 1 s" in said
    assert json.loads(isoform("ps", "--json").stdout) == []


def test_function_that_ends_at_once_shows_its_last_words(file: Path, isoform: Run) -> None:
    file.write_text(NEVER.replace("ports: [front]", "ports: [front]\n    command: [echo no such luck; exit 3]"))
    said = refused_after_progress(isoform("up"), 5)
    assert "shop/client ended with exit status 3" in said
    assert "\n    | no such luck\n" in said


def refused_after_progress(result: subprocess.CompletedProcess[str], code: int) -> str:
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    return result.stderr[result.stderr.index("error: "):]


def test_debug_shows_the_commands_and_quiet_shows_nothing(file: Path, isoform: Run) -> None:
    quiet = isoform("up", "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    isoform("down", "shop")
    debug = isoform("--debug", "up")
    assert debug.returncode == 0
    assert re.search(r"^ *[0-9]+ ms (debug|info) ", debug.stderr, re.MULTILINE)


def test_home_option_comes_before_the_environment(isoform: Run, tmp_path: Path) -> None:
    other = Path(f"/tmp/iso-{os.getpid()}")
    try:
        assert isoform("--home", other, "ps", "--json").stdout == "[]\n"
        assert (other / "state.db").exists()
        long = refused(isoform("--home", "/tmp/" + "x" * 60, "ps"), 4)
        assert "too long a path" in long
    finally:
        subprocess.run(["rm", "-rf", str(other)], check=True)


def test_ctrl_c_in_a_terminal_reaches_the_command_alone(home: Home, file: Path, isoform: Run) -> None:
    isoform("up", file)
    web = WEB[WEB.index("  web:"):WEB.index("  client:")]
    file.write_text(NEVER.replace("  client:", f"{web}  client:"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(ISOFORM_HOME=str(home.path), TERM="xterm")
        os.execv(ISOFORM, [ISOFORM, "up", str(file), "--set", "functions.client.env.NEW=1"])
    said = b""
    while b"waiting until ready" not in said and (more := _read(terminal)):
        said += more
    os.write(terminal, b"\x03")
    while more := _read(terminal):
        said += more
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r", "\n").strip().splitlines()[-1]
    assert last == (
        f"interrupted: shop is left with 1 ready, 1 running, not ready; `isoform up {file} "
        "--set functions.client.env.NEW=1` goes on, `isoform down shop` removes it")
    states = {one["function"]: one["state"] for one in json.loads(isoform("ps", "--json").stdout)}
    assert states == {"web": "running", "client": "running"}
