"""Would KMS answer this call? The subset of IAM that decides a release, exactly.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html; below
docs.aws.amazon.com/kms/latest/developerguide/: key-policies.html, conditions-nitro-enclave.html,
conditions-nitro-tpm.html (2026-10).

The order: an explicit Deny, of the key policy or of an identity policy, ends it; then an Allow of the key
policy that names the caller, an Allow that delegates to the caller's account together with one of its
identity policies, or a grant. A caller of another account needs an identity policy of its own too; that
account is the caller's, so it counts as given unless identity policies are supplied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

from jewelhouse.evidence.verdict import Kind, Verdict, moment
from jewelhouse.model import Platform
from jewelhouse.release.aws_conditions import arn_like
from jewelhouse.release.aws_keys import CONDITION_KEYS, RECIPIENT_ACTIONS, is_attestation
from jewelhouse.release.aws_statements import ELSEWHERE, Clause, Statement, glob, statements
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate.decision import Decision, Reason, Request, denied
from jewelhouse.release.evaluate.operators import Context, holds
from jewelhouse.release.evaluate.principals import Caller, Named

PLATFORMS: Mapping[Kind, Platform] = {
    Kind.NITRO_ENCLAVE: Platform.AWS_ENCLAVE,
    Kind.NITRO_TPM: Platform.AWS_NITROTPM,
}
VARIABLES = "2012-10-17"
VERSIONS = (None, "2008-10-17", VARIABLES)
ELEMENTS = frozenset({"Version", "Id", "Statement"})
MOST_STATEMENTS = 1000


def evaluate(document: Document, verdict: Verdict | None, request: Request) -> Decision:
    """Whether the key's policy lets the call through, and which statements decided."""
    if verdict is not None and verdict.kind not in PLATFORMS:
        return denied(
            verdict,
            request.at,
            Reason(
                where="evidence",
                what=f"KMS takes documents of Nitro Enclaves and NitroTPM, not {verdict.kind}",
            ),
        )
    found = _statements(document.body)
    if isinstance(found, Reason):
        return denied(verdict, request.at, found)
    policy = Policy(found, document.body)
    call = Call(request, context_of(verdict, request))
    identity: list[Policy] = []
    for index, body in enumerate(request.identity_policies):
        label = f"identity policy {index}"
        read = _statements(body)
        if isinstance(read, Reason):
            return denied(verdict, request.at, replace(read, where=f"{label} {read.where}"))
        about = tuple(_about(read, body, request.resource))
        identity.append(Policy(about, body, identity=True, label=label))
    against = [reason for one in (policy, *identity) for reason in one.denies(call)]
    if against:
        return denied(verdict, request.at, *against)
    because = [reason for way in _ways(policy, identity, call) if all(r.holds for r in way) for reason in way]
    if because:
        return Decision(released=True, because=tuple(because), evidence=verdict, at=request.at)
    return denied(verdict, request.at, *_nearest(policy, identity, call))


def context_of(verdict: Verdict | None, request: Request) -> Mapping[str, tuple[str, ...]]:
    """The condition keys of a call with their values, in the documented spelling.

    A register's key is there only when the evidence holds the register and the action takes a document; a
    caller cannot supply one by `request.context`.
    """
    caller = Caller(request.principal)
    at = request.at.astimezone(UTC)
    found: dict[str, tuple[str, ...]] = {
        "aws:CurrentTime": (moment(at) or "",),
        "aws:EpochTime": (str(int(at.timestamp())),),
        "aws:SecureTransport": ("true",),
        "aws:PrincipalIsAWSService": ("true" if caller.is_service else "false",),
        "aws:ViaAWSService": ("false",),
    }
    if caller.arn is not None:
        found["aws:PrincipalArn"] = (caller.arn,)
    if caller.account is not None:
        found["aws:PrincipalAccount"] = (caller.account,)
        found["kms:CallerAccount"] = (caller.account,)
    found |= {key: tuple(values) for key, values in request.context.items() if not is_attestation(key)}
    takes_document = request.action.lower() in {action.lower() for action in RECIPIENT_ACTIONS}
    if verdict is not None and takes_document and verdict.kind in PLATFORMS:
        found |= _registers(PLATFORMS[verdict.kind], verdict.measurements)
    return found


def _registers(platform: Platform, measurements: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """PCR0 of an enclave has two names."""
    prefix = "kms:RecipientAttestation:" + ("NitroTPM" if platform is Platform.AWS_NITROTPM else "")
    found = {f"{prefix}{name}": (value,) for name, value in measurements.items() if name.startswith("PCR")}
    if platform is Platform.AWS_ENCLAVE and "PCR0" in measurements:
        found[CONDITION_KEYS[platform]["PCR0"]] = (measurements["PCR0"],)
    return found


class Call:
    """A call as statements see it."""

    def __init__(self, request: Request, context: Mapping[str, tuple[str, ...]]) -> None:
        self.request = request
        self.caller = Caller(request.principal)
        self.action = request.action
        self.shown = context
        self.context: Context = {key.lower(): values for key, values in context.items()}


class Policy:
    """The statements of one policy. `label` names an identity policy, which has no principals."""

    def __init__(
        self,
        found: Sequence[Statement],
        body: Mapping[str, Any],
        *,
        identity: bool = False,
        label: str = "",
    ) -> None:
        self.statements = found
        self.identity = identity
        self.label = label
        self.variables = body.get("Version") == VARIABLES

    def denies(self, call: Call) -> Iterator[Reason]:
        """Why an explicit Deny stops the call; a Deny that cannot be read stops it too."""
        for statement in self.statements:
            if statement.allow and not any("Effect" in what for what in statement.odd):
                continue
            if (self._void(statement) and not statement.odd) or not _may_cover(statement, call.action):
                continue
            if not self._names(statement, call):
                continue
            if statement.odd:
                what = f"cannot be read and may deny: {'; '.join(statement.odd)}"
                yield Reason(where=self._where(statement), what=what)
                continue
            met = [holds(clause, call.context, variables=self.variables) for clause in statement.clauses]
            if False not in met:
                yield from self._denial(statement, call)

    def allows(self, call: Call) -> Iterator[tuple[Named, tuple[Reason, ...]]]:
        """Each Allow for the action that names the caller, with all of its clauses."""
        for statement in self.statements:
            if not statement.allow or self._void(statement) or not statement.covers(call.action):
                continue
            named = self._names(statement, call)
            if not named:
                continue
            where = self._where(statement)
            if self.identity and (statement.principals or statement.not_principal):
                yield named, (Reason(where=where, what="an identity policy has no Principal"),)
                continue
            if statement.odd:
                yield named, (Reason(where=where, what=f"cannot be read: {'; '.join(statement.odd)}"),)
                continue
            met = tuple(self._reason(statement, clause, call) for clause in statement.clauses)
            whom = Reason(
                where=where, claim="principal", found=call.request.principal or "anybody", holds=True
            )
            yield named, (whom, *met)

    def _names(self, statement: Statement, call: Call) -> Named | None:
        if self.identity:
            return Named.ITSELF
        found = call.caller.named_by(statement)
        # Nobody can tell whom a statement means whose principals cannot be read.
        unread = not statement.allow and _unread(statement, "Principal", statement.principals)
        return Named.ITSELF if unread else None if found is Named.NOT else found

    def _void(self, statement: Statement) -> bool:
        if not self.identity:
            return bool(statement.void)
        return not statement.actions or "no Resource" in statement.void

    def _where(self, statement: Statement) -> str:
        return f"{self.label} {statement.where}" if self.label else statement.where

    def _denial(self, statement: Statement, call: Call) -> Iterator[Reason]:
        where = self._where(statement)
        if not statement.clauses:
            yield Reason(where=where, what=f"an explicit Deny of {call.action}")
        for clause in statement.clauses:
            reason = self._reason(statement, clause, call)
            yield Reason(
                where=reason.where,
                claim=reason.claim,
                expected=_expected(clause, denied=True),
                found=reason.found,
                what="an explicit Deny applies",
            )

    def _reason(self, statement: Statement, clause: Clause, call: Call) -> Reason:
        values = call.context.get(clause.key.lower())
        met = holds(clause, call.context, variables=self.variables)
        return Reason(
            where=f"{self._where(statement)} Condition.{clause.operator}",
            claim=clause.key,
            expected=_expected(clause, denied=False),
            found=", ".join(values) if values else "absent",
            what="what IAM does with these values is not documented" if met is None else "",
            holds=met is True,
        )


def _unread(statement: Statement, element: str, found: Sequence[str]) -> bool:
    """Whether an element is there in some form that cannot be read."""
    return bool(statement.odd) and (not found or any(element in what for what in statement.odd))


def _may_cover(statement: Statement, action: str) -> bool:
    return statement.covers(action) or _unread(statement, "Action", statement.actions)


def _expected(clause: Clause, *, denied: bool) -> str:
    """What would meet an Allow, or get by a Deny."""
    listed = ", ".join(clause.values)
    if clause.base == "Null":
        absent = clause.values[:1] == ("true",)
        return "absent" if absent is not denied else "there"
    negated = clause.negated is not denied
    name = clause.base.removeprefix("String").removeprefix("Arn")
    if name in ("Equals", "EqualsIgnoreCase", "Like"):
        return f"not {listed}" if negated else listed
    return f"not {clause.base} {listed}" if negated else f"{clause.base} {listed}"


def _statements(body: object) -> Sequence[Statement] | Reason:
    """The statements of a policy, or why it is none that AWS would take."""
    if not isinstance(body, Mapping):
        return Reason(where="policy", what="is not an object")
    if body.get("Version") not in VERSIONS:
        return Reason(where="Version", what=f"{body['Version']!r:.40} is no version of the policy language")
    if unknown := sorted(map(str, body.keys() - ELEMENTS)):
        return Reason(where="policy", what=f"{', '.join(unknown):.80} is not an element of a policy")
    found = body.get("Statement")
    if not isinstance(found, list | dict) or not found:
        return Reason(where="Statement", what="there is none, so nothing is allowed")
    if isinstance(found, list) and len(found) > MOST_STATEMENTS:
        return Reason(where="Statement", what=f"has {len(found)} statements, more than a key policy can hold")
    return statements(body)


def _about(found: Sequence[Statement], body: Mapping[str, Any], key: str | None) -> Iterator[Statement]:
    """The statements of an identity policy that are about this key, where they stand. Those about other keys
    cover nothing; what cannot be told stays as unreadable as it was."""
    items = body["Statement"] if isinstance(body["Statement"], list) else [body["Statement"]]
    for statement, item in zip(found, items, strict=True):
        named = item.get("Resource") if isinstance(item, Mapping) and "NotResource" not in item else None
        listed = [named] if isinstance(named, str) else named
        if key is None or not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            yield statement
        # A star of an Allow stays within its part of an ARN; that of a Deny reaches as far as it may.
        elif any(one == "*" or (arn_like if statement.allow else glob)(one, key) for one in listed):
            yield replace(statement, odd=tuple(what for what in statement.odd if what != ELSEWHERE))


def _ways(policy: Policy, identity: Sequence[Policy], call: Call) -> Iterator[tuple[Reason, ...]]:
    """Every way through, met or not: all reasons of a way must hold."""
    mine = [reasons for one in identity for _, reasons in one.allows(call)]
    allowed = [reasons for reasons in mine if all(reason.holds for reason in reasons)]
    other = call.request.context.get("aws:ResourceAccount", ())
    foreign = bool(other) and call.caller.account is not None and call.caller.account not in other
    for named, reasons in policy.allows(call):
        if named is Named.ACCOUNT or (foreign and identity):
            yield (*reasons, _delegated(allowed, bool(identity)))
        else:
            yield reasons
    for index, grant in enumerate(call.request.grants):
        name = grant.get("GrantId", index) if isinstance(grant, Mapping) else index
        yield tuple(_grant(grant, f"grant {name}", call))


def _delegated(allowed: Sequence[tuple[Reason, ...]], given: bool) -> Reason:
    if allowed:
        return Reason(
            where=allowed[0][0].where, what="an identity policy of the caller allows it", holds=True
        )
    missing = "none of the caller's identity policies allows it" if given else "no identity policy was given"
    return Reason(where="identity policies", what=f"the key policy leaves it to the account, and {missing}")


def _grant(grant: object, where: str, call: Call) -> Iterator[Reason]:
    """A grant lets its grantee call its operations. It cannot carry a measurement: whoever has it needs no
    evidence. docs.aws.amazon.com/kms/latest/developerguide/grants.html"""
    if not isinstance(grant, Mapping):
        yield Reason(where=where, what="is not an object")
        return
    grantee = str(grant.get("GranteePrincipal"))
    yield Reason(
        where=where,
        claim="principal",
        expected=grantee,
        found=call.request.principal or "anybody",
        # What a grant to a whole account lets its users do is not documented.
        holds=grantee != "*" and call.caller.is_meant(grantee) is Named.ITSELF,
    )
    operations = grant.get("Operations")
    named = [str(item) for item in operations] if isinstance(operations, list) else []
    operation = call.action.removeprefix("kms:")
    yield Reason(
        where=where,
        claim="Operations",
        expected=", ".join(named),
        found=operation,
        what="a grant carries no attestation",
        holds=operation in named,
    )
    constraints = grant.get("Constraints")
    for name, wanted in (constraints or {}).items() if isinstance(constraints, dict | None) else [("", None)]:
        yield _constraint(name, wanted, where, call)


def _constraint(name: str, wanted: Any, where: str, call: Call) -> Reason:
    """Values are compared with regard to case, names without (API_GrantConstraints.html). A call of an
    asymmetric key has no encryption context, so no constraint on it is ever met there."""
    if name == "SourceArn":
        source = call.context.get("aws:sourcearn", ())
        return Reason(
            where=where,
            claim=name,
            expected=str(wanted),
            found=", ".join(source) or "absent",
            holds=source == (wanted,),
        )
    prefix = "kms:encryptioncontext:"
    shown = {key[len(prefix) :]: values for key, values in call.context.items() if key.startswith(prefix)}
    known = name in ("EncryptionContextEquals", "EncryptionContextSubset") and isinstance(wanted, dict)
    pairs = {str(key).lower(): (str(value),) for key, value in wanted.items()} if known else {}
    met = pairs.items() <= shown.items() and (name != "EncryptionContextEquals" or len(pairs) == len(shown))
    return Reason(
        where=where,
        claim=name,
        expected=str(wanted),
        found=str({key: ", ".join(values) for key, values in shown.items()}),
        what="" if known else "is no constraint that is known here",
        holds=known and met,
    )


def _nearest(policy: Policy, identity: Sequence[Policy], call: Call) -> Sequence[Reason]:
    """Of the ways that end at a closed door, those that got furthest."""
    ways = [[reason for reason in way if not reason.holds] for way in _ways(policy, identity, call)]
    least = min((len(way) for way in ways), default=0)
    closest = [reason for way in ways if len(way) == least for reason in way]
    if closest:
        return list(dict.fromkeys(closest))
    named = call.request.principal or "a caller without a name"
    void = [
        Reason(where=statement.where, what=f"{statement.void}, so it has no effect")
        for statement in policy.statements
        if statement.void
    ]
    return [
        Reason(where="Statement", claim="principal", found=named, what=f"no Allow of {call.action} names it"),
        *void,
    ]
