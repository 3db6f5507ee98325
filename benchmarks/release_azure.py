"""`release/azure-vs-ecdsa`: one decision of Key Vault against one ECDSA P-384 verification.

Ours is `release.evaluate.evaluate` on evidence that was verified before: the release policy of a shipped
stack, as parsed JSON, and the verdict of the token that it describes; reading the grammar, every condition,
the encryption key, and the reasons. It must release, or the measurement stops.

Bare is `cryptography` verifying one signature with a key that is loaded already.

Both run in turns; the value is the ratio of their medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from jewelhouse.evidence import maa
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud, Platform
from jewelhouse.release import azure
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from samples import shipped

from jewelhouse.rehearsal.minting_tokens import MaaAuthority, container_claims

STACK = "prod-azure"
ROUNDS = 2000
BOUND = 1.0


def measure() -> dict[str, tuple[float, float]]:
    policy = next(
        policy
        for key, policy in release_policies(shipped(STACK)).items()
        if key.platform is Platform.AZURE_CONTAINER
    )
    document = Document(name=policy.key.name, cloud=Cloud.AZURE, body=azure.compile(policy))
    hostdata = policy.gates[0].measurements[0]["hostdata"]
    authority = MaaAuthority.new(document.body["anyOf"][0]["authority"])
    verdict = maa.verify(
        authority.token(container_claims(hostdata, issuer=authority.issuer)),
        at=None,
        endorsements=authority.endorsements,
        roots=authority.roots,
    )
    request = Request(at=verdict.at)

    def decision() -> None:
        assert evaluate(document, verdict, request).released

    return {"release/azure-vs-ecdsa": (_ratio(decision, _bare()), BOUND)}


def _bare() -> Callable[[], None]:
    private = ec.generate_private_key(ec.SECP384R1())
    public, message, algorithm = private.public_key(), b"m" * 1024, ec.ECDSA(hashes.SHA384())
    signature = private.sign(message, algorithm)

    def verification() -> None:
        public.verify(signature, message, algorithm)

    return verification


def _ratio(ours: Callable[[], None], theirs: Callable[[], None]) -> float:
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(-100, ROUNDS):
        for work, taken in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            work()
            if turn >= 0:
                taken.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])
