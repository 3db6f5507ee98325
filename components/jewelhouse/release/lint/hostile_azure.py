"""Tokens that a Key Vault release policy should not release to, made from the policy itself.

Hypothetical evidence: what attestation would have to sign, taken as signed. Each is the token that an
alternative asks for, changed the way of one attack or mistake. Loaded only to look for counter-examples, and
in tests.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jewelhouse.evidence.verdict import Finding, Kind, Verdict
from jewelhouse.release import azure_grammar
from jewelhouse.release.azure_grammar import Condition
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate
from jewelhouse.release.lint.azure_reading import (
    BOOT_CHAIN,
    COMPLIANCE,
    CVM,
    GUEST,
    HOSTDATA,
    LAUNCH,
    NESTED,
    POLICY_HASH,
    SGX,
    SGX_DEBUG,
    SNP,
    SNP_DEBUG,
    TDX,
    TDX_DEBUG,
    TYPE,
    UVM,
    VMPL,
    Alternative,
    Shape,
    alternatives,
)

# A moment that stays, so that findings do not change from run to run.
MOMENT = datetime(2026, 11, 1, tzinfo=UTC)
LIFE = timedelta(hours=8)
# The shape of an RSA key of 2048 bits: nothing is ever wrapped to it.
KEK: Mapping[str, Any] = {
    "kid": "TpmEphemeralEncryptionKey",
    "kty": "RSA",
    "key_ops": ["encrypt"],
    "e": "AQAB",
    "n": "3" * 342,
}
OTHER_AUTHORITY = "https://elsewhere.weu.attest.azure.net"
TEST_RING = "https://sharedweu.weu.test.attest.azure.net"
OTHER = "another value"
REMOVED = object()

_SNP: Mapping[str, Any] = {
    SNP_DEBUG: False,
    HOSTDATA: "0" * 64,
    LAUNCH: "ad" * 48,
    "x-ms-sevsnpvm-guestsvn": 2,
    "x-ms-sevsnpvm-migration-allowed": False,
    VMPL: 0,
}
_TDX: Mapping[str, Any] = {
    "attester_tcb_status": "UpToDate",
    "dbgstat": "disabled",
    "tdx_mrtd": "5a" * 48,
    TDX_DEBUG: False,
}


def token(one: Alternative, *, at: datetime = MOMENT) -> Verdict:
    """The token that meets an alternative and is in order otherwise."""
    authority = one.entry.authority or OTHER_AUTHORITY
    body: dict[str, Any] = dict(_TDX if one.tee == TDX else {SGX_DEBUG: False} if one.tee == SGX else _SNP)
    body[TYPE] = one.tee or SNP
    if one.tee != SGX:
        body[COMPLIANCE] = UVM if one.container else CVM
    claims: dict[str, Any] = {
        "iss": authority,
        "iat": int(at.timestamp()),
        "exp": int((at + LIFE).timestamp()),
        POLICY_HASH: "a-hash-of-some-policy",
        "x-ms-runtime": {"keys": [dict(KEK)]},
    }
    if one.shape is Shape.GUEST or (one.shape is Shape.ANY and not one.families):
        claims |= {name: value == "true" for name, value in BOOT_CHAIN.items()}
        claims |= {TYPE: GUEST, NESTED.removesuffix("."): body}
    else:
        claims |= body
    for condition in one.term:
        put(claims, condition.claim, _meeting(condition))
    return _verdict(claims, at)


def _meeting(condition: Condition) -> Any:
    """A value that meets a condition, in the JSON type that attestation gives it."""
    text = condition.text
    number = azure_grammar.number(text)
    if condition.operator == "exists":
        return "there"
    if condition.operator == "notEquals":
        return OTHER
    if condition.operator in ("less", "greater") and number is not None:
        text = str(number + (1 if condition.operator == "greater" else -1))
    if text in ("true", "false"):
        return text == "true"
    return (
        int(text)
        if len(text) < 10 and text.removeprefix("-").isdecimal() and text == str(int(text))
        else text
    )


def put(claims: dict[str, Any], path: str, value: Any) -> None:
    """Sets a claim at its path, or removes it (`REMOVED`)."""
    *parents, last = path.split(".")
    place = claims
    for name in parents:
        inner = place.get(name)
        if not isinstance(inner, dict):
            if value is REMOVED:
                return
            inner = place[name] = {}
        place = inner
    if value is REMOVED:
        place.pop(last, None)
    else:
        place[last] = value


def changed(verdict: Verdict, changes: Mapping[str, Any]) -> Verdict:
    claims = copy.deepcopy(dict(verdict.claims))
    for path, value in changes.items():
        put(claims, path, value)
    return _verdict(claims, verdict.at)


def _verdict(claims: Mapping[str, Any], at: datetime) -> Verdict:
    nested = claims.get(NESTED.removesuffix("."))
    body = nested if isinstance(nested, Mapping) else claims
    debug = body.get(SNP_DEBUG) is True or body.get(TDX_DEBUG) is True or body.get(SGX_DEBUG) is True
    return Verdict(
        kind=Kind.MAA, verified=True, debug=debug, at=at, issued=at, expires=at + LIFE, claims=claims
    )


def counterexample(
    document: Document, one: Alternative, changes: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """The token of an alternative with some claims changed, when the policy releases to it; else None."""
    verdict = changed(token(one), changes or {})
    decision = evaluate(document, verdict, Request(at=verdict.at))
    if not decision.released:
        return None
    return {
        "evidence": {"kind": verdict.kind.value, "debug": verdict.debug, "claims": dict(verdict.claims)},
        "principal": None,
        "because": [reason.json() for reason in decision.because],
    }


def debugged(one: Alternative) -> dict[str, Any]:
    """What the token of a debuggable machine says.

    A TD has `azure-compliant-cvm` only without debug, and no published token of a guest shows under which
    name it says debug: so both change.
    """
    prefix = NESTED if one.shape is Shape.GUEST else ""
    if one.tee == SGX:
        return {SGX_DEBUG: True}
    if one.tee == TDX:
        return {
            f"{prefix}{TDX_DEBUG}": True,
            f"{prefix}dbgstat": "enabled",
            f"{prefix}{COMPLIANCE}": REMOVED,
        }
    return {f"{prefix}{SNP_DEBUG}": True}


def hostile(document: Document) -> Iterator[tuple[str, Verdict | None, Request]]:
    """Named hostile evidence for a policy: the name says which attack or mistake it is.

    A policy that lints clean releases to none of it.
    """
    request = Request(at=MOMENT)
    yield "no evidence at all", None, request
    for one in alternatives(document):
        good = token(one)
        for name, changes in _attacks(one):
            yield f"{name} [{one.where}]", changed(good, changes), request
        yield f"flat and nested claims swapped [{one.where}]", _swapped(good), request
        yield f"expired [{one.where}]", good, Request(at=MOMENT + LIFE)
        yield f"from the future [{one.where}]", good, Request(at=MOMENT - timedelta(seconds=1))
        yield f"another kind of evidence [{one.where}]", replace(good, kind=Kind.GCE_VM), request
        forged = replace(good, verified=False, problems=(Finding("signature", "is not by its key"),))
        yield f"signature not verified [{one.where}]", forged, request
        for condition in one.term:
            for name, value in (("changed", OTHER), ("empty", ""), ("removed", REMOVED)):
                if condition.operator in ("equals", "exists") and not (
                    condition.operator == "exists" and value is not REMOVED
                ):
                    changes = {condition.claim: value}
                    yield f"{condition.claim} {name} [{one.where}]", changed(good, changes), request


def _attacks(one: Alternative) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "a debuggable machine", debugged(one)
    yield "a token of another authority", {"iss": OTHER_AUTHORITY}
    yield "a token of the test ring", {"iss": TEST_RING}
    yield "a look-alike authority", {"iss": f"{one.entry.authority}.example.org"}
    yield "no authority", {"iss": REMOVED}
    yield "no runtime keys", {"x-ms-runtime": REMOVED}
    yield "no key in the runtime keys", {"x-ms-runtime.keys": []}
    yield "a key for signatures alone", {"x-ms-runtime.keys": [{**KEK, "key_ops": ["sign"]}]}
    yield "an elliptic key", {"x-ms-runtime.keys": [{**KEK, "kty": "EC"}]}
    if one.shape is Shape.GUEST:
        yield (
            "only the vTPM has a key for encryption",
            {"x-ms-runtime.keys": [], f"{NESTED}x-ms-runtime.keys": [dict(KEK)]},
        )
        yield "secure boot off", {"secureboot": False}
        yield "a VM that is not confidential", {NESTED.removesuffix("."): REMOVED}
    if one.container:
        yield "another container policy", {HOSTDATA: "e" * 64}
        yield "a VM's hostdata", {HOSTDATA: "0" * 64}
        # The container's own level; below it code runs that attestation did not measure.
        yield "code of a lower privilege level", {VMPL: 1}
        yield "a VM in place of a container", {COMPLIANCE: CVM, HOSTDATA: "0" * 64}
    prefix = NESTED if one.shape is Shape.GUEST else ""
    yield "a platform that is not compliant", {f"{prefix}{COMPLIANCE}": REMOVED}
    if POLICY_HASH in one.pins:
        yield "the provider's policy was loosened", {POLICY_HASH: "the-hash-of-a-looser-policy"}


def _swapped(verdict: Verdict) -> Verdict:
    """The token of the other shape: same claims, where the other kind of token has them."""
    claims = copy.deepcopy(dict(verdict.claims))
    nested = claims.pop(NESTED.removesuffix("."), None)
    if isinstance(nested, dict):
        claims = {**claims, **nested}
    else:
        body = {name: claims.pop(name) for name in list(claims) if name in _SNP or name in _TDX}
        for name in (TYPE, COMPLIANCE):
            if name in claims:
                body[name] = claims.pop(name)
        claims |= {TYPE: GUEST, NESTED.removesuffix("."): body}
    return _verdict(claims, verdict.at)
