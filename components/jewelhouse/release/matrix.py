"""The release matrix: stages by artifacts, and in each cell what is proven before the key is released.

Made from the neutral policies, before anything is deployed. A cell that is not there is a key that the stage
can never have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jewelhouse.evidence.verdict import moment
from jewelhouse.model import Image, Measurements, Platform, Proof
from jewelhouse.release.policy import Gate, ReleasePolicy
from jewelhouse.release.proofs import State, Status, of_gate


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One stage at one artifact. `images` holds what may open it: more than one while an image rolls out.
    `declared` says that these values were written by hand and no build stands behind them."""

    stage: str
    artifact: str
    key: str
    platform: Platform
    proofs: Mapping[Proof, Status]
    image: str
    images: tuple[Measurements, ...]
    declared: bool
    until: datetime | None

    @property
    def counts(self) -> Mapping[State, int]:
        return Counter(status.state for status in self.proofs.values())

    @property
    def rolling(self) -> bool:
        return len(self.images) > 1

    def json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "artifact": self.artifact,
            "key": self.key,
            "platform": self.platform.value,
            "image": self.image,
            "measurements": [dict(values.values) for values in self.images],
            "declared": self.declared,
            "rolling": self.rolling,
            "until": moment(self.until),
            "proofs": {
                proof.value: {"state": status.state.value, "note": status.note}
                for proof, status in self.proofs.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All cells by (stage, artifact). `weakened` names the settings that weaken the whole lifecycle."""

    name: str
    stages: tuple[str, ...]
    artifacts: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    weakened: tuple[str, ...] = ()
    declared: tuple[str, ...] = field(default=())

    def cell(self, stage: str, artifact: str) -> Cell | None:
        return self.cells.get((stage, artifact))

    def json(self) -> dict[str, Any]:
        return {
            "lifecycle": self.name,
            "stages": list(self.stages),
            "artifacts": list(self.artifacts),
            "weakened": list(self.weakened),
            "declared-images": list(self.declared),
            "cells": [self.cells[place].json() for place in sorted(self.cells)],
        }


def matrix(
    name: str,
    policies: Iterable[ReleasePolicy],
    *,
    stages: Sequence[str],
    artifacts: Sequence[str],
    images: Mapping[str, Image],
    weakened: Sequence[str] = (),
) -> Matrix:
    """The matrix of a lifecycle. `stages` and `artifacts` in the order to show; `images` by stage."""
    cells = {
        (gate.stage, policy.artifact): _cell(policy, gate, images[gate.stage])
        for policy in policies
        for gate in policy.gates
    }
    return Matrix(
        name=name,
        stages=tuple(stages),
        artifacts=tuple(artifacts),
        cells=cells,
        weakened=tuple(weakened),
        declared=tuple(sorted({image.name for image in images.values() if image.declared})),
    )


def _cell(policy: ReleasePolicy, gate: Gate, image: Image) -> Cell:
    return Cell(
        stage=gate.stage,
        artifact=policy.artifact,
        key=policy.key.name,
        platform=gate.platform,
        proofs=of_gate(policy, gate),
        image=image.name,
        images=gate.measurements,
        declared=image.declared,
        until=gate.not_after,
    )
