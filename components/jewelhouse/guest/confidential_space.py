"""Releases in Confidential Space: tokens by the launcher, which is part of the measured image.

The launcher, outside the container and inside the VM, collects the evidence of vTPM and hardware, has Google
Cloud Attestation verify it and hands the token out on a socket that only this container has. Asked for a
token by POST, it is made at once and carries nonces of this run; the file that it keeps beside the socket has
a token without any. Sources: google/go-tpm-tools: launcher/teeserver/tee_server.go;
docs.cloud.google.com/confidential-computing/confidential-space/docs/connect-external-resources (2026-11).
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Sequence
from functools import partial

from jewelhouse.evidence.tokens import TOKEN_LIMIT
from jewelhouse.evidence.verdict import Kind
from jewelhouse.guest import google, google_web
from jewelhouse.guest.opening import Asked, Closed, Opened, Opener
from jewelhouse.guest.settings import Endpoints, Stage

LAUNCHER = "/run/container_launcher/teeserver.sock"
# The launcher answers 400 to what is wrong about a request and 500 to what failed behind it, for a while or
# for good (tee_server.go, handleAttestError).
PASSING = range(500, 600)
PAUSES = (0.5, 1.0, 2.0)
TIMEOUT = 60


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens keys by tokens of this container. Raises Closed."""
    google_web.isolate(endpoints)

    def opened(asked: Asked) -> Opened:
        return google.release(asked, endpoints, partial(token, endpoints), Kind.CONFIDENTIAL_SPACE)

    return opened


def prepare(stage: Stage, endpoints: Endpoints) -> Endpoints:
    """How the stage's buckets are reached. Raises Closed."""
    return google.prepared(stage, endpoints, partial(token, endpoints))


def token(endpoints: Endpoints, nonces: Sequence[str]) -> bytes:
    """A token for Google's token service that carries `nonces`. Raises Closed with the launcher's words."""
    path = endpoints.launcher or LAUNCHER
    asked = json.dumps({"audience": google.AUDIENCE, "token_type": "OIDC", "nonces": list(nonces)}).encode()
    status, body = _post(path, asked)
    for pause in PAUSES:
        if status not in PASSING:
            break
        time.sleep(pause)
        status, body = _post(path, asked)
    if status != 200:
        raise Closed(
            f"gives no token: {google_web.spoken(str(status), body[:300].decode('utf-8', 'replace'))}",
            where=path,
            remedy="look at the service account's role confidentialcomputing.workloadUser and at the network",
        )
    if not 0 < len(body) <= TOKEN_LIMIT or not body.isascii():
        raise Closed("answers with what is no token", where=path)
    return body.strip()


def _post(path: str, body: bytes) -> tuple[int, bytes]:
    connection = _Launcher(path)
    try:
        connection.request("POST", "/v1/token", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        found = reply.read(TOKEN_LIMIT + 1)
        # Read up to a limit, a body that ends early is no error of its own.
        if reply.length and len(found) <= TOKEN_LIMIT:
            raise http.client.IncompleteRead(found)
        return reply.status, found
    except (OSError, http.client.HTTPException) as error:
        raise Closed(
            f"gives no token: {type(error).__name__}",
            where=path,
            remedy="run on an image of Confidential Space: its launcher mounts the socket",
        ) from error
    finally:
        connection.close()


class _Launcher(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)
