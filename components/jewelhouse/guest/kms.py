"""AWS KMS, asked by attested code: it decrypts for a document, and answers to the key inside it alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from jewelhouse.guest import cms
from jewelhouse.guest.opening import Asked, Closed, Opened
from jewelhouse.guest.settings import Endpoints, Stage

# RSA-OAEP with SHA-256: of the attested key, and of the key in the document.
WRAPPING = "RSAES_OAEP_SHA_256"
NONCE = 32
# Seconds, and attempts where KMS asks for patience (KMS developer guide, throttling).
CONNECT, READ, ATTEMPTS = 10, 30, 5
# Why KMS may have said no; it does not tell.
DENIED = (
    "its key policy admits other measurements, another role, or nobody; "
    "compare with: jewelhouse release evaluate --explain"
)
REMEDIES = {
    "AccessDeniedException": DENIED,
    "ExpiredTokenException": "the host's role credentials ran out; they come from its metadata service",
    "InvalidCiphertextException": "what was wrapped is not for this key: it was changed, or the key was",
    "NotFoundException": "there is no such key in this region",
    "KMSInvalidStateException": "the key is disabled or about to be deleted",
    "ThrottlingException": "too many requests, even after waiting; run again later",
    "ValidationException": "KMS cannot read the attestation document",
}

# From key, nonce and what is to be bound: a document.
Attest = Callable[[bytes, bytes, bytes], bytes]


def client(stage: Stage, endpoints: Endpoints) -> Any:
    """boto3's client. Raises Closed without a region."""
    import boto3
    from botocore.config import Config

    if stage.region is None:
        raise Closed("is missing", where="stage.region")
    return boto3.client(
        "kms",
        region_name=stage.region,
        endpoint_url=endpoints.kms,
        verify=endpoints.certificates or True,
        config=Config(
            connect_timeout=CONNECT,
            read_timeout=READ,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            user_agent_extra="jewelhouse-guest",
        ),
    )


def opener(kms: Any, attest: Attest, kind: str) -> Callable[[Asked], Opened]:
    """Opens by `attest`, which makes documents of this `kind`."""

    def open_(asked: Asked) -> Opened:
        # Of this one request: a document that somebody else got hold of opens nothing for him.
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        document = attest(public, os.urandom(NONCE), asked.bound)
        return Opened(dek=_decrypted(kms, asked, document, key), kind=kind, evidence=document)

    return open_


def _decrypted(kms: Any, asked: Asked, document: bytes, key: rsa.RSAPrivateKey) -> bytes:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        reply = kms.decrypt(
            KeyId=asked.key,
            CiphertextBlob=asked.wrapped,
            EncryptionAlgorithm=WRAPPING,
            Recipient={"AttestationDocument": document, "KeyEncryptionAlgorithm": WRAPPING},
        )
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise Closed(
            f"KMS refused {asked.artifact}: {code or 'no reason given'}",
            where=asked.key,
            remedy=REMEDIES.get(code, ""),
        ) from error
    except BotoCoreError as error:
        raise Closed(f"KMS cannot be asked: {type(error).__name__}", where=asked.key) from error
    # KMS leaves it out for attested callers; anything that is there has been seen on the way.
    if reply.get("Plaintext"):
        raise Closed("KMS answered in the clear, so this was not KMS", where=asked.key)
    if reply.get("KeyId") != asked.key or reply.get("EncryptionAlgorithm") != WRAPPING:
        raise Closed("KMS answered for another key", where=asked.key)
    return cms.opened(bytes(reply.get("CiphertextForRecipient") or b""), key)
