"""kill -9 at every line of the journal: the next command finishes, and `down` leaves nothing. Containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoform.host import Home
from tests.crash import survives
from tests.images import RECIPES, busybox_image

SERVICE = f"""
service: shop
links: {{front: 10.9.1.0/24}}
volumes: {{data: {{size: 8Mi}}}}
functions:
  web:
    image: {RECIPES}/busybox.yaml
    form: container
    command: ["mkdir -p /www && echo page > /www/index.html && exec httpd -f -p 80 -h /www"]
    ports: [front]
    volumes: ["data:/data"]
    ready: {{tcp: 80}}
  client:
    image: {RECIPES}/busybox.yaml
    form: container
    ports: [front]
    after: [web]
"""
FORMS = {"web": "container", "client": "container"}
NOTES = 2 * (1 + 2 * 4)  # "started" and "done" of one link, and of attach, create, start, prove of two functions


@pytest.fixture
async def file(home: Home, tmp_path: Path) -> Path:
    await busybox_image(home)
    path = tmp_path / "service.yaml"
    path.write_text(SERVICE)
    return path


@pytest.mark.root
@pytest.mark.parametrize("at", range(NOTES))
async def test_up_killed_at_any_line_is_finished_by_the_next(home: Home, file: Path, at: int) -> None:
    assert await survives(home, file, FORMS, "up", at)


@pytest.mark.root
@pytest.mark.parametrize("at", range(2 * (1 + 1 + 2 * 2)))  # remove and detach of two functions, a link, a volume
async def test_down_killed_at_any_line_is_finished_by_the_next(home: Home, file: Path, at: int) -> None:
    assert await survives(home, file, FORMS, "down", at)
