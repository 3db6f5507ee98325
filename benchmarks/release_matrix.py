"""Matrix and diff of a lifecycle of 100 x 100 against one of 10 x 10, per cell, as the commands print JSON.

Every stage opens every artifact, which no cloud would take as one policy; it is the worst case of the shape.
The diff compares snapshots in which every tenth stage has another image and every artifact another power.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable

from jewelhouse.model import (
    AttestedKey,
    AwsAccount,
    Cloud,
    Image,
    Measurements,
    Platform,
    Tee,
)
from jewelhouse.release.diff import diff
from jewelhouse.release.facts import Facts, Opening, Power
from jewelhouse.release.matrix import matrix
from jewelhouse.release.policy import Gate, ReleasePolicy
from jewelhouse.release.proofs import of_gate
from jewelhouse.release.snapshots import KeyView, Snapshot

ROUNDS = 9
SMALL, LARGE = 10, 100
REGISTER = "kms:RecipientAttestation:ImageSha384"
OWNER = AwsAccount(account="111122223333", deployer="arn:aws:iam::111122223333:role/deployer")
OPERATOR = AwsAccount(account="444455556666", deployer="arn:aws:iam::444455556666:role/deployer")


def measured(number: int) -> Measurements:
    return Measurements(values={"PCR0": f"{number + 1:096x}"})


def policies(size: int) -> list[ReleasePolicy]:
    return [
        ReleasePolicy(
            key=AttestedKey(f"artifact{artifact}", Platform.AWS_ENCLAVE, "eu-central-1"),
            owner=OWNER,
            gates=tuple(
                Gate(
                    stage=f"stage{stage}",
                    platform=Platform.AWS_ENCLAVE,
                    tee=Tee.NITRO,
                    account=OPERATOR,
                    identity=f"arn:aws:iam::444455556666:role/stage{stage}",
                    measurements=(measured(stage),),
                )
                for stage in range(size)
            ),
        )
        for artifact in range(size)
    ]


def snapshot(found: list[ReleasePolicy], source: str, *, changed: bool) -> Snapshot:
    """The snapshot from model values: documents of this size do not exist, what they say does."""
    keys = {}
    for policy in found:
        openings = frozenset(
            Opening(
                principal=gate.identity,
                claims={REGISTER: measured(number + 1000 * (changed and number % 10 == 0))["PCR0"]},
            )
            for number, gate in enumerate(policy.gates)
        )
        power = "kms:PutKeyPolicy" if changed else "kms:DisableKey"
        keys[policy.key.name] = KeyView(
            name=policy.key.name,
            artifact=policy.artifact,
            cloud=Cloud.AWS,
            platform=policy.key.platform.value,
            region=policy.key.region,
            owner=OWNER.account,
            document={"changed": changed},
            facts=Facts(openings=openings, powers=frozenset({Power(OWNER.deployer, power)})),
            proofs={
                gate.stage: {proof: status.state for proof, status in of_gate(policy, gate).items()}
                for gate in policy.gates
            },
        )
    return Snapshot(source=source, keys=keys)


def per_cell(small: Callable[[], object], large: Callable[[], object]) -> float:
    """Median time per cell of the large one over that of the small one, in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    again = (LARGE // SMALL) ** 2
    for _ in range(ROUNDS):
        for taken, work, repeat in zip(times, (small, large), (again, 1), strict=True):
            gc.collect()
            began = time.perf_counter()
            for _ in range(repeat):
                work()
            taken.append(time.perf_counter() - began)
    return statistics.median(times[1]) / statistics.median(times[0])


def measure() -> dict[str, tuple[float, float]]:
    sizes = {size: policies(size) for size in (SMALL, LARGE)}
    images = Image(name="server", platform=Platform.AWS_ENCLAVE, reference="sha256:00")

    def shown(size: int) -> Callable[[], object]:
        stages = [f"stage{number}" for number in range(size)]
        artifacts = [f"artifact{number}" for number in range(size)]
        named = dict.fromkeys(stages, images)
        return lambda: json.dumps(
            matrix("flow", sizes[size], stages=stages, artifacts=artifacts, images=named).json(), indent=2
        )

    def compared(size: int) -> Callable[[], object]:
        before = snapshot(sizes[size], "before", changed=False)
        after = snapshot(sizes[size], "after", changed=True)
        return lambda: json.dumps(diff(before, after).json(), indent=2)

    return {
        "matrix/cell-100-vs-10": (per_cell(shown(SMALL), shown(LARGE)), 1.2),
        "diff/cell-100-vs-10": (per_cell(compared(SMALL), compared(LARGE)), 1.2),
    }
