"""What is shown while a command waits, and how signals end it."""

import asyncio
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from isoform.cli.progress import Lines, Live, shown
from isoform.cli.running import Interrupted, run
from isoform.errors import StepFailed


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_say_only_what_is_new():
    now, said = [0.0], io.StringIO()
    lines = Lines(said, lambda: now[0])
    for subject, doing, fraction in [
        ("image web", "unpacking layer 1 of 3", 0.1), ("image web", "unpacking layer 1 of 3", 0.2),
        ("image web", "unpacking layer 2 of 3", 0.5), ("edge/web", "starting", None), ("edge/web", "starting", None),
    ]:
        lines(subject, doing, fraction)
    now[0] = 6.0
    lines("image web", "unpacking layer 3 of 3", 0.9)
    lines("edge/web", "starting")
    lines("edge/web", "ready", 1.0)
    assert said.getvalue() == (
        "image web: unpacking layer 1 of 3\n"
        "edge/web: starting\n"
        "image web: unpacking layer 3 of 3\n"
        "edge/web: ready\n")


@pytest.mark.parametrize(("hidden", "plain", "terminal", "kind"), [
    (True, False, True, "function"), (False, False, False, "Lines"), (False, True, True, "Lines"),
    (False, False, True, "Live"),
])
def test_display_fits_where_it_is_shown(hidden, plain, terminal, kind):
    stream = Terminal() if terminal else io.StringIO()
    with shown(hidden=hidden, plain=plain, stream=stream) as (progress, stop):
        assert type(progress).__name__ == kind
        stop()
    assert stream.getvalue() == ""


def test_no_control_characters_without_a_terminal():
    stream = io.StringIO()
    with shown(hidden=False, heading="edge: coming up", stream=stream) as (progress, _):
        progress("edge/web", "waiting until ready", 0.5)
    assert stream.getvalue() == "edge/web: waiting until ready\n"


def test_live_display_shows_lines_and_takes_them_away(monkeypatch):
    monkeypatch.setattr("isoform.cli.progress._PATIENCE_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    live = Live(stream)
    live("edge", "coming up")
    live("edge/[web]", "unpacking", 0.5)
    live("edge/db", "done", 1.0)
    deadline = time.monotonic() + 10
    while "unpacking" not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    live.stop()
    live.stop()
    said = stream.getvalue()
    assert "edge/[web]" in said
    assert "coming up" in said
    assert "━" in said
    assert "edge/db" not in said
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1  # the cursor is back
    assert said.rstrip().endswith(("\x1b[?25h", "\x1b[2K"))
    assert not [one for one in threading.enumerate() if one.name == "progress"]


def test_live_display_of_quick_work_draws_nothing():
    stream = Terminal()
    with shown(hidden=False, heading="edge: coming up", stream=stream) as (progress, _):
        progress("edge/web", "starting")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_cancels_the_work_and_lets_it_clean_up(number):
    cleaned = []

    async def work():
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(30)
        finally:
            cleaned.append(number)

    with pytest.raises(Interrupted) as caught:
        run(work())
    assert (caught.value.signal, cleaned) == (number, [number])


def test_failure_that_a_signal_caused_is_the_signal():
    async def work():
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise StepFailed("crun was killed") from None

    with pytest.raises(Interrupted):
        run(work())


def test_failure_without_a_signal_stays_itself():
    async def work():
        raise StepFailed("crun failed")

    with pytest.raises(StepFailed):
        run(work())


def test_second_signal_ends_at_once():
    script = """
import asyncio, os, signal, sys
from isoform.cli.running import run
async def stubborn():
    os.kill(os.getpid(), signal.SIGINT)
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)
run(stubborn(), lambda: print("restored", flush=True))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stdout, result.stderr) == (130, "restored\n", "")


def test_hangup_is_ignored_under_nohup():
    script = """
import asyncio, os, signal
from isoform.cli.running import run
signal.signal(signal.SIGHUP, signal.SIG_IGN)
async def work():
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)
    print("done")
run(work())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stdout) == (0, "done\n")


def test_ctrl_c_in_a_terminal_shows_one_line_and_gives_the_cursor_back():
    script = """
import asyncio
from isoform.cli import progress, report, running
progress._PATIENCE_S = 0.0
async def work(tell):
    tell("edge/web", "waiting until ready")
    await asyncio.sleep(30)
def body():
    with progress.shown(hidden=False) as (tell, stop):
        try:
            running.run(work(tell), stop)
        except running.Interrupted as cut:
            stop()
            cut.left = "interrupted: edge is left with 1 ready"
            raise
raise SystemExit(report.guarded(body, []))
"""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-c", script])
    said = b""
    deadline = time.monotonic() + 20
    while b"waiting until ready" not in said and time.monotonic() < deadline:
        said += _read(terminal)
    os.write(terminal, b"\x03")
    while more := _read(terminal):
        said += more
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    text = said.decode()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").strip().splitlines()[-1]
    assert last == "interrupted: edge is left with 1 ready"


def _read(terminal):
    if not select.select([terminal], [], [], 20)[0]:
        return b""
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: the other side has ended
        return b""
