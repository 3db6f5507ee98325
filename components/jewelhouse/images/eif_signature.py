"""The signature section of an enclave image: a certificate, and its COSE_Sign1 over PCR0.

`[{"signing_certificate": [bytes of the PEM], "signature": [bytes of COSE_Sign1]}]` in CBOR, where byte
strings are arrays of integers (aws/aws-nitro-enclaves-image-format: src/defs/mod.rs, as serde writes
`Vec<u8>`).
PCR8 is taken of the certificate, so a renewed certificate for the same key is another PCR8.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from jewelhouse.errors import JewelhouseError
from jewelhouse.images.eif import MalformedImage, extend

# COSE algorithm -> hash and size of r and s: RFC 9053, section 2.1. Nitro signs with these three.
ALGORITHMS: dict[int, tuple[hashes.HashAlgorithm, int]] = {
    -7: (hashes.SHA256(), 32),
    -35: (hashes.SHA384(), 48),
    -36: (hashes.SHA512(), 66),
}
CURVES = {"secp256r1": -7, "secp384r1": -35, "secp521r1": -36}


def section(pcr0: bytes, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    """The signature section of an image with register 0 `pcr0` (48 bytes).

    Raises ValueError when the certificate is of another key or the curve is not a NIST one.
    """
    if key.public_key() != certificate.public_key():
        raise ValueError("the signing certificate belongs to another key")
    if key.curve.name not in CURVES:
        raise ValueError(f"enclave images are signed on P-256, P-384 or P-521, not on {key.curve.name}")
    algorithm = CURVES[key.curve.name]
    hashed, size = ALGORITHMS[algorithm]
    protected = cbor2.dumps({1: algorithm})
    payload = cbor2.dumps({"register_index": 0, "register_value": list(pcr0)})
    r, s = utils.decode_dss_signature(key.sign(_signed(protected, payload), ec.ECDSA(hashed)))
    message = cbor2.dumps([protected, {}, payload, r.to_bytes(size, "big") + s.to_bytes(size, "big")])
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return cbor2.dumps([{"signing_certificate": list(pem), "signature": list(message)}])


def load(key: Path, certificate: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A signing key and its certificate from PEM files.

    Raises JewelhouseError, naming the file, for what is no such key or certificate, or not a pair.
    """
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise JewelhouseError(f"cannot be read: {error.strerror}", where=str(error.filename)) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise JewelhouseError(
            "are no private key without password and certificate in PEM", where=f"{key}, {certificate}"
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in CURVES:
        raise JewelhouseError("is no key on P-256, P-384 or P-521", where=str(key))
    if private.public_key() != found.public_key():
        raise JewelhouseError(f"belongs to another key than {key}", where=str(certificate))
    return private, found


def register(data: bytes, pcr0: bytes, offset: int) -> str:
    """PCR8 of a signature section, after its signature over `pcr0` held. Raises MalformedImage."""
    entry = _entry(data, offset)
    try:
        certificate = x509.load_pem_x509_certificate(entry["signing_certificate"])
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedImage(f"its signing certificate cannot be read: {error}", offset) from error
    protected, payload, algorithm, signature = _message(entry["signature"], offset)
    stated = _value(payload, offset)
    if not isinstance(stated, dict) or stated.get("register_index") != 0:
        raise MalformedImage("its signature is not over register 0", offset)
    value = stated.get("register_value")
    if value != list(pcr0):
        raise MalformedImage("its signature is over another PCR0 than that of its content", offset)
    hashed, size = ALGORITHMS[algorithm]
    if not isinstance(key, ec.EllipticCurvePublicKey) or CURVES.get(key.curve.name) != algorithm:
        raise MalformedImage("its signing certificate has a key of another kind than its signature", offset)
    if len(signature) != 2 * size:
        raise MalformedImage(f"its signature has {len(signature)} bytes, it must have {2 * size}", offset)
    r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
    try:
        key.verify(utils.encode_dss_signature(r, s), _signed(protected, payload), ec.ECDSA(hashed))
    except InvalidSignature as error:
        raise MalformedImage("its signature does not hold under its signing certificate", offset) from error
    return extend(hashlib.sha384(certificate.public_bytes(serialization.Encoding.DER)).digest()).hex()


def _signed(protected: bytes, payload: bytes) -> bytes:
    """What COSE_Sign1 signs: RFC 9052, section 4.4."""
    return cbor2.dumps(["Signature1", protected, b"", payload])


def _entry(data: bytes, offset: int) -> dict[str, bytes]:
    value = _value(data, offset)
    entries = value if isinstance(value, list) and len(value) == 1 else [None]
    found: dict[str, bytes] = {}
    for name in ("signing_certificate", "signature"):
        item = entries[0].get(name) if isinstance(entries[0], dict) else None
        if not isinstance(item, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in item):
            raise MalformedImage(f"its signature section has no {name} as a list of bytes", offset)
        found[name] = bytes(item)
    return found


def _message(data: bytes, offset: int) -> tuple[bytes, bytes, int, bytes]:
    value = _value(data, offset)
    if not isinstance(value, list) or len(value) != 4:
        raise MalformedImage("its signature is no COSE_Sign1", offset)
    protected, _, payload, signature = value
    if not all(isinstance(part, bytes) for part in (protected, payload, signature)):
        raise MalformedImage("its signature is no COSE_Sign1", offset)
    header = _value(protected, offset)
    algorithm = header.get(1) if isinstance(header, dict) else None
    if type(algorithm) is not int or algorithm not in ALGORITHMS:
        raise MalformedImage(f"its signature has the unknown algorithm {algorithm!r}", offset)
    return protected, payload, algorithm, signature


def _value(data: bytes, offset: int) -> Any:
    """One CBOR value and nothing after it."""
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORDecodeError, ValueError, RecursionError, OverflowError, MemoryError) as error:
        raise MalformedImage("its signature section is not CBOR", offset) from error
    if stream.tell() != len(data):
        raise MalformedImage("has bytes after its signature", offset)
    return value
