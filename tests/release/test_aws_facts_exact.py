"""The openings of a key policy against what decides one request: IAM's rules, and the kit's evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from key_policies import ADMIN, KEYS, OTHER_ROLE, ROLE, A, B, Statement, allow, deny, named

from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.release import aws
from jewelhouse.release.aws_statements import account_of, glob, root
from jewelhouse.release.evaluate import Request, evaluate
from jewelhouse.release.facts import Opening

END = datetime(2028, 1, 1, tzinfo=UTC)
ALL_OF_KMS = {"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}

NAMES = ("PCR0", "PCR1", "TPM4")
SMALL = {name: KEYS[name] for name in NAMES} | {"aws:SourceVpce": "aws:SourceVpce"}
VALUES = {"aws:SourceVpce": ("vpce-1", "vpce-2")} | dict.fromkeys(NAMES, (A, B))


PRINCIPALS = ("*", ROLE, OTHER_ROLE, [ROLE, OTHER_ROLE])
ACCOUNTS = (*PRINCIPALS, root("444455556666"), "111122223333", [ADMIN, root("444455556666")])


@st.composite
def clauses(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    operator = draw(
        st.sampled_from(
            [
                "StringEquals",
                "StringNotEquals",
                "StringEqualsIfExists",
                "StringLike",
                "StringNotLike",
                "ForAllValues:StringEquals",
                "ForAnyValue:StringNotEquals",
                "Null",
            ]
        )
    )
    name = draw(st.sampled_from(sorted(SMALL)))
    if ":" in operator and name == "aws:SourceVpce":
        operator = "StringEquals"
    if operator == "Null":
        return operator, name, [draw(st.sampled_from(["true", "false"]))]
    values = draw(st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=2, unique=True))
    if "Like" in operator and draw(st.booleans()):
        values = [value[:6] + "*" for value in values]
    return operator, name, values


@st.composite
def small_statements(draw: st.DrawFn, *, principals: tuple[Any, ...] = PRINCIPALS) -> Statement:
    condition: dict[str, Any] = {}
    for operator, name, values in draw(st.lists(clauses(), max_size=3)):
        condition.setdefault(operator, {})[SMALL[name]] = values
    make = draw(st.sampled_from([allow, allow, deny]))
    return make(
        condition,
        action=draw(st.sampled_from(["kms:Decrypt", "kms:*", ["kms:ReEncryptFrom", "kms:Decrypt"]])),
        principal=draw(st.sampled_from(principals)),
    )


def contexts(action: str) -> Iterator[dict[str, str]]:
    """Every context that a request can have: registers of no document, of an enclave, of a NitroTPM."""
    documents: list[dict[str, str]] = [{}]
    if action == "kms:Decrypt":
        third = "0" * 96
        documents += [
            {KEYS["PCR0"]: one, KEYS["PCR1"]: other} for one in (A, B, third) for other in (A, B, third)
        ]
        documents += [{KEYS["TPM4"]: one} for one in (A, B, third)]
    for document in documents:
        yield document
        for endpoint in ("vpce-1", "vpce-2", "vpce-3"):
            yield {**document, "aws:SourceVpce": endpoint}


def holds(operator: str, values: list[str], found: str | None) -> bool:
    if operator == "Null":
        return (found is None) == (values == ["true"])
    quantifier, _, name = operator.rpartition(":")
    absent = {"ForAllValues": True, "ForAnyValue": False}.get(quantifier, "Not" in name)
    if found is None:
        return absent or name.endswith("IfExists")
    met = any(glob(value, found) for value in values)
    return met is not ("Not" in name)


def permitted(statements: list[Statement], action: str, principal: str, context: Mapping[str, str]) -> bool:
    def applies(statement: Statement) -> bool:
        named = statement["Principal"] if statement["Principal"] == "*" else statement["Principal"]["AWS"]
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        return (
            (named == "*" or principal in ([named] if isinstance(named, str) else named))
            and any(glob(one, action) for one in actions)
            and all(
                holds(operator, values, context.get(key))
                for operator, block in statement.get("Condition", {}).items()
                for key, values in block.items()
            )
        )

    applying = [statement["Effect"] for statement in statements if applies(statement)]
    return "Allow" in applying and "Deny" not in applying


def within(one: Opening, principal: str, context: Mapping[str, str]) -> bool:
    def met(path: str, value: str | None) -> bool:
        key, _, relation = path.partition(" (")
        account = str(account_of(principal))
        caller = {
            "aws:PrincipalArn": principal,
            "aws:PrincipalAccount": account,
            "kms:CallerAccount": account,
        }
        found = {**context, **caller}.get(key)
        relation = relation.rstrip(")")
        check: dict[str, Callable[[str], bool]] = {
            "": lambda wanted: found is not None and (value is None or found == wanted),
            "absent": lambda _: found is None,
            "not": lambda wanted: found is None or found not in wanted.split(", "),
            "StringLike": lambda wanted: found is not None and like(wanted, found),
            "StringLike or absent": lambda wanted: found is None or like(wanted, found),
            "not StringLike": lambda wanted: found is None or unlike(wanted, found),
        }
        return check[relation](value or "")

    def like(wanted: str, found: str) -> bool:
        return all(any(glob(one, found) for one in test.split("|")) for test in wanted.split(" & "))

    def unlike(wanted: str, found: str) -> bool:
        return not any(glob(one, found) for test in wanted.split(" & ") for one in test.split("|"))

    whom = ("*", principal, root(str(account_of(principal))))
    return one.principal in whom and all(met(*claim) for claim in one.claims.items())


@settings(max_examples=150, deadline=None)
@given(st.lists(small_statements(), min_size=1, max_size=4))
def test_openings_are_exactly_what_iam_allows(statements):
    found = aws.parse({"Statement": statements})
    assert not found.undecided
    decrypts = [one for one in found.openings if "action" not in one.claims]
    for principal in (ROLE, OTHER_ROLE, ADMIN):
        for context in contexts("kms:Decrypt"):
            allowed = permitted(statements, "kms:Decrypt", principal, context)
            assert allowed is any(within(one, principal, context) for one in decrypts), (principal, context)
        rewraps = any(permitted(statements, "kms:ReEncryptFrom", principal, one) for one in contexts(""))
        named = {power.principal for power in found.powers if power.what.startswith("kms:ReEncryptFrom")}
        if rewraps:
            assert named & {principal, "*"}


def shown(context: Mapping[str, str]) -> Verdict | None:
    """The document that gives these registers."""
    pcrs = {key.rpartition(":")[2]: value for key, value in context.items() if key.startswith("kms:")}
    if not pcrs:
        return None
    kind = Kind.NITRO_TPM if any("NitroTPM" in name for name in pcrs) else Kind.NITRO_ENCLAVE
    registers = {
        {"ImageSha384": "PCR0"}.get(name, name.removeprefix("NitroTPM")): value
        for name, value in pcrs.items()
    }
    return Verdict(kind=kind, verified=True, debug=False, at=END, measurements=registers)


@st.composite
def dated_statements(draw: st.DrawFn) -> Statement:
    found = draw(small_statements(principals=ACCOUNTS))
    operator = draw(st.sampled_from([None, None, "DateLessThan", "DateGreaterThanEquals"]))
    if operator:
        ends = {operator: {"aws:CurrentTime": "2028-01-01T00:00:00Z"}}
        found = {**found, "Condition": {**found.get("Condition", {}), **ends}}
    return found


def open_at(one: Opening, at: datetime) -> bool:
    since = one.claims.get("aws:CurrentTime (>=)")
    return (one.until is None or at < one.until) and (since is None or at >= datetime.fromisoformat(since))


def timeless(one: Opening) -> Opening:
    claims = {path: value for path, value in one.claims.items() if not path.startswith("aws:CurrentTime")}
    return Opening(principal=one.principal, claims=claims)


@settings(max_examples=60, deadline=None)
@given(st.lists(dated_statements(), min_size=1, max_size=4))
def test_the_evaluator_releases_exactly_what_the_facts_say(statements):
    document = named(statements)
    found = aws.parse(document.body)
    assert not found.undecided
    decrypts = [one for one in found.openings if "action" not in one.claims]
    for at in (END - timedelta(seconds=1), END):
        open_now = [timeless(one) for one in decrypts if open_at(one, at)]
        for principal in (ROLE, ADMIN):
            for context in contexts("kms:Decrypt"):
                request = Request(
                    at=at,
                    principal=principal,
                    context={key: (value,) for key, value in context.items() if key.startswith("aws:")},
                    identity_policies=(ALL_OF_KMS,),
                )
                decision = evaluate(document, shown(context), request)
                expected = any(within(one, principal, context) for one in open_now)
                assert decision.released is expected, (principal, at, context)
