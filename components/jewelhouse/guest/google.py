"""An attestation token for a federated one: what releases on Google Cloud share.

An attestation token opens the key for whoever holds it, so it goes to Google's Security Token Service alone,
whatever the settings name; they are not trusted. Sources, 2026-11: docs.cloud.google.com/iam/docs/reference/
sts/rest/v1/TopLevel/token, .../iam/docs/workload-identity-federation, google.aip.dev/auth/4117.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from google.auth import external_account, identity_pool
from google.auth.exceptions import GoogleAuthError, OAuthError
from google.auth.transport.requests import Request

from jewelhouse.evidence import confidential_space
from jewelhouse.evidence.tokens import member, shown
from jewelhouse.evidence.verdict import Kind, MalformedEvidence
from jewelhouse.guest import cloud_kms
from jewelhouse.guest.google_web import PATIENCE, session, spoken, unreachable
from jewelhouse.guest.opening import Asked, Closed, Opened
from jewelhouse.guest.settings import Endpoints, Stage

AUDIENCE = "https://sts.googleapis.com"
TOKEN_URL = "https://sts.googleapis.com/v1/token"
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:jwt"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
PROVIDER = re.compile(
    r"//iam\.googleapis\.com/projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]{4,32}"
    r"/providers/[a-z0-9-]{4,32}"
)
# Members of an external account that change nothing here: where its token would be is not asked.
KNOWN = {"type", "audience", "subject_token_type", "token_url", "credential_source", "universe_domain"}
CLAIMS = (
    ("swname",),
    ("hwmodel",),
    ("dbgstat",),
    ("submods", "container", "image_digest"),
    ("submods", "gce", "project_id"),
    ("google_service_accounts",),
)
# Errors of the token service -> what they mean here and what to do. RFC 6749 section 5.2, RFC 8693 section
# 2.2.2; which it gives for what: google-github-actions/auth, issues 202 and 211 (2026-11).
EXCHANGES: Mapping[str, tuple[str, str]] = {
    "unauthorized_client": ("the release policy does not admit this stage", cloud_kms.EXPLAIN),
    "invalid_grant": (
        "does not take the attestation token",
        "it has expired, or is not from Google Cloud Attestation; look at the clock and at the launcher",
    ),
    "invalid_target": (
        "does not know the key's workload identity pool",
        "it is disabled or deleted, or the settings name another: pulumi refresh",
    ),
    "invalid_request": ("does not take the request", "compare the stage's credentials with the stack's"),
}

Tokens = Callable[[Sequence[str]], bytes]
"""From nonces to an attestation token that has them. Raises Closed."""


class _Supplier(identity_pool.SubjectTokenSupplier):
    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def get_subject_token(self, context: Any, request: Any) -> str:
        return self._token()


def release(asked: Asked, endpoints: Endpoints, attest: Tokens, kind: Kind) -> Opened:
    """Unwraps what is asked for with a token of this run. Raises Closed."""
    account = provider(asked.credentials, asked.artifact)
    nonces = [os.urandom(32).hex(), *([asked.bound.hex()] if asked.bound else ())]
    token = attest(nonces)
    seen = check(token, nonces)
    access = exchange(federated(account, endpoints, lambda: token.decode("ascii")), endpoints, account, seen)
    return Opened(dek=cloud_kms.decrypt(asked, endpoints, access, seen), kind=kind.value, evidence=token)


def provider(credentials: Mapping[str, Any] | None, where: str) -> str:
    """The provider that an external account names: the one thing in it that counts.

    Raises Closed for an account that would have the token sent elsewhere or another identity taken on.
    """
    where = f"stage.opens.{where}.credentials"
    if credentials is None:
        raise Closed("are missing", where=where, remedy="deploy the stage again")
    if unknown := sorted(map(str, credentials.keys() - KNOWN)):
        raise Closed(
            f"have {', '.join(ascii(name) for name in unknown)}, which is not followed",
            where=where,
            remedy="use the external account that the stack puts out: direct, without impersonation",
        )
    wanted = {"type": "external_account", "subject_token_type": TOKEN_TYPE, "token_url": TOKEN_URL}
    for name, value in {**wanted, "universe_domain": cloud_kms.UNIVERSE}.items():
        found = credentials.get(name, value if name == "universe_domain" else None)
        if found != value:
            raise Closed(
                f"{name} is {shown(found)}, expected {value}",
                where=where,
                remedy="the token goes to Google alone; deploy the stage again",
            )
    audience = credentials.get("audience")
    if not isinstance(audience, str) or not PROVIDER.fullmatch(audience):
        raise Closed(f"audience is {shown(audience)}, no workload identity provider", where=where)
    return audience


def check(token: bytes, nonces: Sequence[str]) -> str:
    """What gates can see of a token, in words. Raises Closed when it is no answer to what was asked.

    Its signature and times are for the token service to check: whoever could forge a token here could as well
    change this code. What is checked is that it is of this run.
    """
    where = "attestation token"
    try:
        claims = confidential_space.parse(token).claims
    except MalformedEvidence as error:
        raise Closed(f"{error.where} {error.what}".strip(), where=where) from error
    if claims.get("iss") != confidential_space.ISSUER:
        raise Closed(f"is issued by {shown(claims.get('iss'))}", where=where)
    if claims.get("aud") not in (AUDIENCE, [AUDIENCE]):
        raise Closed(f"is for {shown(claims.get('aud'))}, expected {AUDIENCE}", where=where)
    found = claims.get("eat_nonce")
    # Text where one was asked for, a list where several were.
    if not all(nonce in (found if isinstance(found, list) else [found]) for nonce in nonces):
        raise Closed(
            "answers another nonce",
            where=where,
            remedy="it was replayed, or comes from another machine",
        )
    values = ((path[-1], member(claims, *path)) for path in CLAIMS)
    return ", ".join(f"{name} {shown(value)}" for name, value in values if value is not None)


def federated(audience: str, endpoints: Endpoints, token: Callable[[], str]) -> identity_pool.Credentials:
    """Google's own external account, given its token by this program."""
    return identity_pool.Credentials(
        audience=audience,
        subject_token_type=TOKEN_TYPE,
        token_url=f"{endpoints.sts}/v1/token" if endpoints.sts else TOKEN_URL,
        subject_token_supplier=_Supplier(token),
        scopes=[SCOPE],
    )


def exchange(credentials: external_account.Credentials, endpoints: Endpoints, where: str, seen: str) -> str:
    """The federated token. Raises Closed, with what the gates can see of the attestation token."""
    try:
        with session(endpoints) as connections:
            credentials.refresh(partial(Request(connections), timeout=PATIENCE))
    except OAuthError as error:
        raise _refused_exchange(where, error, seen) from error
    except GoogleAuthError as error:
        raise unreachable(where, error) from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise Closed("answers with no token that could be read", where=where) from error
    found = credentials.token
    if not isinstance(found, str) or not found or not found.isascii() or not found.isprintable():
        raise Closed("answers without a token", where=where)
    return found


def _refused_exchange(where: str, error: OAuthError, seen: str) -> Closed:
    body: Any = None
    try:
        body = json.loads(error.args[-1])
    except (ValueError, TypeError, RecursionError):
        body = None
    code, words = str(member(body, "error") or ""), str(member(body, "error_description") or "")
    what, remedy = EXCHANGES.get(code, ("refuses, and it does not say why", "try again later"))
    if code == "unauthorized_client":
        what = f"{what}; {seen}"
    return Closed(f"{what} ({spoken(code, words)})" if code else what, where=where, remedy=remedy)


def prepared(stage: Stage, endpoints: Endpoints, attest: Tokens) -> Endpoints:
    """How the stage's buckets are reached: what it opens as the attested code that its key opens to, since
    nobody else may read, and what it seals with the service account of its host.

    Raises Closed for credentials that are not followed.
    """
    buckets: dict[str, Mapping[str, Any]] = {}
    for one in stage.seals.values():
        buckets[one.store] = {"token": "cloud"}
    for name, one in stage.opens.items():
        account = provider(one.credentials, name)
        buckets[one.store] = {"token": federated(account, endpoints, partial(_again, attest))}
    found = {url: options for url, options in buckets.items() if url.startswith(("gs://", "gcs://"))}
    return replace(endpoints, stores={**found, **endpoints.stores})


def _again(attest: Tokens) -> str:
    nonces = [os.urandom(32).hex()]
    token = attest(nonces)
    check(token, nonces)
    return token.decode("ascii")
