"""One decision of KMS on verified evidence against one verification of ECDSA on P-384.

The policy is the largest compiled one of the shipped stacks, the document a released one, so that every
statement is read and compared. Reading the statements is part of a decision.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.evidence_nitro import interleaved
from jewelhouse import stackfile
from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud, Platform
from jewelhouse.release import compiler
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate

PROJECT = Path(__file__).parents[1]
KINDS = {Platform.AWS_ENCLAVE: Kind.NITRO_ENCLAVE, Platform.AWS_NITROTPM: Kind.NITRO_TPM}


def measure() -> dict[str, tuple[float, float]]:
    policies = [
        (compiler.compile(policy), policy)
        for path in sorted((PROJECT / "stacks").glob("Pulumi.*.yaml"))
        for key, policy in release_policies(stackfile.read(path)).items()
        if key.cloud is Cloud.AWS
    ]
    body, policy = max(policies, key=lambda pair: len(json.dumps(pair[0])))
    gate = policy.gates[0]
    at = datetime(2026, 11, 1, tzinfo=UTC)
    document = Document(name=policy.key.name, cloud=Cloud.AWS, body=body)
    verdict = Verdict(
        kind=KINDS[policy.key.platform],
        verified=True,
        debug=False,
        at=at,
        measurements=gate.measurements[0].values,
    )
    request = Request(at=at, principal=gate.identity)
    key = ec.generate_private_key(ec.SECP384R1())
    public, algorithm = key.public_key(), ec.ECDSA(hashes.SHA384())
    signature = key.sign(b"evidence", algorithm)

    def whole() -> None:
        if not evaluate(document, verdict, request).released:
            sys.exit("the stage's own evidence is denied")

    def bare() -> None:
        public.verify(signature, b"evidence", algorithm)

    return {"release/aws-vs-ecdsa": (interleaved(whole, bare, 400), 1.0)}
