"""The test runner counts what pytest reports, and in CI fails on what was skipped without need."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.test import Outcome, read_report, summarize

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure message="no"/></testcase>
<testcase classname="a" name="no_fixture"><error message="no"/></testcase>
<testcase classname="a" name="no_kvm"><skipped type="pytest.skip" message="KVM does not work here"/></testcase>
<testcase classname="a" name="no_tool"><skipped type="pytest.skip" message="skopeo is not installed"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    outcome = Outcome("unit", 1, 0.1)
    read_report(tmp_path / "report.xml", outcome)
    assert (outcome.passed, outcome.failed, len(outcome.skipped)) == (1, 2, 2)
    assert outcome.avoidable == [("a.no_tool", "skopeo is not installed")]


@pytest.mark.parametrize(("reason", "strict", "well"), [
    ("skopeo is not installed", True, False),
    ("skopeo is not installed", False, True),
    ("needs root: network namespaces, mounts, cgroups", True, False),
    ("KVM does not work here", True, True),
    ("this kernel has no PSI", True, True),
])
def test_a_skip_that_the_host_could_mend_fails_in_ci(reason: str, strict: bool, well: bool) -> None:
    assert summarize([Outcome("unit", 0, 0.1, passed=1, skipped=[("a.b", reason)])], strict) is well


def test_the_last_line_is_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    assert not summarize([Outcome("ruff", 1, 0.1), Outcome("unit", 0, 0.1, passed=3)], strict=True)
    assert capsys.readouterr().out.splitlines()[-1] == "total: 3 passed, 1 failed, 0 skipped"
