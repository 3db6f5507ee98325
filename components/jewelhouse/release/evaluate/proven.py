"""What a release on AWS or Google Cloud proved: the proofs behind the clauses that were met."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from jewelhouse.evidence.verdict import Verdict
from jewelhouse.model import Cloud, Proof
from jewelhouse.release.evaluate.decision import Reason
from jewelhouse.release.proofs import State

# Claim paths, or the text of a clause -> what it proves when it is met; the tables PROOFS say why.
CLAIMS: Mapping[Cloud, tuple[tuple[str, tuple[Proof, ...]], ...]] = {
    Cloud.AWS: (
        (r"kms:RecipientAttestation:(ImageSha384|PCR0)", (Proof.IMAGE, Proof.CONFIG, Proof.DEBUG_OFF)),
        (r"kms:RecipientAttestation:NitroTPMPCR(4|7)", (Proof.IMAGE,)),
        (r"kms:RecipientAttestation:NitroTPMPCR12", (Proof.CONFIG,)),
        (r"principal", (Proof.IDENTITY,)),
    ),
    Cloud.GCP: (
        (r".*image_digest.*", (Proof.IMAGE,)),
        (r".*dbgstat.*", (Proof.DEBUG_OFF,)),
        (r".*(cmd|env)_override.*", (Proof.CONFIG,)),
        (r".*google_service_accounts.*", (Proof.IDENTITY,)),
        (r".*nvidia_gpu.*", (Proof.GPU,)),
    ),
}


def proven(cloud: Cloud, verdict: Verdict | None, because: Iterable[Reason]) -> dict[str, str]:
    """Proof -> `enforced`, for what verified evidence and the clauses that were met prove together."""
    if verdict is None:
        return {}
    found = {Proof.GENUINE}
    for reason in because:
        for form, proofs in CLAIMS[cloud] if reason.holds else ():
            if re.fullmatch(form, reason.claim, re.DOTALL):
                found |= set(proofs)
    if verdict.debug:
        found.discard(Proof.DEBUG_OFF)
    return {proof.value: State.ENFORCED.value for proof in Proof if proof in found}
