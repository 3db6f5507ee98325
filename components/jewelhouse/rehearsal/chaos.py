"""Chaos: whatever ends a run, the next does what it would have done, and nothing open is left of the first.

After every run, disturbed or not: no marked content anywhere, nothing in memory, nobody at work there; what
the stage opens is as it was, and what it seals is one whole version, the old one or the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import cleaner
from jewelhouse.model import Stage
from jewelhouse.rehearsal import disturbances, world
from jewelhouse.rehearsal.disturbances import Disturbance
from jewelhouse.rehearsal.scenes import Played, Scene, done, left, run
from jewelhouse.rehearsal.services import Wrong
from jewelhouse.rehearsal.world import World
from jewelhouse.weights.manifest import Manifest

# Seconds in which what a killed guest had open has to be gone.
SOON = 10
Versions = Mapping[str, Manifest | None]


def scenes(made: World, stage: Stage, memory: Path, seed: int) -> Iterator[Scene]:
    """A scene for everything that can happen to a stage that has run before. `seed`: of random moments."""
    undisturbed = run(made, stage, memory, Wrong.NOTHING)
    for disturbance in disturbances.of(stage, undisturbed.outcome, seed):
        yield scene(made, stage, memory, disturbance)


def scene(made: World, stage: Stage, memory: Path, disturbance: Disturbance) -> Scene:
    """A disturbed run, and after it an undisturbed one."""
    began = time.monotonic()
    opened: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    try:
        before, sources = _versions(made, stage), _sources(made, stage)
        played = run(made, stage, memory, Wrong.NOTHING, troubles=disturbance.troubles)
        opened, stopped = played.opened, played.outcome.closed
        problems = [*_ended(stage, disturbance, played), *_looked(made, memory)]
        between, wrong = _newer(made, stage, before)
        again = run(made, stage, memory, Wrong.NOTHING)
        good, note = done(stage, again)
        problems += [*wrong, *(() if good else (f"run again: {'; '.join(again.outcome.closed) or note}",))]
        problems += _looked(made, memory)
        after, wrong = _newer(made, stage, between)
        problems += [
            *wrong,
            *(f"run again: {name} is not sealed" for name in after if after[name] == between[name]),
            *(() if _sources(made, stage) == sources else ("what it opens was written to",)),
        ]
    except JewelhouseError as error:
        problems, note = [str(error)], ""
    return Scene(
        stage=stage.name,
        wrong=disturbance.name,
        expected=not problems,
        opened=opened,
        stopped=stopped,
        note="; ".join(problems) or f"run again: {note}",
        seconds=time.monotonic() - began,
    )


def _ended(stage: Stage, disturbance: Disturbance, played: Played) -> Iterator[str]:
    """Whether the disturbed run ended as it had to: through, or with a word and nothing half done."""
    through, _ = done(stage, played)
    said = "; ".join(played.outcome.closed) or f"status {played.outcome.status}"
    if through and disturbance.ends:
        yield "it got through all the same"
    if not through and disturbance.ends is False:
        yield f"it should have got through: {said}"
    if not through and not played.outcome.status:
        yield "it says that all went well"
    if not through and played.outcome.status == 1 and not played.outcome.closed:
        yield "it does not say why"


def _looked(made: World, memory: Path) -> list[str]:
    until = time.monotonic() + SOON
    while (workers := cleaner.workers(memory) or any(memory.glob("*/*"))) and time.monotonic() < until:
        time.sleep(0.02)
    return [*(["still at work on what was open"] if workers else []), *left(made, memory)]


def _versions(made: World, stage: Stage) -> Versions:
    """What the stage's stores hold of what it seals, every byte of it looked at."""
    return {name: world.verified(made, stage, name) for name in stage.seals}


def _newer(made: World, stage: Stage, before: Versions) -> tuple[Versions, list[str]]:
    """What is there now, and what about it can neither be what was before nor the next of it."""
    after, problems = _versions(made, stage), []
    for name, old in before.items():
        new = after[name]
        if new == old:
            continue
        if new is None or (old is not None and new.version != old.version + 1):
            problems.append(f"{name}: version {old and old.version} was there, now {new and new.version}")
        elif old is not None and new.files != old.files:
            problems.append(f"{name}: version {new.version} has other content than {old.version}")
    return after, problems


def _sources(made: World, stage: Stage) -> dict[str, Any]:
    """What the stores hold that a stage opens from, by when it was written."""
    found = [path for name in stage.opens for path in made.store(stage, name).rglob("*")]
    return {str(path): path.stat().st_mtime_ns for path in found if path.is_file()}
