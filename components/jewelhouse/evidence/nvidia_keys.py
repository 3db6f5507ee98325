"""The saved key set of NVIDIA's Remote Attestation Service: P-384 keys, each with its certificates."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from jewelhouse.evidence import certificates, tokens
from jewelhouse.evidence.tokens import Jwk, shown
from jewelhouse.evidence.verdict import Endorsements, Finding, MalformedEvidence


@dataclass(frozen=True, kw_only=True)
class Key:
    """`start` and `end`: how long its certificate is valid, where the set holds one."""

    kid: str
    key: ec.EllipticCurvePublicKey
    start: datetime | None = None
    end: datetime | None = None


def keys(endorsements: Endorsements, problems: list[Finding]) -> list[Key]:
    """The keys of every saved set among the files. One that cannot be read is a problem: a set is signed by
    nobody, so it is used whole or not at all."""
    found: list[Key] = []
    for jwk in tokens.jwks(endorsements, problems):
        if jwk.members.get("kty") != "EC" or jwk.members.get("crv") != "P-384":
            continue
        try:
            found.append(_key(jwk))
        except MalformedEvidence as error:
            problems.append(Finding(error.where, error.what))
    return found


def _key(jwk: Jwk) -> Key:
    x, y = (_coordinate(jwk.members, name, jwk.where) for name in ("x", "y"))
    try:
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    except ValueError as error:
        raise MalformedEvidence("is no point of P-384", where=jwk.where) from error
    x5c = jwk.members.get("x5c")
    if x5c is None:
        return Key(kid=jwk.kid, key=key)
    if not isinstance(x5c, list) or not 0 < len(x5c) <= certificates.CHAIN_LIMIT:
        raise MalformedEvidence(f"x5c is {shown(x5c)}, expected certificates", where=jwk.where)
    chain = [certificates.read(_decoded(one, jwk.where), jwk.where) for one in x5c]
    if chain[0].key != key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise MalformedEvidence("is not the key of its own certificate", where=jwk.where)
    for below, above in pairwise(chain):
        if below.issuer != above.subject or not certificates.signed_by(below, above):
            raise MalformedEvidence(f"{below.name} was not issued by {above.name}", where=jwk.where)
    start, end = max(one.start for one in chain), min(one.end for one in chain)
    return Key(kid=jwk.kid, key=key, start=start, end=end)


def _coordinate(members: Mapping[str, Any], name: str, where: str) -> int:
    value = members.get(name)
    if not isinstance(value, str) or not value.isascii():
        raise MalformedEvidence(f"{name} is {shown(value)}, expected base64url", where=where)
    return int.from_bytes(tokens.decode(value.encode("ascii"), f"{where}.{name}"), "big")


def _decoded(value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        raise MalformedEvidence("x5c holds something else than text", where=where)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedEvidence("x5c is not base64", where=where) from error
