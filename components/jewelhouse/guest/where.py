"""Where the guest finds its stage's settings on each platform: the host puts them where images can read them.

Nothing there is trusted. docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html;
docs.cloud.google.com/compute/docs/metadata/querying-metadata (2026-11).
"""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from jewelhouse.guest.settings import LIMIT, Endpoints, InvalidSettings
from jewelhouse.model import Platform

# The parent of an enclave answers with the settings on this port of its own.
PARENT, PORT = 3, 8003
VARIABLE = "JEWELHOUSE_STAGE"
IMDS = "http://169.254.169.254"
METADATA = "http://metadata.google.internal"
FILE = Path("/etc/jewelhouse/stage.json")
TIMEOUT = 30


def stage(platform: Platform, endpoints: Endpoints) -> bytes:
    """The settings as bytes. Raises InvalidSettings when they are not to be had."""
    try:
        return _SOURCES[platform](endpoints)
    except OSError as error:
        raise InvalidSettings(
            f"cannot be had: {error}", where=f"settings of the stage on {platform}"
        ) from error


def _parent(endpoints: Endpoints) -> bytes:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as parent:
        parent.settimeout(TIMEOUT)
        parent.connect((PARENT, PORT))
        data = b""
        while len(data) <= LIMIT and (piece := parent.recv(65536)):
            data += piece
        return data


def _environment(endpoints: Endpoints) -> bytes:
    try:
        return os.environ[VARIABLE].encode()
    except KeyError:
        raise InvalidSettings(f"{VARIABLE} is not set", where="environment") from None


def _file(endpoints: Endpoints) -> bytes:
    return FILE.read_bytes()


def _ec2(endpoints: Endpoints) -> bytes:
    base = endpoints.imds or IMDS
    asked = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    token = _fetch(f"{base}/latest/api/token", asked, "PUT").decode("ascii")
    return _fetch(f"{base}/latest/user-data", {"X-aws-ec2-metadata-token": token})


def _google(endpoints: Endpoints) -> bytes:
    base = endpoints.imds or METADATA
    return _fetch(
        f"{base}/computeMetadata/v1/instance/attributes/jewelhouse-stage", {"Metadata-Flavor": "Google"}
    )


def _fetch(url: str, headers: Mapping[str, str], method: str = "GET") -> bytes:
    # No proxy: these addresses are this machine's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(
        urllib.request.Request(url, headers=dict(headers), method=method), timeout=TIMEOUT
    ) as reply:
        return reply.read(LIMIT + 1)


_SOURCES: Mapping[Platform, Callable[[Endpoints], bytes]] = {
    Platform.AWS_ENCLAVE: _parent,
    Platform.AWS_NITROTPM: _ec2,
    Platform.AZURE_CONTAINER: _environment,
    Platform.AZURE_CVM: _file,
    Platform.GCP_CONFIDENTIAL_SPACE: _google,
    Platform.GCP_CVM: _file,
}
