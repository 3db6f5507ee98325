"""NVIDIA's Remote Attestation Service: evidence of GPUs in, signed tokens and the keys to verify them out.

It alone compares measurements with NVIDIA's reference values and so tells whether a debugger is locked out.
POST /v4/attest/gpu and /.well-known/jwks.json: docs.nvidia.com/attestation, NRAS API (2026-10);
NVIDIA/attestation-sdk: nv-attestation-sdk-cpp/src/{gpu/verify,nv_jwt}.cpp (2026-09).
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from jewelhouse.evidence import nvidia_eat, tokens
from jewelhouse.evidence.verdict import MalformedEvidence
from jewelhouse.guest.nvml import Evidence
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints

SERVICE = nvidia_eat.ROOTS[0]
ATTEST, KEYS = "/v4/attest/gpu", "/.well-known/jwks.json"
CLAIMS = "3.0"
# Asking twice changes nothing. Throttling and errors of the service are waited out for 15 s in all.
PAUSES = (1.0, 2.0, 4.0, 8.0)
ATTEMPTS = len(PAUSES) + 1
AGAIN = frozenset({408, 429})
TIMEOUT = 30
LARGEST = nvidia_eat.SIZE_LIMIT
# What a refusal means -> what to do.
REFUSALS: Mapping[int, tuple[str, str]] = {
    400: ("does not take the evidence", "compare driver and firmware with those that NVIDIA supports"),
    401: (
        "wants a service key, which the guest has none of",
        "ask NVIDIA how its service is used without one",
    ),
    403: (
        "wants a service key, which the guest has none of",
        "ask NVIDIA how its service is used without one",
    ),
    404: (
        "has no reference values for this driver or firmware",
        "choose versions that NVIDIA has released them for",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A bundle of tokens as the service sent it, and its key set at that time."""

    bundle: bytes
    keys: bytes


def attest(endpoints: Endpoints, nonce: bytes, gpus: Sequence[Evidence]) -> Answer:
    """The service's answer about GPUs of one architecture that all answered `nonce`.

    What it says is not looked at here. Raises Closed when there is no answer.
    """
    body = {
        "nonce": nonce.hex(),
        "arch": gpus[0].architecture,
        "claims_version": CLAIMS,
        "evidence_list": [
            {
                "evidence": base64.b64encode(one.report).decode(),
                "certificate": base64.b64encode(one.chain).decode(),
            }
            for one in gpus
        ],
    }
    bundle = asked(endpoints, "POST", ATTEST, json.dumps(body).encode())
    return Answer(bundle=bundle, keys=asked(endpoints, "GET", KEYS))


def asked(
    endpoints: Endpoints, method: str, path: str, body: bytes | None = None, pauses: Sequence[float] = PAUSES
) -> bytes:
    """The body of an answer with status 200, from the service and nobody else: no proxy, no redirection.

    Raises Closed.
    """
    context = ssl.create_default_context(cafile=endpoints.certificates)
    base = urlsplit(endpoints.nras or SERVICE)
    last: Closed | None = None
    for pause in (*pauses, None):
        try:
            status, data = _once(context, base.hostname or "", base.port, method, path, body)
        except ssl.SSLCertVerificationError as error:
            raise Closed(
                "who answers has no certificate of the service",
                where=SERVICE,
                remedy="somebody stands between here and NVIDIA; only its certificate is accepted",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            last = Closed(
                f"was tried {len(pauses) + 1} times and cannot be reached: {type(error).__name__}",
                where=SERVICE,
                remedy="let the stage's network reach it on port 443",
            )
        else:
            if status == HTTPStatus.OK:
                return data
            if status not in AGAIN and status < 500:
                raise _refused(status, data)
            what = "throttles" if status == HTTPStatus.TOO_MANY_REQUESTS else f"fails with status {status}"
            last = Closed(
                f"was asked {len(pauses) + 1} times and {what}", where=SERVICE, remedy="try again later"
            )
        if pause is not None:
            time.sleep(pause)
    assert last is not None
    raise last


def _once(
    context: ssl.SSLContext, host: str, port: int | None, method: str, path: str, body: bytes | None
) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    try:
        headers = {"Accept": "application/json", "User-Agent": "jewelhouse-guest"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        data = reply.read(LARGEST + 1)
    finally:
        connection.close()
    if len(data) > LARGEST:
        raise Closed(f"answers with more than {LARGEST} bytes", where=SERVICE)
    if reply.length:
        # A read with a limit takes a body that is cut off for a whole one.
        raise http.client.IncompleteRead(data, reply.length)
    return reply.status, data


def _refused(status: int, body: bytes) -> Closed:
    what, remedy = REFUSALS.get(status, ("refuses", ""))
    return Closed(f"{what} (status {status}: {_said(body)})", where=SERVICE, remedy=remedy)


def _said(body: bytes) -> str:
    """The service's own words, as far as they are safe to print; they name evidence, no secret."""
    try:
        found: dict[str, Any] = tokens.json_object(body, "reply")
    except MalformedEvidence:
        found = {}
    said = next((found[name] for name in ("message", "errorMessage", "detail") if name in found), None)
    words = said if isinstance(said, str) else "it does not say why"
    return "".join(letter if letter.isprintable() else " " for letter in words[:300])
