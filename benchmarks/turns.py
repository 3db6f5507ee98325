"""Works that take turns: what two of them cost in one run, on the same processors, at the same time."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# A turn in which others took more than this of one processor is not counted, as long as there are calm ones:
# what runs in two threads would pay more for a neighbour than what runs in one.
OTHERS = 0.15
# Turns at most, over those that were asked for.
PATIENCE = 3
_TICKS = os.sysconf("SC_CLK_TCK")


def medians(
    works: Mapping[str, Callable[[], object]], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Seconds that each work takes, by the median of its calm turns; of all turns where too few were calm.
    `before` is called before each turn and not counted."""
    every: dict[str, list[tuple[float, bool]]] = {name: [] for name in works}
    for _ in range(PATIENCE * rounds):
        for name, work in works.items():
            before()
            others, began = _others(), time.perf_counter()
            work()
            took = time.perf_counter() - began
            every[name].append((took, _others() - others <= OTHERS * took + 1 / _TICKS))
        if all(sum(calm for _, calm in turns) >= rounds for turns in every.values()):
            break
    else:
        print("others kept the processors busy: what runs in several threads looks slow", file=sys.stderr)
    return {name: _median(turns, rounds) for name, turns in every.items()}


def _median(turns: list[tuple[float, bool]], rounds: int) -> float:
    calm = [took for took, quiet in turns if quiet]
    return statistics.median(calm if len(calm) > rounds // 2 else [took for took, _ in turns])


def _others() -> float:
    """Seconds of processor time that other processes have taken since the machine started."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(value) for value in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    )
    ours = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        ours += used.ru_utime + used.ru_stime
    return (user + nice + system + irq + softirq + steal) / _TICKS - ours
