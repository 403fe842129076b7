"""What is printed: tables, changes, errors, JSON; on stdout data alone."""

import io
import json
import os
import subprocess
import sys

import pytest

from isoform.cli.left import left
from isoform.cli.output import emit_outcome
from isoform.cli.ps import as_plain, text
from isoform.cli.report import error_text, guarded
from isoform.cli.running import Interrupted
from isoform.cli.table import table, width
from isoform.engine.change import Outcome
from isoform.engine.plan import Change
from isoform.engine.status import Status
from isoform.errors import DescriptorError, HostLacks, IsoformError, NotFound, StepFailed, WrongState

CHANGES = (Change("~", "edge/web", "container → vm  addresses kept"), Change("+", "link core", "10.0.1.0/24  made"))


def status(**changed) -> Status:
    values = {
        "service": "edge", "function": "web", "instance": "edge/web", "replica": 0, "form": "container",
        "why": "asked for", "state": "running", "ready": True, "addresses": {"access": "10.0.1.2", "core": "10.0.2.2"},
        "addresses6": {}, "image": "./web.yaml", "machine": "", "pid": 42, "memory_bytes": 3 << 20,
        "started_at": 1_700_000_000.5, "ready_after_s": 0.0431234, "exit_code": None, "reason": "",
    }
    return Status(**{**values, **changed})


def test_table_aligns_left_and_right_and_shows_emptiness():
    assert table(("NAME", "SIZE"), [("a", "1"), ("long-name", "20"), ("", "")], frozenset({"SIZE"})) == (
        "NAME       SIZE\n"
        "a             1\n"
        "long-name    20\n"
        "-             -")


@pytest.mark.parametrize(("shown", "columns"), [("abc", 3), ("é", 1), ("e\u0301", 1), ("日本", 4), ("→", 1)])
def test_width_counts_columns(shown, columns):
    assert width(shown) == columns


def test_changes_are_aligned_and_end_with_one_total(capsys):
    emit_outcome(Outcome("edge", CHANGES, 5, 3.44), dry_run=False, as_json=False)
    assert capsys.readouterr().out == (
        "~ edge/web   container → vm  addresses kept\n"
        "+ link core  10.0.1.0/24  made\n"
        "2 changed, 5 unchanged, 0 failed in 3.4 s\n")


def test_no_change_says_so(capsys):
    emit_outcome(Outcome("edge", (), 7, 0.051), dry_run=False, as_json=False)
    assert capsys.readouterr().out == "nothing to do: 7 unchanged in 0.05 s\n"


def test_dry_run_does_not_claim_to_have_changed(capsys):
    emit_outcome(Outcome("edge", CHANGES, 5, 0.05), dry_run=True, as_json=False)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "2 would change, 5 unchanged; nothing was done, in 0.05 s"


def test_outcome_as_json(capsys):
    emit_outcome(Outcome("edge", CHANGES, 5, 3.4), dry_run=False, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["service"], said["changed"], said["unchanged"], said["failed"]) == ("edge", 2, 5, 0)
    assert said["changes"][0] == {"sign": "~", "subject": "edge/web", "text": "container → vm  addresses kept"}


def test_ps_shows_each_instance():
    seen = [status(), status(instance="edge/db", form="vm", state="stopped", ready=False, exit_code=137,
                             reason="out of memory", addresses={}, memory_bytes=0, started_at=None,
                             ready_after_s=None, image="db")]
    assert text(seen, False, 1_700_000_060.5) == (
        "INSTANCE  FORM       STATE                              READY  ADDRESSES                      MEMORY  UPTIME"
        "  READY-AFTER  IMAGE\n"
        "edge/web  container  running                            yes    access=10.0.1.2,core=10.0.2.2     3Mi   1m00s"
        "        0.04s  ./web.yaml\n"
        "edge/db   vm         stopped (out of memory, exit 137)  no     -                                   -       -"
        "            -  db")


def test_ps_wide_tells_why():
    shown = text([status(machine="edge.web.0.vm", why="auto: the lightest that this host runs")], True, 1_700_000_060.5)
    assert shown.splitlines()[0].endswith("MACHINE        PID  WHY THIS FORM")
    assert shown.splitlines()[1].endswith("edge.web.0.vm   42  auto: the lightest that this host runs")


def test_ps_as_json_has_the_promised_keys_and_survives_json():
    one = json.loads(json.dumps(as_plain(status())))
    promised = {"service", "function", "instance", "form", "state", "ready", "addresses", "image", "memory_bytes",
                "started_at", "ready_after_s"}
    assert promised <= set(one)
    assert (one["started_at"], one["ready_after_s"]) == ("2023-11-14T22:13:20.500Z", 0.043)
    assert one["addresses"] == {"access": "10.0.1.2", "core": "10.0.2.2"}
    assert as_plain(status(started_at=None, ready_after_s=None))["started_at"] is None


def test_error_shows_what_why_fix_and_notes():
    error = StepFailed("edge/web was not ready", why="it printed:\n    | no such file\ncrun …", fix="look")
    error.add_note("also: edge/db failed")
    assert error_text(error) == (
        "error: edge/web was not ready\n"
        "  why: it printed:\n"
        "    | no such file\n"
        "    crun …\n"
        "  fix: look\n"
        "  note: also: edge/db failed")


@pytest.mark.parametrize(("raised", "code"), [
    (DescriptorError("x"), 2), (NotFound("x"), 3), (WrongState("x"), 3), (HostLacks("x"), 4), (StepFailed("x"), 5),
    (IsoformError("x"), 1), (KeyboardInterrupt(), 130), (Interrupted(2), 130), (Interrupted(15), 143),
    (ValueError("x"), 1),
])
def test_exit_status_of_each_end(raised, code, capsys):
    def work():
        raise raised

    assert guarded(work, []) == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (4, 4), (0, 0)])
def test_exit_status_is_what_the_command_returns(returned, code):
    assert guarded(lambda: returned, []) == code


def test_unexpected_failure_shows_its_traceback_with_debug_alone(capsys):
    def work():
        raise ZeroDivisionError("by nought")

    assert guarded(work, ["up"]) == 1
    assert capsys.readouterr().err == (
        "error: isoform itself failed: ZeroDivisionError: by nought\n"
        "  fix: run it again with --debug, and report what that shows\n")
    assert guarded(work, ["up", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_reader_that_goes_away_is_no_failure():
    script = ("import sys; from isoform.cli.output import emit; from isoform.cli.report import guarded;"
              "sys.exit(guarded(lambda: [emit('y' * 999) for _ in range(9999)], []))")
    reading, writing = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert child.communicate(timeout=30)[1] == ""
    assert child.returncode == 141


def test_broken_pipe_of_a_tool_is_told(capsys):
    def work():
        raise BrokenPipeError("the monitor went away")

    assert guarded(work, []) == 1
    assert "the monitor went away" in capsys.readouterr().err


def test_sign_that_the_locale_lacks_does_not_fail(monkeypatch):
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", plain)
    emit_outcome(Outcome("edge", CHANGES, 5, 3.4), dry_run=False, as_json=False)
    assert b"container ? vm" in plain.buffer.getvalue()


@pytest.mark.parametrize(("seen", "go_on", "said"), [
    ([], "isoform up", "interrupted: nothing of edge is there yet; `isoform up` goes on"),
    ([status(), status(), status(state="created", ready=False), status(state="absent", ready=False)], "isoform up x",
     "interrupted: edge is left with 1 made but not running, 1 not there, 2 ready; `isoform up x` goes on, "
     "`isoform down edge` removes it"),
    ([status(ready=False)], "", "interrupted: edge is left with 1 running, not ready; `isoform down edge` goes on"),
    ([], "", "interrupted: edge is left with little but its links; `isoform down edge` goes on"),
])
def test_interruption_tells_what_is_left_in_one_line(seen, go_on, said):
    assert left("edge", seen, go_on) == said
