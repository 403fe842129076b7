"""What a second `up` does to a service that runs: on the real kernel, with containers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from isoform.assemble import Assembly, assembled
from isoform.errors import NotFound, StepFailed
from isoform.host import Home, run
from isoform.model import ExecSpec
from tests.images import RECIPES, busybox_image

pytestmark = pytest.mark.root

STORE = """
  store:
    image: {recipes}/busybox.yaml
    form: container
    command: ["{command}"]
    ports: [front]
    volumes: ["data:/data"]
"""
WEB = """
  web:
    image: {recipes}/busybox.yaml
    form: container
    command: ["exec httpd -f -p 80 -h /etc"]
    ports: [front]
    capabilities: [net_admin]
    {more}
    ready: {{tcp: 80, deadline: 5s}}
"""
WAIT = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $$!; done"


class Service:
    """A service in a file that a test writes anew again and again."""

    def __init__(self, assembly: Assembly, file: Path) -> None:
        self.assembly, self.file = assembly, file

    async def up(self, *functions: str, keep: bool = False) -> list[str]:
        body = "".join(functions)
        volumes = f"volumes: {{data: {{size: 8Mi, keep: {str(keep).lower()}}}}}" if "data:" in body else ""
        self.file.write_text(f"service: shop\nlinks: {{front: 10.9.1.0/24}}\n{volumes}\nfunctions:{body}")
        outcome = await self.assembly.up(self.file)
        return [f"{change.sign} {change.subject} {change.text}" for change in outcome.changes]

    async def down(self, volumes: bool = False) -> None:
        await self.assembly.engine.down("shop", grace_s=0, volumes=volumes)

    async def inside(self, function: str, *argv: str) -> str:
        form = self.assembly.forms["container"]
        result = await form.run(f"shop.{function}.0", ExecSpec(argv), 20)
        assert result.code == 0, result.err
        return result.out.strip()


def store(command: str = WAIT) -> str:
    return STORE.format(recipes=RECIPES, command=command)


def web(more: str = "") -> str:
    return WEB.format(recipes=RECIPES, more=more)


@pytest.fixture
async def service(home: Home, tmp_path: Path) -> Service:
    await busybox_image(home)
    return Service(await assembled(home.path), tmp_path / "service.yaml")


async def test_a_kept_volume_outlives_downs_and_failures_until_it_is_asked_away(service: Service, home: Home) -> None:
    await service.up(store(), keep=True)
    await service.inside("store", "/bin/sh", "-c", "echo precious >/data/file; sync")
    await service.down()
    with pytest.raises(NotFound):
        await service.down()
    with pytest.raises(StepFailed):
        await service.up(store("exit 3"), keep=True)
    await service.up(store(), keep=True)
    assert await service.inside("store", "cat", "/data/file") == "precious"
    await service.down(volumes=True)
    assert not any((home.volumes / "shop").glob("*"))


async def test_a_volume_that_is_not_kept_goes_with_its_service(service: Service, home: Home) -> None:
    await service.up(store())
    await service.down()
    assert not (home.volumes / "shop").exists()


async def test_a_change_that_fails_brings_a_removed_function_back_with_its_data(service: Service) -> None:
    await service.up(store(), web())
    await service.inside("store", "/bin/sh", "-c", "echo precious >/data/file; sync")
    with pytest.raises(StepFailed, match="shop/web was not ready"):
        await service.up(web("env: {NEW: now}").replace("-p 80", "-p 81"))
    assert await service.inside("store", "cat", "/data/file") == "precious"
    await service.down()


async def test_a_link_that_was_deleted_is_made_again_and_the_ports_rejoin_it(service: Service, home: Home) -> None:
    await service.up(store(), web())
    pid = {one.function: one.pid for one in await service.assembly.engine.ps()}
    await run(["ip", "-n", home.netns(), "link", "delete", "shop.front"])
    said = await service.up(store(), web())
    assert said == ["+ link front 10.9.1.0/24  made", "~ shop/store container  ports repaired",
                    "~ shop/web container  ports repaired"]
    assert {one.function: one.pid for one in await service.assembly.engine.ps()} == pid
    assert "root" in await service.inside("store", "wget", "-qO-", "http://web/passwd")
    assert await service.up(store(), web()) == []
    await service.down()


async def test_a_replaced_container_begins_in_a_clean_namespace(service: Service) -> None:
    await service.up(web("sysctls: {net.ipv4.ip_forward: 1}"))
    await service.inside("web", "ip", "address", "add", "10.66.0.1/32", "dev", "lo")
    assert await service.inside("web", "cat", "/proc/sys/net/ipv4/ip_forward") == "1"
    assert await service.up(web()) == ["~ shop/web container  replaced, addresses kept"]
    assert await service.inside("web", "cat", "/proc/sys/net/ipv4/ip_forward") == "0"
    assert "10.66.0.1" not in await service.inside("web", "ip", "address")
    await service.down()


async def test_users_own_hosts_file_stands_when_neighbours_come(service: Service) -> None:
    mine = 'files: {/etc/hosts: {content: "10.9.9.9 mine"}}'
    await service.up(web(mine))
    await service.up(web(mine), store())
    assert await service.inside("web", "cat", "/etc/hosts") == "10.9.9.9 mine"
    await service.down()


async def test_the_first_replica_keeps_its_data_and_its_process_when_a_second_comes(service: Service) -> None:
    await service.up(store())
    await service.inside("store", "/bin/sh", "-c", "echo precious >/data/file; sync")
    pid = (await service.assembly.engine.ps())[0].pid
    await service.up(store() + "    replicas: 2\n")
    seen = await service.assembly.engine.ps()
    assert [one.instance for one in seen] == ["shop/store", "shop/store-1"]
    assert seen[0].pid == pid
    assert await service.inside("store", "cat", "/data/file") == "precious"
    await service.down()


async def test_nobody_but_root_can_look_into_a_home(service: Service, home: Home) -> None:
    home.path.chmod(0o755)
    await assembled(home.path)
    assert home.path.stat().st_mode & 0o077 == 0


async def test_an_up_that_is_cancelled_is_finished_by_the_next(service: Service) -> None:
    work = asyncio.ensure_future(service.up(store(), web()))
    await asyncio.sleep(0.1)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await service.up(store(), web())
    assert all(one.ready for one in await service.assembly.engine.ps())
    await service.down()
