"""Mints tokens of Azure Attestation and of Google Cloud Attestation under throw-away keys.

Every claim can be changed before it is signed, by its path: `authority.token(put(guest_claims(),
{("x-ms-isolation-tee", "x-ms-sevsnpvm-is-debuggable"): True}))`. What is minted passes the same checks as
real tokens, with `roots` and `endorsements` of its authority; nothing here passes under the pinned roots.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.evidence import maa_keys
from jewelhouse.evidence.verdict import Endorsements
from jewelhouse.rehearsal.minting_claims import (
    GOOGLE_ISSUER,
    ISSUED,
    MAA_ISSUER,
    b64url,
    container_claims,
    debug_claims,
    guest_claims,
    jwk_rsa,
    platform_claims,
    put,
    space_claims,
    vm_claims,
)
from jewelhouse.rehearsal.minting_sgx import END, OPEN, Quote, certificate, ec_key, quote, rsa_key, spki

__all__ = [
    "GOOGLE_ISSUER",
    "ISSUED",
    "MAA_ISSUER",
    "GoogleAuthority",
    "MaaAuthority",
    "Quote",
    "b64url",
    "container_claims",
    "debug_claims",
    "guest_claims",
    "jwk_rsa",
    "jws",
    "platform_claims",
    "put",
    "rsa_key",
    "space_claims",
    "vm_claims",
]


def jws(header: Any, claims: Any, key: rsa.RSAPrivateKey) -> bytes:
    """A compact JWS, RS256. Header and claims are JSON values, or raw bytes to sign as they are."""
    parts = [
        part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
        for part in (header, claims)
    ]
    signed = ".".join(b64url(part) for part in parts).encode()
    return signed + b"." + b64url(key.sign(signed, padding.PKCS1v15(), hashes.SHA256())).encode()


@dataclass(frozen=True, kw_only=True)
class MaaAuthority:
    """A stand-in of Azure Attestation: a signing key bound to a minted SGX quote under a throw-away root.

    `certificate` is the DER that stands in the JWKS; `jwks` what the issuer's /certs would answer.
    """

    issuer: str
    key: rsa.RSAPrivateKey
    kid: str
    certificate: bytes
    roots: maa_keys.Roots

    @classmethod
    def new(
        cls,
        issuer: str = MAA_ISSUER,
        *,
        name: str = "maa",
        root: str = "sgx-root",
        recipe: Quote | None = None,
        subject: str | None = None,
        with_quote: bool = True,
    ) -> MaaAuthority:
        key = rsa_key(name)
        text = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        bound = hashlib.sha256(text + b"\0").digest()
        extensions: tuple[x509.ExtensionType, ...] = ()
        if with_quote:
            raw = quote(recipe or Quote(), bound, root)
            frame = (1).to_bytes(4, "little") + (2).to_bytes(4, "little") + len(raw).to_bytes(8, "little")
            extensions = (
                x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.105.1"), frame + raw),
            )
        named = subject or issuer
        signed = certificate(named, key.public_key(), named, key, ca=False, extensions=extensions)
        return cls(
            issuer=issuer,
            key=key,
            kid=base64.b64encode(bound).decode(),
            certificate=signed.public_bytes(serialization.Encoding.DER),
            roots=maa_keys.Roots(
                intel=frozenset({hashlib.sha256(spki(ec_key(f"{root}/root").public_key())).hexdigest()})
            ),
        )

    @property
    def jwks(self) -> dict[str, Any]:
        return {
            "keys": [{"x5c": [base64.b64encode(self.certificate).decode()], "kid": self.kid, "kty": "RSA"}]
        }

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements(files=(json.dumps(self.jwks).encode(),))

    def token(self, claims: Any = None, header: Mapping[str, Any] | None = None) -> bytes:
        """Signs `claims` (default: a guest token of a good confidential VM). Header members of None go."""
        members = {
            "alg": "RS256",
            "jku": f"{self.issuer}/certs",
            "kid": self.kid,
            "typ": "JWT",
            **(header or {}),
        }
        body = guest_claims(issuer=self.issuer) if claims is None else claims
        return jws({name: value for name, value in members.items() if value is not None}, body, self.key)


@dataclass(frozen=True, kw_only=True)
class GoogleAuthority:
    """A stand-in of Google Cloud Attestation: a chain of three for PKI tokens, a JWKS for OIDC tokens."""

    name: str
    key: rsa.RSAPrivateKey
    chain: tuple[bytes, ...]
    roots: frozenset[str]

    @classmethod
    def new(
        cls, *, name: str = "google", start: datetime = OPEN, end: datetime = END, ca: bool = True
    ) -> GoogleAuthority:
        """`start` and `end` are those of the leaf; `ca`: whether the intermediate may issue."""
        leaf, middle, root = (rsa_key(f"{name}/{part}") for part in ("leaf", "middle", "root"))
        names = [f"Confidential Space {part}" for part in ("Leaf Certificate", "Intermediate CA", "Root CA")]
        issued = (
            certificate(names[0], leaf.public_key(), names[1], middle, ca=False, start=start, end=end),
            certificate(names[1], middle.public_key(), names[2], root, ca=ca),
            certificate(names[2], root.public_key(), names[2], root, ca=True),
        )
        return cls(
            name=name,
            key=leaf,
            chain=tuple(one.public_bytes(serialization.Encoding.DER) for one in issued),
            roots=frozenset({issued[-1].fingerprint(hashes.SHA256()).hex()}),
        )

    @property
    def oidc_key(self) -> rsa.RSAPrivateKey:
        return rsa_key(f"{self.name}/oidc")

    @property
    def kid(self) -> str:
        return f"{self.name}-key-1"

    @property
    def jwks(self) -> dict[str, Any]:
        """What Google's JWKS address would answer."""
        return {"keys": [jwk_rsa(self.oidc_key.public_key(), kid=self.kid, use="sig", alg="RS256")]}

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements(files=(json.dumps(self.jwks).encode(),))

    def token(
        self, claims: Any = None, *, flavour: str = "pki", header: Mapping[str, Any] | None = None
    ) -> bytes:
        """`flavour`: `pki` (x5c inside) or `oidc` (needs `endorsements`). Header members of None go."""
        members: dict[str, Any] = {"alg": "RS256", "kid": self.kid, "typ": "JWT"}
        if flavour == "pki":
            members["x5c"] = [base64.b64encode(one).decode() for one in self.chain]
        members |= header or {}
        body = space_claims() if claims is None else claims
        key = self.key if flavour == "pki" else self.oidc_key
        return jws({name: value for name, value in members.items() if value is not None}, body, key)
