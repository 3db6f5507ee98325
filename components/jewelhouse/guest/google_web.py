"""How the guest reaches Google's services: by Google's own libraries, with limits.

Neither proxies nor certificates of the environment count, and no redirect is followed, since requests carry
tokens.
"""

from __future__ import annotations

import os
from typing import Any

import requests
from google.auth.transport import DEFAULT_RETRYABLE_STATUS_CODES
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints

# Five requests last at most half a minute, with pauses between them.
ATTEMPTS, PATIENCE = 5, 30
LARGEST = 256 * 1024
# What Google's libraries read from the environment: proxies, certificates, endpoints, other credentials.
VARIABLES = (
    *(name for one in ("http", "https", "all", "no") for name in (f"{one}_proxy", f"{one}_proxy".upper())),
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GOOGLE_API_USE_MTLS_ENDPOINT",
    "GOOGLE_API_USE_CLIENT_CERTIFICATE",
    "GOOGLE_API_CERTIFICATE_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
    "GOOGLE_CLOUD_QUOTA_PROJECT",
)


def isolate(endpoints: Endpoints) -> None:
    """Has Google's clients follow nothing that the environment says but, in a rehearsal, its certificates."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ["NETRC"] = os.devnull
    if endpoints.certificates:
        os.environ["REQUESTS_CA_BUNDLE"] = endpoints.certificates


def session(endpoints: Endpoints) -> requests.Session:
    """Connections that ask again where Google's library would (google.auth.transport), a few times."""
    made = requests.Session()
    made.trust_env = False
    made.max_redirects = 0
    made.verify = endpoints.certificates or True
    again = Retry(
        total=ATTEMPTS - 1,
        status_forcelist=DEFAULT_RETRYABLE_STATUS_CODES,
        allowed_methods=("GET", "POST"),
        backoff_factor=0.5,
        backoff_max=8,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    for scheme in ("https://", "http://"):
        made.mount(scheme, HTTPAdapter(max_retries=again))
    return made


def asked(connections: requests.Session, method: str, address: str, **options: Any) -> tuple[int, bytes]:
    """Status and body of an answer. Raises Closed where there is none, or one without end."""
    try:
        with connections.request(method, address, timeout=PATIENCE, stream=True, **options) as reply:
            data = reply.raw.read(LARGEST + 1, decode_content=True)
    except (requests.exceptions.RequestException, HTTPError, OSError) as error:
        raise unreachable(address, error) from error
    if len(data) > LARGEST:
        raise Closed(f"answers with more than {LARGEST} bytes", where=address)
    return reply.status_code, data


def unreachable(where: str, error: BaseException) -> Closed:
    """A failure on the way."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Closed(
            "who answers has no certificate of the service",
            where=where,
            remedy="somebody stands between here and Google; only its certificate is accepted",
        )
    return Closed(
        f"cannot be reached: {type(error).__name__}",
        where=where,
        remedy="look at the route to private.googleapis.com or restricted.googleapis.com and its DNS zone",
    )


def spoken(code: str, words: str) -> str:
    """The words of a service, as far as they are safe to print."""
    text = ": ".join(filter(None, (code, words)))[:300]
    return "".join(letter if letter.isprintable() else " " for letter in text)
