"""What a release on AWS or Google Cloud proved: the proofs behind the clauses that were met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jewelhouse.evidence.verdict import Verdict
from jewelhouse.model import Cloud, Proof
from jewelhouse.release.evaluate.decision import Reason
from jewelhouse.release.proofs import State

# A part of a claim path, or of a clause's text -> what it proves when it is met; the tables PROOFS say why.
CLAIMS: Mapping[Cloud, tuple[tuple[str, tuple[Proof, ...]], ...]] = {
    Cloud.AWS: (
        (":ImageSha384", (Proof.IMAGE, Proof.CONFIG, Proof.DEBUG_OFF)),
        (":NitroTPMPCR4", (Proof.IMAGE,)),
        (":NitroTPMPCR7", (Proof.IMAGE,)),
        (":NitroTPMPCR12", (Proof.CONFIG,)),
        ("principal", (Proof.IDENTITY,)),
    ),
    Cloud.GCP: (
        ("image_digest", (Proof.IMAGE,)),
        ("dbgstat", (Proof.DEBUG_OFF,)),
        ("env_override", (Proof.CONFIG,)),
        ("google_service_accounts", (Proof.IDENTITY,)),
        ("nvidia_gpu", (Proof.GPU,)),
    ),
}


def proven(cloud: Cloud, verdict: Verdict | None, because: Iterable[Reason]) -> dict[str, str]:
    """Proof -> `enforced`, for what verified evidence and the clauses that were met prove together."""
    if verdict is None:
        return {}
    met = "\n".join(reason.claim for reason in because if reason.holds)
    found = {Proof.GENUINE}
    for part, proofs in CLAIMS[cloud]:
        if part in met:
            found.update(proofs)
    if verdict.debug:
        found.discard(Proof.DEBUG_OFF)
    return {proof.value: State.ENFORCED.value for proof in Proof if proof in found}
