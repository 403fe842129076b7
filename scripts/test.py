"""Run the linters and the tests in stages, then say in one table what ran, what failed and what was skipped.

    scripts/test.py [STAGE …] [-- PYTEST OPTIONS]

A stage is one of those in STAGES; without any, all run, also after one has failed. The exit status is 0 only if every
stage passed. Where CI is set, a test that was skipped for a reason which this host could mend counts as a failure.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "test"
PYTEST = (sys.executable, "-m", "pytest", "-q")

STAGES: dict[str, tuple[str, ...]] = {
    "ruff": (sys.executable, "-m", "ruff", "check", "."),
    "mypy": (sys.executable, "-m", "mypy"),
    "unit": (*PYTEST, "-n", "2", "tests/unit", "tests/golden"),
    # Homes are separate, so tests run side by side; what shares a guest goes to one worker, as one group.
    "kernel": (*PYTEST, "-n", "2", "tests/kernel"),
    "conformance": (*PYTEST, "-n", "2", "--dist", "loadgroup", "tests/conformance"),
    "guest": (*PYTEST, "-n", "2", "tests/guest"),
}
GROUPS = {"lint": ("ruff", "mypy")}

# Reasons to skip that no package and no privilege can mend: the hardware or the running kernel lacks something.
BEYOND_US = re.compile(
    r"\bKVM\b|\bcgroup v[12]\b|\bthis kernel\b|^version 2 has no controller here|^the file system of /tmp keeps|"
    r"little-endian machine|no x86-64", re.IGNORECASE)


@dataclass
class Outcome:
    """How one stage ended."""

    stage: str
    code: int
    took_s: float
    passed: int = 0
    failed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (test, reason)

    @property
    def avoidable(self) -> list[tuple[str, str]]:
        """The skips for reasons that this host could mend."""
        return [(test, reason) for test, reason in self.skipped if not BEYOND_US.search(reason)]


def read_report(path: Path, outcome: Outcome) -> None:
    """Count the tests of pytest's JUnit report into `outcome`."""
    for case in xml.parse(path).getroot().iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        elif skip is not None:
            outcome.skipped.append((f"{case.get('classname')}.{case.get('name')}", skip.get("message") or ""))
        else:
            outcome.passed += 1


def run_stage(stage: str, options: Sequence[str]) -> Outcome:
    """Run one stage, its output going where ours goes."""
    argv, report = list(STAGES[stage]), REPORTS / f"{stage}.xml"
    report.unlink(missing_ok=True)
    tests = argv[: len(PYTEST)] == list(PYTEST)
    if tests:
        argv += [f"--junitxml={report}", *options]
    print(f"\n== {stage}: {' '.join(argv[1:])}", flush=True)
    start = time.monotonic()
    code = subprocess.run(argv, cwd=ROOT, check=False).returncode
    outcome = Outcome(stage, code, time.monotonic() - start)
    if report.exists():
        read_report(report, outcome)
    elif not tests:
        outcome.passed, outcome.failed = (1, 0) if code == 0 else (0, 1)
    return outcome


def summarize(outcomes: Sequence[Outcome], strict: bool) -> bool:
    """Print the table, the skips and the sum; return whether all is well."""
    print("\n== summary")
    well = True
    for outcome in outcomes:
        bad = outcome.code != 0 or (strict and bool(outcome.avoidable))
        well = well and not bad
        print(f"{'FAILED' if bad else 'ok':8}{outcome.stage:14}{outcome.passed:5} passed {outcome.failed:4} failed "
              f"{len(outcome.skipped):4} skipped {outcome.took_s:8.1f} s")
    for outcome in outcomes:
        for test, reason in outcome.skipped:
            avoidable = (test, reason) in outcome.avoidable
            print(f"{'skipped, and this host could run it' if avoidable else 'skipped'}: {test}: {reason}")
    failed = sum(outcome.failed or (outcome.code != 0) for outcome in outcomes)
    failed += sum(len(outcome.avoidable) for outcome in outcomes) if strict else 0
    print(f"total: {sum(o.passed for o in outcomes)} passed, {failed} failed, "
          f"{sum(len(o.skipped) for o in outcomes)} skipped")
    return well


def main(argv: Sequence[str]) -> int:
    """Run what the command line names and return the exit status."""
    names, options = list(argv), []
    if "--" in names:
        at = names.index("--")
        names, options = names[:at], names[at + 1:]
    unknown = [name for name in names if name not in STAGES and name not in GROUPS]
    if unknown:
        print(f"no stage {', '.join(unknown)}; there are {', '.join([*STAGES, *GROUPS])}", file=sys.stderr)
        return 2
    stages = [stage for name in names for stage in GROUPS.get(name, (name,))] or list(STAGES)
    if os.geteuid() != 0 and set(stages) & {"kernel", "conformance", "guest"}:
        print("not root: tests that need the kernel are skipped; run it with sudo", file=sys.stderr)
    REPORTS.mkdir(parents=True, exist_ok=True)
    strict = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    return 0 if summarize([run_stage(stage, options) for stage in stages], strict) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
