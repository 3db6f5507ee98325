"""Would Key Vault release a key of this release policy to this token of Azure Attestation?

Decided as MicrosoftDocs/azure-security-docs articles/key-vault/includes/key-management-policy-grammar.md
(2023-07-20) says, and narrower where it is silent (`release.azure_grammar`). Not decided here: who may ask, a
role assignment on the key.

Operators other than `equals` are judged as the grammar means them and marked in the decision: the page lists
them and says that only `equals` is allowed today.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jewelhouse.evidence.verdict import Kind, Verdict, moment
from jewelhouse.release import azure_grammar
from jewelhouse.release.azure_grammar import Condition, Entry, Group, Node, shown
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate.decision import Decision, Reason, Request, denied

KEYS = "x-ms-runtime.keys"
# Key Vault takes RSA keys of 2048 bits and more: learn.microsoft.com/azure/key-vault/keys/about-keys.
KEK_BITS = 2048
AS_TEXT = (
    "compared by its text: the policy has {policy}, the token {token}; Microsoft's samples pin booleans and "
    "numbers as strings (microsoft/confidential-sidecar-containers: examples/skr/aci/importkeyconfig.json), "
    "and no page says how Key Vault converts"
)
ONLY_EQUALS = (
    "{operator} is in the grammar, and its page says that only equals is allowed today "
    "(learn.microsoft.com/azure/key-vault/keys/policy-grammar): whether Key Vault honours it is not known"
)
# Near misses beyond this explain nothing.
SHOWN = 4
UVM, CVM = "azure-compliant-uvm", "azure-compliant-cvm"


@dataclass(frozen=True)
class Walk:
    """How far a token gets through a node: the clauses that decided, and how many of them it fails."""

    missing: int
    reasons: tuple[Reason, ...]


def evaluate(document: Document, verdict: Verdict | None, request: Request) -> Decision:
    """The decision of Key Vault on a token. Never raises for what is in document or token."""
    against = _evidence(verdict, request)
    if verdict is None or against:
        return denied(verdict, request.at, *against)
    policy = azure_grammar.read(document.body)
    if policy.flaws:
        return denied(
            verdict,
            request.at,
            *(Reason(where=flaw.where, what=flaw.what) for flaw in policy.flaws),
            Reason(
                where="$", what="a document outside the grammar is no release policy and releases nothing"
            ),
        )
    key = encryption_key(verdict.claims)
    issuer = azure_grammar.issuer(verdict.claims.get("iss"))
    walks: list[Walk] = []
    for entry in policy.entries:
        if issuer is None or entry.authority != issuer:
            continue
        walk = _walk(entry.body, verdict.claims)
        if not walk.missing and key.holds:
            because = (_authority(entry, verdict), *walk.reasons, key)
            return Decision(
                released=True,
                because=because,
                evidence=verdict,
                at=request.at,
                proofs=_proofs(walk.reasons),
            )
        walks.append(
            Walk(walk.missing, (_authority(entry, verdict), *walk.reasons)) if walk.missing else Walk(0, ())
        )
    reasons = () if key.holds else (key,)
    if not walks:
        return denied(verdict, request.at, *reasons, *_strangers(policy.entries, verdict))
    return denied(verdict, request.at, *reasons, *_nearest(walks).reasons)


def _evidence(verdict: Verdict | None, request: Request) -> tuple[Reason, ...]:
    """What stands against the evidence as a whole, whatever the policy."""
    if verdict is None:
        return (
            Reason(where="evidence", what="Key Vault releases to a token of attestation, and there is none"),
        )
    found: list[Reason] = []
    if not verdict.verified:
        found.append(
            Reason(where="evidence", what="it could not be verified, so nothing that it claims counts")
        )
    if verdict.kind is not Kind.MAA:
        found.append(
            Reason(
                where="evidence",
                claim="kind",
                expected=Kind.MAA.value,
                found=verdict.kind.value,
                what="Key Vault reads tokens of Azure Attestation",
            )
        )
    if verdict.expires is not None and request.at >= verdict.expires:
        found.append(
            Reason(
                where="evidence",
                claim="exp",
                expected=f"after {moment(request.at)}",
                found=str(moment(verdict.expires)),
                what="the token is expired at the time of the request",
            )
        )
    if verdict.issued is not None and request.at < verdict.issued:
        found.append(
            Reason(
                where="evidence",
                claim="iat",
                expected=f"not after {moment(request.at)}",
                found=str(moment(verdict.issued)),
                what="the token is not yet valid at the time of the request",
            )
        )
    return tuple(found)


def encryption_key(claims: Mapping[str, Any]) -> Reason:
    """Whether a token holds the key that a released one is wrapped to: in its top-level `x-ms-runtime.keys`,
    the first with `key_use` "enc" or `key_ops` with "encrypt". It must be RSA and have a kid.

    The vTPM's keys below `x-ms-isolation-tee` do not count: MicrosoftDocs/azure-docs
    articles/confidential-computing/skr-flow-confidential-vm-sev-snp.md.
    """
    wanted = "an RSA key for encryption"
    runtime = claims.get("x-ms-runtime")
    keys = runtime.get("keys") if isinstance(runtime, Mapping) else None
    for index, key in enumerate(keys if isinstance(keys, list | tuple) else ()):
        operations = key.get("key_ops") if isinstance(key, Mapping) else None
        if not isinstance(key, Mapping) or not (
            key.get("key_use") == "enc" or (isinstance(operations, list | tuple) and "encrypt" in operations)
        ):
            continue
        place = f"{KEYS}[{index}]"
        kid = key.get("kid")
        bits = _bits(key.get("n"))
        wrong = (
            (key.get("kty") != "RSA", f"its kty is {shown(key.get('kty'))}"),
            (not isinstance(kid, str) or not kid, "it has no kid"),
            (bits < KEK_BITS or _bits(key.get("e")) < 2, f"its modulus has {bits} bits"),
        )
        problems = ", ".join(what for is_wrong, what in wrong if is_wrong)
        if problems:
            return Reason(
                where="evidence",
                claim=place,
                expected=wanted,
                found=str(kid),
                what=f"the first key for encryption is no use to Key Vault: {problems}",
            )
        return Reason(where="evidence", claim=place, expected=wanted, found=str(kid), holds=True)
    return Reason(
        where="evidence",
        claim=KEYS,
        expected=wanted,
        what="the token has no encryption key, so there is nothing to wrap a released key to, whatever the "
        "policy says",
    )


def _bits(value: object) -> int:
    """Size of a base64url number of a JWK, 0 for what is none."""
    if not isinstance(value, str) or len(value) > 4096:
        return 0
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return 0
    return int.from_bytes(raw).bit_length()


def _authority(entry: Entry, verdict: Verdict) -> Reason:
    found = str(verdict.claims.get("iss"))
    matches = entry.authority is not None and entry.authority == azure_grammar.issuer(found)
    literal = entry.written == found
    return Reason(
        where=f"{entry.where}.authority",
        claim="iss",
        expected=entry.written,
        found=found,
        what="compared without scheme, trailing slash and case" if matches and not literal else "",
        holds=matches,
    )


def _strangers(entries: tuple[Entry, ...], verdict: Verdict) -> tuple[Reason, ...]:
    """No authority of the policy made this token."""
    shown_ = tuple(_authority(entry, verdict) for entry in entries[:SHOWN])
    more = f", among {len(entries)}" if len(entries) > SHOWN else ""
    return (
        *shown_,
        Reason(
            where="anyOf",
            claim="iss",
            found=str(verdict.claims.get("iss")),
            what=f"none of the authorities{more} is the issuer of the token",
        ),
    )


def _walk(node: Node, claims: Mapping[str, Any]) -> Walk:
    if isinstance(node, Condition):
        reason = _condition(node, claims)
        return Walk(0 if reason.holds else 1, (reason,))
    if not isinstance(node, Group):
        return Walk(1, (Reason(where=node.where, what="is outside the grammar, so nothing meets it"),))
    walks = [_walk(part, claims) for part in node.parts]
    if node.kind == "anyOf":
        met = next((walk for walk in walks if not walk.missing), None)
        return met or _nearest(walks)
    missing = sum(walk.missing for walk in walks)
    kept = [walk for walk in walks if walk.missing] if missing else walks
    return Walk(missing, tuple(reason for walk in kept for reason in walk.reasons))


def _nearest(walks: list[Walk]) -> Walk:
    """Of alternatives that all fail, those that miss least."""
    least = min(walk.missing for walk in walks)
    near = [walk for walk in walks if walk.missing == least][:SHOWN]
    return Walk(least, tuple(dict.fromkeys(reason for walk in near for reason in walk.reasons)))


def _condition(condition: Condition, claims: Mapping[str, Any]) -> Reason:
    value, absence = _found(claims, condition.claim)
    text = None if absence else azure_grammar.text_of(value)
    notes = [ONLY_EQUALS.format(operator=condition.operator)] if condition.operator != "equals" else []
    met = text is not None and azure_grammar.holds(condition.operator, condition.text, text)
    if absence:
        notes.append(absence)
    elif text is None:
        notes.append(f"{shown(value)} cannot be compared")
    elif type(value) is not type(condition.written) and condition.operator != "exists":
        notes.append(AS_TEXT.format(policy=shown(condition.written), token=shown(value)))
    if not met and text is not None and text.casefold() == condition.text.casefold() != text:
        notes.append("differs in case alone, which counts")
    expected = condition.text if condition.operator == "equals" else f"{condition.operator} {condition.text}"
    found = "" if absence else text if text is not None else shown(value)
    return Reason(
        where=condition.where,
        claim=condition.claim,
        expected=expected,
        found=found,
        what="; ".join(notes),
        holds=met,
    )


def _found(claims: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """The value at a claim path, or why there is none. A dot always steps into an object."""
    value: Any = claims
    steps = path.split(".")
    for index, name in enumerate(steps):
        before = ".".join(steps[:index])
        if isinstance(value, list | tuple):
            return None, f"{before} is an array, and claim paths do not lead into arrays"
        if not isinstance(value, Mapping):
            return None, f"{before} has no members"
        if name not in value:
            literal = len(steps) > 1 and path in claims
            hint = "; a claim with dots in its name cannot be named" if literal else ""
            return None, f"the token has no claim {'.'.join(steps[: index + 1])}{hint}"
        value = value[name]
    return value, ""


def _proofs(met: tuple[Reason, ...]) -> dict[str, str]:
    """How far the clauses that were met go, in the words of the release matrix.

    What lies outside of the document, such as roles, is not among them.
    """
    pinned = {reason.claim.removeprefix("x-ms-isolation-tee."): reason.expected for reason in met}
    nested = any(reason.claim.startswith("x-ms-isolation-tee.") for reason in met)
    compliance = pinned.get("x-ms-compliance-status")
    debug_off = compliance == CVM or "false" in (
        pinned.get("x-ms-sevsnpvm-is-debuggable"),
        pinned.get("tdx_td_attributes_debug"),
    )
    image = "x-ms-sevsnpvm-hostdata" in pinned
    unbound = "not-possible" if nested or compliance == CVM else "weakened"
    return {
        "genuine": "enforced" if compliance in (CVM, UVM) else "weakened",
        "debug-off": "enforced" if debug_off else "weakened",
        "firmware": "not-possible",
        "image": "enforced" if image else unbound,
        "config": "enforced" if image else unbound,
        "gpu": "not-possible",
    }
