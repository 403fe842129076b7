"""Applying a plan: every step as soon as what it waits for is done. The one place where things run side by side."""

from __future__ import annotations

import asyncio

from isoform.engine.plan import Plan
from isoform.engine.step import Context, Step, bring_about
from isoform.errors import IsoformError


async def apply(plan: Plan, context: Context) -> None:
    """Carry out all steps of `plan`.

    Raises: the first step's error, with what else failed as notes; steps under way are cut off, which each of them
        survives.
    """
    done = {step.id: asyncio.Event() for step in plan.steps}

    async def carry_out(step: Step) -> None:
        for need in plan.needs.get(step.id, ()):
            await done[need].wait()
        await bring_about(step, context)
        done[step.id].set()

    try:
        async with asyncio.TaskGroup() as group:
            for step in plan.steps:
                group.create_task(carry_out(step), name=step.id)
    except BaseExceptionGroup as failures:
        raise _first(failures) from None


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure to show: ours before foreign ones, the others as its notes."""
    flat: list[BaseException] = []
    for failure in failures.exceptions:
        flat.extend([_first(failure)] if isinstance(failure, BaseExceptionGroup) else [failure])
    flat.sort(key=lambda failure: not isinstance(failure, IsoformError))
    for other in flat[1:]:
        flat[0].add_note(f"also: {other}")
    return flat[0]
