"""A stand-in for Cloud KMS on loopback: `asymmetricDecrypt` and `getPublicKey`, as its REST API has them.

It holds the keys, asks the token service who calls, and decides by the bindings and deny policies that the
stack deployed. docs.cloud.google.com/kms/docs/reference/rest, .../iam/docs/deny-overview,
.../iam/docs/roles-permissions/cloudkms (2026-11).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import google_crc32c
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.model import Cloud
from jewelhouse.rehearsal import google_deny, http
from jewelhouse.rehearsal.http import Answer, Asked, Service, answer
from jewelhouse.rehearsal.sts import Federated
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Decision, Request, evaluate

NAME = r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+/cryptoKeyVersions/\d+"
DECRYPT = re.compile(rf"/v1/(?P<name>{NAME}):asymmetricDecrypt")
PUBLIC = re.compile(rf"/v1/(?P<name>{NAME})/publicKey")
USE, VIEW = "cloudkms.cryptoKeyVersions.useToDecrypt", "cloudkms.cryptoKeyVersions.viewPublicKey"
# Roles with viewPublicKey; the one that decrypts is not among them.
VIEWING = {
    "roles/cloudkms.publicKeyViewer",
    "roles/cloudkms.signerVerifier",
    "roles/cloudkms.verifier",
    "roles/cloudkms.cryptoOperator",
    "roles/owner",
}
ALGORITHM, LEVEL = "RSA_DECRYPT_OAEP_4096_SHA256", "HSM"
OAEP = padding.OAEP(mgf=padding.MGF1(algorithm=hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One call: what was asked for which key, `released`, `viewed` or the error's status, and why."""

    action: str
    key: str
    code: str
    decision: Decision | None = None
    why: str = ""


class Refused(Exception):
    """An error of the service."""

    def __init__(
        self, status: int, code: str, message: str, *, decision: Decision | None = None, why: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.decision, self.why = status, code, message, decision, why

    @property
    def answer(self) -> Answer:
        return answer(
            {"error": {"code": self.status, "message": self.message, "status": self.code}}, self.status
        )


@dataclass(frozen=True, kw_only=True)
class Held:
    """One version of a key. `document`: provider and bindings as they are deployed."""

    name: str
    private: rsa.RSAPrivateKey = field(repr=False)
    document: Mapping[str, Any]
    enabled: bool = True


class CloudKms(http.Standing):
    """`who` is what the token service knows of a token; `accounts` are tokens of people and service accounts,
    as IAM names them. `denials`: the deny policies, as resources of the stack.

    `meddle` changes replies, as a service that lies would. A context manager with `url`.
    """

    def __init__(
        self,
        keys: Sequence[Held],
        *,
        who: Callable[[str], Federated | None],
        authority: http.Authority,
        denials: Sequence[Mapping[str, Any]] = (),
        accounts: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        meddle: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body,
    ) -> None:
        self.keys = {key.name: key for key in keys}
        self.who, self.denials, self.accounts = who, denials, accounts or {}
        self.clock, self.meddle = clock, meddle
        self.log: list[Judged] = []
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer, identity=authority.identity())

    def fail(self, status: int, code: str = "UNAVAILABLE", times: int = 1) -> None:
        """The next answers have this status, whatever they ask."""
        self._faults += [Refused(status, code, "The service is currently unavailable.").answer] * times

    def cut(self, times: int = 1) -> None:
        """The next answers lose their connection in the middle."""
        self._faults += [Answer(body=b'{"plaintext": "', cut=4)] * times

    def reply(self, body: bytes, status: int = 200) -> None:
        """The next answer is these bytes."""
        self._faults.append(Answer(status=status, body=body))

    def _answer(self, asked: Asked) -> Answer:
        if self._faults:
            return self._faults.popleft()
        decrypts, views = DECRYPT.fullmatch(asked.path), PUBLIC.fullmatch(asked.path)
        named = decrypts or views
        if named is None or asked.method != ("POST" if decrypts else "GET"):
            return Refused(404, "NOT_FOUND", "Method not found.").answer
        action, name = ("decrypt" if decrypts else "view"), named["name"]
        try:
            caller = self._caller(asked)
            if decrypts:
                decision, body = self._decrypt(name, caller, asked.body)
                self.log.append(Judged(action=action, key=name, code="released", decision=decision))
                return answer(self.meddle(body))
            body = self._view(name, caller)
            self.log.append(Judged(action=action, key=name, code="viewed"))
            return answer(body)
        except Refused as error:
            self.log.append(
                Judged(action=action, key=name, code=error.code, decision=error.decision, why=error.why)
            )
            return error.answer

    def _caller(self, asked: Asked) -> Federated | str:
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        caller = (self.who(token) or self.accounts.get(token)) if scheme == "Bearer" else None
        if caller is None:
            raise Refused(
                401,
                "UNAUTHENTICATED",
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie "
                "or other valid authentication credential.",
            )
        return caller

    def _decrypt(self, name: str, caller: Federated | str, data: bytes) -> tuple[Decision, dict[str, Any]]:
        held = self.keys.get(name)
        if held is None:
            raise _forbidden(USE, name)
        denied = google_deny.against(self.denials, name, USE, _principals(caller))
        if denied:
            raise _forbidden(USE, name, why=denied)
        decision = decides(held.document, caller, self.clock())
        if not decision.released:
            raise _forbidden(USE, name, decision=decision, why=_why(decision))
        if not held.enabled:
            raise Refused(400, "FAILED_PRECONDITION", f"{name} is not enabled, current state is: DISABLED.")
        ciphertext, verified = _ciphertext(data)
        try:
            plaintext = held.private.decrypt(ciphertext, OAEP)
        except ValueError as error:
            raise Refused(400, "INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.") from error
        return decision, {
            "plaintext": base64.b64encode(plaintext).decode(),
            "plaintextCrc32c": str(google_crc32c.value(plaintext)),
            "verifiedCiphertextCrc32c": verified,
            "protectionLevel": LEVEL,
        }

    def _view(self, name: str, caller: Federated | str) -> dict[str, Any]:
        held = self.keys.get(name)
        bindings = held.document.get("bindings", ()) if held else ()
        named = [
            one for one in bindings if one["role"] in VIEWING and set(one["members"]) & _principals(caller)
        ]
        if held is None or not named:
            raise _forbidden(VIEW, name)
        pem = held.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "pem": pem.decode(),
            "algorithm": ALGORITHM,
            "pemCrc32c": str(google_crc32c.value(pem)),
            "name": name,
            "protectionLevel": LEVEL,
        }


def decides(document: Mapping[str, Any], caller: Federated | str, at: datetime) -> Decision:
    """Whether a key's bindings let a caller decrypt.

    A federated token is what the provider of its own pool made of it: bindings that name another pool are
    not about it.
    """
    bindings = document.get("bindings", [])
    if isinstance(caller, str):
        body = {**document, "bindings": bindings}
        return evaluate(_document(body), None, Request(at=at, principal=caller))
    body = {**caller.provider, "bindings": bindings, "pool": caller.pool}
    return evaluate(_document(body), caller.verdict, Request(at=at))


def _document(body: Mapping[str, Any]) -> Document:
    return Document(name="key", cloud=Cloud.GCP, body=body)


def _principals(caller: Federated | str) -> set[str]:
    """The names by which IAM knows a caller, but for those that attributes make."""
    if isinstance(caller, str):
        return {caller}
    return {f"principalSet://iam.googleapis.com/{caller.pool}/*"}


def _ciphertext(data: bytes) -> tuple[bytes, bool]:
    try:
        body = json.loads(data)
        ciphertext = base64.b64decode(body["ciphertext"], validate=True)
        given = body.get("ciphertextCrc32c")
        crc = None if given is None else int(given)
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
        raise Refused(400, "INVALID_ARGUMENT", "Invalid JSON payload received.") from error
    if crc is not None and crc != google_crc32c.value(ciphertext):
        raise Refused(
            400,
            "INVALID_ARGUMENT",
            "The checksum in field ciphertext_crc32c did not match the data in field ciphertext.",
        )
    return ciphertext, crc is not None


def _forbidden(permission: str, name: str, *, decision: Decision | None = None, why: str = "") -> Refused:
    return Refused(
        403,
        "PERMISSION_DENIED",
        f"Permission '{permission}' denied on resource '{name}' (or it may not exist).",
        decision=decision,
        why=why,
    )


def _why(decision: Decision) -> str:
    against = [one for one in decision.because if not one.holds]
    return "; ".join(one.what or f"{one.claim} {one.found}" for one in against[:2])
