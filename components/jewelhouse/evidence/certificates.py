"""Certificates of hardware, read in full and chained to a public key that is pinned.

Not with `cryptography.x509`: every VCEK of AMD has the serial number 0, for which that announces an exception
in a future release (RFC 5280 section 4.1.2.2 wants it positive). The form is declared to the DER reader of
`cryptography` instead, and only the algorithms that vendors of hardware use are known.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import ObjectIdentifier

from jewelhouse.evidence.verdict import Finding, MalformedEvidence, moment

# Root, intermediates and leaf: the longest known chain, NVIDIA's, has 5; Nitro's attestation goes to 8.
CHAIN_LIMIT = 8
# The largest known certificate has 1.7 KiB, the largest file with some of them, an NRAS key set, 80 KiB.
SIZE_LIMIT = 16 * 1024
COUNT_LIMIT = 64

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]++)-----END CERTIFICATE-----")

# The identifier 2.5.4.3, then a string: its tag, its length, its text.
COMMON_NAME = re.compile(rb"\x06\x03\x55\x04\x03[\x0c\x13\x16]([\x00-\x7f])(.*)", re.DOTALL)
BASIC_CONSTRAINTS = "2.5.29.19"
KEY_USAGE = "2.5.29.15"
UNDERSTOOD = (BASIC_CONSTRAINTS, KEY_USAGE)
# Bit 5 of KeyUsage, counted from the left (RFC 5280 section 4.2.1.3).
KEY_CERT_SIGN = 0x04

_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_PSS_SHA384 = (
    "06092a864886f70d01010a30{}a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130"
)
# AlgorithmIdentifier as it stands in a certificate -> how its signature is checked. AMD wrote the trailer
# field of RSASSA-PSS out until 2025 (kdsintf.amd.com); DER leaves it out, being the default.
ALGORITHMS: Mapping[bytes, ec.ECDSA | hashes.HashAlgorithm] = {
    bytes.fromhex("300a06082a8648ce3d040302"): ec.ECDSA(hashes.SHA256()),
    bytes.fromhex("300a06082a8648ce3d040303"): ec.ECDSA(hashes.SHA384()),
    bytes.fromhex("3046" + _PSS_SHA384.format("39") + "a303020101"): hashes.SHA384(),
    bytes.fromhex("3041" + _PSS_SHA384.format("34")): hashes.SHA384(),
}


@asn1.sequence
class _Validity:
    start: asn1.UTCTime | asn1.GeneralizedTime
    end: asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class _Extension:
    type: ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _Signed:
    version: Annotated[int, asn1.Explicit(0)]
    serial: int
    algorithm: asn1.TLV
    issuer: asn1.TLV
    validity: _Validity
    subject: asn1.TLV
    key: asn1.TLV
    extensions: Annotated[list[_Extension] | None, asn1.Explicit(3)]


@asn1.sequence
class _Certificate:
    signed: asn1.TLV
    algorithm: asn1.TLV
    signature: asn1.BitString


@asn1.sequence
class _BasicConstraints:
    ca: Annotated[bool, asn1.Default(False)]
    path_length: int | None


@dataclass(frozen=True, kw_only=True)
class Root:
    """A pinned trust anchor. `key`: SHA-256 of its SubjectPublicKeyInfo, lower-case hex; `name`: what it
    vouches for; `source`: where the key was taken from, with the date.

    Keys are pinned and not certificates: vendors re-issue a certificate over the same key with new dates.
    """

    key: str
    name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """An X.509 v3 certificate. `subject` and `issuer` are DER; `key` is the SubjectPublicKeyInfo;
    `extensions` hold (critical, value) by dotted identifier."""

    der: bytes
    signed: bytes
    algorithm: bytes
    signature: bytes
    subject: bytes
    issuer: bytes
    key: bytes
    start: datetime
    end: datetime
    extensions: Mapping[str, tuple[bool, bytes]]

    @cached_property
    def name(self) -> str:
        return common_name(self.subject)

    @cached_property
    def key_digest(self) -> str:
        return hashlib.sha256(self.key).hexdigest()

    @property
    def line(self) -> str:
        return f"{self.name} sha256:{hashlib.sha256(self.der).hexdigest()}"

    @cached_property
    def public_key(self) -> Any:
        """The key, whatever its kind. Raises MalformedEvidence when it is none that can be used."""
        try:
            return load_der_public_key(self.key)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MalformedEvidence("has a public key that cannot be read", where=self.name) from error


def read(der: bytes, where: str = "certificate") -> Certificate:
    """One certificate in DER, to its last byte. Raises MalformedEvidence."""
    if len(der) > SIZE_LIMIT:
        raise MalformedEvidence(f"has {len(der)} bytes, a certificate has at most {SIZE_LIMIT}", where=where)
    try:
        outer = asn1.decode_der(_Certificate, der)
        inner = outer.signed.parse(_Signed)
        listed = inner.extensions or []
        extensions = {one.type.dotted_string: (one.critical, one.value) for one in listed}
        certificate = Certificate(
            der=der,
            signed=asn1.encode_der(outer.signed),
            algorithm=asn1.encode_der(outer.algorithm),
            signature=outer.signature.as_bytes(),
            subject=asn1.encode_der(inner.subject),
            issuer=asn1.encode_der(inner.issuer),
            key=asn1.encode_der(inner.key),
            start=inner.validity.start.as_datetime(),
            end=inner.validity.end.as_datetime(),
            extensions=extensions,
        )
        repeated = asn1.encode_der(inner.algorithm)
    except (ValueError, OverflowError) as error:
        raise MalformedEvidence("is no X.509 version 3 certificate in DER", where=where) from error
    if inner.version != 2 or outer.signature.padding_bits():
        raise MalformedEvidence("is no X.509 version 3 certificate", where=where)
    if repeated != certificate.algorithm:
        raise MalformedEvidence("names two signature algorithms", where=where)
    if len(extensions) != len(listed):
        raise MalformedEvidence("has an extension twice", where=where)
    return certificate


def blocks(text: bytes) -> Iterator[bytes]:
    """DER of each PEM certificate in a text, in its order. Raises MalformedEvidence."""
    for number, found in enumerate(PEM.finditer(text), 1):
        if number > COUNT_LIMIT:
            raise MalformedEvidence(f"has more than {COUNT_LIMIT} certificates")
        try:
            yield binascii.a2b_base64(b"".join(found.group(1).split()), strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedEvidence(f"PEM block {number} is not base64") from error


def common_name(name: bytes) -> str:
    """The common name in a DER name. For people only: names are compared as the bytes they are."""
    found = COMMON_NAME.search(name)
    text = found.group(2)[: found.group(1)[0]].decode("utf-8", "replace") if found else name.hex()
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:100]


def signed_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether the key of `issuer` signed `certificate`. False for an algorithm or key that is not known."""
    algorithm = ALGORITHMS.get(certificate.algorithm)
    try:
        key = issuer.public_key
        if isinstance(algorithm, ec.ECDSA) and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(certificate.signature, certificate.signed, algorithm)
        elif isinstance(algorithm, hashes.HashAlgorithm) and isinstance(key, RSAPublicKey):
            key.verify(certificate.signature, certificate.signed, _PSS, algorithm)
        else:
            return False
    except (InvalidSignature, MalformedEvidence, UnsupportedAlgorithm, ValueError):
        return False
    return True


def path(
    leaf: Certificate, pool: Iterable[Certificate], roots: Sequence[Root], problems: list[Finding]
) -> tuple[tuple[Certificate, ...], Root | None]:
    """From the leaf to a pinned root by names and signatures, as far as it goes; and the root, if reached.

    The root's own certificate is taken from the pool: its key must be pinned and have signed it, so that its
    dates can be believed.
    """
    pinned = {root.key: root for root in roots}
    available = list(pool)
    chain = [leaf]
    while len(chain) <= CHAIN_LIMIT:
        last = chain[-1]
        own = last.issuer == last.subject
        root = pinned.get(last.key_digest)
        if root is not None and len(chain) > 1:
            if not own or not signed_by(last, last):
                problems.append(Finding(last.name, "is a pinned root, but not signed by its own key"))
                return tuple(chain), None
            return tuple(chain), root
        if own:
            problems.append(Finding(last.name, f"is no pinned root: its key is sha256:{last.key_digest}"))
            return tuple(chain), None
        issuers = [one for one in available if one.subject == last.issuer]
        if not issuers:
            issuer = common_name(last.issuer)
            problems.append(Finding(last.name, f"was issued by {issuer}, whose certificate is not at hand"))
            return tuple(chain), None
        signer = next((one for one in issuers if signed_by(last, one)), None)
        if signer is None:
            problems.append(Finding(last.name, f"is not signed by the key of {issuers[0].name}"))
            return tuple(chain), None
        chain.append(signer)
    problems.append(Finding(leaf.name, f"has a chain of more than {CHAIN_LIMIT} certificates"))
    return tuple(chain), None


def check(chain: Sequence[Certificate], at: datetime, problems: list[Finding]) -> None:
    """What RFC 5280 section 6.1 asks of every certificate of a path besides its signature."""
    for depth, certificate in enumerate(chain):
        if not certificate.start <= at <= certificate.end:
            dates = f"{moment(certificate.start)} to {moment(certificate.end)}"
            problems.append(Finding(certificate.name, f"is valid from {dates}, not at {moment(at)}"))
        for name, (critical, _) in certificate.extensions.items():
            if critical and name not in UNDERSTOOD:
                problems.append(Finding(certificate.name, f"has the critical extension {name}, not known"))
        if depth and not _may_sign(certificate, below=depth - 1):
            problems.append(Finding(certificate.name, "may not sign the certificate below it"))


def _may_sign(certificate: Certificate, *, below: int) -> bool:
    """Whether it is a CA, with `below` intermediates between it and the leaf."""
    _, constraints = certificate.extensions.get(BASIC_CONSTRAINTS, (False, b""))
    _, usage = certificate.extensions.get(KEY_USAGE, (False, b""))
    try:
        basic = asn1.decode_der(_BasicConstraints, constraints)
        bits = asn1.decode_der(asn1.BitString, usage).as_bytes() if usage else bytes([KEY_CERT_SIGN])
    except ValueError:
        return False
    limited = basic.path_length is not None and below > basic.path_length
    return basic.ca and not limited and bool(bits[:1] and bits[0] & KEY_CERT_SIGN)
