"""A whole lifecycle, rehearsed: every stage opens what it should, and every wrong one is stopped.

Guests run as processes with the vendors' own clients against stand-ins of the relying parties, which decide
by the documents that the stack deployed, on evidence under a throw-away root that nothing else trusts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jewelhouse import lifecycle as graph
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Lifecycle, Stage
from jewelhouse.rehearsal import chaos, machine, relay, scenes, stops, tampering, widened, world
from jewelhouse.rehearsal import services as around
from jewelhouse.rehearsal.machine import BuiltImage
from jewelhouse.rehearsal.scenes import Played, Result, Scene
from jewelhouse.rehearsal.services import Wrong
from jewelhouse.rehearsal.world import World

__all__ = ["Result", "Scene", "rehearse"]

Report = Callable[[str], None]
NO_ENCLAVE = "built image in a machine that is no enclave"


def rehearse(
    lifecycle: Lifecycle,
    export: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    report: Report = lambda line: None,
    stages: tuple[str, ...] = (),
    machines: Path | None = None,
    seed: int | None = None,
    supplies: Mapping[str, Path] | None = None,
) -> Result:
    """Plays a stack's lifecycle in order, and for each stage all that must not open.

    `stages` limits which are played with what is wrong; all run once, since what they make is needed.
    `machines`: folder of built images, in which stages in enclaves are played a second time where they are
    built. `supplies`: directories in place of small data of our own, by artifact. `seed`: of chaos, in which
    guests, key services and stores die at all points; none without it.
    Raises JewelhouseError when the stack is not there as its file says, or an artifact cannot be supplied.
    """
    memory = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="jewelhouse-rehearsal-"))
    try:
        with tempfile.TemporaryDirectory(prefix="jewelhouse-rehearsal-") as temporary:
            made = world.build(lifecycle, export, outputs, Path(temporary))
            report(f"supplied: {', '.join(world.supply(made, supplies))}")
            played: list[Scene] = []

            def show(found: Iterable[Scene]) -> None:
                for scene in found:
                    played.append(scene)
                    report(_line(scene))

            show(widened.scenes(lifecycle, export))
            skipped: dict[str, str] = {}
            not_booted: dict[str, str] = {}
            for stage in graph.order(lifecycle):
                reason = _unplayable(made, stage, skipped)
                if reason:
                    skipped[stage.name] = reason
                    report(f"{stage.name}: {reason}")
                    continue
                show(_stage(made, stage, memory, not stages or stage.name in stages, seed))
                if machines is not None and machine.plays(stage):
                    show(_booted(made, stage, memory, machines, not_booted))
                    if stage.name in not_booted:
                        report(f"{stage.name}, not in its built image: {not_booted[stage.name]}")
                world.hand_on(made, stage)
            return Result(
                lifecycle=lifecycle.name, scenes=tuple(played), skipped=skipped, not_booted=not_booted
            )
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


def _stage(made: World, stage: Stage, memory: Path, wrongs: bool, seed: int | None = None) -> Iterator[Scene]:
    world.mandates(made, stage)
    if wrongs:
        # Before the right one: what it makes is the next version of what is there.
        for wrong in around.wrongs(stage):
            yield (
                _overheard(made, stage, memory)
                if wrong is Wrong.RELAY_READS
                else _refused(made, stage, memory, wrong)
            )
        for name in (*tampering.TAMPERS, tampering.ROLLED_BACK):
            yield _tampered(made, stage, memory, name)
    yield scenes.right(made, stage, memory)
    scenes.learn(made, stage, memory)
    if seed is not None and wrongs:
        yield from chaos.scenes(made, stage, memory, seed)


def _booted(
    made: World, stage: Stage, memory: Path, machines: Path, not_booted: dict[str, str]
) -> Iterator[Scene]:
    """A stage again, in its built image; and the image as it is, in a machine that is no enclave."""
    try:
        image = machine.image_of(machines, made.lifecycle, stage)
    except JewelhouseError as error:
        not_booted[stage.name] = " ".join(str(error).split())
        return
    for wrong, played in (
        (Wrong.NOTHING, lambda: scenes.right(made, stage, memory, image)),
        (NO_ENCLAVE, lambda: _alone(stage, image)),
    ):
        try:
            yield played()
        except JewelhouseError as error:
            yield Scene(
                stage=stage.name,
                wrong=wrong,
                expected=False,
                stopped=(str(error),),
                note=f"{machine.IN_IMAGE}; {error.what}",
            )


def _alone(stage: Stage, image: BuiltImage) -> Scene:
    outcome = machine.alone(image)
    opened = Played(outcome=outcome, refused=(), overheard=()).opened
    return Scene(
        stage=stage.name,
        wrong=NO_ENCLAVE,
        expected=not opened and outcome.status != 0 and bool(outcome.closed),
        opened=opened,
        stopped=outcome.closed,
        seconds=outcome.seconds,
    )


def _refused(made: World, stage: Stage, memory: Path, wrong: Wrong) -> Scene:
    played = scenes.run(made, stage, memory, wrong, inert=True)
    stop = stops.of(stage, wrong)
    unlike = (
        stop.unlike(played.refused, played.outcome.closed)
        if stop
        else "nobody has written down who should stop it (rehearsal.stops)"
    )
    opened = f"it opened {', '.join(played.opened)}" if played.opened else ""
    problems = [*filter(None, [opened or unlike]), *scenes.left(made, memory)]
    return Scene(
        stage=stage.name,
        wrong=wrong,
        expected=played.outcome.status != 0 and not problems,
        opened=played.opened,
        stopped=(*played.refused, *played.outcome.closed),
        note="; ".join(problems),
        seconds=played.outcome.seconds,
    )


def _overheard(made: World, stage: Stage, memory: Path) -> Scene:
    """A run whose every word to the key services passes through somebody who keeps it. It opens, and he has
    learnt nothing that opens anything."""
    played = scenes.run(made, stage, memory, Wrong.RELAY_READS, inert=True)
    learnt = relay.learnt(played.overheard, world.secrets(made, stage))
    problems = [
        *(f"the relay has learnt {name}" for name in learnt),
        *(() if played.overheard else ("the relay has heard nothing",)),
        *scenes.left(made, memory),
    ]
    return Scene(
        stage=stage.name,
        wrong=Wrong.RELAY_READS,
        expected=set(played.opened) == set(stage.opens) and not played.refused and not problems,
        opened=played.opened,
        stopped=(*played.refused, *played.outcome.closed),
        note="; ".join(problems) or f"it has learnt nothing from {len(played.overheard)} messages",
        seconds=played.outcome.seconds,
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

    played = scenes.run(made, stage, memory, Wrong.NOTHING, inert=True, settings=settings, trust=trust)
    unlike = tampering.STOPS[name].unlike(played.refused, played.outcome.closed)
    shutil.rmtree(store, ignore_errors=True)
    problems = [*filter(None, [unlike]), *scenes.left(made, memory)]
    return Scene(
        stage=stage.name,
        wrong=name,
        expected=artifact not in played.opened and played.outcome.status != 0 and not problems,
        opened=played.opened,
        stopped=played.outcome.closed,
        note="; ".join(problems),
        seconds=played.outcome.seconds,
    )


def _put(value: dict[str, Any], artifact: str, **changes: Any) -> dict[str, Any]:
    return {**value, "opens": {**value["opens"], artifact: {**value["opens"][artifact], **changes}}}
