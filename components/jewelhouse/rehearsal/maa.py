"""A stand-in for Microsoft Azure Attestation on loopback: evidence in, a token out, in the service's forms.

Guest attestation of VMs answers with a token that is encrypted to the run's key, attestation of container
groups with one in the clear. learn.microsoft.com/rest/api/attestation/; edgelesssys/go-azguestattestation:
maa/decrypttoken.go (2026-11).
"""

from __future__ import annotations

import base64
import json
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from jewelhouse.evidence.certificates import Root
from jewelhouse.guest.azure_cvm import TRANSPORT
from jewelhouse.rehearsal import http, maa_evidence
from jewelhouse.rehearsal.http import Answer, Asked, Service, answer
from jewelhouse.rehearsal.maa_evidence import Quotes, Unbelieved, inner
from jewelhouse.rehearsal.minting_claims import b64url
from jewelhouse.rehearsal.minting_tokens import MaaAuthority

GUEST, SNP = "/attest/AzureGuest", "/attest/SevSnpVm"
CHANGE = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Attested:
    """One request: the claims of the token that it got, or why it got none."""

    path: str
    claims: Mapping[str, Any] | None
    refused: str = ""


class Maa(http.Standing):
    """`amd`: roots of reports that are believed. `quotes` judges quotes of TDX. `change` alters claims before
    they are signed; `replay` is a token that is given out instead. A context manager with `url`.
    """

    def __init__(
        self,
        signer: MaaAuthority,
        *,
        amd: Sequence[Root],
        authority: http.Authority,
        quotes: Quotes | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        change: CHANGE = lambda claims: claims,
        replay: bytes | None = None,
    ) -> None:
        self.signer, self.amd, self.quotes, self.clock = signer, amd, quotes, clock
        self.change, self.replay = change, replay
        self.log: list[Attested] = []
        self.tokens: list[bytes] = []
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer, identity=authority.identity())

    def fail(self, status: int, times: int = 1) -> None:
        """The next answers have this status, whatever they ask."""
        self._faults += [_error(status, "Throttled", "Too many requests")] * times

    def cut(self, times: int = 1) -> None:
        """The next answers lose their connection in the middle."""
        self._faults += [Answer(body=b'{"token": "', cut=4)] * times

    def _answer(self, asked: Asked) -> Answer:
        if self._faults:
            return self._faults.popleft()
        if (asked.method, asked.path) == ("GET", "/certs"):
            return answer(self.signer.jwks)
        if asked.method != "POST" or asked.path not in (GUEST, SNP) or "api-version" not in asked.query:
            return _error(404, "NotFound", "no such resource")
        try:
            body = json.loads(asked.body)
            claims, key = self._claims(asked.path, body)
        except (Unbelieved, ValueError) as error:
            self.log.append(Attested(path=asked.path, claims=None, refused=str(error)))
            return _error(400, "AttestationFailed", str(error))
        self.log.append(Attested(path=asked.path, claims=claims))
        token = self.replay or self.signer.token(claims)
        self.tokens.append(token)
        return answer({"token": token.decode() if key is None else encrypted(token, key)})

    def _claims(self, path: str, body: Any) -> tuple[dict[str, Any], tuple[int, int] | None]:
        if not isinstance(body, dict):
            raise Unbelieved("the body is no object")
        # Tokens count whole seconds.
        now = self.clock().replace(microsecond=0)
        if path == SNP:
            claims = maa_evidence.container(body, now, self.amd, self.signer.issuer)
            return self.change(claims), None
        info = inner(body.get("AttestationInfo"), "AttestationInfo")
        claims, key = maa_evidence.guest(info, now, self.amd, self.quotes, self.signer.issuer)
        return self.change(claims), key


def encrypted(token: bytes, key: tuple[int, int]) -> str:
    """A token in the envelope of guest attestation."""
    transport, vector = AESGCM.generate_key(256), os.urandom(12)
    content = AESGCM(transport).encrypt(vector, token, TRANSPORT)
    public = rsa.RSAPublicNumbers(key[1], key[0]).public_key()
    envelope = {
        "Jwt": _text(content[:-16]),
        "EncryptedInnerKey": _text(public.encrypt(transport, padding.PKCS1v15())),
        "EncryptionParams": {"Iv": _text(vector)},
        "AuthenticationData": _text(content[-16:]),
    }
    return b64url(json.dumps(envelope).encode())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _error(status: int, code: str, message: str) -> Answer:
    return answer({"error": {"code": code, "message": message}}, status)
