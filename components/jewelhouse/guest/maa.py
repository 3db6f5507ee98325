"""Attestation Results from Microsoft Azure Attestation, and whether one is an answer to what was asked.

Its signature is for Key Vault to check: whoever could forge a token here could as well change this code. What
is checked is that a release can succeed and reaches this run alone: issuer, time, the key that Key Vault will
wrap to, and the nonce.
Sources, 2026-11: Azure/azure-guest-attestation-sdk: crates/azure-guest-attestation-sdk/src/guest_attest/;
microsoft/confidential-sidecar-containers: pkg/attest/maa.go.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.core.rest import HttpRequest

from jewelhouse.evidence import maa, tokens
from jewelhouse.evidence.tokens import member, plain, shown
from jewelhouse.evidence.verdict import MalformedEvidence, moment
from jewelhouse.guest import azure_web
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints, Stage

GUEST = "/attest/AzureGuest?api-version=2020-10-01"
SNP = "/attest/SevSnpVm?api-version=2022-08-01"
# A VM's clock and the service's are not one; a token is for hours.
SKEW = timedelta(minutes=5)
# Where the nonce stands, as text, in a token of each type.
NONCES: Mapping[str, tuple[str, ...]] = {
    "azurevm": ("x-ms-runtime", "client-payload", "nonce"),
    "sevsnpvm": ("x-ms-runtime", "nonce"),
}
# Claims that gates name, for a message that says what Key Vault saw.
GATES = ("x-ms-attestation-type", "x-ms-compliance-status", "x-ms-sevsnpvm-is-debuggable")
FLAT = ("x-ms-sevsnpvm-hostdata", "x-ms-sevsnpvm-vmpl", "secureboot", "x-ms-policy-hash")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a token has to be an answer to."""

    authority: str
    kind: str
    key: tuple[int, int]
    nonce: str


def authority(stage: Stage) -> str:
    """The attestation endpoint of a stage. Raises Closed for one that is none of Azure's."""
    found = (stage.authority or "").rstrip("/")
    if not maa.ISSUER.fullmatch(found):
        raise Closed(
            f"{found!a} is no attestation endpoint",
            where="stage.authority",
            remedy="deploy the stage again",
        )
    return found


def attest(endpoints: Endpoints, authority: str, path: str, body: Mapping[str, Any]) -> str:
    """The `token` of the service's answer. Raises Closed with the service's words."""
    base = endpoints.maa or authority
    request = HttpRequest("POST", f"{base}{path}", json=dict(body))
    token = azure_web.asked(endpoints, base, request, authority).get("token")
    if not isinstance(token, str) or not token.isascii():
        raise Closed("answers without a token", where=authority)
    return token


def check(token: bytes, asked: Asked) -> str:
    """What gates can see of a token, in words. Raises Closed when it is not an answer to what was asked."""
    try:
        found = maa.parse(token)
    except MalformedEvidence as error:
        raise Closed(error.what, where=f"token of {asked.authority}: {error.where}") from error
    claims = found.claims
    if claims.get("iss") != asked.authority:
        raise _wrong(asked, f"is issued by {shown(claims.get('iss'))}")
    if found.header.get("alg") != tokens.ALGORITHM:
        raise _wrong(asked, f"is signed by {shown(found.header.get('alg'))}")
    _time(claims, asked)
    if claims.get("x-ms-attestation-type") != asked.kind:
        raise _wrong(asked, f"is of type {shown(claims.get('x-ms-attestation-type'))}, expected {asked.kind}")
    key = maa.release_key(claims)
    if key is None:
        raise _wrong(asked, "has no key that Key Vault would wrap to")
    if key.numbers != asked.key:
        raise _wrong(
            asked, f"is for another key ({plain(key.kid)}): it was replayed, or is another machine's"
        )
    if member(claims, *NONCES[asked.kind]) != asked.nonce:
        raise _wrong(asked, "answers another nonce: it was replayed")
    return seen(claims)


def _time(claims: Mapping[str, Any], asked: Asked) -> None:
    now = datetime.now(UTC)
    times = [claims.get(name) for name in ("nbf", "exp")]
    if any(type(one) is not int or not 0 < one <= tokens.LAST_SECOND for one in times):
        raise _wrong(asked, "does not say from when to when it is valid")
    start, end = (datetime.fromtimestamp(int(one), UTC) for one in times if one is not None)
    if now >= end:
        raise _wrong(asked, f"expired at {moment(end)}: it is stale, or the clock of this machine is wrong")
    if now < start - SKEW:
        raise _wrong(asked, f"is valid from {moment(start)}: the clock of this machine is wrong")


def seen(claims: Mapping[str, Any]) -> str:
    """The claims that gates name."""
    nested = claims.get(maa.NESTED)
    values = [(name, (nested if isinstance(nested, dict) else claims).get(name)) for name in GATES]
    values += [(name, claims.get(name)) for name in FLAT]
    return ", ".join(f"{name} {shown(value)}" for name, value in values if value is not None)


def _wrong(asked: Asked, what: str) -> Closed:
    return Closed(what, where=f"token of {asked.authority}")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def b64url(data: bytes) -> str:
    """As RFC 7515 writes it, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key: tuple[int, int], kid: str) -> dict[str, Any]:
    """An RSA key to be wrapped to, as a JSON Web Key."""
    modulus, exponent = (value.to_bytes((value.bit_length() + 7) // 8, "big") for value in key)
    return {"kid": kid, "kty": "RSA", "key_ops": ["encrypt"], "n": b64url(modulus), "e": b64url(exponent)}
