"""What would turn a decision round: said only when the evaluator agrees, smallest change first."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from samples import shipped

from jewelhouse.evidence.verdict import Finding, Kind, Verdict
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import AwsAccount, Cloud, Platform
from jewelhouse.rehearsal.minting_nitro import AT
from jewelhouse.release import aws, azure, compiler
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate
from jewelhouse.release.evaluate.explain import explain

POLICY = next(iter(release_policies(shipped("prod-aws")).values()))
GATE = POLICY.gates[0]
DOCUMENT = Document(name="key", cloud=Cloud.AWS, body=aws.compile(POLICY))
IMAGE = dict(GATE.measurements[0].values)


def verdict(debug: bool = False, kind: Kind = Kind.NITRO_ENCLAVE, **changes: str) -> Verdict:
    return Verdict(kind=kind, verified=True, debug=debug, at=AT, measurements={**IMAGE, **changes})


def explained(
    shown: Verdict | None, document: Document = DOCUMENT, **changes: Any
) -> tuple[bool, tuple[str, ...]]:
    request = Request(**{"at": AT, "principal": GATE.identity, **changes})
    decision = evaluate(document, shown, request)
    return decision.released, explain(document, shown, request, decision)


def test_another_image_is_one_register_away():
    released, lines = explained(verdict(PCR0="ff" * 48))
    assert not released
    assert lines == (
        f"evidence: kms:RecipientAttestation:ImageSha384 would have to be {IMAGE['PCR0']}, it is {'ff' * 48}",
        f"policy: a gate with kms:RecipientAttestation:ImageSha384 = {'ff' * 48} instead would open it",
    )


def test_no_change_of_the_policy_is_proposed_for_debug_evidence():
    _, lines = explained(verdict(debug=True, PCR0="0" * 96))
    assert lines[-1] == "policy: no change should admit debug evidence; run the production image"


def test_another_caller_is_told_whose_key_it_is():
    other = f"{GATE.identity}-other"
    _, lines = explained(verdict(), principal=other)
    assert lines[0] == f"evidence: principal would have to be {GATE.identity}, it is {other}"


def test_two_faults_are_both_told():
    _, lines = explained(verdict(PCR0="ff" * 48, PCR2="ee" * 48))
    assert sum(line.startswith("evidence:") for line in lines) == 2


def test_an_ended_licence_names_its_end():
    policy = replace(POLICY, gates=(replace(GATE, not_after=AT - timedelta(days=1)),))
    document = Document(name="key", cloud=Cloud.AWS, body=aws.compile(policy))
    _, lines = explained(verdict(), document)
    assert "request time before would have to be 2026-03-01T12:00:00Z" in lines[0]


def test_a_release_names_each_clause_that_it_rests_on():
    released, lines = explained(verdict())
    assert released
    assert [line.split(" than ")[0] for line in lines] == [
        "evidence: any other principal",
        "evidence: any other kms:RecipientAttestation:ImageSha384",
        "evidence: any other kms:RecipientAttestation:PCR1",
        "evidence: any other kms:RecipientAttestation:PCR2",
    ]


def test_unverified_evidence_must_verify_first():
    shown = replace(verdict(), verified=False, problems=(Finding("signature", "does not hold"),))
    assert explained(shown) == (
        False,
        ("evidence: it must verify before anything it claims counts",),
    )


def test_a_policy_that_nothing_opens_needs_a_gate():
    empty = Document(name="key", cloud=Cloud.AWS, body={"Version": "2012-10-17", "Statement": []})
    assert explained(verdict(), empty)[1] == ("policy: nothing opens it at all; it needs a gate",)


def azure_case() -> tuple[Document, dict[str, Any]]:
    policy = next(
        policy
        for key, policy in release_policies(shipped("prod-azure")).items()
        if key.platform is Platform.AZURE_CONTAINER
    )
    claims = {
        "iss": azure.authority(policy, policy.gates[0]),
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-compliance-status": "azure-compliant-uvm",
        "x-ms-sevsnpvm-is-debuggable": False,
        "x-ms-sevsnpvm-vmpl": 0,
        "x-ms-sevsnpvm-hostdata": policy.gates[0].measurements[0].values["hostdata"],
        "x-ms-runtime": {
            "keys": [{"kid": "k", "kty": "RSA", "key_use": "enc", "n": "x" * 342 + "Q", "e": "AQAB"}]
        },
    }
    return Document(name="key", cloud=Cloud.AZURE, body=azure.compile(policy)), claims


@pytest.mark.parametrize(
    ("claim", "value", "says"),
    [
        ("x-ms-sevsnpvm-hostdata", "00" * 32, "x-ms-sevsnpvm-hostdata would have to be"),
        (
            "x-ms-sevsnpvm-is-debuggable",
            True,
            "x-ms-sevsnpvm-is-debuggable would have to be false, it is true",
        ),
        ("x-ms-sevsnpvm-vmpl", 1, "x-ms-sevsnpvm-vmpl would have to be 0, it is 1"),
        ("iss", "https://sharedneu.neu.attest.azure.net", "authority would have to be"),
    ],
)
def test_claims_of_a_token(claim, value, says):
    document, claims = azure_case()
    good = Verdict(kind=Kind.MAA, verified=True, debug=False, at=AT, claims=claims)
    assert explained(good, document)[0], evaluate(document, good, Request(at=AT)).because
    bad = replace(good, claims={**claims, claim: value})
    released, lines = explained(bad, document)
    assert not released
    assert says in lines[0]


@pytest.mark.parametrize("stack", ["prod-aws", "prod-azure", "prod-gcp", "gpu", "federated"])
def test_what_is_said_is_true(stack):
    """Every proposed change of evidence was tried: the list is empty rather than wrong."""
    for key, policy in release_policies(shipped(stack)).items():
        document = Document(name=key.name, cloud=key.cloud, body=compiler.compile(policy))
        request = Request(at=AT, principal=policy.gates[0].identity)
        decision = evaluate(document, None, request)
        assert not decision.released
        for line in explain(document, None, request, decision):
            assert line.startswith(("evidence: ", "policy: "))


def test_the_owner_is_no_gate():
    assert isinstance(POLICY.owner, AwsAccount)
    _, lines = explained(verdict(), principal=POLICY.owner.deployer)
    assert f"it is {POLICY.owner.deployer}" in lines[0]
