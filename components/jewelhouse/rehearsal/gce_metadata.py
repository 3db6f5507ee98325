"""A stand-in for the metadata server of a VM on Google Cloud: where it is, and tokens of its service account.

docs.cloud.google.com/compute/docs/metadata/predefined-metadata-keys, .../compute/docs/instances/
verifying-instance-identity (2026-11).
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from jewelhouse.rehearsal.http import Answer, Asked, Service, Standing, answer
from jewelhouse.rehearsal.minting_tokens import jws, rsa_key

ROOT = "/computeMetadata/v1/"
ACCOUNT = "instance/service-accounts/default"
# The key that Google's accounts service would sign identity tokens with; attestation believes no other.
ACCOUNTS = "google accounts"


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A VM: project, its number, zone, id, and the service account that it runs as."""

    project: str
    number: str
    account: str
    zone: str = "europe-west4-a"
    id: str = "3087957179640521392"
    access: str = field(default_factory=lambda: f"ya29.c.{secrets.token_urlsafe(40)}", repr=False)

    @property
    def region(self) -> str:
        return self.zone.rpartition("-")[0]


class Metadata(Standing):
    """The metadata server of one instance. A context manager with `url`; `reply` makes the next answer of a
    path these bytes."""

    def __init__(
        self, instance: Instance, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.instance, self.clock = instance, clock
        self.log: list[str] = []
        self._replies: dict[str, deque[Answer]] = {}
        self._service = Service(self._answer)

    def reply(self, path: str, body: bytes, status: int = 200) -> None:
        self._replies.setdefault(path, deque()).append(Answer(status=status, body=body))

    def _answer(self, asked: Asked) -> Answer:
        path = asked.path.removeprefix(ROOT)
        self.log.append(path)
        if self._replies.get(path):
            return self._replies[path].popleft()
        if asked.headers.get("metadata-flavor") != "Google" or not asked.path.startswith(ROOT):
            return Answer(status=403, body=b"Missing Metadata-Flavor:Google header.", kind="text/html")
        one = self.instance
        if path == f"{ACCOUNT}/token":
            return answer({"access_token": one.access, "expires_in": 3599, "token_type": "Bearer"})
        if path == f"{ACCOUNT}/identity" and asked.query.get("audience"):
            return _text(self._identity(asked.query["audience"]).decode())
        known = {
            "project/project-id": one.project,
            "instance/zone": f"projects/{one.number}/zones/{one.zone}",
        }
        return (
            _text(known[path]) if path in known else Answer(status=404, body=b"not found", kind="text/html")
        )

    def _identity(self, audience: str) -> bytes:
        now = int(self.clock().timestamp())
        claims = {
            "iss": "https://accounts.google.com",
            "aud": audience,
            "email": self.instance.account,
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
        }
        return jws({"alg": "RS256", "kid": "accounts-1", "typ": "JWT"}, claims, rsa_key(ACCOUNTS))


def _text(body: str) -> Answer:
    return Answer(body=body.encode(), kind="application/text")
