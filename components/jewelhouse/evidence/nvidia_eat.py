"""Tokens of NVIDIA's Remote Attestation Service: a detached EAT bundle (RFC 9711 section 5).

One token for the whole holds a digest of the token of each device. Claims: docs.nvidia.com/attestation,
Claims Guide, GPU claims, 2026. The service signs with keys that live for two days: later a token can only be
verified by the key set that was saved with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from jewelhouse.evidence import tokens
from jewelhouse.evidence.nvidia_keys import Key, keys
from jewelhouse.evidence.tokens import Token, shown
from jewelhouse.evidence.verdict import (
    NO_ENDORSEMENTS,
    Endorsements,
    Finding,
    Kind,
    MalformedEvidence,
    Verdict,
    moment,
)

__all__ = ["ROOTS", "Bundle", "parse", "verify"]

# Whose saved key set is believed. NVIDIA publishes no root for it: the set comes over TLS from
# <issuer>/.well-known/jwks.json (NVIDIA/attestation-sdk: nv-attestation-sdk-cpp/src/nv_jwt.cpp, 2026-09).
ROOTS: tuple[str, ...] = ("https://nras.attestation.nvidia.com",)

ALGORITHM = "ES384"
SUBJECT = "NVIDIA-PLATFORM-ATTESTATION"
# Of the endpoints v3 (2.0) and v4 (3.0), and of the SDK's newest claims (4.0).
VERSIONS = ("2.0", "3.0", "4.0")
# What claims 3.0 and later say of each chain that NVIDIA checked.
CERTIFICATE: Mapping[str, str] = {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}
DEVICE = re.compile(r"(GPU|SWITCH|NVSWITCH)-[0-9]{1,3}")
SIZE_LIMIT = 1024 * 1024
DEVICE_LIMIT = 64
# Claims of a device that become measurements: what NVIDIA compared with its reference values.
RELEASE = re.compile(r"x-nvidia-(gpu|switch)-(driver|vbios|bios)-version")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The token for the whole, and each device's token by name, with the text that its digest is over."""

    overall: Token
    devices: Mapping[str, tuple[str, Token]]


def parse(data: bytes) -> Bundle:
    """Reads `[["JWT", token], {"GPU-0": token}]`, or the first token alone. Raises MalformedEvidence."""
    if len(data) > SIZE_LIMIT:
        raise MalformedEvidence(f"has {len(data)} bytes, a bundle of tokens has at most {SIZE_LIMIT}")
    if data.lstrip()[:1] != b"[":
        return Bundle(overall=tokens.read(data), devices={})
    value = tokens.strict_json(data, "bundle")
    if not isinstance(value, list) or len(value) != 2:
        raise MalformedEvidence('is not [["JWT", token], {device: token}]', where="bundle")
    head, devices = value
    if not isinstance(head, list) or len(head) != 2 or head[0] != "JWT" or not isinstance(head[1], str):
        raise MalformedEvidence('has no ["JWT", token] first', where="bundle")
    if not isinstance(devices, dict) or len(devices) > DEVICE_LIMIT:
        raise MalformedEvidence("has no tokens of devices, or too many", where="bundle")
    return Bundle(
        overall=_read(head[1], "overall"),
        devices={name: (str(text), _read(text, shown(name))) for name, text in devices.items()},
    )


def _read(text: Any, where: str) -> Token:
    if not isinstance(text, str) or not text.isascii():
        raise MalformedEvidence("is no token", where=where)
    try:
        return tokens.read(text.encode("ascii"))
    except MalformedEvidence as error:
        raise MalformedEvidence(error.what, where=f"{where} {error.where}".strip()) from error


def verify(
    data: bytes,
    *,
    at: datetime | None,
    endorsements: Endorsements = NO_ENDORSEMENTS,
    nonce: bytes | None = None,
    roots: Sequence[str] = ROOTS,
) -> Verdict:
    """Verifies a bundle with the key set (JWKS) that was saved with it; `at=None` is its time of issue.

    `nonce`: the bytes that were sent to the device. `roots`: issuers whose saved key set is believed. Raises
    MalformedEvidence for what is no bundle of tokens.
    """
    bundle = parse(data)
    problems: list[Finding] = []
    checked: list[str] = []
    known = keys(endorsements, problems)
    overall = bundle.overall.claims
    times = tokens.check_times(overall, at, problems)
    chain = [_check_token(bundle.overall, "overall", known, roots, times.at, problems)]
    _check_overall(bundle, problems)
    expires = [times.expires]
    debug = not bundle.devices
    for name, (text, token) in bundle.devices.items():
        found: list[Finding] = []
        expires.append(tokens.check_times(token.claims, times.at, found).expires)
        chain.append(_check_token(token, name, known, roots, times.at, problems))
        _check_device(name, text, token, overall, found)
        problems.extend(Finding(f"{name} {one.where}", one.what) for one in found)
        debug |= token.claims.get("dbgstat") != "disabled"
    said = _nonce(overall)
    if nonce is None:
        checked.append("freshness was not checked: no nonce was given")
    elif not nonce or nonce != said:
        problems.append(Finding("eat_nonce", f"is {shown(overall.get('eat_nonce'))}, not {nonce.hex()}"))
    if not problems:
        count = len(bundle.devices)
        checked.append(f"{ALGORITHM} of the token and of {count} devices' tokens, by keys of the saved set")
        checked.append("each device's token is the one whose digest the token for the whole holds")
    return Verdict(
        kind=Kind.NVIDIA_EAT,
        verified=not problems,
        debug=debug,
        at=times.at,
        issued=times.issued,
        expires=min((one for one in expires if one is not None), default=None),
        chain=tuple(dict.fromkeys(line for line in chain if line)),
        measurements=_measurements(bundle),
        claims={
            **overall,
            "devices": {name: dict(token.claims) for name, (_, token) in bundle.devices.items()},
        },
        nonce=said,
        checked=tuple(checked),
        problems=tuple(problems),
    )


def _check_token(
    token: Token,
    name: str,
    known: Sequence[Key],
    roots: Sequence[str],
    at: datetime,
    problems: list[Finding],
) -> str | None:
    """Header, issuer and signature. Returns the line of the key that signed."""
    header = token.header
    if header.get("alg") != ALGORITHM:
        problems.append(
            Finding(f"{name} header.alg", f"is {shown(header.get('alg'))}: only {ALGORITHM} is accepted")
        )
    problems.extend(
        Finding(f"{name} header.{member}", "is not accepted: a token does not bring its own key or encoding")
        for member in (*tokens.REFUSED_MEMBERS, "jku", "x5c")
        if member in header
    )
    if token.claims.get("iss") not in roots:
        problems.append(
            Finding(f"{name} iss", f"is {shown(token.claims.get('iss'))}, expected {' or '.join(roots)}")
        )
    kid = header.get("kid")
    named = [key for key in known if key.kid == kid]
    if not named:
        problems.append(
            Finding(
                f"{name} signature",
                f"cannot be checked: no saved key set has {shown(kid)}, and NVIDIA's keys live for two days",
            )
        )
        return None
    signer = next((key for key in named if _signature_holds(token, key.key)), None)
    if signer is None:
        problems.append(Finding(f"{name} signature", f"is not made by the key {shown(kid)}"))
        return None
    if signer.start is not None and signer.end is not None and not signer.start <= at <= signer.end:
        dates = f"{moment(signer.start)} to {moment(signer.end)}"
        problems.append(Finding(f"{name} key", f"was certified from {dates}, not at {moment(at)}"))
    public = signer.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"{signer.kid} sha256:{hashlib.sha256(public).hexdigest()}"


def _signature_holds(token: Token, key: ec.EllipticCurvePublicKey) -> bool:
    if len(token.signature) != 96:
        return False
    r, s = (int.from_bytes(token.signature[at : at + 48], "big") for at in (0, 48))
    try:
        key.verify(encode_dss_signature(r, s), token.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _check_overall(bundle: Bundle, problems: list[Finding]) -> None:
    claims = bundle.overall.claims
    for name, expected in (("sub", (SUBJECT,)), ("x-nvidia-ver", VERSIONS)):
        if claims.get(name) not in expected:
            problems.append(Finding(name, f"is {shown(claims.get(name))}, expected {' or '.join(expected)}"))
    if claims.get("x-nvidia-overall-att-result") is not True:
        result = shown(claims.get("x-nvidia-overall-att-result"))
        problems.append(Finding("x-nvidia-overall-att-result", f"is {result}: NVIDIA did not attest it"))
    if _nonce(claims) is None:
        problems.append(Finding("eat_nonce", f"is {shown(claims.get('eat_nonce'))}, expected hexadecimal"))
    submods = claims.get("submods")
    if not isinstance(submods, Mapping) or not submods:
        problems.append(Finding("submods", "names no device"))
        return
    for name in sorted(submods.keys() | bundle.devices.keys()):
        if name not in bundle.devices:
            problems.append(Finding(f"submods.{name}", "has no token in the bundle"))
        elif name not in submods:
            problems.append(Finding(name, "is not named in the token for the whole"))


def _check_device(
    name: str, text: str, token: Token, overall: Mapping[str, Any], problems: list[Finding]
) -> None:
    claims = token.claims
    if not DEVICE.fullmatch(name):
        problems.append(Finding("name", "is no name of a device, like GPU-0"))
    digest = ["DIGEST", ["SHA-256", hashlib.sha256(text.encode("ascii")).hexdigest()]]
    if tokens.member(overall, "submods", name) != digest:
        problems.append(Finding("digest", "is not the one in the token for the whole: another token"))
    if _nonce(claims) is None or _nonce(claims) != _nonce(overall):
        problems.append(Finding("eat_nonce", "is not the one of the token for the whole"))
    if claims.get("measres") != "success":
        measured = shown(claims.get("measres"))
        problems.append(Finding("measres", f"is {measured}: not the measurements that NVIDIA released"))
    if claims.get("secboot") is not True:
        problems.append(Finding("secboot", f"is {shown(claims.get('secboot'))}, expected true"))
    for claim, value in claims.items():
        if not claim.startswith(("x-nvidia-gpu-", "x-nvidia-switch-")):
            continue
        if value is False:
            problems.append(Finding(claim, "is false"))
        for part, good in CERTIFICATE.items():
            if isinstance(value, Mapping) and value.get(part) != good:
                problems.append(Finding(f"{claim}.{part}", f"is {shown(value.get(part))}, expected {good}"))


def _nonce(claims: Mapping[str, Any]) -> bytes | None:
    value = claims.get("eat_nonce")
    if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", value):
        return None
    return bytes.fromhex(value)


def _measurements(bundle: Bundle) -> dict[str, str]:
    """Versions of driver and firmware of each device: NVIDIA compared the digests with these releases."""
    return {
        f"{name} {claim}": value
        for name, (_, token) in bundle.devices.items()
        for claim, value in token.claims.items()
        if isinstance(value, str) and RELEASE.fullmatch(claim)
    }
