"""What KMS answers to attested code: the plaintext in a CMS EnvelopedData to the key in the evidence.

RFC 5652 section 6 in BER with indefinite lengths, one recipient by RSA-OAEP with SHA-256 (RFC 4055), content
by AES-256-CBC (RFC 3565); docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html, 2026-10. Anything
else is refused: there is one shape that KMS sends, and nobody else has anything to say here.
"""

from __future__ import annotations

from typing import Any

from asn1crypto import cms
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import padding as asymmetric
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from jewelhouse.guest.opening import Closed

# API_Decrypt.html: CiphertextForRecipient has at most as many bytes.
LIMIT = 6144
WHERE = "CiphertextForRecipient"
# How a recipient is named -> versions of EnvelopedData and of KeyTransRecipientInfo (RFC 5652, 6.1, 6.2.1).
VERSIONS = {"issuer_and_serial_number": ("v0", "v0"), "subject_key_identifier": ("v2", "v2")}
CIPHER, KEY_SIZE, BLOCK = "aes256_cbc", 32, 16
_OAEP = asymmetric.OAEP(mgf=asymmetric.MGF1(algorithm=hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
# What the library raises, as late as when a part is asked for.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)


def opened(data: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """The plaintext. Raises Closed for another shape, another recipient, or content that does not decrypt."""
    if not 0 < len(data) <= LIMIT:
        raise Closed(f"has {len(data)} bytes, a reply has up to {LIMIT}", where=WHERE)
    try:
        wrapped, vector, content = _parts(cms.ContentInfo.load(data, strict=True))
    except UNREADABLE as error:
        raise Closed("is no EnvelopedData", where=WHERE) from error
    if len(wrapped) != key.key_size // 8:
        raise Closed(f"its key is wrapped in {len(wrapped)} bytes", where=WHERE)
    try:
        inner = key.decrypt(wrapped, _OAEP)
        if len(inner) != KEY_SIZE:
            raise ValueError("another key length")
        decryptor = Cipher(algorithms.AES256(inner), modes.CBC(vector)).decryptor()
        unpadder = padding.PKCS7(BLOCK * 8).unpadder()
        padded = decryptor.update(content) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise Closed(
            "is not for the key of this request",
            where=WHERE,
            remedy="somebody between here and the key service changed or replayed the reply",
        ) from error


def _parts(info: Any) -> tuple[bytes, bytes, bytes]:
    """Wrapped key, initialisation vector and encrypted content, once everything around them is as it must."""
    _must(info["content_type"].native == "enveloped_data", "content type")
    enveloped = info["content"]
    _must(enveloped["originator_info"].native is None, "originator")
    _must(enveloped["unprotected_attrs"].native is None, "unprotected attributes")
    recipients = enveloped["recipient_infos"]
    _must(len(recipients) == 1 and recipients[0].name == "ktri", "recipients")
    recipient = recipients[0].chosen
    versions = VERSIONS[recipient["rid"].name]
    recipient["rid"].chosen.native  # noqa: B018  (read, so that damage in it shows)
    _must((enveloped["version"].native, recipient["version"].native) == versions, "versions")
    _oaep(recipient["key_encryption_algorithm"])
    content = enveloped["encrypted_content_info"]
    _must(content["content_type"].native == "data", "type of the content")
    algorithm = content["content_encryption_algorithm"]
    _must(algorithm["algorithm"].native == CIPHER, "cipher")
    vector = algorithm["parameters"].native
    encrypted = content["encrypted_content"].native
    _must(isinstance(vector, bytes) and len(vector) == BLOCK, "initialisation vector")
    _must(isinstance(encrypted, bytes) and encrypted and not len(encrypted) % BLOCK, "content")
    return recipient["encrypted_key"].native, vector, encrypted


def _oaep(algorithm: Any) -> None:
    """RSAES-OAEP with SHA-256 in both places and no label; the defaults of RFC 4055 are SHA-1."""
    _must(algorithm["algorithm"].native == "rsaes_oaep", "key encryption")
    parameters = algorithm["parameters"]
    for one in (parameters["hash_algorithm"], parameters["mask_gen_algorithm"]["parameters"]):
        _must(one["algorithm"].native == "sha256" and one["parameters"].native is None, "hash")
    _must(parameters["mask_gen_algorithm"]["algorithm"].native == "mgf1", "mask")
    source = parameters["p_source_algorithm"]
    _must(source["algorithm"].native == "p_specified" and source["parameters"].native == b"", "label")


def _must(holds: object, what: str) -> None:
    if not holds:
        raise Closed(f"its {what}: KMS sends another", where=WHERE)
