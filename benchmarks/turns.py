"""Works that take turns: what two of them cost in one run, on the same processors, at the same time."""

from __future__ import annotations

import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def sizes(gigabytes: Sequence[int], copies: int) -> list[int]:
    """Those of the sizes of which so many copies fit into memory; what does not is said."""
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    available = int(found[1]) * 1024 if found else 0
    fitting = [size for size in gigabytes if copies * size * 1.1e9 < available]
    for size in sorted(set(gigabytes) - set(fitting)):
        print(f"{size} GB do not fit into memory {copies} times and were left out", file=sys.stderr)
    return fitting


def worst(measures: Iterable[Mapping[str, tuple[Any, ...]]]) -> dict[str, tuple[Any, ...]]:
    """Of several measures of the same, for each name the one that is furthest on the wrong side."""
    found: dict[str, tuple[Any, ...]] = {}
    for measure in measures:
        for name, one in measure.items():
            pick = min if len(one) > 2 else max
            found[name] = pick(one, found.get(name, one), key=lambda value: value[0])
    return found
