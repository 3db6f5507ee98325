"""Certificates as tokens and JWKS carry them: `x5c` (RFC 7515 section 4.1.6, RFC 7517 section 4.7)."""

from __future__ import annotations

import binascii
import hashlib
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from jewelhouse.evidence.tokens import plain

# What the certificate library raises for bytes that are none, or use what it does not know.
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)


def decode(text: Any) -> x509.Certificate:
    """One member of `x5c`: base64 of the DER (RFC 7515 section 4.1.6). Raises what is in UNREADABLE.

    Parts of a certificate are read when they are asked for, and may raise the same.
    """
    if not isinstance(text, str):
        raise TypeError("is not text")
    return x509.load_der_x509_certificate(binascii.a2b_base64(text, strict_mode=True))


def line(certificate: x509.Certificate) -> str:
    """A certificate as a verdict's chain shows it: common name and SHA-256."""
    return described(certificate, certificate.public_bytes(Encoding.DER))


def described(certificate: x509.Certificate, der: bytes) -> str:
    """The same where the certificate's DER is at hand: the library would write it out anew."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    name = names[0].value if len(names) == 1 else ""
    shown = plain(name) if isinstance(name, str) and name else "without a common name"
    return f"{shown} sha256:{hashlib.sha256(der).hexdigest()}"
