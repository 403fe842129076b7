"""examples/edge in a third of its 27 assignments of forms, chosen so that each pair of forms meets."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.forms27 import FUNCTIONS, THIRD, discard, faults
from isoform.host import Home
from isoform.images import Images
from scripts.edge import Edge
from tests.guests import share_guest
from tests.images import ARCHITECTURE, recipe_image, source

pytestmark = [pytest.mark.root, pytest.mark.guest]


IMAGES = sorted((Path(__file__).parents[2] / "examples" / "edge").glob("*/image.yaml"))


async def fill(home: Home) -> None:
    """Give `home` the example's images and a guest, made once on this machine."""
    for recipe in IMAGES:
        await Images(source(), ARCHITECTURE).resolve(str(recipe), recipe.parent)
    await recipe_image(home, IMAGES[0])
    await share_guest(home)


@pytest.fixture(scope="module")
def shared() -> Iterator[Home]:
    """One home for all assignments that a worker runs; the service is made anew for each."""
    path = Path(tempfile.mkdtemp(prefix="iso-", dir="/tmp"))
    asyncio.run(fill(Home(path)))
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
