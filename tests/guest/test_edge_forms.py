"""examples/edge in a third of its 27 assignments of forms, chosen so that each pair of forms meets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.forms27 import FUNCTIONS, THIRD, discard, faults
from isoform.host import Home
from scripts.edge import Edge

pytestmark = [pytest.mark.root, pytest.mark.guest]


@pytest.fixture(scope="module")
def shared() -> Iterator[Home]:
    """One home for all assignments: the images and the guest are made once, the service anew for each."""
    path = Path(tempfile.mkdtemp(prefix="iso-", dir="/tmp"))
    yield Home(path)
    Edge(path).isoform("down", "edge")  # where a test was cut off
    assert discard(path), f"something still runs or is mounted in {path}, so it is kept"


def test_the_chosen_third_holds_each_pair_of_forms_of_each_pair_of_functions() -> None:
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len({(forms[one], forms[other]) for forms in THIRD}) == 9


@pytest.mark.parametrize("forms", THIRD, ids="/".join)
def test_the_request_passes_in_these_forms(shared: Home, forms: tuple[str, ...]) -> None:
    assert len(forms) == len(FUNCTIONS)
    assert faults(Edge(shared.path), shared, forms) == []
