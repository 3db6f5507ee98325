"""Matrices and snapshots of release policies, for tests of the matrix and of the diff."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jewelhouse.model import Image
from jewelhouse.release import snapshots
from jewelhouse.release.matrix import Matrix, matrix
from jewelhouse.release.policy import ReleasePolicy
from jewelhouse.release.snapshots import Snapshot


def images_of(policies: Iterable[ReleasePolicy], *, declared: bool = False) -> dict[str, Image]:
    """An image for each stage, called after it."""
    return {
        gate.stage: Image(
            name=f"{gate.stage}-image",
            platform=gate.platform,
            reference="registry/image",
            measurements=gate.measurements,
            declared=declared,
        )
        for policy in policies
        for gate in policy.gates
    }


def matrix_of(policies: Sequence[ReleasePolicy], *, name: str = "made", declared: bool = False) -> Matrix:
    stages = dict.fromkeys(gate.stage for policy in policies for gate in policy.gates)
    return matrix(
        name,
        policies,
        stages=list(stages),
        artifacts=list(dict.fromkeys(policy.artifact for policy in policies)),
        images=images_of(policies, declared=declared),
    )


def snapshot_of(*policies: ReleasePolicy, source: str = "made") -> Snapshot:
    return snapshots.of_policies(source, policies, images=images_of(policies))
