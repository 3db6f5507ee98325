"""A stand-in for the metadata service of an instance, version 2 only: its role's credentials and user data.

docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html (2026-10).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from jewelhouse.rehearsal.http import Answer, Asked, Service, Standing
from jewelhouse.rehearsal.sigv4 import Credentials

CREDENTIALS = "/latest/meta-data/iam/security-credentials/"
LIFE = timedelta(hours=6)


class Metadata(Standing):
    """`credentials` may be None, as on an instance without a profile. A context manager with `url`."""

    def __init__(
        self,
        credentials: Credentials | None,
        user_data: bytes | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.credentials, self.user_data, self.clock = credentials, user_data, clock
        self._token = secrets.token_urlsafe(24)
        self._service = Service(self._answer)

    def _answer(self, asked: Asked) -> Answer:
        if (asked.method, asked.path) == ("PUT", "/latest/api/token"):
            life = asked.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
            if not life.isdigit():
                return _plain(400)
            return _plain(200, self._token.encode(), {"x-aws-ec2-metadata-token-ttl-seconds": life})
        if asked.method != "GET":
            return _plain(405)
        if asked.headers.get("x-aws-ec2-metadata-token") != self._token:
            return _plain(401)
        if asked.path == "/latest/user-data" and self.user_data is not None:
            return _plain(200, self.user_data)
        if self.credentials is not None and asked.path.startswith(CREDENTIALS):
            return self._role(self.credentials, asked.path.removeprefix(CREDENTIALS))
        return _plain(404)

    def _role(self, credentials: Credentials, name: str) -> Answer:
        role = credentials.principal.split("/")[1]
        if not name:
            return _plain(200, role.encode())
        if name != role:
            return _plain(404)
        now = self.clock()
        body = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": _moment(now),
            "AccessKeyId": credentials.key_id,
            "SecretAccessKey": credentials.secret,
            "Token": credentials.token or "",
            "Expiration": _moment(credentials.expires or now + LIFE),
        }
        return _plain(200, json.dumps(body).encode())


def _plain(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    return Answer(status=status, body=body, kind="text/plain", headers=headers or {})


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
