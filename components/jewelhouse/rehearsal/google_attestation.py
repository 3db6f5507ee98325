"""A stand-in for Google Cloud Attestation on loopback: challenges, and tokens for VMs that answer them.

It verifies what it can without Google: the attestation key's certificate, the quote over its challenge, the
registers, identity tokens of the service account, the hardware's quote of TDX. Wire format:
docs.cloud.google.com/confidential-computing/docs/reference/rest/v1/projects.locations.challenges;
google/go-tpm-tools: verifier/rest/rest.go (2026-11).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.evidence import tokens
from jewelhouse.evidence.verdict import MalformedEvidence, Verdict
from jewelhouse.guest import tpm
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal import gce_vtpm, http, vtpm
from jewelhouse.rehearsal.gce_metadata import ACCOUNTS, Instance
from jewelhouse.rehearsal.http import Answer, Asked, Service, answer
from jewelhouse.rehearsal.launcher import check_options, eat_nonce
from jewelhouse.rehearsal.minting_claims import vm_claims
from jewelhouse.rehearsal.minting_sgx import rsa_key
from jewelhouse.rehearsal.minting_tokens import GoogleAuthority

PLACE = r"projects/[^/]+/locations/[^/]+"
CREATE = re.compile(rf"/v1/(?P<place>{PLACE})/challenges")
VERIFY = re.compile(rf"/v1/(?P<name>{PLACE}/challenges/[^/:]+):verifyAttestation")
PCRS = range(24)


@dataclass(frozen=True, kw_only=True)
class Attested:
    """One request for a token: the claims that it got, or why it got none."""

    claims: Mapping[str, Any] | None
    refused: str = ""


class Unbelieved(Exception):
    """Evidence that does not hold, and why."""


class GoogleAttestation(http.Standing):
    """`instance`: the VM that the certified attestation key is in, which Google reads off its certificate.
    `name`: the root of such certificates. `quotes` judges quotes of TDX. `replay` is a token that is given
    out instead.

    A context manager with `url`.
    """

    def __init__(
        self,
        signer: GoogleAuthority,
        instance: Instance,
        *,
        name: str,
        authority: http.Authority,
        quotes: Callable[[bytes], Verdict] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        replay: bytes | None = None,
    ) -> None:
        self.signer, self.instance, self.name, self.quotes = signer, instance, name, quotes
        self.clock, self.replay = clock, replay
        self.log: list[Attested] = []
        self._challenges: dict[str, bytes] = {}
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer, identity=authority.identity())

    def fail(self, status: int, times: int = 1) -> None:
        """The next answers have this status, whatever they ask."""
        self._faults += [_error(status, "UNAVAILABLE", "The service is currently unavailable.")] * times

    def reply(self, body: bytes, status: int = 200) -> None:
        """The next answer is these bytes."""
        self._faults.append(Answer(status=status, body=body))

    def _answer(self, asked: Asked) -> Answer:
        if self._faults:
            return self._faults.popleft()
        creates, verifies = CREATE.fullmatch(asked.path), VERIFY.fullmatch(asked.path)
        if asked.method != "POST" or not (creates or verifies):
            return _error(404, "NOT_FOUND", "Method not found.")
        if asked.headers.get("authorization") != f"Bearer {self.instance.access}":
            return _error(
                403, "PERMISSION_DENIED", "Permission denied: confidentialcomputing.challenges.create"
            )
        if creates:
            return self._challenge(creates["place"])
        try:
            name = verifies["name"] if verifies else ""
            nonce = self._challenges.pop(name, None)
            if nonce is None:
                raise Unbelieved("the challenge is not known, or was used before")
            claims = self._claims(name, nonce, json.loads(asked.body))
        except (Unbelieved, Closed, ValueError, KeyError, TypeError, AttributeError) as error:
            self.log.append(Attested(claims=None, refused=str(error)))
            return _error(400, "INVALID_ARGUMENT", f"failed to verify attestation: {error}")
        self.log.append(Attested(claims=claims))
        token = self.replay or self.signer.token(claims, flavour="oidc")
        return answer({"oidcClaimsToken": token.decode()})

    def _challenge(self, place: str) -> Answer:
        if place != f"projects/{self.instance.project}/locations/{self.instance.region}":
            return _error(403, "PERMISSION_DENIED", f"Permission denied on {place}")
        name, nonce = f"{place}/challenges/{secrets.token_hex(16)}", secrets.token_bytes(32)
        self._challenges[name] = nonce
        return answer({"name": name, "tpmNonce": base64.b64encode(nonce).decode(), "used": False})

    def _claims(self, challenge: str, nonce: bytes, body: Mapping[str, Any]) -> dict[str, Any]:
        said, options = body["tpmAttestation"], body["tokenOptions"]
        self._quoted(said, nonce)
        if not _raw(said["tcgEventLog"]):
            raise Unbelieved("the log of the boot is empty")
        check_options(options["audience"], options["nonce"])
        accounts = [self._account(one, challenge) for one in body["gcpCredentials"]["serviceAccountIdTokens"]]
        claims = vm_claims(
            issued=self.clock().replace(microsecond=0),
            audience=options["audience"],
            hwmodel=self._hardware(body.get("tdCcel"), nonce),
            project=self.instance.project,
            number=self.instance.number,
            nonce=eat_nonce(options["nonce"]),
        )
        return {**claims, "google_service_accounts": accounts}

    def _quoted(self, said: Mapping[str, Any], nonce: bytes) -> None:
        """That the certified key signed the registers for this challenge."""
        named = x509.load_der_x509_certificate(_raw(said["akCert"]))
        try:
            named.verify_directly_issued_by(gce_vtpm.authority(self.name))
        except (InvalidSignature, ValueError, TypeError) as error:
            raise Unbelieved("akCert is not from the CA of Google's VMs") from error
        public = named.public_key()
        assert isinstance(public, rsa.RSAPublicKey)
        (quote,) = said["quotes"]
        statement, signature = (
            _raw(quote["rawQuote"]),
            tpm.Reader(_raw(quote["rawSignature"]), "rawSignature"),
        )
        if (signature.number(2), signature.number(2), quote["hashAlgo"]) != (
            tpm.RSASSA,
            tpm.SHA256,
            tpm.SHA256,
        ):
            raise Unbelieved("the quote is signed by another scheme")
        try:
            public.verify(signature.sized(), statement, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as error:
            raise Unbelieved("the quote is not by the key of akCert") from error
        values = [_raw(quote["pcrValues"][str(index)]) for index in PCRS]
        if vtpm.qualifying(statement) != nonce:
            raise Unbelieved("the quote answers another challenge")
        if vtpm.quoted(statement) != (tpm.selection(PCRS), hashlib.sha256(b"".join(values)).digest()):
            raise Unbelieved("the quote is of other registers or values")

    def _account(self, token: str, challenge: str) -> str:
        try:
            found = tokens.read(token.encode())
        except MalformedEvidence as error:
            raise Unbelieved(f"an identity token {error.what}") from error
        if not tokens.signed_by(found, rsa_key(ACCOUNTS).public_key()):
            raise Unbelieved("an identity token is not Google's")
        if found.claims.get("aud") != challenge:
            raise Unbelieved("an identity token is for another challenge")
        return str(found.claims["email"])

    def _hardware(self, ccel: Mapping[str, Any] | None, nonce: bytes) -> str:
        if self.quotes is None:
            return "GCP_AMD_SEV"
        if ccel is None:
            raise Unbelieved("there is no quote of the hardware")
        verdict = self.quotes(_raw(ccel["tdQuote"]))
        if not verdict.verified:
            raise Unbelieved("; ".join(f"{one.where} {one.what}" for one in verdict.problems[:3]))
        bound = {name.lower(): value for name, value in verdict.measurements.items()}.get("reportdata")
        if bound != nonce.ljust(64, b"\0").hex():
            raise Unbelieved("the hardware's quote answers another challenge")
        return "GCP_INTEL_TDX"


def _raw(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, binascii.Error) as error:
        raise Unbelieved("a field is not base64") from error


def _error(status: int, code: str, message: str) -> Answer:
    return answer({"error": {"code": status, "message": message, "status": code}}, status)
