"""Every rule for KMS key policies: it fires on its mistake and is silent on the same policy done right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_policies import (
    ADMIN,
    ADMINISTRATION,
    ATTESTED,
    KEYS,
    NO_GRANTS,
    OPENING,
    OTHER_ROLE,
    OWNER_ROOT,
    ROLE,
    ZERO,
    A,
    B,
    C,
    D,
    Statement,
    allow,
    closing,
    deny,
    differs,
    equals,
    named,
    null,
    sound,
)

from jewelhouse.release import aws
from jewelhouse.release.lint import lint
from jewelhouse.release.lint.aws import RULES

RULE = {rule.id.rpartition("-")[2]: rule for rule in RULES}
STRANGER = "arn:aws:iam::999999999999:role/somebody"
BY_SERVICE = {"kms:GrantIsForAWSResource": "true"}
ORGANISATION = {"aws:PrincipalOrgID": "o-1"}
ROLLOUT = [
    ADMINISTRATION,
    allow(equals(PCR0=A, PCR8=C)),
    allow(equals(PCR0=B, PCR8=D)),
    *closing(PCR0=[A, B], PCR8=[C, D]),
]


def tpm(**pins: str) -> list[Statement]:
    return sound(**pins)


def only(*allows: Statement) -> list[Statement]:
    """Allows without any Deny."""
    return [ADMINISTRATION, *allows]


def everybody(operator: str, block: dict[str, str]) -> Statement:
    return allow({operator: block}, principal="*", action=["kms:PutKeyPolicy", "kms:Sign"])


def without(statements: list[Statement], index: int) -> list[Statement]:
    return [statement for number, statement in enumerate(statements) if number != index]


def changed(statement: Statement, **elements: Any) -> Statement:
    return {key: value for key, value in (statement | elements).items() if value is not ...}


# Rule -> name of the mistake -> (the mistake, the same done right).
CASES: dict[str, dict[str, tuple[list[Statement], list[Statement]]]] = {
    "001": {
        "unconditioned Allow": (only(allow()), sound()),
        "second Allow for the same role": (only(ATTESTED, allow()), sound(allow())),
        "Allow before the pipeline has set the measurements": (
            only(allow({"StringEquals": {"aws:SourceVpce": "vpce-1"}})),
            sound(),
        ),
        "only the absence of a bad image": (only(allow(differs(PCR0=A))), only(allow(equals(PCR0=A)))),
        "a Deny that an endpoint gets by": (
            only(allow(), deny({**differs(PCR0=A), "StringNotEquals": {"aws:SourceVpce": "vpce-1"}})),
            only(allow(), deny(differs(PCR0=A))),
        ),
        "derived secret": (only(allow(action="kms:DeriveSharedSecret")), sound()),
        "Deny of someone else": (only(allow(), deny(null("PCR0"), principal=OTHER_ROLE)), sound(allow())),
    },
    "002": {
        "the role may create grants": (
            only(ATTESTED, allow(action="kms:CreateGrant")),
            [*only(ATTESTED, allow(action="kms:CreateGrant")), NO_GRANTS],
        ),
        "by a pattern": (
            only(ATTESTED, allow(action="kms:Create*", principal=ADMIN)),
            sound(allow(action="kms:Create*", principal=ADMIN)),
        ),
        "for services that need not be one": (
            only(
                ATTESTED,
                allow({"BoolIfExists": BY_SERVICE}, action="kms:CreateGrant"),
            ),
            only(ATTESTED, allow({"Bool": BY_SERVICE}, action="kms:CreateGrant")),
        ),
    },
    "003": {
        "attested Allow and nothing else": (only(ATTESTED), sound()),
        "grants not denied": (sound()[:-1], sound()),
        "ReEncryptFrom not denied": (
            only(ATTESTED, deny(null("PCR0"), action=["kms:Decrypt"]), NO_GRANTS),
            sound(),
        ),
    },
    "004": {
        "user statement of the console": (
            only(ATTESTED, allow(action=["kms:Encrypt", "kms:ReEncrypt*", "kms:DescribeKey"])),
            sound(allow(action=["kms:Encrypt", "kms:ReEncrypt*", "kms:DescribeKey"])),
        ),
        "administrator": (only(ATTESTED, allow(action="kms:ReEncryptFrom", principal=ADMIN)), sound()),
    },
    "005": {
        "publisher generates data keys": (
            only(ATTESTED, allow(action="kms:GenerateDataKey*", principal=ADMIN)),
            only(ATTESTED, allow(action="kms:Encrypt", principal=ADMIN)),
        ),
    },
    "006": {
        "IfExists": (
            only(allow({"StringEqualsIgnoreCaseIfExists": {KEYS["PCR0"]: A}})),
            only(allow(equals(PCR0=A))),
        ),
        "ForAllValues": (
            only(allow({"ForAllValues:StringEquals": {KEYS["PCR0"]: A}})),
            only(allow({"ForAnyValue:StringEquals": {KEYS["PCR0"]: A}})),
        ),
        "also behind a Deny that closes it today": (
            sound(allow({"StringEqualsIfExists": {KEYS["PCR0"]: A}})),
            sound(deny({"StringNotEqualsIfExists": {KEYS["PCR0"]: A}}, action="kms:Decrypt")),
        ),
    },
    "007": {
        "two registers in one Deny": (
            [*only(ATTESTED), deny(differs(PCR0=A, PCR1=B), action=OPENING), NO_GRANTS],
            sound(),
        ),
        "in two operators": (
            [
                *only(ATTESTED),
                deny({**differs(PCR0=A), "StringNotEquals": {KEYS["PCR8"]: C}}, action=OPENING),
            ],
            sound(PCR0=A, PCR8=C),
        ),
    },
    "008": {
        "publisher exempt": (
            sound(deny({**differs(PCR0=A), "ArnNotEquals": {"aws:PrincipalArn": ADMIN}}, action=OPENING)),
            sound(deny({"ArnNotEquals": {"aws:PrincipalArn": ADMIN}}, action="kms:DisableKey")),
        ),
    },
    "009": {
        "any document": (only(allow(null("PCR0", "false"))), only(allow(equals(PCR0=A)))),
        "kernel only": (only(allow(equals(PCR1=A))), only(allow(equals(PCR1=A, PCR2=B)))),
        "application only": (only(allow(equals(PCR2=A))), only(allow(equals(PCR2=A, PCR0=B)))),
        "register that the enclave extends itself": (
            only(allow(equals(PCR17=A))),
            only(allow(equals(PCR17=A, PCR0=B))),
        ),
        "NitroTPM command line only": (
            only(allow(equals(TPM12=ZERO))),
            only(allow(equals(TPM4=A, TPM12=ZERO))),
        ),
        "NitroTPM register for debugging": (only(allow(equals(TPM16=A))), tpm(TPM4=A, TPM12=ZERO)),
    },
    "010": {
        "role only": (only(allow(equals(PCR3=A))), only(allow(equals(PCR3=A, PCR0=B)))),
        "role and instance": (only(allow(equals(PCR3=A, PCR4=B))), sound(PCR0=C, PCR3=A, PCR4=B)),
        "pinned by Denies": ([*only(allow()), *closing(PCR3=A)], [*only(allow()), *closing(PCR0=A, PCR3=B)]),
    },
    "011": {
        "PCR2 of one ramdisk": (
            only(allow(equals(PCR2=aws.ONE_RAMDISK))),
            only(allow(equals(PCR2=aws.ONE_RAMDISK, PCR1=A))),
        ),
        "with the role": (only(allow(equals(PCR2=aws.ONE_RAMDISK, PCR3=A))), sound()),
    },
    "012": {
        **{
            f"zero {name}": (
                only(allow(equals(**{"PCR0": A, name: ZERO}))),
                only(allow(equals(**{"PCR0": A, name: B}))),
            )
            for name in ("PCR1", "PCR2", "PCR8")
        },
        "zero PCR0": (only(allow(equals(PCR0=ZERO))), only(allow(equals(PCR0=A)))),
        "zero among values": (only(allow(equals(PCR0=[A, ZERO]))), only(allow(equals(PCR0=[A, B])))),
    },
    "013": {
        "signer only": (only(allow(equals(PCR8=A))), only(allow(equals(PCR8=A, PCR0=B)))),
        "signer and kernel": (
            only(allow(equals(PCR8=A, PCR1=B))),
            only(allow(equals(PCR8=A, PCR1=B, PCR2=C))),
        ),
    },
    "014": {
        "PCR4 of zeros": (tpm(TPM4=ZERO, TPM12=ZERO), tpm(TPM4=A, TPM12=ZERO)),
        "PCR7 of zeros": (tpm(TPM7=ZERO), tpm(TPM7=A)),
    },
    "015": {
        "alone": (tpm(TPM7=aws.SECURE_BOOT_OFF), tpm(TPM7=A)),
        "with PCR4": (
            tpm(TPM4=A, TPM7=aws.SECURE_BOOT_OFF),
            tpm(TPM4=A, TPM7=aws.SECURE_BOOT_OFF, TPM12=ZERO),
        ),
        "capitals": (tpm(TPM7=aws.SECURE_BOOT_OFF.upper()), tpm(TPM7=A)),
    },
    "016": {
        "PCR4 only": (tpm(TPM4=A), tpm(TPM4=A, TPM12=ZERO)),
        "PCR4 with a PCR7 that proves nothing": (tpm(TPM4=A, TPM7=aws.SECURE_BOOT_OFF), tpm(TPM4=A, TPM7=B)),
        "PCR4 with PCR11": (tpm(TPM4=A, TPM11=B), tpm(TPM4=A, TPM11=B, TPM12=ZERO)),
    },
    "017": {
        "command line pinned": (tpm(TPM4=A, TPM12=B), tpm(TPM4=A, TPM12=ZERO)),
        "one of two": (only(allow(equals(TPM4=A, TPM12=[ZERO, B]))), tpm(TPM4=A, TPM12=B, TPM7=C)),
    },
    "018": {"PCR7 only": (tpm(TPM7=A), tpm(TPM7=A, TPM4=B))},
    "019": {
        "default policy of KMS": (
            only(ATTESTED, allow(action="kms:*", principal=OWNER_ROOT)),
            sound(allow(action="kms:Describe*", principal=OWNER_ROOT)),
        ),
        "account by its number": (
            only(ATTESTED, allow(action="kms:Decrypt", principal="111122223333")),
            sound(),
        ),
        "root without Decrypt still creates grants and edits": (
            only(ATTESTED, changed(allow(principal=OWNER_ROOT), Action=..., NotAction="kms:Decrypt")),
            sound(),
        ),
        "PutKeyPolicy behind all Denies": (
            sound(allow(action="kms:PutKeyPolicy", principal=OWNER_ROOT)),
            sound(allow(action=["kms:Decrypt", "kms:CreateGrant"], principal=OWNER_ROOT)),
        ),
    },
    "020": {
        "kms:* for the administrator": (sound(allow(action="kms:*", principal=ADMIN)), sound()),
        "star": (sound(allow(action="*", principal=ADMIN)), sound()),
        "NotAction": (
            sound(changed(allow(principal=ADMIN), Action=..., NotAction=["kms:Decrypt"])),
            sound(deny(action="kms:*", principal=STRANGER)),
        ),
    },
    "021": {
        "administrators of the console": (
            sound(allow(action=["kms:Create*", "kms:Put*"], principal=ADMIN)),
            sound(allow(action=["kms:Describe*", "kms:List*", "kms:Tag*"], principal=ADMIN)),
        ),
        "ReEncrypt by pattern": (sound(allow(action="kms:ReEncrypt*")), sound(allow(action="kms:Encrypt"))),
    },
    "022": {
        "everybody decrypts": (only(allow(principal="*")), only(allow(equals(PCR0=A), principal="*"))),
        "everybody in an object and a list": (
            only(ATTESTED, allow(principal={"AWS": [ADMIN, "*"]}, action="kms:CreateGrant")),
            only(
                ATTESTED,
                allow(
                    {"StringEquals": {"kms:CallerAccount": "111122223333"}},
                    principal={"AWS": ["*"]},
                    action="kms:CreateGrant",
                ),
            ),
        ),
        "closed by a pattern that takes everybody": (
            sound(everybody("StringLike", {"aws:PrincipalArn": "*"})),
            sound(everybody("StringLike", {"aws:PrincipalArn": ADMIN + "*"})),
        ),
        "closed only where the key exists": (
            sound(everybody("StringEqualsIfExists", ORGANISATION)),
            sound(everybody("StringEquals", ORGANISATION)),
        ),
    },
    "023": {
        "the prefix alone": (
            only(allow({"StringEquals": {"kms:RecipientAttestation": A}})),
            only(allow(equals(PCR0=A))),
        ),
        "another digest": (
            only(allow({"StringEquals": {"kms:RecipientAttestation:ImageSha256": A}})),
            only(allow({"StringEquals": {"kms:recipientattestation:imagesha384": A}})),
        ),
        "register 24 of 24": (
            only(allow({"StringEquals": {"kms:RecipientAttestation:NitroTPMPCR24": A}})),
            tpm(TPM4=A, TPM12=ZERO),
        ),
        "in a Deny, which then blocks everything": (
            sound(deny({"StringNotEquals": {"kms:RecipientAttestation": A}})),
            sound(),
        ),
    },
    "024": {
        "older page of AWS": (only(allow(equals(PCR4=A, PCR7=B))), tpm(TPM4=A, TPM12=ZERO)),
        "PCR4 alone": (only(allow(equals(PCR4=A))), only(allow(equals(PCR4=A, PCR0=B)))),
    },
    "025": {
        "Sign": (only(allow(equals(PCR0=A), action="kms:Sign")), only(allow(action="kms:Sign"))),
        "Encrypt beside Decrypt": (
            only(allow(equals(PCR0=A), action=["kms:Decrypt", "kms:Encrypt"])),
            only(
                allow(equals(PCR0=A), action=["kms:Decrypt", "kms:generatedatakey"]),
                allow(action="kms:Encrypt"),
            ),
        ),
        "ReEncrypt": (
            only(allow(equals(PCR0=A), action="kms:ReEncryptFrom")),
            sound(deny(differs(PCR0=A), action="kms:ReEncryptFrom")),
        ),
    },
    "026": {
        "old signer with new image": (only(allow(equals(PCR0=[A, B], PCR8=[C, D]))), ROLLOUT),
        "old kernel with new application": (
            only(allow(equals(PCR1=[A, B], PCR2=[C, D]))),
            only(allow(equals(PCR1=A, PCR2=C)), allow(equals(PCR1=B, PCR2=D))),
        ),
        "NitroTPM": (
            only(allow(equals(TPM4=[A, B], TPM7=[C, D]))),
            only(allow(equals(TPM4=[A, B], TPM12=ZERO))),
        ),
    },
    "027": {
        "registers of one image in parallel lists": (
            only(allow(equals(PCR0=[A, B], PCR1=[C, D]))),
            only(allow(equals(PCR0=[A, B], PCR1=C))),
        ),
    },
    "028": {
        "enclave and NitroTPM in one Allow": (only(allow(equals(PCR0=A, TPM4=B))), sound()),
        "Denies for enclaves block NitroTPM": (sound(allow(equals(TPM4=C, TPM12=ZERO))), sound()),
        "a roll-out whose Denies know the old image only": (
            sound(allow(equals(PCR0=C, PCR1=D))),
            ROLLOUT,
        ),
        "two values of one register at once": (
            only(allow({**equals(PCR0=A), "StringEquals": {KEYS["PCR0"]: B}})),
            only(allow({**equals(PCR0=A), "StringEquals": {KEYS["PCR0"]: A}})),
        ),
    },
    "029": {
        "two Allows": (
            only(ATTESTED, allow(equals(TPM4=C, TPM12=ZERO))),
            sound(deny(null("TPM4", "false"), action="kms:Decrypt")),
        ),
    },
    "030": {
        "SHA-256": (only(allow(equals(PCR0=A[:64]))), sound()),
        "not hexadecimal": (only(allow(equals(PCR0="x" * 96))), sound()),
        "capitals where the operator minds them": (
            only(allow({"StringEquals": {KEYS["PCR0"]: A.upper()}})),
            only(allow(equals(PCR0=A.upper()))),
        ),
        "in a Deny": (sound(deny(differs(PCR0=A + " "))), sound()),
        "an operator for ARNs": (only(allow({"ArnEquals": {KEYS["PCR0"]: A}})), sound()),
    },
    "031": {
        "any image": (
            only(allow({"StringLike": {KEYS["PCR0"]: "*"}})),
            only(allow({"StringLike": {KEYS["PCR0"]: A}})),
        ),
        "image by the first digits": (only(allow({"StringLike": {KEYS["PCR0"]: A[:12] + "*"}})), sound()),
    },
    "032": {
        "everybody with the image": (only(allow(equals(PCR0=A), principal="*")), sound()),
        "account of the operator": (
            only(allow(equals(PCR0=A), principal="444455556666")),
            only(
                allow({**equals(PCR0=A), "ArnEquals": {"aws:PrincipalArn": ROLE}}, principal="444455556666"),
            ),
        ),
    },
    "033": {
        "operator's administrator edits the policy": (
            sound(allow(action="kms:PutKeyPolicy", principal="arn:aws:iam::444455556666:role/admin")),
            sound(),
        ),
        "key in the operator's account": (
            sound(allow(action="kms:*", principal="arn:aws:iam::444455556666:root")),
            sound(allow(action="kms:ListGrants", principal="arn:aws:iam::444455556666:role/admin")),
        ),
        "operator's administrator creates grants": (
            without(sound(allow(action="kms:CreateGrant", principal=OTHER_ROLE)), 5),
            sound(allow(action="kms:CreateGrant", principal=OTHER_ROLE)),
        ),
    },
    "034": {
        "only by way of S3": (
            only(
                allow({**equals(PCR0=A), "StringEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}})
            ),
            sound(deny({"StringLike": {"kms:ViaService": "*"}}, action="kms:Decrypt")),
        ),
    },
    "035": {
        "model by encryption context": (
            only(allow({**equals(PCR0=A), "StringEquals": {"kms:EncryptionContext:model": "m"}})),
            sound(allow({"StringEquals": {"kms:EncryptionContext:model": "m"}}, action="kms:Encrypt")),
        ),
    },
    "036": {
        "a day as people write it": (
            only(allow({**equals(PCR0=A), "DateLessThan": {"aws:CurrentTime": "31.12.2027"}})),
            only(allow({**equals(PCR0=A), "DateLessThan": {"aws:CurrentTime": "2027-12-31T00:00:00Z"}})),
        ),
        "no such day": (
            only(allow({**equals(PCR0=A), "DateLessThan": {"aws:CurrentTime": "2027-02-30T00:00:00Z"}})),
            only(allow({**equals(PCR0=A), "DateLessThan": {"aws:CurrentTime": "1830297600"}})),
        ),
        "a number of seconds with a unit": (
            sound(deny({"NumericGreaterThan": {"aws:EpochTime": "1830297600s"}})),
            sound(deny({"NumericGreaterThan": {"aws:EpochTime": 1830297600}})),
        ),
    },
    "037": {
        "Deny for the stage's role only": (
            only(ATTESTED, deny(null("PCR0"), action=OPENING, principal=ROLE)),
            only(ATTESTED, deny(null("PCR0"), action=OPENING)),
        ),
        "NotPrincipal": (
            only(ATTESTED, changed(NO_GRANTS, Principal=..., NotPrincipal={"AWS": ADMIN})),
            only(ATTESTED, NO_GRANTS),
        ),
    },
    "038": {
        "endpoint of the stage for every action": (
            sound(deny({"StringNotEquals": {"aws:SourceVpce": "vpce-1"}})),
            sound(deny({"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}, action="kms:Decrypt")),
        ),
        "deployer not exempt": (
            sound(deny({"StringNotEquals": {"aws:SourceVpc": "vpc-1"}})),
            sound(deny({"StringNotEquals": {"aws:SourceVpc": "vpc-1", "aws:PrincipalArn": ADMIN}})),
        ),
    },
    "039": {
        "Deny without Resource": (sound(changed(deny(null("PCR0")), Resource=...)), sound()),
        "Allow without Action": (sound(changed(allow(), Action=...)), sound()),
        "Deny without Principal": (sound(changed(NO_GRANTS, Principal=...)), sound()),
    },
    "040": {
        "more releases than fit": (
            only(*(allow(equals(PCR0=f"{n:096x}", PCR1=A, PCR2=B)) for n in range(1, 90))),
            only(*(allow(equals(PCR0=f"{n:096x}", PCR1=A, PCR2=B)) for n in range(1, 40))),
        ),
    },
    "041": {
        "nobody may PutKeyPolicy": (sound()[1:], sound()),
        "a Deny takes it from all": (sound(deny(action="kms:PutKeyPolicy")), sound()),
    },
    "042": {
        "operator that IAM does not know": (sound(deny({"StringIs": {KEYS["PCR0"]: A}})), sound()),
        "statement for one other key": (sound(changed(allow(), Resource="arn:aws:kms:::key/1")), sound()),
    },
}
EACH = [(number, name) for number, cases in CASES.items() for name in cases]
each = pytest.mark.parametrize(("number", "name"), EACH, ids=[f"{number} {name}" for number, name in EACH])

# Mistakes for which the finding must carry evidence that would be released.
SHOWN = {
    "001": {
        "unconditioned Allow",
        "a Deny that an endpoint gets by",
        "second Allow for the same role",
        "derived secret",
    },
    "002": {"the role may create grants", "by a pattern"},
    "003": {"attested Allow and nothing else"},
    "004": {"user statement of the console", "administrator"},
    "009": {"any document", "kernel only", "application only", "NitroTPM command line only"},
    "010": {"role only", "role and instance", "pinned by Denies"},
    "011": {"PCR2 of one ramdisk", "with the role"},
    "012": {"zero PCR0", "zero among values"},
    "013": {"signer only", "signer and kernel"},
    "015": {"alone", "with PCR4", "capitals"},
    "016": {"PCR4 only", "PCR4 with PCR11"},
    "017": {"command line pinned", "one of two"},
    "019": {"default policy of KMS", "account by its number"},
    "026": {"old signer with new image", "old kernel with new application", "NitroTPM"},
}


def found(statements: list[Statement], number: str) -> list[Any]:
    return [finding for finding in lint(named(statements)) if finding.rule.id == f"JH-AWS-{number}"]


@each
def test_a_rule_fires_on_the_mistake(number, name):
    findings = found(CASES[number][name][0], number)
    assert findings
    assert all(finding.where.startswith("Statement") and finding.what for finding in findings)


@each
def test_a_rule_is_silent_on_the_same_done_right(number, name):
    assert not found(CASES[number][name][1], number)


@each
def test_where_evaluation_shows_the_hole_the_finding_carries_the_evidence(number, name):
    shown = [one.counterexample for one in found(CASES[number][name][0], number) if one.counterexample]
    assert bool(shown) or name not in SHOWN.get(number, ())
    for example in shown:
        assert example["because"]
        assert example["principal"].startswith("arn:aws:iam::")
        json.dumps(example)
    if number in ("010", "012"):
        assert all(example["evidence"]["debug"] for example in shown)


def test_every_rule_has_its_cases_and_every_case_its_rule():
    assert set(CASES) == set(RULE)
    assert set(SHOWN) <= set(CASES)
    for number, names in SHOWN.items():
        assert names <= set(CASES[number])


def test_a_sound_policy_has_no_finding_at_all():
    for statements in (sound(), tpm(TPM4=A, TPM12=ZERO), ROLLOUT):
        assert lint(named(statements)) == ()


# The table.


def test_ids_are_stable_and_in_order():
    assert [rule.id for rule in RULES] == [f"JH-AWS-{number:03}" for number in range(1, len(RULES) + 1)]
    assert len({rule.check for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_what_to_do_and_where_it_comes_from(rule):
    assert rule.title
    assert rule.why.endswith(".")
    assert rule.remedy
    assert re.search(r"\d{4}-\d{2}|\d+\.\d+\.\d+", rule.source), "a source has its date or version"
    assert re.search(r"docs\.aws\.amazon\.com/|\w+/[\w-]+|GHSA-", rule.source)


def test_lint_loads_no_evaluator_for_a_policy_in_order():
    program = f"""
import sys
from jewelhouse.model import Cloud
from jewelhouse.release.documents import Document
from jewelhouse.release.lint import lint
assert lint(Document(name="key", cloud=Cloud.AWS, body={{"Statement": {sound()!r}}})) == ()
heavy = ("cryptography", "cbor2", "cel_expr_python")
print([name for name in sys.modules if "evaluate" in name or name in heavy])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Anything at all.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ELEMENT = st.sampled_from(["Effect", "Principal", "Action", "NotAction", "Resource", "Condition", "Sid"])
WORDS = st.sampled_from(
    ["Allow", "Deny", "*", "kms:*", {"AWS": ROLE}, equals(PCR0=A), null("PCR0"), {"DateLessThan": {"x": ""}}]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(ELEMENT, WORDS | JSON) | JSON, max_size=4) | JSON)
def test_lint_says_something_about_any_json_and_never_fails(statements):
    document = named(statements)
    assert all(finding.where for finding in lint(document))
