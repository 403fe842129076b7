"""Runs contenders in turn in one run and prints medians and ratios as JSON lines."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from isoform.host import run

Contender = Callable[[int], Awaitable[float]]  # the number of the round -> seconds


@dataclass(frozen=True)
class Bound:
    """What a contender may take, as a multiple of another's median."""

    contender: str
    base: str
    most: float


async def alternate(
    what: str, contenders: Mapping[str, Contender], rounds: int, bounds: tuple[Bound, ...] = (), warmup: int = 1
) -> dict[str, list[float]]:
    """Run each contender once a round, A B C A B C …, and print what came out."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warmup + rounds):
        for name, contender in contenders.items():
            took = await contender(number)
            if number >= warmup:
                samples[name].append(took)
    for name, values in samples.items():
        emit(bench=what, contender=name, median_s=round(statistics.median(values), 4), min_s=round(min(values), 4),
             max_s=round(max(values), 4), runs=len(values))
    for bound in bounds:
        if bound.contender in samples and bound.base in samples:
            # Round by round, so that a drift of the machine's speed falls on both sides of each ratio.
            ratios = [a / b for a, b in zip(samples[bound.contender], samples[bound.base], strict=True)]
            ratio = statistics.median(ratios)
            emit(bench=what, ratio=f"{bound.contender} / {bound.base}", median=round(ratio, 3), most=bound.most,
                 holds=ratio <= bound.most)
    return samples


def emit(**fields: object) -> None:
    """Print one line of JSON."""
    print(json.dumps(fields), flush=True)


async def timed(work: Awaitable[object]) -> float:
    """Return the seconds that `work` takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def shell(script: str, *args: str) -> str:
    """Run a script of the bare recipes with bash; any failing command ends the benchmark."""
    return (await run(["bash", "-euc", script, "bash", *args], deadline_s=120)).out
