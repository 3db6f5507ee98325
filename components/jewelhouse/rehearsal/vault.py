"""A stand-in for Key Vault on loopback: its challenge, reading a key's public half, and releasing a key.

It holds the keys, verifies tokens of the attestation service that it is given, looks who may ask, and
releases when the key's own release policy does (`release.evaluate`). Wire format, 2026-11:
learn.microsoft.com/rest/api/keyvault/keys/release; a real answer is in Azure/azure-quickstart-templates:
quickstarts/microsoft.compute/confidential-vm-linux-keyvault-secure-key-release/README.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.x509 import load_pem_x509_certificates

from jewelhouse.evidence import maa
from jewelhouse.evidence.maa import Roots
from jewelhouse.evidence.verdict import Endorsements, MalformedEvidence
from jewelhouse.model import Cloud
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal.azure_imds import Identity
from jewelhouse.rehearsal.http import Answer, Asked, Service, answer
from jewelhouse.rehearsal.minting_claims import b64url, jwk_rsa
from jewelhouse.rehearsal.minting_tokens import jws
from jewelhouse.release import azure
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Decision, Request, evaluate

RESOURCE = "https://vault.azure.net"
TENANT = "10000000-0000-4000-8000-0000000000aa"
KEY = re.compile(r"https://(?P<host>[^/]+)/keys/(?P<name>[^/]+)(/(?P<version>[0-9a-f]{32}))?")
PATH = re.compile(r"/keys/(?P<name>[^/]+)/(?P<version>[^/]*)(?P<release>/release)?")
# KeyExportEncryptionAlgorithm of the REST API: the hash of OAEP.
WRAPPINGS: Mapping[str, hashes.HashAlgorithm] = {
    "CKM_RSA_AES_KEY_WRAP": hashes.SHA1(),
    "RSA_AES_KEY_WRAP_256": hashes.SHA256(),
    "RSA_AES_KEY_WRAP_384": hashes.SHA384(),
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One call: what was asked by whom, and the answer: `code` is the error's, or `released`. `decision` is
    the evaluator's, where it came to that."""

    action: str
    key: str
    principal: str | None
    code: str
    decision: Decision | None


class Refused(Exception):
    """An error of the service."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers

    @property
    def answer(self) -> Answer:
        body = {"error": {"code": self.code, "message": self.message}}
        return answer(body, self.status, headers={k.replace("_", "-"): v for k, v in self.headers.items()})


@dataclass(frozen=True, kw_only=True)
class Held:
    """One key of the vault with its only version."""

    uri: str
    kid: str
    host: str
    private: rsa.RSAPrivateKey
    document: Document


class Vault(http.Standing):
    """Keys and their release policies by URI, and who may ask for each (`releasers`: principals).

    `issuers`: what tokens are verified with. `authority` signs the certificates of TLS and of replies, as a
    public one would. `meddle` changes a reply's payload before it is signed, `forge` the signed reply, as
    services that lie would. A context manager with `url`.
    """

    def __init__(
        self,
        keys: Mapping[str, rsa.RSAPrivateKey],
        policies: Mapping[str, Mapping[str, Any]],
        *,
        releasers: Mapping[str, Collection[str]],
        identities: Collection[Identity],
        issuers: Endorsements,
        roots: Roots,
        authority: http.Authority,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        meddle: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        forge: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.releasers, self.issuers, self.roots, self.clock = releasers, issuers, roots, clock
        self.authority, self.meddle, self.forge = authority, meddle, forge
        self.principals = {one.token: one.principal for one in identities}
        self.keys = [_held(uri, keys[uri], policies[uri]) for uri in keys]
        self.log: list[Judged] = []
        self._signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer, identity=authority.identity())

    def fail(self, status: int, times: int = 1, code: str = "Throttled") -> None:
        """The next answers to callers with a token have this status, whatever they ask."""
        self._faults += [Refused(status, code, "Rate limit exceeded").answer] * times

    def cut(self, times: int = 1) -> None:
        """The next answers lose their connection in the middle."""
        self._faults += [Answer(body=b'{"value": "', cut=4)] * times

    def _answer(self, asked: Asked) -> Answer:
        path = PATH.fullmatch(asked.path)
        action = "release" if path and path["release"] else "get"
        key, principal, code = "", None, "released"
        decision: Decision | None = None
        try:
            principal = self._caller(asked)
            if self._faults:
                return self._faults.popleft()
            held = self._key(asked, path)
            key = held.uri
            if action == "get" and asked.method == "GET":
                return answer(self._public(held))
            if asked.method != "POST" or action != "release":
                raise Refused(404, "NotFound", "is not played here")
            if principal not in self.releasers.get(key, ()):
                raise Refused(
                    403,
                    "Forbidden",
                    "Caller is not authorized to perform action on resource. Action: "
                    "'Microsoft.KeyVault/vaults/keys/release/action'",
                )
            body = _body(asked)
            decision = self._decide(held, body)
            if not decision.released:
                raise Refused(
                    403,
                    "Forbidden",
                    "Target environment attestation statement does not meet the key release policy",
                )
            return answer({"value": self._release(held, body, asked.query).decode()})
        except Refused as error:
            code = error.code
            return error.answer
        finally:
            if principal is not None:
                self.log.append(
                    Judged(action=action, key=key, principal=principal, code=code, decision=decision)
                )

    def _caller(self, asked: Asked) -> str:
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        principal = self.principals.get(token) if scheme == "Bearer" else None
        if principal is None:
            challenge = (
                f'Bearer authorization="https://login.microsoftonline.com/{TENANT}", resource="{RESOURCE}"'
            )
            raise Refused(
                401, "Unauthorized", "AKV10000: Request is missing a token", WWW_Authenticate=challenge
            )
        return principal

    def _key(self, asked: Asked, path: re.Match[str] | None) -> Held:
        if path is None or "api-version" not in asked.query:
            raise Refused(404, "NotFound", "no such resource")
        for held in self.keys:
            name, version = held.kid.split("/")[-2:]
            if path["name"].lower() == name.lower() and path["version"] in ("", version):
                return held
        raise Refused(
            404, "KeyNotFound", f"A key with (name/id) {path['name']} was not found in this key vault"
        )

    def _decide(self, held: Held, body: Mapping[str, Any]) -> Decision:
        try:
            verdict = maa.verify(
                str(body.get("target", "")).encode(),
                at=self.clock(),
                endorsements=self.issuers,
                roots=self.roots,
            )
        except MalformedEvidence as error:
            raise Refused(400, "BadParameter", f"The attestation token {error}") from error
        return evaluate(held.document, verdict, Request(at=self.clock()))

    def _release(self, held: Held, body: Mapping[str, Any], query: Mapping[str, str]) -> bytes:
        wrapping = body.get("enc") or "CKM_RSA_AES_KEY_WRAP"
        if wrapping not in WRAPPINGS:
            raise Refused(400, "BadParameter", f"enc {wrapping!r} is not supported")
        token = maa.parse(str(body["target"]).encode())
        recipient = maa.release_key(token.claims)
        # The evaluator releases to no token without one.
        assert recipient is not None
        blob = {
            "schema_version": "1.0",
            "header": {"kid": recipient.kid, "alg": "dir", "enc": wrapping},
            "ciphertext": b64url(wrapped(held.private, recipient.numbers, WRAPPINGS[wrapping])),
        }
        payload = {
            "request": {
                "api-version": query["api-version"],
                "enc": wrapping,
                "kid": held.uri,
                **({"nonce": body["nonce"]} if body.get("nonce") else {}),
            },
            "response": {
                "key": {
                    **self._public(held),
                    "key": {**self._public(held)["key"], "key_hsm": b64url(json.dumps(blob).encode())},
                }
            },
        }
        if self.meddle:
            payload = self.meddle(payload)
        reply = jws(self._header(held), payload, self._signer)
        return self.forge(reply) if self.forge else reply

    def _header(self, held: Held) -> dict[str, Any]:
        chain = load_pem_x509_certificates(self.authority.identity([held.host], self._signer).chain)
        listed = [one.public_bytes(serialization.Encoding.DER) for one in chain]
        thumb = hashlib.sha1(listed[0], usedforsecurity=False).digest()
        return {
            "alg": "RS256",
            "kid": thumb.hex().upper(),
            "x5t": b64url(thumb),
            "typ": "JWT",
            "x5t#S256": b64url(hashlib.sha256(listed[0]).digest()),
            "x5c": [base64.b64encode(one).decode() for one in listed],
        }

    def _public(self, held: Held) -> dict[str, Any]:
        return {
            "key": jwk_rsa(
                held.private.public_key(),
                kid=held.kid,
                kty="RSA-HSM",
                key_ops=["encrypt", "wrapKey", "release"],
            ),
            "attributes": {"enabled": True, "exportable": True, "recoveryLevel": "Recoverable"},
            "tags": {},
            "release_policy": {
                "contentType": azure.CONTENT_TYPE,
                "data": azure.encode(held.document.body),
                "immutable": False,
            },
        }


def _held(uri: str, private: rsa.RSAPrivateKey, body: Mapping[str, Any]) -> Held:
    found = KEY.fullmatch(uri)
    if found is None:
        raise ValueError(f"{uri} is no key of Key Vault")
    version = found["version"] or hashlib.sha256(uri.encode()).hexdigest()[:32]
    return Held(
        uri=uri,
        kid=f"https://{found['host']}/keys/{found['name']}/{version}",
        host=found["host"],
        private=private,
        document=Document(name=uri, cloud=Cloud.AZURE, body=body),
    )


def _body(asked: Asked) -> dict[str, Any]:
    try:
        body = json.loads(asked.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "BadParameter", "The body is no JSON object")
    return body


def wrapped(private: rsa.RSAPrivateKey, to: tuple[int, int], digest: hashes.HashAlgorithm) -> bytes:
    """A private key in PKCS#8, wrapped with a fresh AES key, and that by OAEP to `to` (modulus, exponent)."""
    aes = os.urandom(32)
    plain = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    oaep = padding.OAEP(mgf=padding.MGF1(algorithm=digest), algorithm=digest, label=None)
    public = rsa.RSAPublicNumbers(to[1], to[0]).public_key()
    return public.encrypt(aes, oaep) + aes_key_wrap_with_padding(aes, plain)
