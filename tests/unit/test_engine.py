"""The engine on a world of dictionaries: it converges, from anywhere, after any cut."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from isoform.engine.desired import Desired, Wish
from isoform.engine.engine import Engine
from isoform.engine.infrastructure import Infrastructure
from isoform.engine.journal import Journal, Row
from isoform.errors import NotFound, StepFailed, WrongState
from isoform.model import Image, Instance, Link, Port, Process, Size, User

from .memory import MemoryFabric, MemoryForm, MemoryForms, MemoryWorld


class Cut(BaseException):
    """Stands for kill -9: nothing catches it."""


def instance(function: str, number: int, form: str = "container", **changes: object) -> Instance:
    port = Port("access", "eth0", f"02:00:00:00:00:{number:02x}", (f"10.0.1.{number}/24",), 1500)
    made = Instance(
        id=f"edge.{function}.0", service="edge", function=function, replica=0, form=form, hostname=function,
        image=Image("busybox", "sha256:0", ()), process=Process(("/bin/sh",), (), "/", User()), size=Size(1, 64 << 20),
        ports=(port,),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def service(*wishes: Wish) -> Desired:
    return Desired("edge", "/edge.yaml", (Link("edge", "access", "10.0.1.0/24", "", 1500, ()),), wishes)


class Home:
    """A world and as many engines as it takes: each `engine()` is a new process on the same host."""

    def __init__(self, folder: Path) -> None:
        self.world, self._folder = MemoryWorld(), folder

    def engine(self) -> Engine:
        forms = MemoryForms({
            "container": MemoryForm("container", self.world),
            "vm": MemoryForm("vm", self.world, "tap", 3),
            "container-in-vm": MemoryForm("container-in-vm", self.world, "tap", 4),
        })
        infra = Infrastructure(forms, MemoryFabric(self.world), self._folder / "volumes")  # type: ignore[arg-type]
        return Engine(infra, Journal(self._folder / "state.db"), self._folder / "lock")

    async def up(self, desired: Desired, **options: object) -> list[str]:
        async def resolve(rows: dict[str, Row]) -> Desired:
            return desired

        outcome = await self.engine().up("edge", resolve, source=desired.source, **options)  # type: ignore[arg-type]
        return [f"{change.sign} {change.subject} {change.text}" for change in outcome.changes]

    def running(self) -> dict[str, str]:
        return {one: form for (form, one), (_, seen) in self.world.instances.items() if seen.state == "running"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr("isoform.engine.ready._SETTLE_S", 0.01)
    monkeypatch.setattr("isoform.engine.ready._WATCH_S", 0.002)
    return Home(tmp_path)


TWO = service(Wish(instance("web", 2)), Wish(instance("client", 3), after=("edge.web.0",)))


async def test_up_makes_what_is_wanted_and_a_second_up_changes_nothing(home: Home) -> None:
    assert await home.up(TWO) == [
        "+ link access 10.0.1.0/24  made", "+ edge/web container  created", "+ edge/client container  created"
    ]
    calls = list(home.world.calls)
    assert await home.up(TWO) == []
    assert home.world.calls == calls


async def test_a_function_starts_only_after_those_it_names_are_ready(home: Home) -> None:
    await home.up(TWO)
    steps = home.engine()._journal.steps(1)
    order = [step for step, state, _ in steps if state == "done"]
    assert order.index("prove edge.web.0") < order.index("start edge.client.0")


async def test_a_change_touches_only_what_differs(home: Home) -> None:
    await home.up(TWO)
    home.world.calls.clear()
    bigger = replace(TWO.wishes[0], instance=instance("web", 2, size=Size(2, 64 << 20)))
    assert await home.up(service(bigger, TWO.wishes[1])) == ["~ edge/web container  replaced, addresses kept"]
    assert not [call for call in home.world.calls if "client" in call]


async def test_a_change_of_form_keeps_the_ports_addresses(home: Home) -> None:
    await home.up(TWO)
    moved = replace(TWO.wishes[0], instance=instance("web", 2, "vm"))
    assert await home.up(service(moved, TWO.wishes[1])) == ["~ edge/web container → vm  addresses kept"]
    assert home.running() == {"edge.web.0": "vm", "edge.client.0": "container"}
    assert home.world.attached["edge.web.0"] == "tap"


async def test_dry_run_says_what_up_does_and_does_nothing(home: Home) -> None:
    said = await home.up(TWO, dry_run=True)
    assert home.world.calls == []
    assert await home.up(TWO) == said


async def test_a_function_that_left_the_file_is_removed_and_its_neighbours_are_told(home: Home) -> None:
    told = replace(TWO.wishes[0], instance=instance("web", 2, hosts=(("10.0.1.3", "client"),)))
    await home.up(service(told, TWO.wishes[1]))
    assert await home.up(service(TWO.wishes[0])) == [
        "- edge/client container  removed", "~ edge/web container  told its neighbours' names"
    ]
    assert "client" not in home.world.files["edge.web.0", "/etc/hosts"]
    assert home.running() == {"edge.web.0": "container"}


async def test_a_killed_instance_is_started_anew(home: Home) -> None:
    await home.up(TWO)
    made, seen = home.world.instances["container", "edge.web.0"]
    home.world.instances["container", "edge.web.0"] = (made, replace(seen, state="stopped", pid=0))
    assert await home.up(TWO) == ["~ edge/web container  stopped, started anew"]


async def test_down_leaves_nothing_and_forgets(home: Home) -> None:
    await home.up(TWO)
    await home.engine().down("edge")
    assert (home.world.instances, home.world.links, home.world.attached) == ({}, {}, {})
    assert await home.engine().ps() == []
    with pytest.raises(NotFound, match="there is no service edge"):
        await home.engine().down("edge")


async def test_a_function_that_ends_at_once_shows_its_last_lines_and_leaves_nothing(home: Home) -> None:
    home.world.ends_at_once = {"web"}
    with pytest.raises(StepFailed, match=r"(?s)edge/web ended with exit status 3 .*no such file: /etc/fw.conf"):
        await home.up(TWO)
    assert (home.world.instances, home.world.links, home.world.attached) == ({}, {}, {})
    assert home.engine()._journal.operations()[0].state == "ROLLED_BACK"


async def test_a_change_that_fails_puts_the_service_back(home: Home) -> None:
    await home.up(TWO)
    home.world.ends_at_once = {"new"}
    with pytest.raises(StepFailed):
        await home.up(service(*TWO.wishes, Wish(instance("new", 9))))
    assert home.running() == {"edge.web.0": "container", "edge.client.0": "container"}
    assert await home.up(TWO) == []


async def test_a_namesake_from_another_file_is_refused(home: Home) -> None:
    await home.up(TWO)
    with pytest.raises(WrongState, match="from another file"):
        await home.up(replace(TWO, source="/other.yaml"))


async def test_while_one_up_runs_another_is_refused_with_the_holders_pid(home: Home) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(rows: dict[str, Row]) -> Desired:
        entered.set()
        await leave.wait()
        return TWO

    first = asyncio.ensure_future(home.engine().up("edge", slow))
    await entered.wait()
    with pytest.raises(WrongState, match=r"(?s)another change is under way.*process \d+ \(isoform up edge\)"):
        await home.up(TWO)
    leave.set()
    await first


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["up", "change", "down"])
async def test_cut_off_at_any_change_the_next_command_converges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                when: str, verb: str) -> None:
    monkeypatch.setattr("isoform.engine.ready._SETTLE_S", 0.002)
    moved = service(replace(TWO.wishes[0], instance=instance("web", 2, "vm")), TWO.wishes[1])
    wanted = moved if verb == "change" else TWO
    for cuts in range(100):
        folder = tmp_path / str(cuts)
        folder.mkdir()
        home = Home(folder)
        if verb != "up":
            await home.up(TWO)
        finished = await cut_off_after(home, when, cuts, verb, wanted)
        if verb != "down" or not finished:
            await home.up(wanted)
            forms = {"edge.web.0": "vm" if verb == "change" else "container", "edge.client.0": "container"}
            assert home.running() == forms
            assert await home.up(wanted) == []
            await home.engine().down("edge")
        assert (home.world.instances, home.world.links, home.world.attached) == ({}, {}, {})
        if finished:
            break
    assert cuts >= 5  # as many changes as there are places to be cut off at


async def cut_off_after(home: Home, when: str, cuts: int, verb: str, wanted: Desired) -> bool:
    """Run a command that dies at its change number `cuts`; return whether it came to its end before that."""
    left = cuts

    def cut(call: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Cut(call)

    setattr(home.world, when, cut)
    try:
        await (home.engine().down("edge") if verb == "down" else home.up(wanted))
    except Cut:
        return False
    finally:
        setattr(home.world, when, lambda call: None)
    return True
