"""A data key unwrapped by Cloud KMS: `asymmetricDecrypt`, with the checksums that it takes and gives.

A reply names no key and is not encrypted to this run: what guards it is TLS, its checksums against damage,
and the signed manifest, which fixes what the data key opens. Sources, 2026-11: docs.cloud.google.com/kms/
docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys.cryptoKeyVersions/asymmetricDecrypt,
.../kms/docs/data-integrity-guidelines.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import google_crc32c
import requests
from google.api_core import exceptions, retry
from google.api_core.client_options import ClientOptions
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError, RefreshError
from google.cloud import kms_v1
from google.protobuf.json_format import ParseError

from jewelhouse.guest.google_web import PATIENCE, spoken, unreachable
from jewelhouse.guest.opening import Asked, Closed
from jewelhouse.guest.settings import Endpoints

KMS = "cloudkms.googleapis.com"
UNIVERSE = "googleapis.com"
KEY = re.compile(
    r"projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+/cryptoKeyVersions/[0-9]+"
)
# What Google's own client tries again (google-cloud-kms 3.14, asymmetric_decrypt), an exhausted quota
# (docs.cloud.google.com/kms/docs/monitor-adjust-quotas), and a connection that was lost.
AGAIN = (
    exceptions.ServiceUnavailable,
    exceptions.GatewayTimeout,
    exceptions.TooManyRequests,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
)
HARDWARE = (kms_v1.ProtectionLevel.HSM, kms_v1.ProtectionLevel.HSM_SINGLE_TENANT)
EXPLAIN = "compare the evidence with its gates: jewelhouse release evaluate --policy P --evidence E"
# docs.cloud.google.com/apis/design/errors, 2026-11: what each class means here and what to do.
REFUSALS: tuple[tuple[type[Exception], str, str], ...] = (
    (exceptions.Forbidden, "the release policy does not admit this stage", EXPLAIN),
    (exceptions.NotFound, "is not there", "compare the key's name with the stack's outputs"),
    (
        exceptions.BadRequest,
        "does not take what it was given",
        "seal the artifact to the key's public half as it is now; see that its version is enabled",
    ),
)


class _Access(Credentials):
    """A federated token and no way to another. Google's own kinds would look up regional boundaries of the
    identity in the background, at one more service, and with the token."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token

    def refresh(self, request: Any) -> None:
        raise RefreshError("the federated token is not taken")


def decrypt(asked: Asked, endpoints: Endpoints, access: str, seen: str) -> bytes:
    """What was wrapped. `access`: the federated token; `seen`: what the gates can see of the evidence, for a
    refusal. Raises Closed."""
    if not KEY.fullmatch(asked.key):
        raise Closed(
            "is no version of a key of Cloud KMS",
            where=ascii(asked.key)[:200],
            remedy="deploy the stage again",
        )
    host = urlsplit(endpoints.kms).netloc if endpoints.kms else KMS
    again = retry.Retry(
        predicate=retry.if_exception_type(*AGAIN), initial=0.5, maximum=8, multiplier=2, timeout=PATIENCE
    )
    try:
        client = kms_v1.KeyManagementServiceClient(
            credentials=_Access(access),
            transport="rest",
            client_options=ClientOptions(api_endpoint=host, universe_domain=UNIVERSE),
        )
        with client:
            reply = client.asymmetric_decrypt(
                request={
                    "name": asked.key,
                    "ciphertext": asked.wrapped,
                    "ciphertext_crc32c": google_crc32c.value(asked.wrapped),
                },
                retry=again,
                timeout=PATIENCE,
            )
    except exceptions.RetryError as error:
        raise _refused(asked.key, error.cause or error, seen) from error
    except (exceptions.GoogleAPICallError, requests.exceptions.RequestException, GoogleAuthError) as error:
        raise _refused(asked.key, error, seen) from error
    except (ParseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Closed("answers with what is no reply of Cloud KMS", where=asked.key) from error
    return _checked(reply, asked.key)


def _checked(reply: kms_v1.AsymmetricDecryptResponse, key: str) -> bytes:
    """The plaintext of a reply that is whole and comes from an HSM."""
    remedy = "the reply was damaged or changed on its way: run again"
    if reply.verified_ciphertext_crc32c is not True:
        raise Closed("did not verify the checksum of what it was sent", where=key, remedy=remedy)
    if reply.plaintext_crc32c != google_crc32c.value(reply.plaintext):
        raise Closed("answers with a plaintext of another checksum", where=key, remedy=remedy)
    if reply.protection_level not in HARDWARE:
        raise Closed(
            f"answers from protection level {int(reply.protection_level)}, expected an HSM",
            where=key,
            remedy="the stack makes keys in Cloud HSM only: this is another key, or another service",
        )
    if not reply.plaintext:
        raise Closed("answers without a plaintext", where=key, remedy=remedy)
    return reply.plaintext


def _refused(key: str, error: BaseException, seen: str) -> Closed:
    """What a refusal means. The service's own words follow: they name permission and resource, no secret."""
    if isinstance(error, RefreshError):
        # The library's answer to a status of 401 is to get another token, which it cannot.
        return Closed("does not take the federated token", where=key, remedy="look at the clock; run again")
    if not isinstance(error, exceptions.GoogleAPICallError):
        return unreachable(key, error)
    code = int(error.code or 0)
    for kind, what, remedy in REFUSALS:
        if isinstance(error, kind):
            what = f"{what}; {seen}" if kind is exceptions.Forbidden else what
            return Closed(f"{what} ({spoken(str(code), str(error.message))})", where=key, remedy=remedy)
    what = "throttles" if code == 429 else f"fails with status {code}"
    tried = f"was asked for {PATIENCE} s and " if isinstance(error, AGAIN) else ""
    return Closed(f"{tried}{what}", where=key, remedy="try again later, with fewer stages")
