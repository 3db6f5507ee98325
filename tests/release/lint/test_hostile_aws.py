"""Hostile evidence made from a key policy itself: sound policies release to none of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_policies import (
    ADMIN,
    ADMINISTRATION,
    ATTESTED,
    OTHER_ROLE,
    ROLE,
    A,
    B,
    C,
    D,
    allow,
    closing,
    equals,
    named,
)
from policies_made import policies
from samples import ALL_STACKS, shipped

from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud, Platform
from jewelhouse.release import aws
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import evaluate
from jewelhouse.release.lint import Severity, lint
from jewelhouse.release.lint.hostile_aws import hostile

# Policies of the kit.


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_shipped_policies_lint_clean_and_refuse_everything_hostile(stack):
    for key, policy in release_policies(shipped(stack)).items():
        if key.cloud is Cloud.AWS:
            document = Document(name=key.name, cloud=Cloud.AWS, body=aws.compile(policy))
            assert [one for one in lint(document) if one.rule.severity is not Severity.NOTE] == []
            refuses(document)


@settings(max_examples=25, deadline=None)
@given(policies((Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM)))
def test_compiled_policies_lint_clean_and_have_no_counterexample(policy):
    document = Document(name=policy.key.name, cloud=Cloud.AWS, body=aws.compile(policy))
    assert lint(document) == ()
    refuses(document)


def refuses(document: Document) -> None:
    cases = list(hostile(document))
    assert len(cases) >= 20
    for name, verdict, request in cases:
        assert not evaluate(document, verdict, request).released, name


def test_hostile_evidence_is_named_after_the_attack():
    document = named(
        [
            ADMINISTRATION,
            allow({**equals(PCR0=A, PCR3=B), "DateLessThan": {"aws:CurrentTime": "2028-01-01"}}),
            allow(equals(PCR0=C, PCR3=D)),
            *closing(PCR0=[A, C], PCR3=[B, D]),
        ]
    )
    names = {name.partition(": ")[2] or name for name, _, _ in hostile(document)}
    assert names >= {
        f"{ROLE} asks for kms:Decrypt without a document",
        f"{ADMIN} re-wraps the data key",
        f"{ROLE} holds a grant and no document",
        "the root of another account asks without a document",
        "the image in debug mode",
        "another image of the same role",
        "another image that shares PCR3",
        "a document of aws-nitrotpm with the same values",
        "PCR0 differs in one digit",
        "PCR3 of another release",
        f"{OTHER_ROLE.replace('llm-serve', 'other')} shows the right document",
        "the licence ended 0 days ago",
        "the right values, and nobody verified them",
    }
    refuses(document)
    right = [
        request for name, _, request in hostile(document) if name.endswith("the licence ended 0 days ago")
    ]
    assert {request.at for request in right} == {datetime(2028, 1, 1, tzinfo=UTC)}


ATTACKS = {
    "no attestation": ([allow()], "asks for kms:Decrypt without a document"),
    "debug keeps PCR3": ([allow(equals(PCR3=A))], "the image in debug mode"),
    "grant beside an attested Allow": ([ATTESTED], "holds a grant and no document"),
    "re-wrapping": ([ATTESTED, allow(action="kms:ReEncryptFrom")], "re-wraps the data key"),
    "grants for anybody": ([ATTESTED, allow(action="kms:CreateGrant")], "creates a grant"),
}


@pytest.mark.parametrize(("statements", "attack"), ATTACKS.values(), ids=ATTACKS)
def test_a_weak_policy_releases_to_its_attack(statements, attack):
    document = named(statements)
    released = [
        name for name, verdict, request in hostile(document) if evaluate(document, verdict, request).released
    ]
    assert any(attack in name for name in released)
    assert any(finding.rule.severity is not Severity.NOTE for finding in lint(document))


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_any_json_at_all_has_hostile_evidence(statements):
    assert list(hostile(named(statements)))
