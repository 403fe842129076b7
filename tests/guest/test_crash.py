"""kill -9 at every step of a service of machines: the next command finishes, and `down` leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoform.host import Home
from tests.crash import survives
from tests.guests import share_guest
from tests.images import RECIPES, busybox_image

SERVICE = f"""
service: shop
links: {{front: 10.9.1.0/24}}
functions:
  web:
    image: {RECIPES}/busybox.yaml
    form: vm
    memory: 128Mi
    command: ["exec httpd -f -p 80 -h /etc"]
    ports: [front]
    ready: {{tcp: 80, deadline: 120s}}
  inner:
    image: {RECIPES}/busybox.yaml
    form: container-in-vm
    memory: 64Mi
    command: ["exec httpd -f -p 80 -h /etc"]
    ports: [front]
    ready: {{tcp: 80, deadline: 120s}}
"""
FORMS = {"web": "vm", "inner": "container-in-vm"}
STEPS = 1 + 2 * 4  # one link; attach, create, start and prove of two functions
DONE = range(1, 2 * STEPS, 2)  # the notes at which a step is through


@pytest.fixture
async def file(home: Home, tmp_path: Path) -> Path:
    await busybox_image(home)
    await share_guest(home)
    path = tmp_path / "service.yaml"
    path.write_text(SERVICE)
    return path


@pytest.mark.root
@pytest.mark.guest
@pytest.mark.parametrize("at", DONE)
async def test_up_killed_after_any_step_is_finished_by_the_next(home: Home, file: Path, at: int) -> None:
    assert await survives(home, file, FORMS, "up", at)


@pytest.mark.root
@pytest.mark.guest
@pytest.mark.parametrize("at", [0, 2, 4])
async def test_down_killed_in_the_middle_is_finished_by_the_next(home: Home, file: Path, at: int) -> None:
    assert await survives(home, file, FORMS, "down", at)
