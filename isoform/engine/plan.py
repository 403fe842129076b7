"""The plan: what must change so that the world is as desired. Pure and sorted; `--dry-run` prints it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from isoform.engine.desired import Desired, Wish
from isoform.engine.observe import Seen, World, is_ready
from isoform.engine.step import (
    AddLink,
    Attach,
    Create,
    Detach,
    DropVolume,
    Prove,
    Remove,
    RemoveLink,
    Start,
    Step,
    Tell,
    label,
)
from isoform.model import fingerprint


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a plan, in the user's words."""

    sign: str  # "+" made, "~" changed, "-" removed
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order that works one by one, what each waits for, and the changes that they add up to."""

    steps: tuple[Step, ...] = ()
    needs: dict[str, frozenset[str]] = field(default_factory=dict)  # step id -> ids of the steps that go first
    changes: tuple[Change, ...] = ()
    unchanged: int = 0


class _Draft:
    """A plan in the making."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.needs: dict[str, frozenset[str]] = {}
        self.changes: list[Change] = []

    def add(self, step: Step, needs: Iterable[str] = ()) -> str:
        self.steps.setdefault(step.id, step)
        self.needs[step.id] = self.needs.get(step.id, frozenset()) | frozenset(needs)
        return step.id

    def plan(self, unchanged: int) -> Plan:
        known = {one: frozenset(need for need in needs if need in self.steps) for one, needs in self.needs.items()}
        return Plan(tuple(self.steps.values()), known, tuple(self.changes), unchanged)


def plan(desired: Desired, world: World, kinds: Mapping[str, str], prove_running: bool = True) -> Plan:
    """Return the steps from `world` to `desired`.

    Args:
        kinds: the kind of attachment ("netns", "tap") that each form is handed, by form name.
        prove_running: ask also instances that run already, and were never seen ready, for their proof.
    """
    draft = _Draft()
    wishes = {wish.id: wish for wish in desired.wishes}
    fit = {wish.id for wish in desired.wishes if _fits(wish, world, kinds)}
    removed = _removals(draft, wishes, fit, world)
    changed_links = _links(draft, desired, world)
    unchanged = 0
    for wish in desired.wishes:
        if wish.id in fit:
            unchanged += _mend(draft, wish, world, kinds, prove_running)
        else:
            _make(draft, wish, world, removed, kinds)
    _goodbyes(draft, desired, world, wishes, removed)
    return draft.plan(unchanged + len(desired.links) - changed_links)


def _fits(wish: Wish, world: World, kinds: Mapping[str, str]) -> bool:
    """Whether what runs (or is made) is what is wanted, or can be made so while it runs."""
    seen = world.instances.get(wish.id, ())
    return (
        len(seen) == 1
        and seen[0].form == wish.instance.form
        and seen[0].observation.state in ("running", "created")
        and seen[0].observation.fingerprint == fingerprint(wish.instance)
        and (_is_sound(wish, world) or _is_mendable(wish, world, kinds))
    )


def _is_sound(wish: Wish, world: World) -> bool:
    holder = wish.attached_as
    return not holder.ports or holder.id in (world.attached if world.sound is None else world.sound)


def _is_mendable(wish: Wish, world: World, kinds: Mapping[str, str]) -> bool:
    """A namespace takes new ports while its container runs; QEMU holds on to the taps that it was started with."""
    holder = wish.attached_as
    return kinds[wish.instance.form] == "netns" or world.ports.get(holder.id, 0) == len(holder.ports)


def _removals(draft: _Draft, wishes: dict[str, Wish], fit: set[str], world: World) -> dict[str, list[str]]:
    """Plan the end of every instance that is not as wanted; return the steps' ids by instance id."""
    removed: dict[str, list[str]] = {}
    machines = {wish.attached_as.id: fingerprint(wish.attached_as) for wish in wishes.values()}
    for one, seen in sorted(world.instances.items(), key=lambda item: (is_machine(item[0]), item)):
        if one in fit or (is_machine(one) and machines.get(one) == seen[0].observation.fingerprint):
            continue
        # A machine goes with its last container; this step is for one that a crash left without any.
        before = [step for steps in removed.values() for step in steps] if is_machine(one) else []
        removed[one] = [draft.add(Remove(one, each.form), before) for each in seen]
        if is_machine(one):
            if all(is_machine(other) for other in removed):
                draft.changes.append(Change("-", f"machine of {label(one)}", "left over, removed"))
        elif one not in wishes:
            draft.changes.append(Change("-", label(one), f"{seen[0].form}  removed"))
    return removed


def _links(draft: _Draft, desired: Desired, world: World) -> int:
    changed = 0
    for link in desired.links:
        if world.links.get(link.id) != link:
            changed += 1
            draft.add(AddLink(link))
            sign, verb = ("~", "changed") if link.id in world.links else ("+", "made")
            ranges = ", ".join(part for part in (link.cidr, link.cidr6) if part)
            draft.changes.append(Change(sign, f"link {link.name}", f"{ranges}  {verb}"))
    return changed


def _mend(draft: _Draft, wish: Wish, world: World, kinds: Mapping[str, str], prove_running: bool) -> int:
    """Plan what an instance lacks that is as wanted otherwise; return 1 if that is nothing, else 0."""
    row, observation = world.rows.get(wish.id), world.instances[wish.id][0].observation
    done: list[str] = []
    if not _is_sound(wish, world):
        draft.add(Attach(wish.attached_as, kinds[wish.instance.form]), _link_steps(wish))
        done.append("ports repaired")
    if observation.state == "created" or (not is_ready(row, observation) and prove_running):
        started = draft.add(Start(wish), [f"attach {wish.attached_as.id}", *(f"prove {one}" for one in wish.after)])
        draft.add(Prove(wish), [started])
        done.append("finished starting")
    if row is None or row.hosts != wish.hosts:
        draft.add(Tell(wish), [f"start {wish.id}"])
        done.append("told its neighbours' names")
    if done:
        draft.changes.append(Change("~", wish.instance.label, f"{wish.instance.form}  {', '.join(done)}"))
    return int(not done)


def _make(
    draft: _Draft, wish: Wish, world: World, removed: dict[str, list[str]], kinds: Mapping[str, str]
) -> None:
    """Plan an instance anew."""
    holder = wish.attached_as
    # A member of a machine is made anew only once all that was in the machine is gone.
    gone = [step for one in (wish.id, holder.id, *holder.members) for step in removed.get(one, ())]
    before = [*gone, *_link_steps(wish)]
    if holder.id in world.attached:
        # What an earlier life did in its namespace (rules, settings, addresses) is no part of this one.
        before.append(draft.add(Detach(holder.id), gone))
    attached = draft.add(Attach(holder, kinds[wish.instance.form]), before)
    created = draft.add(Create(wish), [attached, *gone])
    started = draft.add(Start(wish), [created, *(f"prove {one}" for one in wish.after)])
    draft.add(Prove(wish), [started])
    draft.changes.append(_change(wish, world.instances.get(wish.id, ())))


def _link_steps(wish: Wish) -> list[str]:
    return [f"add-link {wish.instance.service}.{port.link}" for port in wish.attached_as.ports]


def _change(wish: Wish, seen: tuple[Seen, ...]) -> Change:
    instance = wish.instance
    if not seen:
        return Change("+", instance.label, f"{instance.form}  created")
    before = seen[0]
    if before.form != instance.form:
        return Change("~", instance.label, f"{before.form} → {instance.form}  addresses kept")
    if before.observation.state not in ("running", "created"):
        return Change("~", instance.label, f"{instance.form}  {before.observation.state}, started anew")
    if before.observation.fingerprint == fingerprint(instance):
        return Change("~", instance.label, f"{instance.form}  ports repaired")
    return Change("~", instance.label, f"{instance.form}  replaced, addresses kept")


def _goodbyes(
    draft: _Draft, desired: Desired, world: World, wishes: dict[str, Wish], removed: dict[str, list[str]]
) -> None:
    """Plan the end of ports, links and volumes that nothing needs any more."""
    wanted = {wish.attached_as.id for wish in wishes.values()}
    all_gone = [step for steps in removed.values() for step in steps]
    detached = [
        draft.add(Detach(one), all_gone if is_machine(one) else removed.get(one, ()))
        for one in sorted(world.attached)
        if one not in wanted
    ]
    # What cannot be brought back goes last: a change that fails is undone, and then it is still there.
    proofs = [f"prove {one}" for one in wishes]
    for link in sorted(set(world.links) - {link.id for link in desired.links}):
        draft.add(RemoveLink(link), detached)
        draft.changes.append(Change("-", f"link {link.split('.')[1]}", "removed"))
    used = {mount.source.rsplit("/", 1)[-1] for wish in wishes.values() for mount in wish.instance.mounts}
    for file in sorted(world.volumes - used):
        if file.startswith("."):
            draft.add(DropVolume(desired.service, file), [*all_gone, *proofs])
            continue
        name, replica = file.split(".")[:2]
        if name not in world.kept | set(desired.kept_volumes):
            draft.add(DropVolume(desired.service, file), [*all_gone, *proofs])
            draft.changes.append(Change("-", f"volume {name}" + (f"-{replica}" if replica != "0" else ""), "deleted"))


def is_machine(instance_id: str) -> bool:
    """Whether an id is that of a machine, which holds instances and is none itself."""
    return instance_id.endswith(".vm")

