"""Names and the shape of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from jewelhouse.checks.scope import Scope
from jewelhouse.errors import Problem
from jewelhouse.lifecycle import sealers_of
from jewelhouse.model import Cloud, Stage
from jewelhouse.names import identity_name
from jewelhouse.yamlpath import suggestion

# A service account id has 6 to 30 characters: iam.googleapis.com v1 projects.serviceAccounts.create
SERVICE_ACCOUNT_LENGTH = 6


def problems(scope: Scope) -> Iterator[Problem]:
    for part in ("parties", "artifacts", "stages"):
        if not scope.known(part):
            yield Problem(where=part, what="is empty", remedy=f"a lifecycle needs {part}")
    yield from _artifacts(scope)
    yield from _cycles(scope)
    known = scope.known("artifacts")
    for stage in scope.lifecycle.stages.values():
        yield from _stage(scope, stage, known)


def _artifacts(scope: Scope) -> Iterator[Problem]:
    sealed = sealers_of(scope.lifecycle)
    opened = {name for stage in scope.lifecycle.stages.values() for name in stage.opens}
    for artifact in scope.lifecycle.artifacts.values():
        where = f"artifacts.{artifact.name}"
        if artifact.supplied and artifact.name in sealed:
            yield Problem(
                where=f"{where}.supplied",
                what=f"is supplied by its owner and sealed by {', '.join(sealed[artifact.name])}",
                remedy="one source only: set supplied: false, or let the stage seal another artifact",
            )
        # A refused stage might have opened or sealed it.
        if artifact.name in sealed or not scope.whole("stages"):
            continue
        if artifact.name not in opened:
            yield Problem(where=where, what="no stage opens or seals it", remedy="use it or remove it")
        elif not artifact.supplied:
            yield Problem(
                where=where,
                what="nobody seals or supplies it",
                remedy="let a stage seal it, or set supplied: true when its owner brings it",
            )


def _cycles(scope: Scope) -> Iterator[Problem]:
    sealers = sealers_of(scope.lifecycle)
    # A stage that opens what it seals is reported by `_stage`.
    feeders = {
        stage.name: {sealer for name in stage.opens for sealer in sealers.get(name, ())} - {stage.name}
        for stage in scope.lifecycle.stages.values()
    }
    while cycle := _cycle(feeders):
        first = cycle.index(min(cycle))
        path = [*cycle[first:], *cycle[:first], cycle[first]]
        yield Problem(
            where=f"stages.{path[0]}.opens",
            what=f"the stages form a cycle: {' -> '.join(path)}",
            remedy="give the result of a later round a name of its own (base, next-base)",
        )
        feeders = {name: feeding - set(cycle) for name, feeding in feeders.items() if name not in cycle}


def _cycle(feeders: dict[str, set[str]]) -> list[str]:
    """The stages of one cycle in the order in which they feed each other; empty when there is none."""
    try:
        TopologicalSorter({name: sorted(feeding) for name, feeding in sorted(feeders.items())}).prepare()
    except CycleError as error:
        return error.args[1][:-1]
    return []


def _stage(scope: Scope, stage: Stage, known: set[str]) -> Iterator[Problem]:
    where = f"stages.{stage.name}"
    if not stage.opens:
        yield Problem(
            where=f"{where}.opens",
            what="is empty: a stage that opens nothing needs no TEE",
            remedy=f"name what it opens: {', '.join(sorted(known))}" if known else "name what it opens",
        )
    for part, names in (("opens", stage.opens), ("seals", stage.seals), ("rewraps", stage.rewraps)):
        for index, name in enumerate(names):
            path = f"{where}.{part}[{index}]"
            if name not in known:
                yield Problem(
                    where=path,
                    what=f"{name} is not an artifact",
                    remedy=suggestion(name, known) or f"declare artifacts.{name}",
                )
            if name in names[:index]:
                yield Problem(where=path, what=f"{name} is named twice", remedy="remove one")
            if part == "seals" and name in stage.opens:
                yield Problem(
                    where=path,
                    what=f"{name} is opened by the same stage, so its versions could not be told apart",
                    remedy=f"seal the result under a name of its own, for example next-{name}",
                )
            if part == "rewraps" and name in known and name not in stage.opens:
                yield Problem(
                    where=path,
                    what=f"{name} is not opened by the stage, so it cannot wrap its data key to other keys",
                    remedy=f"add {name} to {where}.opens, or let a stage that opens it do so",
                )
    identity = identity_name(scope.lifecycle, stage)
    if stage.cloud is Cloud.GCP and len(identity) < SERVICE_ACCOUNT_LENGTH:
        yield Problem(
            where=where,
            what=f"is too short a name: its service account would be {identity}",
            remedy=f"{SERVICE_ACCOUNT_LENGTH} characters or more together with the lifecycle's name",
            source="Google Cloud IAM API v1: projects.serviceAccounts.create, 2026-10",
        )
