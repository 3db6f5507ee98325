"""A whole lifecycle, rehearsed: every stage opens what it should, and every wrong one is stopped.

Guests run as processes with the vendors' own clients against stand-ins of the relying parties, which decide
by the documents that the stack deployed, on evidence under a throw-away root that nothing else trusts.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jewelhouse import lifecycle as graph
from jewelhouse import templates
from jewelhouse.errors import JewelhouseError
from jewelhouse.images import recipe
from jewelhouse.model import Lifecycle, Stage, StageKind
from jewelhouse.rehearsal import data, process, tampering, world
from jewelhouse.rehearsal import services as around
from jewelhouse.rehearsal.process import Guest, Outcome
from jewelhouse.rehearsal.services import Wrong
from jewelhouse.rehearsal.world import World

Report = Callable[[str], None]
Change = Callable[[dict[str, Any]], dict[str, Any]]
# Seconds that a served model has to come up, and its guest to end after it was told to.
SERVING, ENDING = 60, 30


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One run: of which stage, what was wrong, whether it went as it had to. `stopped` is where and why in
    the words of what stopped it; `opened` what was open before."""

    stage: str
    wrong: str
    expected: bool
    opened: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """All scenes, in their order. `skipped`: stages that cannot be rehearsed, with the reason."""

    lifecycle: str
    scenes: tuple[Scene, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether nothing surprised: everything opened that should, nothing else did."""
        return bool(self.scenes) and all(scene.expected for scene in self.scenes)


def rehearse(
    lifecycle: Lifecycle,
    export: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    report: Report = lambda line: None,
    stages: tuple[str, ...] = (),
) -> Result:
    """Plays a stack's lifecycle in order, and for each stage all that must not open.

    `stages` limits which are played with what is wrong; all run once, since what they make is needed. Raises
    JewelhouseError when the stack is not there as its file says, or an artifact cannot be supplied.
    """
    memory = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="jewelhouse-rehearsal-"))
    try:
        with tempfile.TemporaryDirectory(prefix="jewelhouse-rehearsal-") as temporary:
            made = world.build(lifecycle, export, outputs, Path(temporary))
            report(f"supplied: {', '.join(world.supply(made))}")
            scenes: list[Scene] = []
            skipped: dict[str, str] = {}
            for stage in graph.order(lifecycle):
                reason = _unplayable(made, stage, skipped)
                if reason:
                    skipped[stage.name] = reason
                    report(f"{stage.name}: {reason}")
                    continue
                for scene in _stage(made, stage, memory, not stages or stage.name in stages):
                    scenes.append(scene)
                    report(_line(scene))
            return Result(lifecycle=lifecycle.name, scenes=tuple(scenes), skipped=skipped)
    finally:
        shutil.rmtree(memory, ignore_errors=True)


def _unplayable(made: World, stage: Stage, skipped: Mapping[str, str]) -> str:
    missing = [name for name in stage.opens if name not in made.signers]
    if missing:
        return f"{', '.join(missing)} was not made: {', '.join(skipped)} could not be rehearsed"
    try:
        around.of(stage.platform)
    except JewelhouseError as error:
        return error.what
    return ""


def _line(scene: Scene) -> str:
    return f"{scene.stage}, {scene.wrong}: {'as expected' if scene.expected else 'SURPRISE'} {scene.note}"


def _stage(made: World, stage: Stage, memory: Path, wrongs: bool) -> Iterator[Scene]:
    world.mandates(made, stage)
    if wrongs:
        # Before the right one: what it makes is the next version of what is there.
        for wrong in around.of(stage.platform).WRONG:
            yield _refused(made, stage, memory, wrong)
        for name in (*tampering.TAMPERS, tampering.ROLLED_BACK):
            yield _tampered(made, stage, memory, name)
    yield _right(made, stage, memory)
    world.hand_on(made, stage)


def _right(made: World, stage: Stage, memory: Path) -> Scene:
    serves = stage.kind is StageKind.INFERENCE
    outcome, _ = _run(made, stage, memory, Wrong.NOTHING, serves=serves)
    opened = _opened(outcome)
    note = ""
    good = set(opened) == set(stage.opens)
    if serves:
        share = outcome.served
        good = good and share is not None and share >= data.GOOD
        note = f"{share:.0%} of its answers are right" if share is not None else "it answered nothing"
    else:
        sealed = [one["artifact"] for one in outcome.record.get("events", ()) if one["event"] == "sealed"]
        good = good and outcome.status == 0 and set(sealed) == set(stage.seals)
        note = f"sealed {', '.join(sealed)}" if sealed else ""
    left = _plaintext(made, memory)
    return Scene(
        stage=stage.name,
        wrong=Wrong.NOTHING,
        expected=good and not left,
        opened=opened,
        stopped=outcome.closed,
        note="; ".join(filter(None, (note, f"plaintext left: {', '.join(left)}" if left else ""))),
        seconds=outcome.seconds,
    )


def _refused(made: World, stage: Stage, memory: Path, wrong: Wrong) -> Scene:
    outcome, refused = _run(made, stage, memory, wrong, serves=False)
    opened = _opened(outcome)
    return Scene(
        stage=stage.name,
        wrong=wrong,
        expected=not opened and outcome.status != 0 and bool(outcome.closed),
        opened=opened,
        stopped=(*refused, *outcome.closed),
        seconds=outcome.seconds,
    )


def _tampered(made: World, stage: Stage, memory: Path, name: str) -> Scene:
    """A run of the right stage on a store that somebody changed. Only the guest can notice."""
    artifact = sorted(stage.opens)[0]
    store = made.folder / "tampered"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(made.store(stage, artifact), store)
    if name in tampering.TAMPERS:
        tampering.TAMPERS[name](store)
    floor = 99 if name == tampering.ROLLED_BACK else 1

    def settings(value: dict[str, Any]) -> dict[str, Any]:
        return _put(value, artifact, store=str(store))

    def trust(value: dict[str, Any]) -> dict[str, Any]:
        return _put(value, artifact, **{"minimum-version": floor})

    outcome, _ = _run(made, stage, memory, Wrong.NOTHING, serves=False, settings=settings, trust=trust)
    shutil.rmtree(store, ignore_errors=True)
    return Scene(
        stage=stage.name,
        wrong=name,
        expected=artifact not in _opened(outcome) and outcome.status != 0 and bool(outcome.closed),
        opened=_opened(outcome),
        stopped=outcome.closed,
        seconds=outcome.seconds,
    )


def _put(value: dict[str, Any], artifact: str, **changes: Any) -> dict[str, Any]:
    return {**value, "opens": {**value["opens"], artifact: {**value["opens"][artifact], **changes}}}


def _opened(outcome: Outcome) -> tuple[str, ...]:
    return tuple(one["artifact"] for one in outcome.record.get("events", ()) if one["event"] == "opened")


def _run(
    made: World,
    stage: Stage,
    memory: Path,
    wrong: Wrong,
    *,
    serves: bool,
    settings: Change = lambda value: value,
    trust: Change = lambda value: value,
) -> tuple[Outcome, list[str]]:
    with around.services(made, stage, wrong) as given:
        port = _free_port() if serves else 0
        guest = Guest(
            folder=made.folder / "guests" / stage.name,
            workspace=memory / stage.name,
            platform=stage.platform.value,
            trust=trust(world.trust(made, stage, _workload(stage))),
            stage=settings(given.settings(world.settings(made, stage))),
            endpoints=given.endpoints,
            environment=given.environment,
            workload={"LISTEN": "127.0.0.1", "PORT": str(port)},
        )
        outcome = process.start(guest, visit=(lambda: _asked(port)) if serves else None)
        return outcome, given.refused()


def _workload(stage: Stage) -> list[str]:
    """The shipped workload of a stage's image, run by this Python."""
    found = recipe.load(templates.directory() / "images" / stage.image)
    program = found.settings.run[-1]
    source = found.settings.files[program].source
    assert source is not None
    return [sys.executable, str(found.directory / source)]


def _asked(port: int) -> float | None:
    """Share of right answers of a served model, or None when it does not come up."""
    inputs, answers = data.questions()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        json.dumps({"inputs": inputs}).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + SERVING
    while time.monotonic() < until:
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


def _plaintext(made: World, memory: Path) -> list[str]:
    """Files outside the suppliers' own in which something open was left: NumPy archives, recipes."""
    marks = (b"weights.npy", b"PK\x03\x04", b'"steps"')
    return [
        str(path)
        for folder in (made.folder / "stores", made.folder / "guests", memory)
        for path in folder.rglob("*")
        if path.is_file() and any(mark in path.read_bytes() for mark in marks)
    ]
