"""Nitro Enclaves: documents from the security module, every service by the parent, TLS ending in here."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from jewelhouse.guest import kms, nsm, vsock
from jewelhouse.guest.opening import Closed, Opener
from jewelhouse.guest.settings import Endpoints, Stage

HOSTS = Path("/etc/hosts")
# Ports of the parent and what they lead to: jewelhouse.aws.userdata.
KMS, S3, IMDS = 8000, 8001, 8002
METADATA = "127.0.0.4"


def prepare(stage: Stage, endpoints: Endpoints) -> Endpoints:
    """Makes KMS, S3 and the metadata service reachable under their own names, and says how stores are asked.

    Names lead to this enclave's own loopback addresses, from there bytes go through the parent; TLS is
    between this process and the service, so the parent sees ciphertext.
    """
    if endpoints.nsm is not None:
        return endpoints
    if stage.region is None:
        raise Closed("is missing", where="stage.region")
    suffix = "amazonaws.com.cn" if stage.region.startswith("cn-") else "amazonaws.com"
    names = {
        f"kms.{stage.region}.{suffix}": ("127.0.0.2", 443, KMS),
        f"s3.{stage.region}.{suffix}": ("127.0.0.3", 443, S3),
    }
    with HOSTS.open("a", encoding="ascii") as file:
        for name, (address, _, _) in names.items():
            file.write(f"{address} {name}\n")
    for address, port, parent in (*names.values(), (METADATA, 80, IMDS)):
        vsock.Relay(address, port, parent).start()
    # botocore's own way to the role's credentials.
    os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = f"http://{METADATA}"
    options = {
        "client_kwargs": {"region_name": stage.region},
        # One name for all buckets, since only that one leads out.
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    return replace(endpoints, stores={"s3": options, **endpoints.stores})


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens by KMS for this enclave's measurements. Raises Closed outside of one."""

    def attest(public_key: bytes, nonce: bytes, bound: bytes) -> bytes:
        with nsm.module(endpoints.nsm) as call:
            return nsm.document(call, public_key=public_key, nonce=nonce, user_data=bound)

    return kms.opener(kms.client(stage, endpoints), attest, "aws-nitro")
