"""The release matrix: stages by artifacts, and in each cell what is proven before the key is released.

Made from the neutral policies, before anything is deployed. A cell that is not there is a key that the stage
can never have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from operator import itemgetter
from typing import Any

from jewelhouse.evidence.verdict import moment
from jewelhouse.model import Image, Measurements, Platform, Proof
from jewelhouse.release.policy import Gate, ReleasePolicy
from jewelhouse.release.proofs import State, Status, of_gate, possible


@dataclass(frozen=True, kw_only=True, slots=True)
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


def _proven(proofs: Mapping[Proof, Status]) -> dict[str, Any]:
    weakened = {
        proof.value: status.note for proof, status in proofs.items() if status.state is State.WEAKENED
    }
    found = {"proofs": {proof.value: status.state.value for proof, status in proofs.items()}}
    return {**found, "weakened": weakened} if weakened else found


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All cells by (stage, artifact). `weakened` names the settings that weaken the whole lifecycle."""

    name: str
    stages: tuple[str, ...]
    artifacts: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    weakened: tuple[str, ...] = ()
    declared: tuple[str, ...] = field(default=())

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms of the cells; what each proves, and how, is the same in all of its cells."""
        used = {cell.platform for cell in self.cells.values()}
        return tuple(platform for platform in Platform if platform in used)

    def cell(self, stage: str, artifact: str) -> Cell | None:
        return self.cells.get((stage, artifact))

    def row(self, stage: str) -> Cell | None:
        """Any cell of a stage: what it says about image and platform is the same in all of them."""
        return self.rows.get(stage)

    @cached_property
    def rows(self) -> Mapping[str, Cell]:
        return {cell.stage: cell for cell in self.cells.values()}

    def json(self) -> dict[str, Any]:
        """What belongs to a stage stands with the stage: cells are many.

        `notes`: per platform how a proof is enforced or what to choose instead. `weakened` says why.
        """
        alike = {id(cell.proofs): cell.proofs for cell in self.cells.values()}
        proven = {number: _proven(proofs) for number, proofs in alike.items()}
        rows = self.rows
        return {
            "lifecycle": self.name,
            "weakened": list(self.weakened),
            "declared-images": list(self.declared),
            "stages": [
                {
                    "name": name,
                    "platform": rows[name].platform.value,
                    "image": rows[name].image,
                    "measurements": [dict(values.values) for values in rows[name].images],
                    "declared": rows[name].declared,
                    "rolling": rows[name].rolling,
                }
                for name in self.stages
                if name in rows
            ],
            "artifacts": list(self.artifacts),
            "notes": {
                platform.value: {proof.value: possible(platform, proof).note for proof in Proof}
                for platform in self.platforms
            },
            "cells": [
                {
                    "stage": cell.stage,
                    "artifact": cell.artifact,
                    "key": cell.key,
                    "until": moment(cell.until),
                    **proven[id(cell.proofs)],
                }
                for _, cell in sorted(self.cells.items(), key=itemgetter(0))
            ],
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
        (gate.stage, policy.artifact): _cell(policy, gate, key, images[gate.stage])
        for policy in policies
        for key in (policy.key.name,)
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


def _cell(policy: ReleasePolicy, gate: Gate, key: str, image: Image) -> Cell:
    return Cell(
        stage=gate.stage,
        artifact=policy.artifact,
        key=key,
        platform=gate.platform,
        proofs=of_gate(policy, gate),
        image=image.name,
        images=gate.measurements,
        declared=image.declared,
        until=gate.not_after,
    )
