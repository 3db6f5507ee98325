"""One run of one stage, and what a rehearsal looks at after it: what opened, what was made, what was left."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jewelhouse import templates
from jewelhouse.images import recipe
from jewelhouse.model import Stage, StageKind
from jewelhouse.rehearsal import data, gpus, machine, process, world
from jewelhouse.rehearsal import services as around
from jewelhouse.rehearsal.machine import BuiltImage
from jewelhouse.rehearsal.process import Begun, Guest, Heard, Outcome, Running
from jewelhouse.rehearsal.services import Services, Wrong
from jewelhouse.rehearsal.world import World

Change = Callable[[dict[str, Any]], dict[str, Any]]
# Seconds that a served model has to come up.
SERVING = 60
# The workload of runs that must not come to one: should they, it is over at once and nothing leaves.
INERT = (sys.executable, "-c", "raise SystemExit(3)")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One run: of which stage, what was wrong, whether it went as it had to. `stopped` is where and why in
    the words of what stopped it; `opened` what was open before. Of what is looked at before any stage runs,
    `stage` names the key."""

    stage: str
    wrong: str
    expected: bool
    opened: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """All scenes, in their order. `skipped`: stages that cannot be rehearsed, with the reason; `not_booted`:
    those that were, but not in their built image."""

    lifecycle: str
    scenes: tuple[Scene, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    not_booted: Mapping[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether nothing surprised: everything opened that should, nothing else did."""
        return bool(self.scenes) and all(scene.expected for scene in self.scenes)


@dataclass(frozen=True, kw_only=True)
class Played:
    """How a run ended, what services refused in it, and what a relay overheard."""

    outcome: Outcome
    refused: Sequence[str]
    overheard: Sequence[bytes]

    @property
    def opened(self) -> tuple[str, ...]:
        return self._of("opened")

    @property
    def sealed(self) -> tuple[str, ...]:
        return self._of("sealed")

    def _of(self, event: str) -> tuple[str, ...]:
        events = self.outcome.record.get("events", ())
        return tuple(one["artifact"] for one in events if one["event"] == event)


@dataclass(frozen=True, kw_only=True)
class Troubles:
    """What disturbs a run: its process as it begins and with each line that it says, what lies between
    it and its services, and what it is started by."""

    begun: Begun = lambda process: None
    heard: Heard = lambda process, line: None
    between: Callable[[Services], AbstractContextManager[Services]] = nullcontext
    program: Sequence[str] = Guest.program


def run(
    made: World,
    stage: Stage,
    memory: Path,
    wrong: Wrong,
    *,
    inert: bool = False,
    settings: Change = lambda value: value,
    trust: Change = lambda value: value,
    image: BuiltImage | None = None,
    troubles: Troubles | None = None,
) -> Played:
    """One run of a stage's guest. `inert`: with a workload that does nothing; else one that serves is asked
    its questions."""
    serves = stage.kind is StageKind.INFERENCE and not inert
    troubles = troubles or Troubles()
    with around.services(made, stage, wrong) as services, troubles.between(services) as given:
        port = _free_port() if serves else 0
        work = list(INERT) if inert else image.run if image else workload(stage)
        guest = Guest(
            folder=made.folder / "guests" / stage.name,
            workspace=memory / stage.name,
            platform=stage.platform.value,
            trust=trust(gpus.trusting(stage, world.trust(made, stage, work))),
            stage=settings(given.settings(world.settings(made, stage))),
            endpoints=given.endpoints,
            environment=given.environment,
            workload={"LISTEN": "127.0.0.1", "PORT": str(port)},
            program=troubles.program,
        )
        outcome = (
            machine.start(guest, image, given.evidence)
            if image
            else process.start(
                guest,
                visit=(lambda process: _asked(port, process)) if serves else None,
                begun=troubles.begun,
                heard=troubles.heard,
            )
        )
        return Played(outcome=outcome, refused=given.refused(), overheard=given.overheard())


def right(
    made: World, stage: Stage, memory: Path, image: BuiltImage | None = None, wrong: str = Wrong.NOTHING
) -> Scene:
    """The stage as it should be. `wrong`: what was before."""
    played = run(made, stage, memory, Wrong.NOTHING, image=image)
    good, note = done(stage, played)
    if image is not None:
        note = "; ".join(filter(None, (machine.IN_IMAGE, note)))
    problems = left(made, memory)
    return Scene(
        stage=stage.name,
        wrong=wrong,
        expected=good and not problems,
        opened=played.opened,
        stopped=played.outcome.closed,
        note="; ".join(filter(None, (note, *problems))),
        seconds=played.outcome.seconds,
    )


def done(stage: Stage, played: Played) -> tuple[bool, str]:
    """Whether a run did all that its stage is for, and what it did."""
    good = set(played.opened) == set(stage.opens)
    if stage.kind is StageKind.INFERENCE:
        share = played.outcome.served
        note = f"{share:.0%} of its answers are right" if share is not None else "it answered nothing"
        return good and share is not None and share >= data.GOOD, note
    good = good and played.outcome.status == 0 and set(played.sealed) == set(stage.seals)
    return good, f"sealed {', '.join(played.sealed)}" if played.sealed else ""


def left(made: World, memory: Path) -> list[str]:
    """What of anything open a run has left behind: marked content anywhere below the rehearsal's folders
    (stores, settings, temporary files), and anything at all in memory."""
    found = [f"plaintext left in {path}" for path in data.marked((made.folder, memory), made.marks)]
    found += [f"left open: {path}" for path in sorted(memory.rglob("*")) if not path.is_dir()]
    return found


def learn(made: World, stage: Stage, memory: Path) -> None:
    """What the stage made is known by its own numbers from here on."""
    for artifact in stage.seals:
        folder = memory / "learnt"
        try:
            if world.unsealed(made, stage, artifact, folder):
                made.marks.update(data.marks(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def workload(stage: Stage) -> list[str]:
    """The shipped workload of a stage's image, run by this Python."""
    found = recipe.load(templates.directory() / "images" / stage.image)
    program = found.settings.run[-1]
    source = found.settings.files[program].source
    assert source is not None
    return [sys.executable, str(found.directory / source)]


def _asked(port: int, process: Running) -> float | None:
    """Share of right answers of a served model, or None when it does not come up."""
    inputs, answers = data.questions()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        json.dumps({"inputs": inputs}).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + SERVING
    while time.monotonic() < until and process.poll() is None:
        try:
            with opener.open(asked, timeout=5) as reply:
                return data.right(json.loads(reply.read())["predictions"], answers)
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
