"""Cloud KMS behind a workload identity pool, as Google decides: token, provider, mapping, condition, binding.

Security Token Service exchanges the token when the provider takes its issuer and audience, every mapped
attribute has a value and the condition is true; IAM then looks for a binding on the key that names what the
mapping made of the token, with a role that decrypts and a condition that is true. Sources:
docs.cloud.google.com/iam/docs/workload-identity-federation, .../iam/docs/conditions-attribute-reference,
.../kms/docs/reference/permissions-and-roles, IAM API v1 WorkloadIdentityPoolProvider, 2026-04.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from jewelhouse.evidence.verdict import Kind, Verdict, moment
from jewelhouse.release import gcp_facts
from jewelhouse.release.cel import CelError, Many, Node, parse
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import cel
from jewelhouse.release.evaluate.decision import Decision, Reason, Request, denied
from jewelhouse.release.evaluate.gcp_clauses import Part, described, part, reason
from jewelhouse.release.gcp_claims import expression
from jewelhouse.release.gcp_facts import ATTRIBUTE, DECRYPTING, LIMITS, OTHER_ROLES, Binding, Provider

TOKENS = (Kind.CONFIDENTIAL_SPACE, Kind.GCE_VM)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A document made ready: what Google would refuse to store, and its expressions compiled.

    `parts` are the conjuncts of the condition for the report; the condition itself is judged as a whole.
    `nested`: whether it names mapped attributes. `open`: whether a binding asks for no token.
    """

    provider: Provider
    refused: tuple[Reason, ...]
    mapping: tuple[tuple[str, Any], ...]
    condition: Any
    parts: tuple[Part, ...]
    nested: bool
    open: bool
    foreign: frozenset[str]


def evaluate(document: Document, verdict: Verdict | None, request: Request) -> Decision:
    """Whether Cloud KMS would decrypt for whoever shows this token, or asks without one."""
    plan = _plan(document.body)
    near: tuple[Reason, ...] = ()
    if plan.open:
        near = tuple(_without_token(plan.provider, request))
        if near and near[-1].holds:
            return Decision(released=True, because=near[-1:], evidence=verdict, at=request.at)
    if verdict is None:
        nothing = Reason(where="evidence", what="there is none, and the key is bound to attested code")
        return denied(None, request.at, nothing, *near)
    against = [*plan.refused, *_of_the_token(verdict, request)]
    if against:
        return denied(verdict, request.at, *against)
    claims = verdict.claims
    reasons = [_issuer(plan.provider, claims), _audience(plan.provider, claims)]
    values = cel.activation(cel.PROVIDER, {"assertion": claims})
    attributes = _mapped(plan, values, claims, against)
    if plan.nested and not against:
        values = cel.activation(cel.PROVIDER, {"assertion": claims, **_nested(attributes)})
    if plan.condition is None:
        reasons.append(
            Reason(where="condition", what="there is none: every token of the issuer passes", holds=True)
        )
    elif cel.run(plan.condition, values) is True:
        for one in plan.parts:
            _met(one, values, claims, reasons)
    else:
        against += _unmet(plan, values, claims)
    against = [*(one for one in reasons if not one.holds), *against]
    if against:
        return denied(verdict, request.at, *against)
    return _bound(plan, attributes, reasons, verdict, request)


def holds(path: str, value: str | None, claims: Mapping[str, Any]) -> bool:
    """Whether a token has what a claim of an opening asks of it."""
    values = cel.activation(cel.PROVIDER, {"assertion": claims})
    return cel.run(cel.compiled(cel.PROVIDER, expression(path, value)), values) is True


def _plan(body: Mapping[str, Any]) -> Plan:
    mapping, audiences = body.get("mapping"), body.get("audiences")
    try:
        # Keyed by what the document says and not by the object, which may be changed between two questions.
        return _planned(
            body.get("issuer"),
            tuple(audiences) if isinstance(audiences, list) else audiences,
            tuple(mapping.items()) if isinstance(mapping, Mapping) else mapping,
            body.get("condition"),
            _frozen(body.get("bindings")),
            tuple((name, body[name]) for name in ("disabled", "state", "jwks", "pool") if name in body),
        )
    except TypeError:
        # Something in it is no text where Google has text.
        return _prepared(gcp_facts.provider(body))


def _frozen(bindings: Any) -> Any:
    if not isinstance(bindings, list | tuple):
        return bindings
    return tuple(
        (
            one.get("role"),
            tuple(one["members"]) if isinstance(one.get("members"), list | tuple) else one.get("members"),
            condition.get("expression") if isinstance(condition := one.get("condition"), dict) else condition,
        )
        if isinstance(one, dict)
        else one
        for one in bindings
    )


@lru_cache(maxsize=256)
def _planned(issuer: Any, audiences: Any, mapping: Any, condition: Any, bindings: Any, more: Any) -> Plan:
    document = {
        "issuer": issuer,
        "audiences": audiences,
        "mapping": dict(mapping) if isinstance(mapping, tuple) else mapping,
        "condition": condition,
        "bindings": [
            {"role": one[0], "members": one[1], **({} if one[2] is None else {"condition": one[2]})}
            if isinstance(one, tuple)
            else one
            for one in bindings
        ]
        if isinstance(bindings, tuple)
        else bindings,
        **dict(more),
    }
    return _prepared(
        gcp_facts.provider({name: value for name, value in document.items() if value is not None})
    )


def _prepared(provider: Provider) -> Plan:
    condition = provider.condition
    found: list[Part] = []
    if condition:
        try:
            tree = parse(condition)
            conjuncts = tree.operands if isinstance(tree, Many) and tree.operator == "&&" else (tree,)
            for number, one in enumerate(conjuncts):
                found.append(part(one, f"condition[{number}]" if len(conjuncts) > 1 else "condition"))
        except CelError:
            found.append(Part(where="condition", text=condition))
    return Plan(
        provider=provider,
        refused=tuple(_refused(provider)),
        mapping=tuple(
            (name, cel.compiled(cel.PROVIDER, expression)) for name, expression in provider.mapping.items()
        ),
        condition=cel.compiled(cel.PROVIDER, condition) if condition else None,
        parts=tuple(found),
        nested=any({"attribute", "google"} & one.names for one in found) or not found,
        open=any(
            not one.rest
            for binding in provider.bindings
            if binding.role in DECRYPTING
            for one in binding.members
        ),
        foreign=provider.foreign,
    )


def _refused(provider: Provider) -> Iterator[Reason]:
    """What Google would not store, or nothing could be exchanged with."""
    for what in provider.strange:
        where, _, why = what.partition(": ")
        yield Reason(where=where, what=why)
    if provider.disabled:
        yield Reason(where="disabled", what="the provider is disabled or deleted")
    if provider.keys:
        yield Reason(
            where="jwks",
            what="the provider verifies tokens with uploaded keys; this one verified with Google's",
        )
    if "google.subject" not in provider.mapping:
        yield Reason(where="mapping", expected="google.subject", what="a provider must map google.subject")
    if len(provider.mapping) > LIMITS["attributes"]:
        yield Reason(where="mapping", what=f"{len(provider.mapping)} attributes, Google takes 50")
    for where, text, limit in (
        ("condition", provider.condition, LIMITS["condition"]),
        *((f"mapping.{name}", one, LIMITS["mapping"]) for name, one in provider.mapping.items()),
    ):
        if len(text) > limit:
            yield Reason(where=where, what=f"{len(text)} characters, Google takes {limit}")
            continue
        compiled = cel.compiled(cel.PROVIDER, text) if text else None
        if isinstance(compiled, cel.Failure):
            yield Reason(where=where, what=f"does not compile: {compiled.what}")
        elif where != "condition" and not text:
            yield Reason(where=where, what="maps nothing")
    for name in provider.mapping:
        if not ATTRIBUTE.fullmatch(name) or len(name) > LIMITS["name"]:
            yield Reason(where=f"mapping.{name}", what="is no attribute that Google knows")


def _of_the_token(verdict: Verdict, request: Request) -> Iterator[Reason]:
    if verdict.kind not in TOKENS:
        yield Reason(
            where="evidence",
            expected="a token of Google Cloud Attestation",
            found=verdict.kind.value,
            what="Security Token Service takes tokens, no evidence of hardware",
        )
    if verdict.expires is not None and request.at >= verdict.expires:
        yield Reason(
            where="evidence",
            claim="assertion.exp",
            expected=f"after {moment(request.at)}",
            found=moment(verdict.expires) or "",
            what="the token has expired",
        )
    if verdict.issued is not None and request.at < verdict.issued:
        yield Reason(
            where="evidence",
            claim="assertion.iat",
            expected=f"not after {moment(request.at)}",
            found=moment(verdict.issued) or "",
            what="the token is from later than the request",
        )


def _issuer(provider: Provider, claims: Mapping[str, Any]) -> Reason:
    issuer = claims.get("iss")
    expected = gcp_facts.issuer_of(provider.issuer)
    if not isinstance(issuer, str):
        return reason("issuer", "assertion.iss", expected, "absent", "", False)
    holds = bool(expected) and gcp_facts.issuer_of(issuer) == expected
    return reason("issuer", "assertion.iss", expected, issuer, "", holds)


def _audience(provider: Provider, claims: Mapping[str, Any]) -> Reason:
    audience = claims.get("aud")
    found = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
    return reason(
        "audiences",
        "assertion.aud",
        " or ".join(provider.audiences) or "the provider's own name, which is not in the document",
        ", ".join(map(str, found)) or "absent",
        "",
        any(one in provider.audiences for one in found if isinstance(one, str)),
    )


def _mapped(
    plan: Plan, values: Any, claims: Mapping[str, Any], against: list[Reason]
) -> dict[str, str | list[str]]:
    """The attributes of the token; what stands against its exchange is added to `against`."""
    found: dict[str, str | list[str]] = {}
    size = 0
    for name, program in plan.mapping:
        value = cel.run(program, values)
        where = f"mapping.{name}"
        if isinstance(value, str) and name != "google.groups":
            length = len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
            size += length
            found[name] = value
            if name == "google.subject" and not 0 < length <= LIMITS["subject"]:
                what = "every exchange fails"
                against.append(
                    Reason(where=where, expected="1 to 127 bytes", found=f"{length} bytes", what=what)
                )
        elif name == "google.groups" and isinstance(value, list) and all(isinstance(v, str) for v in value):
            size += sum(map(len, value))
            found[name] = value
        else:
            against.append(_without_value(where, plan.provider.trees.get(where), value, claims))
    if size > LIMITS["mapped"]:
        against.append(Reason(where="mapping", expected="8192 bytes at most", found=f"{size} bytes"))
    return found


def _without_value(where: str, tree: Node | None, value: Any, claims: Mapping[str, Any]) -> Reason:
    if not isinstance(value, cel.Failure):
        return Reason(where=where, expected="a text", found=type(value).__name__, what="is no text")
    one = Part(where=where, text=value.what) if tree is None else part(tree, where)
    missing = next(iter(one.absent(claims)), None)
    return Reason(
        where=where,
        claim=missing or "",
        expected="a value",
        found="absent" if missing else "",
        what=f"claim {missing} is absent" if missing else value.what,
    )


def _nested(attributes: Mapping[str, str | list[str]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"google": {}, "attribute": {}}
    for name, value in attributes.items():
        space, _, last = name.partition(".")
        found[space][last] = value
    return found


def _met(one: Part, values: Any, claims: Mapping[str, Any], reasons: list[Reason]) -> None:
    """Adds the clauses of a part that holds: of alternatives the first that does."""
    if one.operator == "||":
        for inner in one.inner:
            if cel.run(cel.compiled(cel.PROVIDER, inner.text), values) is True:
                return _met(inner, values, claims, reasons)
    if one.operator == "&&":
        for inner in one.inner:
            _met(inner, values, claims, reasons)
    else:
        reasons.append(described(one, claims, True))
    return None


def _unmet(plan: Plan, values: Any, claims: Mapping[str, Any]) -> list[Reason]:
    """Of a condition that is not true: the conjuncts that are not, and of alternatives the nearest."""
    found = [failed for one in plan.parts for failed in _failing(one, values, claims)]
    return found or [Reason(where="condition", expected="true", what="the condition is not true")]


def _failing(one: Part, values: Any, claims: Mapping[str, Any]) -> list[Reason]:
    result = cel.run(cel.compiled(cel.PROVIDER, one.text), values)
    if result is True:
        return []
    if one.operator == "&&":
        return [failed for inner in one.inner for failed in _failing(inner, values, claims)]
    if one.operator == "||":
        return min((_failing(inner, values, claims) for inner in one.inner), key=len)
    if isinstance(result, cel.Failure):
        missing = next(iter(one.absent(claims)), None)
        what = f"claim {missing} is absent" if missing else result.what
        return [described(one, claims, False, what=what)]
    return [described(one, claims, False)]


def _without_token(provider: Provider, request: Request) -> Iterator[Reason]:
    """Bindings that ask for no attestation: anybody, or the caller by name."""
    named = {"allUsers"}
    if request.principal is not None:
        named |= {request.principal, "allAuthenticatedUsers"}
    for binding in provider.bindings:
        met = [one.text for one in binding.members if not one.rest and one.text in named]
        if met and binding.role in DECRYPTING:
            during = _condition(binding, request)
            if during is None or during.holds:
                what = f"{met[0]} may decrypt without any evidence"
                yield Reason(where=binding.where, expected=met[0], found=met[0], what=what, holds=True)
                return
            yield during


def _bound(
    plan: Plan,
    attributes: Mapping[str, str | list[str]],
    reasons: Iterable[Reason],
    verdict: Verdict,
    request: Request,
) -> Decision:
    """The binding that names what the mapping made of the token."""
    principals = {"*"}
    for name, value in attributes.items():
        if name == "google.subject":
            principals.add(f"subject/{value}")
        elif name == "google.groups":
            principals.update(f"group/{one}" for one in value)
        else:
            principals.add(f"{name}/{value}")
    near: list[Reason] = []
    far: list[Reason] = []
    for binding in plan.provider.bindings:
        met = next((one for one in binding.members if one.rest in principals), None)
        if met is None:
            far += _other_members(binding, attributes)
        elif binding.role not in DECRYPTING:
            what = OTHER_ROLES.get(binding.role, "it is not known to decrypt")
            near.append(reason(binding.where, "", "a role that decrypts", binding.role, what, False))
        elif met.pool in plan.foreign:
            what = "is not known to be the pool of this provider"
            near.append(reason(binding.where, "", "", met.pool, what, False))
        else:
            name, _, value = met.rest.partition("/")
            held = reason(binding.where, name, value, value, "", True)
            during = _condition(binding, request)
            if during is None or during.holds:
                because = (*reasons, held) if during is None else (*reasons, held, during)
                return Decision(released=True, because=because, evidence=verdict, at=request.at)
            near.append(during)
    nothing = [Reason(where="bindings", what="the key has no binding for attested code")]
    return denied(verdict, request.at, *(near or far or nothing))


def _other_members(binding: Binding, attributes: Mapping[str, str | list[str]]) -> Iterator[Reason]:
    if binding.role not in DECRYPTING:
        return
    wanted: dict[str, list[str]] = {}
    for one in binding.members:
        if one.rest:
            name, _, value = one.rest.partition("/")
            name = {"subject": "google.subject", "group": "google.groups"}.get(name, name)
            wanted.setdefault(name, []).append(value)
    for name, values in wanted.items():
        value = attributes.get(name, "not mapped")
        found = value if isinstance(value, str) else ", ".join(value)
        yield reason(binding.where, name, " or ".join(values), found, "", False)


def _condition(binding: Binding, request: Request) -> Reason | None:
    """The condition of a binding at the moment of the request; None where it has none."""
    if not binding.condition:
        return None
    data: dict[str, Any] = {"request.time": request.at}
    for name in ("resource.name", "resource.type", "resource.service"):
        given = request.context.get(name, ())
        if len(given) == 1:
            data[name] = given[0]
    result = cel.run(cel.compiled(cel.BINDING, binding.condition), data)
    what = result.what if isinstance(result, cel.Failure) else ""
    if "No value with name" in what:
        what = "says something of the resource: name it with --context resource.name=..."
    claim = "request.time" if "request.time" in binding.condition else ""
    where = f"{binding.where}.condition"
    return reason(where, claim, binding.condition, _moment(request.at), what, result is True)


@lru_cache(maxsize=64)
def _moment(at: datetime) -> str:
    return moment(at) or ""
