"""Who calls an AWS service: Signature Version 4, verified as the services do.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html (2026-10).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jewelhouse.rehearsal.http import Asked

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
NEEDED = {"host", "x-amz-date"}
SKEW = timedelta(minutes=5)


class Refused(Exception):
    """A request that the service answers with an error, in its own words."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a caller signs with, and who that is. `policies`: identity policies of the principal."""

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    principal: str
    expires: datetime | None = None
    policies: tuple[Mapping[str, Any], ...] = ()


def caller(
    asked: Asked, known: Mapping[str, Credentials], *, service: str, region: str, now: datetime
) -> Credentials:
    """The credentials that signed a request. Raises Refused, as KMS words it."""
    parsed = AUTHORIZATION.fullmatch(asked.headers.get("authorization", ""))
    if parsed is None:
        raise Refused("MissingAuthenticationTokenException", "Missing Authentication Token")
    key_id, day, in_region, for_service, names, signature = parsed.groups()
    credentials = known.get(key_id)
    token = asked.headers.get("x-amz-security-token")
    if credentials is None or credentials.token != token:
        raise Refused("UnrecognizedClientException", "The security token included in the request is invalid.")
    if (in_region, for_service) != (region, service):
        raise Refused("InvalidSignatureException", f"Credential should be scoped to {region} and {service}.")
    if credentials.expires is not None and now >= credentials.expires:
        raise Refused("ExpiredTokenException", "The security token included in the request is expired")
    signed = names.split(";")
    if not set(signed) >= NEEDED | ({"x-amz-security-token"} if token else set()):
        raise Refused("InvalidSignatureException", "A header that must be signed is not.")
    moment = asked.headers["x-amz-date"]
    _fresh(moment, day, now)
    expected = _signature(credentials.secret, asked, signed, moment, (day, region, service))
    if not hmac.compare_digest(expected, signature):
        raise Refused(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )
    return credentials


def signed_again(asked: Asked, credentials: Credentials) -> Asked:
    """A changed request, signed by who holds the credentials, as the host does that hands them to a stage."""
    parsed = AUTHORIZATION.fullmatch(asked.headers["authorization"])
    assert parsed is not None
    _, day, region, service, names, signature = parsed.groups()
    made = _signature(
        credentials.secret, asked, names.split(";"), asked.headers["x-amz-date"], (day, region, service)
    )
    changed = asked.headers["authorization"].replace(signature, made)
    return replace(asked, headers={**asked.headers, "authorization": changed})


def _fresh(moment: str, day: str, now: datetime) -> None:
    try:
        at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refused("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'.") from None
    if day != moment[:8]:
        raise Refused("InvalidSignatureException", "Date in Credential scope does not match the date.")
    if at < now - SKEW:
        raise Refused("InvalidSignatureException", f"Signature expired: {moment} is now earlier than allowed")
    if at > now + SKEW:
        raise Refused("InvalidSignatureException", f"Signature not yet current: {moment} is still later")


def _signature(secret: str, asked: Asked, signed: list[str], moment: str, scope: tuple[str, ...]) -> str:
    path, _, query = asked.target.partition("?")
    headers = "".join(f"{name}:{' '.join(asked.headers.get(name, '').split())}\n" for name in signed)
    canonical = "\n".join(
        (
            asked.method,
            path,
            "&".join(sorted(query.split("&"))),
            headers,
            ";".join(signed),
            hashlib.sha256(asked.body).hexdigest(),
        )
    )
    whole = "/".join((*scope, "aws4_request"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in (*scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, f"AWS4-HMAC-SHA256\n{moment}\n{whole}\n{digest}".encode(), "sha256").hexdigest()
