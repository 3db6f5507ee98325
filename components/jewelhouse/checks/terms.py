"""On which terms a stage may open an artifact: its licences, and the proofs that its owner requires."""

from __future__ import annotations

from collections.abc import Iterator

from jewelhouse.checks.scope import Scope
from jewelhouse.errors import Problem
from jewelhouse.lifecycle import licence_for
from jewelhouse.model import Artifact, Proof, Stage
from jewelhouse.release import proofs


def of_stage(scope: Scope, stage: Stage, where: str) -> Iterator[Problem]:
    for index, artifact in scope.artifacts(stage.opens):
        path = f"{where}.opens[{index}]"
        yield from _licence(scope, stage, artifact, path)
        yield from _proofs(scope, stage, artifact, path)


def _licence(scope: Scope, stage: Stage, artifact: Artifact, path: str) -> Iterator[Problem]:
    if not artifact.licences:
        return
    licence = licence_for(scope.lifecycle, artifact, stage)
    if licence is None:
        yield Problem(
            where=path,
            what=f"no licence of {artifact.name} lets {stage.operator} use it for {stage.kind}",
            remedy=f"tiers: {_tiers(artifact)}",
        )
    elif licence.expires is not None and licence.expires <= scope.now:
        yield Problem(
            where=f"artifacts.{artifact.name}.licences.{licence.tier}.expires",
            what=f"the licence ended on {licence.expires:%Y-%m-%d}, and {stage.name} opens the artifact",
            remedy="renew the licence, or remove the artifact from the stage",
        )


def _tiers(artifact: Artifact) -> str:
    return "; ".join(
        f"{licence.tier} ({', '.join(licence.holders)}: {', '.join(licence.kinds)})"
        for licence in artifact.licences
    )


def _proofs(scope: Scope, stage: Stage, artifact: Artifact, path: str) -> Iterator[Problem]:
    for proof in artifact.require:
        status = proofs.possible(stage.platform, proof)
        if proof is Proof.GPU and stage.gpu is None:
            yield Problem(
                where=path,
                what=f"{artifact.name} requires an attested GPU, and the stage has none",
                remedy="open it in a stage with a confidential GPU, on gcp-confidential-space",
            )
        elif status.state is not proofs.State.ENFORCED:
            yield Problem(
                where=path,
                what=f"{artifact.name} requires proof of {proof}, which {stage.platform} cannot enforce",
                remedy=status.note,
            )
    # Without allow-same-owner `checks.parties` refuses the shared account for every artifact.
    boundary = scope.shared(artifact, stage)
    if Proof.OWNER_APART in artifact.require and scope.lifecycle.allow_same_owner and boundary:
        yield Problem(
            where=path,
            what=f"{artifact.name} requires proof of owner-apart, but {boundary} holds its key "
            "and runs the stage",
            remedy="use an account apart: allow-same-owner does not go together with strict release",
        )
