"""Our decisions against those of an evaluator of IAM by other hands, on compiled and generated policies."""

from __future__ import annotations

import random
from typing import Any

import oracles
import pytest
from samples import ALL_STACKS, shipped

from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import AwsAccount, Cloud, Platform
from jewelhouse.rehearsal.minting_nitro import AT
from jewelhouse.release import compiler
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate
from jewelhouse.release.evaluate.aws import context_of

OWNER, OPERATOR = "111122223333", "444455556666"
KEY = f"arn:aws:kms:eu-central-1:{OWNER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROLE = f"arn:aws:iam::{OPERATOR}:role/flow-finetune"
SESSION = f"arn:aws:sts::{OPERATOR}:assumed-role/flow-finetune/i-0123"
ADMINISTRATOR = f"arn:aws:iam::{OWNER}:role/deployer"
OTHER = f"arn:aws:iam::{OPERATOR}:role/other"
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
NOTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
KINDS = {Platform.AWS_ENCLAVE: Kind.NITRO_ENCLAVE, Platform.AWS_NITROTPM: Kind.NITRO_TPM}


def simulation(body: dict[str, Any], verdict: Verdict | None, request: Request) -> dict[str, Any]:
    context = {
        key: values[0] if len(values) == 1 else list(values)
        for key, values in context_of(verdict, request).items()
    }
    return {
        "request": {
            "principal": request.principal,
            "action": request.action,
            "resource": {"resource": KEY, "accountId": OWNER},
            "contextVariables": context,
        },
        "identityPolicies": [
            {"name": f"policy{index}", "policy": policy}
            for index, policy in enumerate(request.identity_policies)
        ],
        "serviceControlPolicies": [],
        "resourceControlPolicies": [],
        "resourcePolicy": body,
    }


def compared(cases: list[tuple[dict[str, Any], Verdict | None, Request]]) -> int:
    """Number of releases; fails on the first difference."""
    theirs = oracles.iam([simulation(*case) for case in cases])
    count = 0
    for (body, verdict, request), result in zip(cases, theirs, strict=True):
        assert isinstance(result, str), (result, body)
        ours = evaluate(Document(name="case", cloud=Cloud.AWS, body=body), verdict, request)
        assert ours.released is (result == "Allowed"), (result, body, request, ours.because)
        count += ours.released
    return count


def asked(principal: str = ROLE, **others: Any) -> Request:
    others.setdefault("identity_policies", (EVERYTHING,))
    context = {"aws:ResourceAccount": (OWNER,), **others.pop("context", {})}
    return Request(at=AT, principal=principal, context=context, **others)


def evidence(kind: Kind = Kind.NITRO_ENCLAVE, **registers: str) -> Verdict:
    return Verdict(kind=kind, verified=True, debug=False, at=AT, measurements=registers)


def test_compiled_policies_of_every_stack():
    cases = []
    for stack in ALL_STACKS:
        for key, policy in release_policies(shipped(stack)).items():
            if key.cloud is not Cloud.AWS:
                continue
            body = compiler.compile(policy)
            for gate in policy.gates:
                right = gate.measurements[0].values
                shown = [evidence(KINDS[key.platform], **right), None]
                shown += [
                    evidence(KINDS[key.platform], **{**right, name: value})
                    for name in right
                    for value in ("0" * 96, "f" * 96)
                ]
                shown += [evidence(kind, **right) for kind in KINDS.values()]
                assert isinstance(policy.owner, AwsAccount)
                callers = (gate.identity, policy.owner.deployer, OTHER, f"arn:aws:iam::{OWNER}:root")
                for verdict in shown:
                    for caller in callers:
                        for action in ("kms:Decrypt", "kms:CreateGrant", "kms:ReEncryptFrom"):
                            request = asked(str(caller), action=action)
                            cases.append((body, verdict, request))
    assert compared(cases) > 0


DIGESTS = ["a" * 96, "b" * 96, "A" * 96, "c" * 96]
PRINCIPALS: list[Any] = [
    "*",
    {"AWS": ROLE},
    {"AWS": [ROLE, ADMINISTRATOR]},
    {"AWS": f"arn:aws:iam::{OPERATOR}:root"},
    {"AWS": OPERATOR},
    {"AWS": f"arn:aws:iam::{OWNER}:root"},
    {"AWS": SESSION},
    {"AWS": "*"},
]
ACTIONS: list[Any] = [
    "kms:Decrypt",
    "kms:*",
    ["kms:Decrypt", "kms:CreateGrant"],
    "kms:De*",
    "kms:Encrypt",
    "*",
]
KEYS = [
    "kms:RecipientAttestation:ImageSha384",
    "kms:RecipientAttestation:PCR1",
    "kms:RecipientAttestation:PCR8",
    "kms:RecipientAttestation:NitroTPMPCR4",
    "KMS:RecipientAttestation:imagesha384",
]
OPERATORS = [
    name + suffix
    for name in (
        "StringEquals",
        "StringNotEquals",
        "StringEqualsIgnoreCase",
        "StringNotEqualsIgnoreCase",
        "StringLike",
        "StringNotLike",
    )
    for suffix in ("", "IfExists")
]
# Without ForAnyValue with IfExists, on which the two differ: see the last test.
QUANTIFIED = [
    f"{quantifier}:{name}"
    for quantifier in ("ForAnyValue", "ForAllValues")
    for name in OPERATORS
    if quantifier == "ForAllValues" or not name.endswith("IfExists")
]


def condition(draw: random.Random) -> dict[str, Any]:
    block: dict[str, Any] = {}
    for _ in range(draw.randint(1, 2)):
        choice = draw.random()
        if choice < 0.15:
            block["Null"] = {draw.choice(KEYS): draw.choice(["true", "false"])}
        elif choice < 0.25:
            operator = draw.choice(["DateLessThan", "DateGreaterThan"])
            block[operator] = {
                "aws:CurrentTime": draw.choice(["2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"])
            }
        elif choice < 0.32:
            block[draw.choice(["ArnLike", "ArnEquals", "ArnNotLike"])] = {
                "aws:PrincipalArn": draw.choice(
                    [ROLE, f"arn:aws:iam::{OPERATOR}:role/*", "arn:aws:iam::*:role/x"]
                )
            }
        elif choice < 0.38:
            block[draw.choice(["Bool", "BoolIfExists"])] = {
                "aws:SecureTransport": draw.choice(["true", "false"])
            }
        elif choice < 0.44:
            block[draw.choice(["StringEquals", "StringNotEquals"])] = {
                "kms:CallerAccount": draw.choice([OWNER, OPERATOR])
            }
        else:
            keys = draw.sample(KEYS, draw.randint(1, 2))
            value = draw.choice([draw.choice(DIGESTS), draw.sample(DIGESTS, 2), "*", "a*"])
            block[draw.choice(OPERATORS * 3 + QUANTIFIED)] = dict.fromkeys(keys, value)
    return block


def statement(draw: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {
        "Effect": draw.choice(["Allow", "Allow", "Deny"]),
        "Principal": draw.choice(PRINCIPALS),
        "Resource": "*",
    }
    if made["Effect"] == "Deny" and draw.random() < 0.7:
        made["Principal"] = "*"
    made["NotAction" if draw.random() < 0.1 else "Action"] = draw.choice(ACTIONS)
    if draw.random() < 0.7:
        made["Condition"] = condition(draw)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_generated_policies(seed):
    draw = random.Random(seed)
    cases = []
    for _ in range(250):
        body = {"Version": "2012-10-17", "Statement": [statement(draw) for _ in range(draw.randint(1, 3))]}
        verdict = draw.choice(
            [
                None,
                evidence(PCR0="a" * 96, PCR1="b" * 96),
                evidence(PCR0="b" * 96, PCR1="b" * 96, PCR8="c" * 96),
                evidence(Kind.NITRO_TPM, PCR4="a" * 96),
            ]
        )
        caller = draw.choice([ROLE, SESSION, ADMINISTRATOR, OTHER])
        identity = (draw.choice([EVERYTHING, EVERYTHING, NOTHING]),)
        action = draw.choice(["kms:Decrypt", "kms:Decrypt", "kms:CreateGrant"])
        cases.append((body, verdict, asked(caller, identity_policies=identity, action=action)))
    assert 10 < compared(cases) < 240


def test_where_the_two_differ_ours_is_what_the_page_says():
    """IfExists, of any operator but Null, is true when the key is absent
    (reference_policies_elements_condition_operators.html). Behind ForAnyValue the other says false."""
    condition = {"ForAnyValue:StringEqualsIfExists": {"kms:RecipientAttestation:PCR8": "a" * 96}}
    body = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ROLE},
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": condition,
            }
        ],
    }
    assert evaluate(Document(name="case", cloud=Cloud.AWS, body=body), None, asked()).released
    assert oracles.iam([simulation(body, None, asked())]) == ["ImplicitlyDenied"]


OPEN = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
CLOSED = {"Effect": "Deny", "Action": "kms:*", "Resource": "*"}
SPARED = {**CLOSED, "NotPrincipal": {"AWS": ROLE}}
PATHS = "aws:PrincipalOrgPaths"
DIFFERENCES = [
    # name, statements, context, whether ours releases, what the other says. Pages: docs.aws.amazon.com/IAM/
    # latest/UserGuide/.
    # reference_policies_elements_notprincipal.html: without its account's ARN a principal may be denied.
    ("NotPrincipal without the account", [OPEN, SPARED], {}, False, "Allowed"),
    # reference_policies_condition-single-vs-multi-valued-context-keys.html: true for "a null dataset, such as
    # an empty string".
    (
        "ForAllValues of an empty text",
        [{**OPEN, "Condition": {"ForAllValues:StringEquals": {PATHS: "a"}}}],
        {PATHS: ("",)},
        True,
        "ImplicitlyDenied",
    ),
    # reference_policies_elements_condition_operators.html says nothing of these three: ours denies.
    (
        "a Deny of a pattern that is no ARN",
        [OPEN, {**CLOSED, "Principal": "*", "Condition": {"ArnLike": {"aws:PrincipalArn": "*"}}}],
        {},
        False,
        "Allowed",
    ),
    (
        "a Deny by a Bool that is none",
        [OPEN, {**CLOSED, "Principal": "*", "Condition": {"Bool": {"aws:SecureTransport": "yes"}}}],
        {},
        False,
        "Allowed",
    ),
    (
        "an Allow by a negated operator of nothing",
        [{**OPEN, "Condition": {"StringNotEquals": {"aws:SourceVpce": []}}}],
        {"aws:SourceVpce": ("vpce-1",)},
        False,
        "Allowed",
    ),
]


@pytest.mark.parametrize(
    ("name", "found", "context", "released", "theirs"), DIFFERENCES, ids=[row[0] for row in DIFFERENCES]
)
def test_known_differences(name, found, context, released, theirs):
    body = {"Version": "2012-10-17", "Statement": found}
    request = asked(context=context)
    assert evaluate(Document(name=name, cloud=Cloud.AWS, body=body), None, request).released is released
    assert oracles.iam([simulation(body, None, request)]) == [theirs]
