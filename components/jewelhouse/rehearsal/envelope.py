"""CMS EnvelopedData as KMS writes it: BER with indefinite lengths, one recipient named by its key's digest.

RFC 5652 section 6, RFC 4055 section 4. Written octet by octet, so that it shares nothing with what reads it.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import padding as asymmetric
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import load_der_public_key

END = b"\0\0"
NULL = b"\x05\0"
ENVELOPED, DATA = "2a864886f70d010703", "2a864886f70d010701"
OAEP, MGF1 = "2a864886f70d010107", "2a864886f70d010108"
SHA256, AES256_CBC = "608648016503040201", "60864801650304012a"
INTEGER, OCTETS, OID, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x30, 0x31


def enveloped(public: bytes, plaintext: bytes) -> bytes:
    """`plaintext` for the RSA key in `public` (SubjectPublicKeyInfo). Raises ValueError for another key."""
    key = load_der_public_key(public)
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("the recipient's key is no RSA key")
    inner, vector = os.urandom(32), os.urandom(16)
    sha256 = asymmetric.MGF1(hashes.SHA256())
    wrapped = key.encrypt(inner, asymmetric.OAEP(mgf=sha256, algorithm=hashes.SHA256(), label=None))
    pad = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(inner), modes.CBC(vector)).encryptor()
    content = encryptor.update(pad.update(plaintext) + pad.finalize()) + encryptor.finalize()
    recipient = _definite(
        SEQUENCE,
        _definite(INTEGER, b"\2")
        + _definite(0x80, hashlib.sha256(public).digest())
        + _definite(SEQUENCE, _oid(OAEP) + _oaep())
        + _definite(OCTETS, wrapped),
    )
    return _indefinite(
        SEQUENCE,
        _oid(ENVELOPED)
        + _indefinite(
            0xA0,
            _indefinite(
                SEQUENCE,
                _definite(INTEGER, b"\2")
                + _definite(SET, recipient)
                + _indefinite(
                    SEQUENCE,
                    _oid(DATA)
                    + _definite(SEQUENCE, _oid(AES256_CBC) + _definite(OCTETS, vector))
                    + _indefinite(0xA0, _definite(OCTETS, content)),
                ),
            ),
        ),
    )


def _oaep() -> bytes:
    digest = _definite(SEQUENCE, _oid(SHA256) + NULL)
    return _definite(
        SEQUENCE,
        _definite(0xA0, digest) + _definite(0xA1, _definite(SEQUENCE, _oid(MGF1) + digest)),
    )


def _oid(body: str) -> bytes:
    return _definite(OID, bytes.fromhex(body))


def _definite(tag: int, body: bytes) -> bytes:
    length = len(body)
    if length < 128:
        return bytes((tag, length)) + body
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + body


def _indefinite(tag: int, body: bytes) -> bytes:
    return bytes((tag, 0x80)) + body + END
