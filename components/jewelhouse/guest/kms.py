"""A release by AWS KMS: `Decrypt` with a `Recipient`, answered to the key inside the attestation document.

docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html; aws/aws-nitro-enclaves-sdk-c: docs/kms-apis/
(2026-10). An RSA key takes no encryption context: what a data key is for is bound by the associated data of
what it encrypts, and by the signed manifest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialResolver, InstanceMetadataFetcher, InstanceMetadataProvider
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
    SSLError,
)
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from jewelhouse.evidence import nitro_document
from jewelhouse.evidence.verdict import Kind, MalformedEvidence
from jewelhouse.guest import cms
from jewelhouse.guest.opening import Asked, Closed, Opened
from jewelhouse.guest.settings import Endpoints, Stage

ALGORITHM = "RSAES_OAEP_SHA_256"
RECIPIENT_BITS = 2048
NONCE = 32
# Throttling and errors of the service are retried with growing pauses, nothing else is; five requests last
# at most half a minute (boto3 guide, retries, mode standard, 2026-10).
ATTEMPTS = 5
CONNECT, READ = 10, 30
# What KMS and its front say -> what it means here and what to do. API_Decrypt.html, CommonErrors.html.
EXPIRED = ("the role's credentials have expired", "look whether the metadata service of the host is reached")
SKEWED = (
    "refuses the time of the request",
    "set the clock: the host's for a disk image; an enclave takes its own from the hypervisor",
)
SAYINGS: Mapping[str, tuple[str, str]] = {
    "AccessDeniedException": (
        "the release policy does not admit this stage",
        "compare the evidence with its gates: jewelhouse release evaluate --policy P --evidence E",
    ),
    "InvalidCiphertextException": (
        "what is wrapped does not unwrap with this key",
        "seal the artifact to the key's public half as it is now",
    ),
    "IncorrectKeyException": ("what is wrapped is for another key", "look at the keys of the manifest"),
    "InvalidKeyUsageException": ("is not an RSA key for decryption", "the stack makes it so: pulumi refresh"),
    "NotFoundException": ("is not there", "compare the key's ARN and region with the stack's outputs"),
    "DisabledException": ("is disabled", "its owner disabled it: ask there"),
    "KMSInvalidStateException": (
        "cannot be used in its state",
        "its deletion may be pending: ask its owner to cancel it",
    ),
    "ValidationException": ("does not take the request", "look at the key: RSA_4096 for ENCRYPT_DECRYPT"),
    "ThrottlingException": (f"was asked {ATTEMPTS} times and throttles", "start fewer stages at once"),
    "LimitExceededException": (f"was asked {ATTEMPTS} times and throttles", "start fewer stages at once"),
    "ExpiredTokenException": EXPIRED,
    "ExpiredToken": EXPIRED,
    "RequestExpired": SKEWED,
    "RequestTimeTooSkewed": SKEWED,
    "InvalidSignatureException": (
        "does not take the request's signature",
        "the clock is wrong, or the credentials are not the role's any more",
    ),
    "UnrecognizedClientException": (
        "does not know the role's credentials",
        "look at the instance profile of the host",
    ),
}
CLOCK = ("Signature expired", "Signature not yet current")


def client(stage: Stage, endpoints: Endpoints) -> Any:
    """boto's client for KMS in the stage's region, with the credentials of the instance's role and no other.

    What the environment says about profiles, endpoints and certificates does not count. Raises Closed without
    region or credentials.
    """
    region = region_of(stage)
    session = botocore.session.get_session()
    fetcher = InstanceMetadataFetcher(
        timeout=CONNECT,
        num_attempts=ATTEMPTS,
        config={
            "ec2_metadata_service_endpoint": endpoints.imds or os.environ.get(METADATA),
            "ec2_metadata_v1_disabled": True,
        },
    )
    session.register_component(
        "credential_provider", CredentialResolver([InstanceMetadataProvider(iam_role_fetcher=fetcher)])
    )
    try:
        return session.create_client(
            "kms",
            region_name=region,
            endpoint_url=endpoints.kms,
            verify=endpoints.certificates or True,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                connect_timeout=CONNECT,
                read_timeout=READ,
                proxies={},
                ignore_configured_endpoint_urls=True,
            ),
        )
    except BotoCoreError as error:
        raise _unreachable(f"kms in {region}", error) from error


# Where boto looks for the metadata service; inside an enclave a relay leads there.
METADATA = "AWS_EC2_METADATA_SERVICE_ENDPOINT"


def region_of(stage: Stage) -> str:
    """The stage's region. Raises Closed without one."""
    if stage.region is None:
        raise Closed("names no region", where="stage.region", remedy="deploy the stage again")
    return stage.region


def release(
    client: Any, asked: Asked, evidence: Callable[[bytes, bytes], bytes], kind: Kind, nonce: bytes
) -> Opened:
    """Unwraps what is asked for. `evidence`: from a public key (SubjectPublicKeyInfo) and a nonce to the
    attestation document that carries both.

    The key is made for this one request and forgotten with it. Raises Closed.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=RECIPIENT_BITS)
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    document = evidence(public, nonce)
    registers = _checked(document, kind, public, nonce)
    try:
        reply = client.decrypt(
            CiphertextBlob=asked.wrapped,
            KeyId=asked.key,
            EncryptionAlgorithm=ALGORITHM,
            Recipient={"KeyEncryptionAlgorithm": ALGORITHM, "AttestationDocument": document},
        )
    except ClientError as error:
        raise _refused(asked.key, error, registers) from error
    except (BotoCoreError, HTTPClientError) as error:
        raise _unreachable(asked.key, error) from error
    return Opened(dek=cms.opened(_sealed(reply, asked.key), key), kind=kind.value, evidence=document)


def _checked(document: bytes, kind: Kind, public: bytes, nonce: bytes) -> str:
    """The registers that policies name, in words, once the document is one for this request.

    Its signature is for KMS to check: whoever could forge it here could as well change this code.
    """
    try:
        found = nitro_document.parse(document)
    except MalformedEvidence as error:
        raise Closed(f"the evidence {error.what}", where=error.where or "evidence") from error
    for right, what in (
        (found.kind is kind, f"is a document of {found.kind}, not of {kind}"),
        (found.public_key == public, "is for another public key"),
        (found.nonce == nonce, "answers another nonce"),
    ):
        if not right:
            raise Closed(what, where="evidence", remedy="it was replayed, or comes from another machine")
    shown = ("PCR0",) if kind is Kind.NITRO_ENCLAVE else ("PCR4", "PCR7", "PCR12")
    if kind is Kind.NITRO_ENCLAVE and not any(found.registers.get(0, b"")):
        return "PCR0 is zeros, as in a debug enclave"
    return ", ".join(f"{name} {found.measurements[name]}" for name in shown if name in found.measurements)


def _sealed(reply: Mapping[str, Any], key: str) -> bytes:
    """What a reply holds for this request's key, if it is KMS's answer to what was asked."""
    if reply.get("Plaintext"):
        raise Closed(
            "answers with a plaintext that everybody on the way reads",
            where=key,
            remedy="this is not KMS: it never does so for a request with a Recipient",
        )
    for name, wanted in (("KeyId", key), ("EncryptionAlgorithm", ALGORITHM)):
        if reply.get(name) is None:
            raise Closed(
                f"answers without {name}", where=key, remedy="the answer was cut off on its way: run again"
            )
        if reply[name] != wanted:
            raise Closed(
                f"answers for {name} {ascii(reply[name])[:200]}",
                where=key,
                remedy="the reply is not for this request: somebody changed it",
            )
    found = reply.get("CiphertextForRecipient")
    if not isinstance(found, bytes):
        raise Closed("answers without CiphertextForRecipient", where=key, remedy="this is not KMS")
    return found


def _refused(key: str, error: ClientError, registers: str) -> Closed:
    """What a refusal means. The service's own words follow: they name principal and action, no secret."""
    said = error.response.get("Error", {})
    code, message = str(said.get("Code", "")), str(said.get("Message", ""))
    what, remedy = SAYINGS.get(code, (f"refuses with {ascii(code)[:80]}", ""))
    if code == "InvalidSignatureException" and message.startswith(CLOCK):
        what, remedy = SKEWED
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code not in SAYINGS and status >= 500:
        what, remedy = f"was asked {ATTEMPTS} times and fails with status {status}", "try again later"
    if code == "AccessDeniedException":
        what = f"{what}; {registers or 'its evidence has no registers'}"
    words = "".join(letter if letter.isprintable() else "?" for letter in message[:300])
    return Closed(f"{what} ({code}: {words})" if words else what, where=key, remedy=remedy)


def _unreachable(key: str, error: Exception) -> Closed:
    """Failures on the way. Their text names hosts and causes."""
    if isinstance(error, NoCredentialsError | MetadataRetrievalError):
        return Closed(
            "the metadata service gives no credentials",
            where=key,
            remedy="give the host its instance profile; in an enclave, look at the proxy on vsock port 8002",
        )
    if isinstance(error, SSLError):
        return Closed(
            "who answers has no certificate of the key service",
            where=key,
            remedy="somebody stands between here and KMS; only its certificate is accepted",
        )
    return Closed(
        f"cannot be reached: {type(error).__name__}",
        where=key,
        remedy="look at the endpoint and, in an enclave, at the proxy on vsock port 8000",
    )
