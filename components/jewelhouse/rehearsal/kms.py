"""A stand-in for AWS KMS on loopback: Decrypt, with a Recipient and without, and GetPublicKey.

AWS JSON 1.1 as boto speaks it, requests signed with Signature Version 4. It holds the keys, verifies
attestation documents under the roots that it is given, and releases when the key's own policy does
(`release.evaluate`). docs.aws.amazon.com/kms/latest/APIReference/ (2026-10).
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.evidence import nitro
from jewelhouse.evidence.verdict import MalformedEvidence, Verdict
from jewelhouse.model import Cloud
from jewelhouse.rehearsal import sigv4
from jewelhouse.rehearsal.envelope import enveloped
from jewelhouse.rehearsal.http import Answer, Asked, Identity, Service, Standing
from jewelhouse.rehearsal.sigv4 import Credentials, Refused
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Decision, Request, evaluate

JSON = "application/x-amz-json-1.1"
TARGET = "TrentService."
ALGORITHM = "RSAES_OAEP_SHA_256"
# API_Decrypt.html, Errors; 400 where it says nothing else.
STATUS = {"KMSInternalException": 500, "DependencyTimeoutException": 503, "KeyUnavailableException": 500}
# Request Parameters of API_Decrypt.html and RecipientInfo: sizes in bytes.
CIPHERTEXT, DOCUMENT = 6144, 262_144
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One call: what was asked by whom, and the answer: `code` is the error's, or `released`. `decision` is
    the evaluator's, where it came to that."""

    action: str
    key: str
    principal: str | None
    code: str
    decision: Decision | None


class Kms(Standing):
    """Keys and their policies by ARN, callers by access key id.

    `identity` puts it under TLS. `meddle` changes the body of an answer to Decrypt before it is sent, as a
    service that lies would. Used as a context manager; `url` is where clients are led to.
    """

    def __init__(
        self,
        keys: Mapping[str, rsa.RSAPrivateKey],
        policies: Mapping[str, Mapping[str, Any]],
        *,
        roots: Sequence[nitro.Root],
        callers: Sequence[Credentials],
        region: str = "eu-central-1",
        identity: Identity | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        meddle: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.keys, self.roots, self.region, self.clock, self.meddle = keys, roots, region, clock, meddle
        self.policies = {
            key: Document(name=key, cloud=Cloud.AWS, body=body) for key, body in policies.items()
        }
        self.callers = {one.key_id: one for one in callers}
        self.log: list[Judged] = []
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer, identity=identity)

    def fail(self, code: str, times: int = 1) -> None:
        """The next calls are answered with this error (`ThrottlingException`), whatever they ask."""
        self._faults += [_error(Refused(code, "Rate exceeded", STATUS.get(code, 400)))] * times

    def cut(self, times: int = 1) -> None:
        """The next calls lose their connection in the middle of the answer."""
        self._faults += [Answer(body=b'{"KeyId": ', kind=JSON, cut=4)] * times

    def _answer(self, asked: Asked) -> Answer:
        if self._faults:
            return self._faults.popleft()
        action, key, principal = asked.headers.get("x-amz-target", "").removeprefix(TARGET), "", None
        decision: Decision | None = None
        code = "released"
        try:
            credentials = sigv4.caller(
                asked, self.callers, service="kms", region=self.region, now=self.clock()
            )
            principal = credentials.principal
            body = _body(asked)
            key = self._key(body)
            if action not in ("Decrypt", "GetPublicKey"):
                raise Refused("UnsupportedOperationException", f"{action[:80]} is not played here")
            verdict = self._verdict(body) if action == "Decrypt" else None
            decision = self._decide(action, key, credentials, verdict, body)
            if not decision.released:
                raise _denied(principal, action, key)
            reply = self._decrypt(key, verdict, body) if action == "Decrypt" else self._public(key)
            return Answer(body=json.dumps(reply).encode(), kind=JSON, headers=_identified())
        except Refused as error:
            code = error.code
            return _error(error)
        finally:
            self.log.append(Judged(action=action, key=key, principal=principal, code=code, decision=decision))

    def _key(self, body: Mapping[str, Any]) -> str:
        """The ARN of the key that is meant, by its ARN or its id."""
        named = body.get("KeyId")
        for arn in self.keys:
            if named in (arn, arn.rpartition("/")[2]):
                return arn
        raise Refused("NotFoundException", f"Key {str(named)[:200]!r} does not exist")

    def _verdict(self, body: Mapping[str, Any]) -> Verdict | None:
        """What the document of a recipient proves, under this service's roots."""
        recipient = body.get("Recipient")
        if recipient is None:
            return None
        if not isinstance(recipient, dict) or recipient.get("KeyEncryptionAlgorithm") != ALGORITHM:
            raise Refused("ValidationException", f"KeyEncryptionAlgorithm must be {ALGORITHM}")
        try:
            verdict = nitro.verify(
                _blob(recipient, "AttestationDocument", DOCUMENT), at=self.clock(), roots=self.roots
            )
        except MalformedEvidence as error:
            raise Refused("ValidationException", f"The attestation document: {error}") from error
        if not verdict.claims["public_key_usable"]:
            raise Refused("ValidationException", "The attestation document has no RSA public key")
        return verdict

    def _decide(
        self,
        action: str,
        key: str,
        credentials: Credentials,
        verdict: Verdict | None,
        body: Mapping[str, Any],
    ) -> Decision:
        context = {"aws:RequestedRegion": (self.region,), "aws:ResourceAccount": (key.split(":")[4],)}
        if "EncryptionAlgorithm" in body:
            context["kms:EncryptionAlgorithm"] = (str(body["EncryptionAlgorithm"]),)
        return evaluate(
            self.policies[key],
            verdict,
            Request(
                at=self.clock(),
                principal=credentials.principal,
                action=f"kms:{action}",
                context=context,
                identity_policies=credentials.policies,
                resource=key,
            ),
        )

    def _decrypt(self, key: str, verdict: Verdict | None, body: Mapping[str, Any]) -> dict[str, Any]:
        if body.get("EncryptionAlgorithm") != ALGORITHM:
            raise Refused("InvalidKeyUsageException", f"{key} decrypts {ALGORITHM}")
        if "EncryptionContext" in body:
            raise Refused("ValidationException", "An RSA key takes no EncryptionContext")
        try:
            plaintext = self.keys[key].decrypt(_blob(body, "CiphertextBlob", CIPHERTEXT), _OAEP)
        except ValueError:
            raise Refused("InvalidCiphertextException", "") from None
        reply: dict[str, Any] = {"KeyId": key, "EncryptionAlgorithm": ALGORITHM}
        if verdict is None:
            reply["Plaintext"] = _text(plaintext)
        else:
            public = bytes.fromhex(verdict.claims["public_key"])
            reply["CiphertextForRecipient"] = _text(enveloped(public, plaintext))
        return self.meddle(reply) if self.meddle else reply

    def _public(self, key: str) -> dict[str, Any]:
        der = (
            self.keys[key]
            .public_key()
            .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return {
            "KeyId": key,
            "PublicKey": _text(der),
            "KeySpec": f"RSA_{self.keys[key].key_size}",
            "CustomerMasterKeySpec": f"RSA_{self.keys[key].key_size}",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "EncryptionAlgorithms": ["RSAES_OAEP_SHA_1", ALGORITHM],
        }


def _body(asked: Asked) -> dict[str, Any]:
    if asked.method != "POST" or asked.path != "/":
        raise Refused("UnknownOperationException", "", 404)
    try:
        body = json.loads(asked.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused("SerializationException", "The body is no JSON object")
    return body


def _blob(body: Mapping[str, Any], name: str, most: int) -> bytes:
    try:
        data = base64.b64decode(str(body.get(name, "")), validate=True)
    except binascii.Error:
        raise Refused("SerializationException", f"{name} is not base64") from None
    if not 0 < len(data) <= most:
        raise Refused("ValidationException", f"{name} must have 1 to {most} bytes")
    return data


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _denied(principal: str, action: str, key: str) -> Refused:
    """KMS says who may not do what on which key, and never which condition was not met."""
    return Refused(
        "AccessDeniedException",
        f"User: {principal} is not authorized to perform: kms:{action} on resource: {key}",
    )


def _error(error: Refused) -> Answer:
    body = {"__type": error.code, **({"message": error.message} if error.message else {})}
    return Answer(status=error.status, body=json.dumps(body).encode(), kind=JSON, headers=_identified())


def _identified() -> dict[str, str]:
    return {"x-amzn-RequestId": secrets.token_hex(16)}
