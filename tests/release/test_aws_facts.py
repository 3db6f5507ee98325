"""What a KMS key policy opens, whoever wrote it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_policies import (
    ADMIN,
    KEYS,
    OTHER_ROLE,
    OWNER_ROOT,
    ROLE,
    A,
    B,
    C,
    D,
    Statement,
    allow,
    deny,
    differs,
    equals,
    null,
)
from policies_made import policies
from samples import ALL_STACKS, shipped

from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud, Platform
from jewelhouse.release import aws
from jewelhouse.release.facts import Facts, Opening, Power


def facts(*statements: Any) -> Facts:
    return aws.parse({"Version": "2012-10-17", "Statement": list(statements)})


def opening(principal: str = ROLE, until: datetime | None = None, **values: str | None) -> Opening:
    claims = {KEYS.get(name, name): value for name, value in values.items()}
    return Opening(principal=principal, claims=claims, until=until)


def opened(*statements: Any) -> frozenset[Opening]:
    found = facts(*statements)
    assert not found.undecided
    return found.openings


# The kit's own.


@settings(max_examples=60, deadline=None)
@given(policies((Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM)))
def test_what_was_compiled_parses_to_the_gates(policy):
    found = aws.parse(aws.compile(policy))
    assert found.openings == aws.openings(policy)
    assert len(found.openings) == len(
        {(gate.stage, one) for gate in policy.gates for one in gate.measurements}
    )
    assert {power.principal for power in found.powers} == {policy.owner.deployer}
    assert {power.what for power in found.powers} == {
        "kms:DisableKey",
        "kms:PutKeyPolicy",
        "kms:ScheduleKeyDeletion",
    }
    assert not found.undecided


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_shipped_policies_parse_to_their_gates(stack):
    for key, policy in release_policies(shipped(stack)).items():
        if key.cloud is Cloud.AWS:
            assert aws.parse(aws.compile(policy)).openings == aws.openings(policy)


# Two ways to write one policy.


def rewritten(document: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The same policy as somebody else would write it."""
    chance = random.Random(seed)
    statements = []
    for statement in copy.deepcopy(document["Statement"]):
        statement.pop("Sid", None)
        if chance.random() < 0.5:
            statement["Sid"] = f"s{chance.random()}"
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        chance.shuffle(actions)
        actions = [action.lower() if chance.random() < 0.5 else action for action in actions]
        for operator, block in statement.get("Condition", {}).items():
            shuffled = list(block.items())
            chance.shuffle(shuffled)
            if "IgnoreCase" in operator:
                shuffled = [(key, respelled(value, chance)) for key, value in shuffled]
            statement["Condition"][operator] = {
                (key.upper() if chance.random() < 0.3 else key): value for key, value in shuffled
            }
        if statement["Principal"] == "*" and chance.random() < 0.5:
            statement["Principal"] = {"AWS": ["*"]}
        elif statement["Principal"] != "*" and chance.random() < 0.5:
            statement["Principal"] = {"AWS": [statement["Principal"]["AWS"]]}
        if chance.random() < 0.5:
            # One statement for each action.
            statements += [statement | {"Action": action} for action in actions]
        else:
            statements.append(statement | {"Action": actions, "Resource": ["*"]})
        if statement["Effect"] == "Deny" and chance.random() < 0.3:
            statements.append(dict(statements[-1]))
    # Redundant: nobody without any document comes through as it is.
    statements.append(deny(null("PCR1") if "NitroTPM" not in json.dumps(document) else null("TPM4")))
    statements[-1]["Action"] = ["kms:Decrypt"]
    chance.shuffle(statements)
    return {"Statement": statements}


def respelled(value: Any, chance: random.Random) -> Any:
    values = value if isinstance(value, list) else [value]
    values = [one.upper() if chance.random() < 0.5 else one for one in values]
    chance.shuffle(values)
    return values if len(values) > 1 or chance.random() < 0.5 else values[0]


@settings(max_examples=60, deadline=None)
@given(policies((Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM)), st.integers(0, 2**32))
def test_order_sids_lists_case_and_splitting_change_nothing(policy, seed):
    document = aws.compile(policy)
    assert aws.parse(rewritten(document, seed)) == aws.parse(document)


ATTESTED = allow(equals(PCR0=A))
LATER = datetime(2028, 1, 1, tzinfo=UTC)
EQUIVALENT: dict[str, tuple[list[Statement], list[Statement]]] = {
    "one statement for two actions": (
        [allow(action=["kms:CreateGrant", "kms:PutKeyPolicy"])],
        [allow(action="kms:CreateGrant"), allow(action="KMS:putkeypolicy")],
    ),
    "an account by its number": (
        [allow(principal="111122223333")],
        [allow(principal=[OWNER_ROOT])],
    ),
    "values that no document has": (
        [allow(equals(PCR0=[A, "abc"]))],
        [allow(equals(PCR0=A))],
    ),
    "PCR0 by its other name": (
        [allow({"StringEquals": {"kms:RecipientAttestation:PCR0": A}})],
        [allow(equals(PCR0=A))],
    ),
    "a pattern without a star": (
        [allow({"StringLike": {KEYS["PCR0"]: A}})],
        [allow(equals(PCR0=A.upper()))],
    ),
    "a Deny in place of an Allow's condition": (
        [allow(), deny(differs(PCR0=A))],
        [allow(equals(PCR0=A))],
    ),
    "NotAction that leaves the action in": (
        [allow(), deny() | {"NotAction": "kms:Encrypt", "Action": ...}],
        [allow(action="kms:Encrypt")],
    ),
    "an Allow that the next one takes in": (
        [allow(equals(PCR0=A)), allow(equals(PCR0=A, PCR1=B))],
        [allow(equals(PCR0=A))],
    ),
    "the end of a licence as a Deny": (
        [
            allow(equals(PCR0=A)),
            deny({"DateGreaterThanEquals": {"aws:CurrentTime": "2028-01-01T00:00:00Z"}}),
        ],
        [allow({**equals(PCR0=A), "DateLessThan": {"aws:CurrentTime": "2028-01-01T02:00:00+02:00"}})],
    ),
    "the end of a licence in seconds": (
        [allow({**equals(PCR0=A), "NumericLessThan": {"aws:EpochTime": int(LATER.timestamp())}})],
        [allow({**equals(PCR0=A), "DateLessThan": {"aws:CurrentTime": "2028-01-01T00:00:00Z"}})],
    ),
    "IfExists on a key that is always there": (
        [allow({"BoolIfExists": {"aws:SecureTransport": "true"}})],
        [allow({"Bool": {"aws:SecureTransport": True}})],
    ),
    "the caller's account said twice": (
        [allow({"StringEquals": {"kms:CallerAccount": "444455556666"}})],
        [allow()],
    ),
    "an exception for somebody else": (
        [allow(), deny({"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::444455556666:role/*"}})],
        [allow()],
    ),
    "not one of two is the other": (
        [
            allow(action="kms:CreateGrant"),
            deny({"BoolIfExists": {"kms:GrantIsForAWSResource": "false"}}),
        ],
        [allow({"Bool": {"kms:GrantIsForAWSResource": True}}, action="kms:CreateGrant")],
    ),
    "everybody as KMS writes it": (
        [ATTESTED, deny(differs(PCR0=A), principal={"AWS": "*"})],
        [ATTESTED, deny(differs(PCR0=A))],
    ),
    "a statement that KMS ignores": (
        [allow(equals(PCR0=A)), {key: value for key, value in deny().items() if key != "Resource"}],
        [allow(equals(PCR0=A))],
    ),
}


@pytest.mark.parametrize(("one", "other"), EQUIVALENT.values(), ids=EQUIVALENT)
def test_equivalent_documents_have_equal_facts(one, other):
    plain = [{key: value for key, value in statement.items() if value is not ...} for statement in one]
    assert facts(*plain) == facts(*other)
    assert not facts(*plain).undecided


# Openings, case by case.

OPENINGS: dict[str, tuple[list[Statement], set[Opening]]] = {
    "no condition": ([allow()], {opening()}),
    "lists across registers are every mix": (
        [allow(equals(PCR0=[A, B], PCR8=[C, D]))],
        {opening(PCR0=one, PCR8=other) for one in (A, B) for other in (C, D)},
    ),
    "IfExists opens to calls without a document": (
        [allow({"StringEqualsIfExists": {KEYS["PCR0"]: A}})],
        {opening(PCR0=A), opening(**{f"{KEYS['PCR0']} (absent)": "true"})},
    ),
    "ForAllValues opens to calls without a document": (
        [allow({"ForAllValues:StringEquals": {KEYS["PCR0"]: A}})],
        {opening(PCR0=A), opening(**{f"{KEYS['PCR0']} (absent)": "true"})},
    ),
    "ForAnyValue needs a document": (
        [allow({"ForAnyValue:StringEquals": {KEYS["PCR0"]: A}})],
        {opening(PCR0=A)},
    ),
    "a negated Allow opens without a document": (
        [allow(differs(PCR0=A))],
        {opening(**{f"{KEYS['PCR0']} (not)": A})},
    ),
    "capitals under an operator that minds them": (
        [allow({"StringEquals": {KEYS["PCR0"]: A.upper()}})],
        set(),
    ),
    "a value of the wrong length": ([allow(equals(PCR0=A[:64]))], set()),
    "no such condition key": ([allow({"StringEquals": {"kms:RecipientAttestation": A}})], set()),
    "registers of both kinds": ([allow(equals(PCR0=A, TPM4=B))], set()),
    "any document": ([allow(null("PCR0", False))], {opening(PCR0=None)}),
    "a Deny pins": ([ATTESTED, deny(differs(PCR1=B))], {opening(PCR0=A, PCR1=B)}),
    "a Deny with several registers spares who has one right": (
        [allow(), deny(differs(PCR0=A, PCR1=B))],
        {opening(PCR0=A), opening(PCR1=B)},
    ),
    "a Deny of the other kind of document": ([ATTESTED, deny(differs(TPM4=B))], set()),
    "a Deny of every document of the other kind": (
        [ATTESTED, deny(null("TPM4", "false"))],
        {opening(PCR0=A)},
    ),
    "a Deny Null": ([allow(), deny(null("PCR0"))], {opening(PCR0=None)}),
    "an unconditional Deny": ([ATTESTED, deny()], set()),
    "an unconditional Deny of another action": ([ATTESTED, deny(action="kms:Create*")], {opening(PCR0=A)}),
    "a Deny for this role": ([ATTESTED, deny(principal=ROLE)], set()),
    "a Deny for this account": ([ATTESTED, deny(principal="444455556666")], set()),
    "a Deny for another role": ([ATTESTED, deny(principal=OTHER_ROLE)], {opening(PCR0=A)}),
    "a Deny for one of everybody": (
        [allow(principal="*"), deny(principal=ROLE)],
        {opening(principal="*", **{"aws:PrincipalArn (not)": ROLE})},
    ),
    "a Deny for everybody but the owner's account": (
        [
            ATTESTED,
            {"Effect": "Deny", "NotPrincipal": {"AWS": OWNER_ROOT}, "Action": "kms:Decrypt", "Resource": "*"},
        ],
        set(),
    ),
    "a Deny of a network": (
        [ATTESTED, deny({"StringNotEquals": {"aws:SourceVpce": "vpce-1"}})],
        {opening(PCR0=A, **{"aws:SourceVpce": "vpce-1"})},
    ),
    "a Deny of a network with the role exempt": (
        [
            ATTESTED,
            deny({"StringNotEquals": {"aws:SourceVpce": "vpce-1", "aws:PrincipalArn": ROLE}}),
        ],
        {opening(PCR0=A)},
    ),
    "a pattern of registers": (
        [allow({"StringLike": {KEYS["PCR0"]: "ab*"}})],
        {opening(PCR0=None, **{f"{KEYS['PCR0']} (StringLike)": "ab*"})},
    ),
    "a pattern that a list meets": (
        [allow({"StringLike": {KEYS["PCR0"]: "a*"}, **equals(PCR0=[A, B])})],
        {opening(PCR0=A)},
    ),
    "another action names itself": (
        [allow(equals(PCR0=A), action="kms:DeriveSharedSecret")],
        {opening(PCR0=A, action="kms:DeriveSharedSecret")},
    ),
    "until the earlier of two ends": (
        [
            allow({**equals(PCR0=A), "DateLessThan": {"aws:CurrentTime": "2029-01-01T00:00:00Z"}}),
            deny({"DateGreaterThanEquals": {"aws:CurrentTime": "2028-01-01"}}),
        ],
        {opening(PCR0=A, until=LATER)},
    ),
    "not before": (
        [allow({**equals(PCR0=A), "DateGreaterThanEquals": {"aws:CurrentTime": "2028-01-01T00:00:00Z"}})],
        {opening(PCR0=A, **{"aws:CurrentTime (>=)": LATER.isoformat()})},
    ),
    "after it has ended": (
        [
            allow(
                {
                    "DateLessThan": {"aws:CurrentTime": "2028-01-01T00:00:00Z"},
                    "DateGreaterThan": {"aws:CurrentTime": "2028-01-01T00:00:00Z"},
                }
            )
        ],
        set(),
    ),
}


@pytest.mark.parametrize(("statements", "expected"), OPENINGS.values(), ids=OPENINGS)
def test_openings(statements, expected):
    assert opened(*statements) == expected


# Powers.

ADMINISTRATORS = ["kms:PutKeyPolicy", "kms:CreateGrant"]
POWERS: dict[str, tuple[list[Statement], set[tuple[str, str]]]] = {
    "named": ([allow(action=ADMINISTRATORS, principal=ADMIN)], {(ADMIN, one) for one in ADMINISTRATORS}),
    "without what a Deny takes": (
        [allow(action=ADMINISTRATORS, principal=ADMIN), deny(action="kms:CreateGrant")],
        {(ADMIN, "kms:PutKeyPolicy")},
    ),
    "grants for AWS services only": (
        [
            allow(action="kms:CreateGrant", principal=ADMIN),
            deny({"Bool": {"kms:GrantIsForAWSResource": "false"}}),
            deny({"Null": {"kms:GrantIsForAWSResource": "true"}}),
        ],
        {(ADMIN, "kms:CreateGrant if kms:GrantIsForAWSResource = true")},
    ),
    "ReEncrypt by pattern": ([allow(action="kms:ReEncrypt*")], {(ROLE, "kms:ReEncryptFrom")}),
    "registers never come with it": ([allow(equals(PCR0=A), action="kms:ReEncryptFrom")], set()),
    "a Deny of unattested calls closes it": (
        [allow(action="kms:ReEncryptFrom"), deny(null("PCR0"))],
        set(),
    ),
    "reading is no power": ([allow(action=["kms:DescribeKey", "kms:GetPublicKey", "kms:Encrypt"])], set()),
    "NotAction": (
        [
            {"Effect": "Allow", "Principal": {"AWS": ADMIN}, "NotAction": "kms:Decrypt", "Resource": "*"},
            deny(action=["kms:D*", "kms:I*", "kms:R*", "kms:S*", "kms:U*", "kms:G*"]),
        ],
        {(ADMIN, one) for one in ADMINISTRATORS},
    ),
    "until a day": (
        [allow({"DateLessThan": {"aws:CurrentTime": "2028-01-01"}}, action="kms:PutKeyPolicy")],
        {(ROLE, "kms:PutKeyPolicy if before 2028-01-01T00:00:00+00:00")},
    ),
}


@pytest.mark.parametrize(("statements", "expected"), POWERS.values(), ids=POWERS)
def test_powers(statements, expected):
    found = facts(*statements)
    assert not found.undecided
    assert found.powers == {Power(*one) for one in expected}


def test_the_default_policy_leaves_everything_to_the_account():
    # docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
    found = facts(allow(action="kms:*", principal=OWNER_ROOT))
    assert opening(OWNER_ROOT) in found.openings
    assert {power.principal for power in found.powers} == {OWNER_ROOT}
    assert {power.what for power in found.powers} >= {
        "kms:CreateGrant",
        "kms:PutKeyPolicy",
        "kms:ReEncryptFrom",
        "kms:ScheduleKeyDeletion",
    }


# What cannot be reduced: named, and never taken for closed.

UNDECIDED: dict[str, tuple[Statement, str]] = {
    "unknown operator": (deny({"StringIsh": {KEYS["PCR0"]: A}}), "StringIsh is not an operator"),
    "time that is none": (deny({"DateGreaterThan": {"aws:CurrentTime": "soon"}}), "no time in ISO 8601"),
    "equality of times": (deny({"DateEquals": {"aws:CurrentTime": "2028-01-01"}}), "no bound in time"),
    "Null of neither": (deny({"Null": {KEYS["PCR0"]: "maybe"}}), "neither true nor false"),
    "one other key's ARN": (
        deny() | {"Resource": "arn:aws:kms:eu-central-1:111122223333:key/1"},
        "the ARN of the key",
    ),
    "NotResource": (
        {"Effect": "Deny", "Principal": "*", "Action": "kms:*", "NotResource": "*"},
        "the ARN of the key",
    ),
    "a pattern in Principal": (deny(principal="arn:aws:iam::444455556666:role/*"), "is a pattern"),
    "a session": (
        deny(principal="arn:aws:sts::444455556666:assumed-role/llm-tune/one"),
        "denies a session of",
    ),
    "NotPrincipal without the account": (
        {"Effect": "Deny", "NotPrincipal": {"AWS": ROLE}, "Action": "kms:*", "Resource": "*"},
        "without its account",
    ),
    "NotPrincipal with the account only": (
        {
            "Effect": "Deny",
            "NotPrincipal": {"AWS": "444455556666"},
            "Action": "kms:*",
            "Resource": "*",
        },
        "by its account only",
    ),
    "an element that IAM does not know": (deny() | {"Conditions": {}}, "Conditions is not an element"),
    "an effect in small letters": (deny() | {"Effect": "deny"}, "not Allow or Deny"),
    "a number for an action": (deny(action=[7]), "not text"),
    "a condition that is a list": (deny() | {"Condition": [1]}, "Condition is not an object"),
    "a value that is an object": (deny({"StringEquals": {KEYS["PCR0"]: {}}}), "which is no value"),
    "no object at all": ("Deny everything", "is not an object"),
}


@pytest.mark.parametrize(("statement", "says"), UNDECIDED.values(), ids=UNDECIDED)
def test_a_deny_that_is_not_understood_is_named_and_closes_nothing(statement, says):
    found = facts(ATTESTED, statement)
    assert opening(PCR0=A) in found.openings
    assert any(says in entry and entry.startswith("Statement[1]") for entry in found.undecided)


def test_a_condition_that_is_not_understood_narrows_nothing():
    found = facts(allow({**equals(PCR0=A), "StringIsh": {"aws:SourceIp": "x"}}))
    assert found.openings == {opening(PCR0=A)}
    assert found.undecided == ("Statement[0]: Condition.StringIsh is not an operator of IAM",)


def test_an_allow_with_not_principal_means_everybody():
    statement = {"Effect": "Allow", "NotPrincipal": {"AWS": ROLE}, "Action": "kms:Decrypt", "Resource": "*"}
    found = facts(statement)
    assert found.openings == {opening(principal="*")}
    assert "NotPrincipal means everybody else" in found.undecided[0]


def test_more_combinations_than_anybody_means_are_not_written_out():
    values = [f"{n:096x}" for n in range(40)]
    found = facts(allow(equals(PCR0=values, PCR1=values, PCR2=A)))
    assert found.openings == {opening(PCR2=A)}
    assert "more than 256 combinations" in found.undecided[0]


def test_statements_that_multiply_end_and_stay_an_upper_bound():
    hostile = [allow(action="*", principal="*")] * 60
    for number in range(60):
        keys = {f"aws:{name}": f"v{number % 7}" for name in "abcd"} | {f"aws:k{number}": "x"}
        hostile.append(deny({"StringNotEquals": keys}, action="*"))
    started = datetime.now(UTC)
    found = facts(*hostile)
    assert datetime.now(UTC) - started < timedelta(seconds=8)
    assert any("multiply" in entry for entry in found.undecided)
    assert found.openings


def test_more_openings_than_a_policy_can_mean_are_taken_together():
    lists = [
        allow(
            {"StringEquals": {f"aws:{name}": ["1", "2", "3", "4"] for name in "abcd"}}, action="kms:Decrypt"
        )
        for _ in range(20)
    ]
    pairs = [allow({"StringEquals": {f"aws:{number}": ["1", "2", "3"]}}) for number in range(200)]
    started = datetime.now(UTC)
    found = facts(*lists, *pairs)
    assert datetime.now(UTC) - started < timedelta(seconds=8)
    assert found.openings == {opening()}
    assert any("more than 512 combinations" in entry for entry in found.undecided)


# Bytes from outside.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ELEMENT = st.sampled_from(
    ["Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "Condition", "Sid"]
)
WORDS = st.sampled_from(
    ["Allow", "Deny", "*", "kms:*", {"AWS": "*"}, {"AWS": ROLE}, {"Null": {KEYS["PCR0"]: True}}, {"Bool": {}}]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(ELEMENT, WORDS | JSON) | JSON, max_size=4) | JSON)
def test_any_json_at_all_is_read(statements):
    found = aws.parse({"Statement": statements})
    assert isinstance(found, Facts)
    assert found == aws.parse({"Statement": statements})


def test_a_document_without_statements_opens_nothing():
    found = aws.parse({"Version": "2012-10-17"})
    assert not found.openings
    assert found.undecided


def test_patterns_with_many_stars_take_no_time():
    pattern = "kms:" + "*a" * 200 + "b"
    started = datetime.now(UTC)
    facts(allow(action=[pattern] * 50), deny({"StringLike": {"aws:PrincipalArn": ["*a" * 200 + "b"] * 50}}))
    assert datetime.now(UTC) - started < timedelta(seconds=3)
