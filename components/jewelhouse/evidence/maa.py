"""Tokens of Microsoft Azure Attestation: a JWT, RS256, by which Key Vault releases keys.

The signing key is bound to the service's enclave by a saved copy of its issuer's `/certs` (`maa_keys`); `jku`
is compared and never fetched.

Two shapes: `azurevm`, which a confidential VM gets for itself, has the claims of its TEE below
`x-ms-isolation-tee`; the platform's and a confidential container's `sevsnpvm` or `tdxvm` have them on top.
Sources, 2026-11: MicrosoftDocs/azure-security-docs articles/attestation/{claim-sets,
attestation-token-examples, trust-domain-extensions-eat-profile}.md; Azure/
confidential-computing-cvm-guest-attestation: aks-linux-sample/README.md.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jewelhouse.evidence import maa_keys, tokens
from jewelhouse.evidence.maa_keys import ROOTS as ROOTS
from jewelhouse.evidence.maa_keys import Roots as Roots
from jewelhouse.evidence.tokens import Token, member, plain, shown
from jewelhouse.evidence.verdict import (
    NO_ENDORSEMENTS,
    Endorsements,
    Finding,
    Kind,
    MalformedEvidence,
    Verdict,
    moment,
)

ISSUER = re.compile(r"https://[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,3}\.attest\.azure\.net")

_HEX = re.compile(r"[0-9a-fA-F]+")

NESTED = "x-ms-isolation-tee"
GUEST = "azurevm"
TEES = ("sevsnpvm", "tdxvm")
# What a debugger needs, and the value that keeps it out. Guest: claims of Azure's measured boot log.
TEE_DEBUG: Mapping[str, Mapping[str, Any]] = {
    "sevsnpvm": {"x-ms-sevsnpvm-is-debuggable": False},
    "tdxvm": {"tdx_td_attributes_debug": False},
}
GUEST_DEBUG: Mapping[str, bool] = {
    "x-ms-azurevm-bootdebug-enabled": False,
    "x-ms-azurevm-debuggersdisabled": True,
    "x-ms-azurevm-hypervisordebug-enabled": False,
    "x-ms-azurevm-kerneldebug-enabled": False,
}
# Claim -> the name that measurements have, and the bytes of its hexadecimal text.
MEASUREMENTS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "sevsnpvm": {
        "x-ms-sevsnpvm-hostdata": ("hostdata", 32),
        "x-ms-sevsnpvm-launchmeasurement": ("launchmeasurement", 48),
        "x-ms-sevsnpvm-reportdata": ("reportdata", 64),
        "x-ms-sevsnpvm-idkeydigest": ("idkeydigest", 48),
    },
    "tdxvm": {
        "tdx_mrtd": ("mrtd", 48),
        **{f"tdx_rtmr{number}": (f"rtmr{number}", 48) for number in range(4)},
        "tdx_mrseam": ("mrseam", 48),
        "tdx_report_data": ("reportdata", 64),
    },
}


@dataclass(frozen=True, kw_only=True)
class ReleaseKey:
    """The key of the token that Key Vault would wrap a released key to. where: its claim path; numbers: its
    modulus and exponent."""

    kid: str
    numbers: tuple[int, int]
    where: str

    @property
    def bits(self) -> int:
        return self.numbers[0].bit_length()


def parse(data: bytes) -> Token:
    """The token, unverified. Raises MalformedEvidence for what is no JWT, or none of Azure Attestation."""
    token = tokens.read(data)
    issuer = token.claims.get("iss")
    if not any(name.startswith("x-ms-") for name in token.claims) and not (
        isinstance(issuer, str) and ".attest.azure.net" in issuer
    ):
        raise MalformedEvidence("has no claim of Microsoft Azure Attestation", where="token.payload")
    return token


def verify(
    data: bytes,
    *,
    at: datetime | None,
    endorsements: Endorsements = NO_ENDORSEMENTS,
    nonce: bytes | None = None,
    roots: Roots = ROOTS,
) -> Verdict:
    """Verifies a token with a saved copy of its issuer's `/certs` among the endorsements.

    `nonce`: what the attester was asked to put into the token. Raises MalformedEvidence for bytes that are no
    such token; all else is in the verdict.
    """
    token = parse(data)
    problems: list[Finding] = []
    checked: list[str] = []
    claims = token.claims
    tokens.check_header(token, problems)
    issuer = _issuer(token, problems)
    times = tokens.check_times(claims, at, problems)
    chain = _signature(token, issuer, times.at, endorsements, roots, problems, checked)
    tee, where = _shape(claims, problems)
    body = member(claims, *where)
    debug = _debug(tee, body, claims, where, problems)
    measurements = _measurements(tee, body, where, problems)
    if claims.get("x-ms-policy-hash") is not None:
        policy = tokens.text(claims, ("x-ms-policy-hash",), problems)
        measurements |= {"x-ms-policy-hash": policy} if policy else {}
    bound = _nonce(claims, nonce, problems, checked)
    key = release_key(claims)
    checked.append(
        f"Key Vault would wrap to {key.where} {plain(key.kid)} (RSA {key.bits})"
        if key
        else "no RSA key for encryption in x-ms-runtime.keys: Key Vault releases nothing to this token"
    )
    return Verdict(
        kind=Kind.MAA,
        verified=not problems,
        debug=debug,
        at=times.at,
        issued=times.issued,
        expires=times.expires,
        chain=chain,
        measurements=measurements,
        claims=claims,
        nonce=bound,
        checked=tuple(checked),
        problems=tuple(problems),
    )


def release_key(claims: Mapping[str, Any]) -> ReleaseKey | None:
    """The first RSA key for encryption of the token's own `x-ms-runtime.keys`: `key_use` (or `use`) "enc", or
    `key_ops` with "encrypt". Keys below `x-ms-isolation-tee` do not count: they are the vTPM's.

    Source: MicrosoftDocs/azure-docs articles/confidential-computing/skr-flow-confidential-vm-sev-snp.md.
    """
    keys = member(claims, "x-ms-runtime", "keys")
    for place, key in enumerate(keys if isinstance(keys, list) else ()):
        if not isinstance(key, dict) or key.get("kty") != "RSA":
            continue
        operations = key.get("key_ops")
        if "enc" not in (key.get("key_use"), key.get("use")) and not (
            isinstance(operations, list) and "encrypt" in operations
        ):
            continue
        where = f"x-ms-runtime.keys[{place}]"
        try:
            numbers = tokens.rsa_numbers(key, where)
        except MalformedEvidence:
            # The first is the one that is taken; nothing says that a later one would repair it.
            return None
        kid = key.get("kid")
        named = kid if isinstance(kid, str) else "without kid"
        return ReleaseKey(kid=named, numbers=numbers, where=where)
    return None


def _issuer(token: Token, problems: list[Finding]) -> str | None:
    """`iss`, when it is an instance of the service. `jku` is never fetched, and must be its `/certs`."""
    issuer = tokens.text(token.claims, ("iss",), problems, required=True)
    if issuer is None:
        return None
    if not ISSUER.fullmatch(issuer):
        problems.append(Finding("iss", f"is {shown(issuer)}, expected https://<instance>.attest.azure.net"))
        return None
    if ".test." in issuer:
        problems.append(
            Finding("iss", f"{issuer} is a test ring of the service: its tokens vouch for nothing")
        )
    address = token.header.get("jku")
    if address is not None and address != f"{issuer}/certs":
        problems.append(Finding("header.jku", f"is {shown(address)}, expected {issuer}/certs"))
    return issuer


def _signature(
    token: Token,
    issuer: str | None,
    at: datetime,
    endorsements: Endorsements,
    roots: Roots,
    problems: list[Finding],
    checked: list[str],
) -> tuple[str, ...]:
    """The chain of the key that signed, empty when it does not hold."""
    keys = tokens.jwks(endorsements, problems)
    if issuer is None:
        return ()
    candidates = tokens.named(token, keys, f"{issuer}/certs", problems)
    bound = maa_keys.bound(candidates, issuer, at, roots, problems)
    if bound is None:
        return ()
    kid, enclave = bound.kid, bound.enclave
    if not tokens.signed_by(token, bound.key):
        problems.append(
            Finding("signature", f"is not by {kid}: the token was changed, or the key is another")
        )
        return ()
    if token.header.get("alg") != tokens.ALGORITHM:
        return ()
    checked.append(f"signature {tokens.ALGORITHM} by {kid} of {issuer}")
    checked.append(
        f"the key is held by SGX enclave {enclave.enclave} of signer {enclave.signer}, as observed at Azure "
        "Attestation; quote signed under Intel's root"
    )
    if enclave.renewed > at:
        checked.append(f"the quote was renewed on {moment(enclave.renewed)}, after the moment of appraisal")
    checked.append("not verified offline: Intel's TCB level and revocation for that quote")
    return (f"{issuer} kid {kid}", *enclave.chain)


def _shape(claims: Mapping[str, Any], problems: list[Finding]) -> tuple[str | None, tuple[str, ...]]:
    """Type of the TEE, and below which claim its own claims stand."""
    outer = tokens.text(claims, ("x-ms-attestation-type",), problems, required=True)
    where: tuple[str, ...] = ()
    tee = outer
    if outer == GUEST:
        where = (NESTED,)
        if not isinstance(claims.get(NESTED), Mapping):
            problems.append(
                Finding(NESTED, f"is {shown(claims.get(NESTED))}: the VM has no TEE, it is not confidential")
            )
            return None, where
        tee = tokens.text(claims, (NESTED, "x-ms-attestation-type"), problems, required=True)
    elif NESTED in claims:
        problems.append(Finding(NESTED, f"stands in a token of type {shown(outer)}, which has none"))
    if tee in TEES:
        return tee, where
    if tee is not None:
        problems.append(
            Finding(
                ".".join((*where, "x-ms-attestation-type")),
                f"is {shown(tee)}, expected {' or '.join(TEES)}: no confidential VM or container",
            )
        )
    return None, where


def _debug(
    tee: str | None,
    body: Any,
    claims: Mapping[str, Any],
    where: tuple[str, ...],
    problems: list[Finding],
) -> bool:
    """Whether hardware or boot chain lets a debugger in. What the TEE does not say counts as open."""
    if tee is None:
        return True
    open_to = False
    rules = [(where, body, TEE_DEBUG[tee], True)]
    if where:
        rules.append(((), claims, GUEST_DEBUG, False))
    for prefix, place, names, required in rules:
        for name, closed in names.items():
            value = member(place, name)
            if value is None and not required:
                continue
            if not isinstance(value, bool):
                problems.append(
                    Finding(".".join((*prefix, name)), f"is {shown(value)}, expected true or false")
                )
                open_to = True
            elif value is not closed:
                open_to = True
    if tee == "tdxvm" and member(body, "dbgstat") not in (None, "disabled"):
        open_to = True
    return open_to


def _measurements(
    tee: str | None, body: Any, where: tuple[str, ...], problems: list[Finding]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for claim, (name, size) in MEASUREMENTS.get(tee or "", {}).items():
        value = member(body, claim)
        if isinstance(value, str) and len(value) == 2 * size and _HEX.fullmatch(value):
            found[name] = value.lower()
        elif value is not None:
            where_at = ".".join((*where, claim))
            problems.append(Finding(where_at, f"is {shown(value)}, expected {size} bytes in hex"))
    return found


def _nonce(
    claims: Mapping[str, Any], asked: bytes | None, problems: list[Finding], checked: list[str]
) -> bytes | None:
    """What the token is bound to.

    `x-ms-runtime` is covered by the hardware's report data, so a nonce there proves fresh evidence; a plain
    `nonce` is echoed from the request and proves a fresh token only. Guest attestation takes the client's
    payload as base64.
    """
    found: list[tuple[str, bytes]] = []
    for path in (("x-ms-runtime", "client-payload", "nonce"), ("x-ms-runtime", "nonce"), ("nonce",)):
        value = member(claims, *path)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            problems.append(Finding(".".join(path), f"is {shown(value)}, expected text"))
            continue
        raw = value.encode()
        if path[-2:-1] == ("client-payload",):
            try:
                raw = base64.b64decode(raw, validate=True)
            except (binascii.Error, ValueError):
                problems.append(Finding(".".join(path), f"is {shown(value)}, expected base64"))
                continue
        found.append((".".join(path), raw))
    if asked is None:
        return found[0][1] if found else None
    for name, raw in found:
        if raw == asked and asked:
            note = (
                "" if name.startswith("x-ms-") else ", echoed from the request and not part of the evidence"
            )
            checked.append(f"nonce: {name}{note}")
            return raw
    seen = ", ".join(f"{name} {shown(raw.hex())}" for name, raw in found) or "none in the token"
    problems.append(Finding("nonce", f"expected {shown(asked.hex())}, found {seen}"))
    return found[0][1] if found else None
