"""What KMS answers to attested code: the plaintext in a CMS envelope to the key in the attestation document.

EnvelopedData of RFC 5652 in BER: one recipient by its key identifier, RSA-OAEP with SHA-256, content in
AES-256-CBC (docs.aws.amazon.com/kms/latest/APIReference/API_RecipientInfo.html). The envelope itself proves
nothing about its sender: what it holds has to open what was sealed.
"""

from __future__ import annotations

from typing import Any

from asn1crypto import cms, core
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import padding as asymmetric
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from jewelhouse.guest.opening import Closed

LIMIT = 64 * 1024
WHERE = "CiphertextForRecipient"


def opened(data: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """The plaintext. Raises Closed for whatever is not exactly such an envelope to this key."""
    if len(data) > LIMIT:
        raise Closed(f"has {len(data)} bytes", where=WHERE)
    try:
        wrapped, vector, content = _parts(data)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise Closed("is no CMS envelope of KMS's form", where=WHERE) from error
    try:
        session = key.decrypt(
            wrapped,
            asymmetric.OAEP(mgf=asymmetric.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None),
        )
        decryptor = Cipher(algorithms.AES256(session), modes.CBC(vector)).decryptor()
        unpadder = padding.PKCS7(128).unpadder()
        padded = decryptor.update(content) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise Closed("does not open with the key of this run: it is to another", where=WHERE) from error


def _parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Wrapped key, initialisation vector and content."""
    info = cms.ContentInfo.load(data, strict=False)
    if info["content_type"].native != "enveloped_data":
        raise ValueError("no enveloped data")
    envelope = info["content"]
    (recipient,) = envelope["recipient_infos"]
    if recipient.name != "ktri":
        raise ValueError("no key transport")
    transport = recipient.chosen
    algorithm = transport["key_encryption_algorithm"]
    if algorithm["algorithm"].native != "rsaes_oaep":
        raise ValueError("no RSA-OAEP")
    parameters = algorithm["parameters"]
    named = parameters["hash_algorithm"]["algorithm"].native
    masked = parameters["mask_gen_algorithm"]["parameters"]["algorithm"].native
    if (named, masked) != ("sha256", "sha256"):
        raise ValueError("no SHA-256")
    inner = envelope["encrypted_content_info"]
    cipher = inner["content_encryption_algorithm"]
    if cipher["algorithm"].native != "aes256_cbc":
        raise ValueError("no AES-256-CBC")
    vector = cipher["parameters"].native
    content = _content(inner["encrypted_content"])
    if len(vector) != 16 or not content or len(content) % 16:
        raise ValueError("wrong lengths")
    return transport["encrypted_key"].native, vector, content


def _content(value: Any) -> bytes:
    """The octets, which BER may cut into pieces."""
    found = value.native
    if not isinstance(found, bytes) or not isinstance(value, core.OctetString | core.IntegerOctetString):
        raise TypeError("no octets")
    return found
