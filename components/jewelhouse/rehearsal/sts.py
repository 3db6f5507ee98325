"""A stand-in for Google's Security Token Service on loopback: an attestation token for a federated one.

It decides by the workload identity pool providers that the stack deployed. Wire format: RFC 8693;
docs.cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token. Words of its errors, where they are
known: google-github-actions/auth, issues 202, 211 (2026-11).
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from jewelhouse.evidence import confidential_space
from jewelhouse.evidence.verdict import MalformedEvidence, Verdict
from jewelhouse.model import Cloud
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal.http import Answer, Asked, Service, answer
from jewelhouse.rehearsal.minting_tokens import GoogleAuthority
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Decision, Request, evaluate
from jewelhouse.release.gcp import ROLE

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
SUBJECTS = ("urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token")
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
PROVIDER = re.compile(
    r"//iam\.googleapis\.com/(?P<pool>projects/\d+/locations/global/workloadIdentityPools/[^/]+)/providers/[^/]+"
)
LIFE = timedelta(hours=1)
# Where what the evaluator names lies -> what the service answers with.
CONDITION = "The given credential is rejected by the attribute condition."


@dataclass(frozen=True, kw_only=True)
class Federated:
    """What a federated token stands for: an attested principal of a pool, and what attested it."""

    pool: str
    provider: Mapping[str, Any]
    verdict: Verdict
    expires: datetime


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """One request: for which provider, `exchanged` or the error's code, and why."""

    audience: str
    code: str
    decision: Decision | None
    why: str = ""


class Refused(Exception):
    """An error of the service."""

    def __init__(self, code: str, words: str, decision: Decision | None = None) -> None:
        super().__init__(words)
        self.code, self.words, self.decision = code, words, decision


class Sts(http.Standing):
    """`providers`: by their full names, issuer, audiences, mapping and condition as they are deployed.
    `attestation`: whose tokens are believed. `meddle` changes replies, as a service that lies would.

    A context manager with `url`; `who` says what a federated token stands for.
    """

    def __init__(
        self,
        providers: Mapping[str, Mapping[str, Any]],
        *,
        attestation: GoogleAuthority,
        authority: http.Authority,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        meddle: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body,
    ) -> None:
        self.providers, self.attestation, self.clock, self.meddle = providers, attestation, clock, meddle
        self.log: list[Exchanged] = []
        self._issued: dict[str, Federated] = {}
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer, identity=authority.identity())

    def who(self, token: str) -> Federated | None:
        found = self._issued.get(token)
        return found if found is not None and self.clock() < found.expires else None

    def fail(self, status: int, times: int = 1) -> None:
        """The next answers have this status, whatever they ask."""
        self._faults += [answer({"error": "temporarily_unavailable"}, status)] * times

    def cut(self, times: int = 1) -> None:
        """The next answers lose their connection in the middle."""
        self._faults += [Answer(body=b'{"access_token": "', cut=4)] * times

    def reply(self, body: bytes, status: int = 200) -> None:
        """The next answer is these bytes."""
        self._faults.append(Answer(status=status, body=body))

    def _answer(self, asked: Asked) -> Answer:
        if self._faults:
            return self._faults.popleft()
        if (asked.method, asked.path) != ("POST", "/v1/token"):
            return answer({"error": {"code": 404, "message": "Requested entity was not found."}}, 404)
        given = dict(parse_qsl(asked.body.decode("utf-8", "replace")))
        audience = given.get("audience", "")
        try:
            found, decision = self._exchange(given)
        except Refused as error:
            self.log.append(
                Exchanged(
                    audience=audience, code=error.code, decision=error.decision, why=_why(error.decision)
                )
            )
            return answer({"error": error.code, "error_description": error.words}, 400)
        token = f"ya29.d.{secrets.token_urlsafe(60)}"
        self._issued[token] = found
        self.log.append(Exchanged(audience=audience, code="exchanged", decision=decision))
        body = {
            "access_token": token,
            "issued_token_type": ACCESS,
            "token_type": "Bearer",
            "expires_in": int((found.expires - self.clock()).total_seconds()),
        }
        return answer(self.meddle(body))

    def _exchange(self, given: Mapping[str, str]) -> tuple[Federated, Decision]:
        if given.get("grant_type") != GRANT or given.get("requested_token_type") != ACCESS:
            raise Refused("unsupported_grant_type", "Invalid grant type or requested token type.")
        if given.get("subject_token_type") not in SUBJECTS:
            raise Refused("invalid_request", "Unsupported subject token type.")
        if SCOPE not in given.get("scope", "").split():
            raise Refused("invalid_scope", "Scope is missing.")
        audience = given.get("audience", "")
        named = PROVIDER.fullmatch(audience)
        if named is None:
            raise Refused(
                "invalid_request",
                'Invalid value for "audience". This value should be the full resource name of the Identity '
                "Provider.",
            )
        provider = self.providers.get(audience)
        if provider is None:
            raise Refused(
                "invalid_target",
                'The target service indicated by the "audience" parameters is invalid. This might either be '
                "because the pool or provider is disabled or deleted or because it doesn't exist.",
            )
        now = self.clock()
        try:
            # Keys of the issuer alone: a chain inside a token is for other verifiers.
            verdict = confidential_space.verify(
                given.get("subject_token", "").encode("utf-8", "replace"),
                at=now,
                endorsements=self.attestation.endorsements,
                roots=frozenset(),
            )
        except MalformedEvidence as error:
            raise Refused("invalid_grant", f"Unable to parse the ID Token: {error.what}") from error
        decision = exchanges(provider, verdict, now)
        if not decision.released:
            raise _refusal(decision)
        expires = min(now + LIFE, verdict.expires or now)
        return Federated(pool=named["pool"], provider=provider, verdict=verdict, expires=expires), decision


def exchanges(provider: Mapping[str, Any], verdict: Verdict, at: datetime) -> Decision:
    """Whether a provider takes a token, whatever is bound to what its mapping makes of it."""
    anything = [{"role": ROLE, "members": ["*"]}]
    body = {**provider, "bindings": anything}
    return evaluate(Document(name="provider", cloud=Cloud.GCP, body=body), verdict, Request(at=at))


def _refusal(decision: Decision) -> Refused:
    against = [one for one in decision.because if not one.holds]
    if any(one.where.startswith("condition") for one in against):
        return Refused("unauthorized_client", CONDITION, decision)
    said = next((one.what or f"{one.claim} is {one.found}" for one in against), "")
    return Refused("invalid_grant", f"The ID Token is not accepted: {said}", decision)


def _why(decision: Decision | None) -> str:
    against = [one for one in decision.because if not one.holds] if decision else []
    return "; ".join(one.what or f"{one.claim} {one.found}" for one in against[:2])
