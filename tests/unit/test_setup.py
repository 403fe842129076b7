"""What the set-up installs is what `isoform doctor` asks for."""

from __future__ import annotations

import re
from pathlib import Path

from isoform.host.doctor import PACKAGES

SETUP = Path(__file__).resolve().parents[2] / "scripts" / "setup.sh"
ELSEWHERE = {"qemu-system-arm"}  # of another architecture


def test_the_set_up_installs_what_the_doctor_asks_for() -> None:
    found = re.search(r"^packages='\n(.*?)^'", SETUP.read_text(), re.DOTALL | re.MULTILINE)
    assert found
    assert {package for package, _ in PACKAGES.values()} - ELSEWHERE <= set(re.split(r"[\n|]", found[1]))
