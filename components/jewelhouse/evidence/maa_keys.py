"""The signing keys of Azure Attestation, bound offline to the SGX enclave that holds them.

A saved copy of an issuer's `/certs` has each key in a self-signed certificate with a quote of that enclave:

1. `kid` is base64(SHA-256(PEM of the public key, and a NUL byte)); the certificate names the issuer and is
   signed by the key itself.
2. The quote's report data are the same 32 bytes: the enclave holds this key.
3. The quote is signed under Intel's root, by an enclave of the service's own signer, not in debug mode.

So a JWKS needs no trusted way to get here. What no file can tell: whether the processor's firmware was
current (`evidence.sgx`), and which version of the service's code ran. The signer of the service's enclave is
pinned below as observed in a published copy: no page of Microsoft's that names it was found.
Source of layout and hash: Azure-Samples/microsoft-azure-attestation: maa.jwt.verifier; rules 1 and 2 hold for
every key of the copies that were looked at.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from jewelhouse.evidence import sgx, tokens, x5c
from jewelhouse.evidence.tokens import Jwk, plain
from jewelhouse.evidence.verdict import Finding, moment

# MRSIGNER and ISVPRODID of the service's enclave, read from both keys of sharedweu.weu.attest.azure.net/certs
# (ThomVanL/blog-2023-04-azure-confidential-computing-verify-maa-jwt, 2023-04).
SERVICE_SIGNER = "74ba5fba208571cf99e1f7158e6536a05bbb6ce7807eef8f6a97f64a7af64b83"
SERVICE_PRODUCT = 1

QUOTE_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.311.105.1")
# Before the quote: version 1, type 2 (remote), size. openenclave: include/openenclave/internal/report.h.
_FRAME = bytes.fromhex("0100000002000000")
_FRAME_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Roots:
    """What a signing key must go back to. intel: SHA-256 of root public keys; services: signer and product of
    the attestation service's enclave."""

    intel: frozenset[str] = sgx.INTEL
    services: frozenset[tuple[str, int]] = field(default=frozenset({(SERVICE_SIGNER, SERVICE_PRODUCT)}))


ROOTS = Roots()


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A signing key and the enclave that holds it."""

    kid: str
    key: RSAPublicKey
    enclave: sgx.Enclave


def bound(
    candidates: Sequence[Jwk], issuer: str, at: datetime, roots: Roots, problems: list[Finding]
) -> Bound | None:
    """The first entry that holds in full; None with the reasons against all of them in `problems`.

    Several entries of one `kid` are one key whose certificate was renewed between two saved copies.
    """
    against: list[Finding] = []
    for jwk in candidates:
        found: list[Finding] = []
        try:
            held = _bound(jwk, issuer, at, roots, found)
        except x5c.UNREADABLE as error:
            found.append(Finding(jwk.where, f"x5c cannot be read: {error}"))
            held = None
        if held is not None and not found:
            return held
        against.extend(found)
    problems.extend(against)
    return None


def _bound(jwk: Jwk, issuer: str, at: datetime, roots: Roots, problems: list[Finding]) -> Bound | None:
    where = jwk.where
    listed = jwk.members.get("x5c")
    if not isinstance(listed, list) or len(listed) != 1:
        problems.append(Finding(where, "has no x5c with one certificate, so nothing binds it to the service"))
        return None
    certificate = x5c.decode(listed[0])
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey) or key.key_size not in tokens.RSA_BITS:
        problems.append(Finding(where, "is not an RSA key of 2048 bits or more"))
        return None
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(text + b"\0").digest()
    if base64.b64encode(digest).decode() != jwk.kid:
        problems.append(Finding(where, f"{plain(jwk.kid)} is not the digest of the key that stands there"))
    _check_certificate(certificate, issuer, at, where, problems)
    framed = _quote(certificate)
    if framed is None:
        problems.append(
            Finding(where, "has no SGX quote, so nothing shows that the service's enclave holds it")
        )
        return None
    size = int.from_bytes(framed[len(_FRAME) : _FRAME_SIZE], "little")
    if framed[: len(_FRAME)] != _FRAME or size != len(framed) - _FRAME_SIZE:
        problems.append(Finding(where, "the extension with the SGX quote has another layout"))
        return None
    enclave = sgx.verify(framed[_FRAME_SIZE:], at=at, where=where, problems=problems, intel=roots.intel)
    if enclave is None:
        return None
    if enclave.report_data != digest + bytes(32):
        problems.append(Finding(where, "the SGX quote is bound to another key"))
    if (enclave.signer, enclave.product) not in roots.services:
        problems.append(
            Finding(
                where,
                f"the SGX quote is of an enclave of signer {enclave.signer}, product {enclave.product}, "
                "which is not known as Azure Attestation",
            )
        )
    return Bound(kid=jwk.kid, key=key, enclave=enclave)


def _check_certificate(
    certificate: x509.Certificate,
    issuer: str,
    at: datetime,
    where: str,
    problems: list[Finding],
) -> None:
    """For this issuer, valid at the moment, and signed by its own key, so that nobody else wrote it."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if [name.value for name in names] != [issuer]:
        problems.append(Finding(where, f"the certificate is not for {issuer}"))
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= at <= end:
        problems.append(
            Finding(
                where, f"the certificate is valid from {moment(begin)} to {moment(end)}, not {moment(at)}"
            )
        )
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError):
        problems.append(Finding(where, "the certificate is not signed by its own key"))


def _quote(certificate: x509.Certificate) -> bytes | None:
    try:
        extension = certificate.extensions.get_extension_for_oid(QUOTE_EXTENSION).value
    except x509.ExtensionNotFound:
        return None
    return extension.value if isinstance(extension, x509.UnrecognizedExtension) else None
