"""How the guest reaches Azure's services: by the vendor's own pipeline, with limits.

Neither proxies nor certificates of the environment count. What a service asks to be tried again is tried
again, a few times (Retry-After, 408, 429, 5xx): learn.microsoft.com/azure/key-vault/general/
overview-throttling, learn.microsoft.com/azure/virtual-machines/instance-metadata-service (2026-11).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from azure.core import PipelineClient
from azure.core.exceptions import AzureError, ServiceRequestError
from azure.core.pipeline.policies import RetryPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest

from jewelhouse.evidence import tokens
from jewelhouse.evidence.verdict import MalformedEvidence
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints

ATTEMPTS = 5
CONNECT, READ = 10, 60
RETRIES: Mapping[str, Any] = {
    "retry_total": ATTEMPTS - 1,
    "retry_connect": ATTEMPTS - 1,
    "retry_read": ATTEMPTS - 1,
    "retry_status": ATTEMPTS - 1,
    "retry_backoff_factor": 0.5,
    "retry_backoff_max": 8,
}
# Asking twice for evidence or a key changes nothing.
REPEATED = frozenset({"GET", "POST"})
LARGEST = 256 * 1024
IMDS = "http://169.254.169.254"


def identify(client: str, endpoints: Endpoints) -> None:
    """Has the clients that take it from the environment (those of stores) use the stage's managed identity,
    and nothing else that they would try. azure-identity: README, Environment variables (1.27)."""
    os.environ["AZURE_CLIENT_ID"] = client
    os.environ["AZURE_TOKEN_CREDENTIALS"] = "managedidentitycredential"
    if endpoints.imds:
        os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = endpoints.imds


def transport(endpoints: Endpoints) -> RequestsTransport:
    """Connections with the certificates of public authorities, or in a rehearsal of its own."""
    return RequestsTransport(
        connection_timeout=CONNECT,
        read_timeout=READ,
        connection_verify=endpoints.certificates or True,
        use_env_settings=False,
    )


def asked(endpoints: Endpoints, base: str, request: HttpRequest, where: str) -> dict[str, Any]:
    """The JSON object that a service answers with. Raises Closed for anything else."""
    try:
        with PipelineClient(
            base, policies=[RetryPolicy(**RETRIES)], transport=transport(endpoints)
        ) as client:
            reply = client.send_request(request, retry_on_methods=REPEATED)
            body = reply.read()
    except AzureError as error:
        raise unreachable(where, error) from error
    if reply.status_code != 200:
        raise refused(where, reply.status_code, reply.headers, body)
    try:
        if len(body) > LARGEST:
            raise MalformedEvidence(f"has {len(body)} bytes")
        return tokens.json_object(body, "reply")
    except MalformedEvidence as error:
        raise Closed(f"answers with a reply that {error.what}", where=where) from error


def metadata(endpoints: Endpoints, method: str, path: str, **others: Any) -> dict[str, Any]:
    """What the metadata service of the host answers, which anybody on the host could forge: whoever it is
    for verifies it."""
    base = endpoints.imds or IMDS
    request = HttpRequest(method, f"{base}{path}", headers={"Metadata": "true"}, **others)
    return asked(endpoints, base, request, f"metadata service {path.partition('?')[0]}")


def certificates(thim: Mapping[str, Any]) -> bytes:
    """Leaf and chain (PEM) of what the host's certificate service says. Raises Closed."""
    parts = [thim.get(name) for name in ("vcekCert", "certificateChain")]
    if not all(isinstance(part, str) and part for part in parts):
        raise Closed("gives no certificates of the processor", where="THIM")
    return "".join(map(str, parts)).encode()


def refused(where: str, status: int, headers: Mapping[str, str], body: bytes) -> Closed:
    """A refusal, in the service's own words as far as they are safe to print."""
    if status in (408, 429) or status >= 500:
        what = "throttles" if status == 429 else f"fails with status {status}"
        return Closed(
            f"was asked {ATTEMPTS} times and {what}", where=where, remedy="try again later, with fewer stages"
        )
    return Closed(f"refuses with status {status}: {said(body)}", where=where)


def said(body: bytes) -> str:
    """Code and message of an error of Azure's; they name requests and claims, no secret."""
    try:
        found = tokens.json_object(body[:LARGEST], "error").get("error")
    except MalformedEvidence:
        found = None
    if not isinstance(found, dict):
        return "it does not say why"
    words = f"{found.get('code')}: {found.get('message')}"
    return "".join(letter if letter.isprintable() else " " for letter in words[:400])


def unreachable(where: str, error: AzureError) -> Closed:
    """A failure on the way."""
    if isinstance(error, ServiceRequestError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Closed(
            "who answers has no certificate of the service",
            where=where,
            remedy="somebody stands between here and Azure; only its certificate is accepted",
        )
    return Closed(
        f"cannot be reached: {type(error).__name__}",
        where=where,
        remedy="look at the private endpoint, its DNS zone and the network's rules",
    )
