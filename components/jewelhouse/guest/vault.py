"""A release by Key Vault: the attested key itself comes, wrapped to the key in this run's token.

The reply is a JWS under a certificate of the vault's host, in which the key is wrapped by
CKM_RSA_AES_KEY_WRAP: RSA-OAEP with SHA-1 of an AES key, then by that key (RFC 5649) a PKCS#8 private key.
Sources, 2026-11: learn.microsoft.com/rest/api/keyvault/keys/release; pkg/skr/akv.go of
microsoft/confidential-sidecar-containers; cvm-securekey-release-app of
Azure/confidential-computing-cvm-guest-attestation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certifi
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential
from azure.keyvault.keys import KeyClient, KeyExportEncryptionAlgorithm
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from jewelhouse.evidence import tokens, x5c
from jewelhouse.evidence.tokens import member, shown
from jewelhouse.evidence.verdict import MalformedEvidence
from jewelhouse.guest import azure_web
from jewelhouse.guest.opening import Asked, Closed
from jewelhouse.guest.settings import Endpoints, Stage

WRAPPING = KeyExportEncryptionAlgorithm.ckm_rsa_aes_key_wrap
# learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates: a version has 32 hex digits.
KEY = re.compile(
    r"(?P<vault>https://(?P<host>[a-z0-9][a-z0-9-]{1,126}\.(vault|managedhsm)\.azure\.net))"
    r"/keys/(?P<name>[A-Za-z0-9-]{1,127})(/(?P<version>[0-9a-f]{32}))?"
)
REPLY = 64 * 1024
AES_BYTES, DEK_BYTES = 32, 32
KEK_BITS = (2048, 3072, 4096)
MOST_CERTIFICATES = 8
# What Key Vault's statuses mean here, and what to do. learn.microsoft.com/azure/key-vault/general/
# rest-error-codes (2026-11).
SAYINGS: Mapping[int, tuple[str, str]] = {
    401: ("does not take the identity's token", "look at the tenant of the vault and of the identity"),
    403: (
        "releases nothing to this stage",
        "compare token and gates: jewelhouse release evaluate --policy P --evidence E; and look whether the "
        "identity has the role Key Vault Crypto Service Release User on the key",
    ),
    404: ("is not there", "compare the key's URI with the stack's outputs"),
    409: ("is in a state in which it is not released", "its owner may have deleted it: ask there"),
    429: (f"was asked {azure_web.ATTEMPTS} times and throttles", "start fewer stages at once"),
}
_OAEP_SHA256 = padding.OAEP(
    mgf=padding.MGF1(algorithm=hashes.SHA256()), algorithm=hashes.SHA256(), label=None
)

Decrypt = Callable[[bytes], bytes]
"""RSA-OAEP with SHA-1 by the key in the token. Raises Closed, or ValueError for what is not for it."""


@dataclass(frozen=True, kw_only=True)
class Name:
    """An attested key by its URI; without a version it is the newest."""

    vault: str
    host: str
    name: str
    version: str | None

    def is_of(self, kid: object) -> bool:
        """Whether a key identifier with a version names this key."""
        found = KEY.fullmatch(kid) if isinstance(kid, str) else None
        return (
            found is not None
            and (found["host"], found["name"].lower()) == (self.host, self.name.lower())
            and found["version"] is not None
            and self.version in (None, found["version"])
        )


def name(uri: str) -> Name:
    """Raises Closed for what is no key of Key Vault or a managed HSM."""
    found = KEY.fullmatch(uri)
    if found is None:
        raise Closed(
            f"{ascii(uri)[:200]} is no key of Key Vault",
            where="stage.opens",
            remedy="it reads https://<vault>.vault.azure.net/keys/<name>",
        )
    return Name(vault=found["vault"], host=found["host"], name=found["name"], version=found["version"])


class Vaults:
    """Releases by the vaults that keys are in, with the stage's managed identity."""

    def __init__(self, stage: Stage, endpoints: Endpoints) -> None:
        if stage.client_id is None:
            raise Closed(
                "names no managed identity", where="stage.client_id", remedy="deploy the stage again"
            )
        self.endpoints = endpoints
        azure_web.identify(stage.client_id, endpoints)
        self.credential = ManagedIdentityCredential(
            client_id=stage.client_id, transport=azure_web.transport(endpoints)
        )
        self.roots = Path(endpoints.certificates or certifi.where())

    def release(self, asked: Asked, token: str, decrypt: Decrypt, seen: str, kid: str) -> bytes:
        """The data key. `seen`: what gates see of the token, for a refusal; `kid`: the token's key.

        Raises Closed.
        """
        key = name(asked.key)
        reply = self._asked(key, asked.key, token, seen)
        payload = verified(reply, key, self.roots.read_bytes(), datetime.now(UTC))
        return unwrapped(wrapped(payload, key, asked.key, kid), decrypt, asked.wrapped, asked.key)

    def _asked(self, key: Name, where: str, token: str, seen: str) -> str:
        base = self.endpoints.vault or key.vault
        try:
            with KeyClient(
                base,
                self.credential,
                transport=azure_web.transport(self.endpoints),
                # A stand-in is not where the tokens that it takes are for.
                verify_challenge_resource=self.endpoints.vault is None,
                **azure_web.RETRIES,
            ) as client:
                found = client.release_key(
                    key.name,
                    token,
                    version=key.version,
                    algorithm=WRAPPING,
                    retry_on_methods=azure_web.REPEATED,
                ).value
        except (ClientAuthenticationError, CredentialUnavailableError) as error:
            raise _identity(where, error) from error
        except AzureError as error:
            if isinstance(error, HttpResponseError) and (error.status_code or 0) >= 400:
                raise _refused(where, error, seen) from error
            raise azure_web.unreachable(where, error) from error
        if not isinstance(found, str) or not found.isascii() or len(found) > REPLY:
            raise Closed("answers without a key", where=where, remedy="this is not Key Vault")
        return found


def verified(reply: str, key: Name, roots: bytes, at: datetime) -> dict[str, Any]:
    """The payload of a reply, signed by a certificate for the vault's host under one of `roots` (PEM).

    TLS has shown the same of who answers, and a stranger's reply would not unwrap the data key; so this says
    who made up the reply, rather than keeping anybody out. Raises Closed.
    """
    try:
        found = tokens.read(reply.encode())
        if found.header.get("alg") != tokens.ALGORITHM:
            raise _forged(key, f"is signed by {shown(found.header.get('alg'))}, expected {tokens.ALGORITHM}")
        listed = found.header.get("x5c")
        if not isinstance(listed, list) or not 0 < len(listed) <= MOST_CERTIFICATES:
            raise _forged(key, "brings no chain of certificates")
        chain = [x5c.decode(one) for one in listed]
        signer = chain[0].public_key()
        verifier = PolicyBuilder().store(Store(x509.load_pem_x509_certificates(roots))).time(at)
        verifier.build_server_verifier(x509.DNSName(key.host)).verify(chain[0], chain[1:])
    except MalformedEvidence as error:
        raise _forged(key, f"{error.where} {error.what}") from error
    except x5c.UNREADABLE as error:
        raise _forged(key, f"has a certificate that cannot be read: {error}") from error
    except VerificationError as error:
        raise _forged(key, f"is under a chain that is not {key.host}'s: {error}") from error
    if not isinstance(signer, rsa.RSAPublicKey) or not tokens.signed_by(found, signer):
        raise _forged(key, "is not signed by the certificate that it brings")
    return dict(found.claims)


def wrapped(payload: Mapping[str, Any], key: Name, where: str, kid: str) -> bytes:
    """The wrapped key of a payload, if that is for what was asked. Raises Closed."""
    named = member(payload, "response", "key", "key", "kid")
    if not key.is_of(named):
        raise Closed(
            f"answers with the key {shown(named)}",
            where=where,
            remedy="the reply is for another key or version: somebody changed it on its way",
        )
    encoded = member(payload, "response", "key", "key", "key_hsm")
    try:
        if not isinstance(encoded, str):
            raise MalformedEvidence("is absent", where="key_hsm")
        blob = tokens.json_object(tokens.decode(encoded.encode(), "key_hsm"), "key_hsm")
        for name_, expected in (("enc", WRAPPING.value), ("kid", kid)):
            if (found := member(blob, "header", name_)) != expected:
                raise MalformedEvidence(f"is {shown(found)}, expected {expected}", where=f"header.{name_}")
        ciphertext = blob.get("ciphertext")
        if not isinstance(ciphertext, str):
            raise MalformedEvidence("is absent", where="ciphertext")
        return tokens.decode(ciphertext.encode(), "ciphertext")
    except MalformedEvidence as error:
        raise Closed(f"answers with a wrapped key whose {error.where} {error.what}", where=where) from error


def unwrapped(blob: bytes, decrypt: Decrypt, dek: bytes, where: str) -> bytes:
    """The data key `dek` unwrapped with the key in `blob`, which is forgotten with this call.

    Raises Closed. Python and OpenSSL keep copies that nobody can overwrite; they go with the process, whose
    memory the TEE encrypts.
    """
    transfer: bytes | bytearray = b""
    try:
        # OAEP's part has the length of the token's key, 2048 bits here.
        transfer = bytearray(decrypt(blob[:256]))
        if len(transfer) != AES_BYTES or len(blob) <= 256:
            raise ValueError("another length")
        released = load_der_private_key(aes_key_unwrap_with_padding(bytes(transfer), blob[256:]), None)
    except (ValueError, TypeError, InvalidUnwrap, UnsupportedAlgorithm) as error:
        raise Closed(
            "answers with a key that is not wrapped to this run's",
            where=where,
            remedy="somebody between here and Key Vault changed or replayed the reply",
        ) from error
    finally:
        if isinstance(transfer, bytearray):
            transfer[:] = bytes(len(transfer))
    if not isinstance(released, rsa.RSAPrivateKey) or released.key_size not in KEK_BITS:
        raise Closed(
            "releases a key that is not RSA", where=where, remedy="the stack makes it so: pulumi refresh"
        )
    try:
        found = released.decrypt(dek, _OAEP_SHA256)
    except ValueError as error:
        raise Closed(
            "what is wrapped does not unwrap with the released key",
            where=where,
            remedy="seal the artifact to the key's public half as it is now",
        ) from error
    if len(found) != DEK_BYTES:
        raise Closed(f"unwraps to {len(found)} bytes, a data key has {DEK_BYTES}", where=where)
    return found


def _forged(key: Name, what: str) -> Closed:
    return Closed(
        f"the reply {what}", where=key.host, remedy="this is not Key Vault, or somebody stands in between"
    )


def _refused(where: str, error: HttpResponseError, seen: str) -> Closed:
    status = error.status_code or 0
    what, remedy = SAYINGS.get(status, (f"refuses with status {status}", ""))
    if status >= 500:
        what, remedy = (
            f"was asked {azure_web.ATTEMPTS} times and fails with status {status}",
            "try again later",
        )
    words = azure_web.said((error.response.text() if error.response is not None else "").encode())
    if status == 403:
        what = f"{what}, of which it saw: {seen}"
    return Closed(f"{what} ({words})" if words else what, where=where, remedy=remedy)


def _identity(where: str, error: AzureError) -> Closed:
    if isinstance(error, HttpResponseError) and error.response is not None and error.status_code == 401:
        return _refused(where, error, "")
    return Closed(
        f"the managed identity gives no token: {type(error).__name__}",
        where=where,
        remedy="assign the stage's identity to its host, and look whether the metadata service is reached",
    )
