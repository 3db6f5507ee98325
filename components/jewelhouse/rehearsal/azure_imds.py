"""A stand-in for the metadata service of a host on Azure: tokens of managed identities, and what the host has
of its processor's certificates and quotes.

learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token; Azure/
azure-guest-attestation-sdk: crates/azure-guest-attestation-sdk/src/guest_attest/imds.rs (2026-11).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from jewelhouse.rehearsal.http import Answer, Asked, Service, Standing, answer

TOKEN, THIM, QUOTE = "/metadata/identity/oauth2/token", "/metadata/THIM/amd/certification", "/acc/tdquote"
LIFE = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A managed identity that is assigned to the host; `token` is what Entra would have signed for it."""

    client: str
    principal: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(60), repr=False)


class Metadata(Standing):
    """`thim`: the answer of the certificate service; `quote`: from a TD report to a quote, on a TDX host.

    A context manager with `url`; `fail` makes the next answers errors.
    """

    def __init__(
        self,
        *identities: Identity,
        thim: bytes | None = None,
        quote: Callable[[bytes], bytes] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.identities = {one.client: one for one in identities}
        self.thim, self.quote, self.clock = thim, quote, clock
        self.log: list[str] = []
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer)

    def fail(self, status: int, times: int = 1) -> None:
        """The next answers have this status, whatever they ask."""
        self._faults += [answer({"error": "throttled"}, status)] * times

    def _answer(self, asked: Asked) -> Answer:
        self.log.append(asked.path)
        if self._faults:
            return self._faults.popleft()
        if asked.headers.get("metadata", "").lower() != "true":
            return answer({"error": "Bad request. Required metadata header not specified"}, 400)
        if (asked.method, asked.path) == ("GET", TOKEN):
            return self._token(asked.query)
        if (asked.method, asked.path) == ("GET", THIM) and self.thim is not None:
            return Answer(body=self.thim)
        if (asked.method, asked.path) == ("POST", QUOTE) and self.quote is not None:
            text = json.loads(asked.body)["report"]
            report = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            made = base64.urlsafe_b64encode(self.quote(report)).rstrip(b"=").decode()
            return answer({"quote": made})
        return answer({"error": "Not found"}, 404)

    def _token(self, query: Mapping[str, str]) -> Answer:
        found = self.identities.get(query.get("client_id", ""))
        if found is None or not query.get("resource"):
            return answer({"error": "invalid_request", "error_description": "Identity not found"}, 400)
        now = int(self.clock().timestamp())
        life = int(LIFE.total_seconds())
        return answer(
            {
                "access_token": found.token,
                "client_id": found.client,
                "expires_in": str(life),
                "expires_on": str(now + life),
                "ext_expires_in": str(life),
                "not_before": str(now),
                "resource": query["resource"],
                "token_type": "Bearer",
            }
        )
