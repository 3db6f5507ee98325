"""User data of an enclave's parent: one script that sets the host up, rendered from templates."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jewelhouse import templates
from jewelhouse.aws.hosts import dns_suffix
from jewelhouse.errors import JewelhouseError

# docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-add-user-data.html: before base64.
LIMIT = 16 * 1024
METADATA_SERVICE = "169.254.169.254"


@dataclass(frozen=True)
class Proxy:
    """One vsock port of the parent (CID 3) that leads to one host; TLS ends inside the enclave."""

    vsock_port: int
    host: str
    port: int


def proxies(region: str) -> tuple[Proxy, ...]:
    """All that an enclave reaches: KMS, S3, and the metadata service for its role's credentials.

    Exact hosts: vsock-proxy expands nothing (aws/aws-nitro-enclaves-cli: vsock_proxy/README.md).
    """
    suffix = dns_suffix(region)
    return (
        Proxy(8000, f"kms.{region}.{suffix}", 443),
        Proxy(8001, f"s3.{region}.{suffix}", 443),
        Proxy(8002, METADATA_SERVICE, 80),
    )


STAGE_PORT = 8003


def enclave_parent(
    *,
    region: str,
    bucket: str,
    image_digest: str,
    cpus: int,
    memory: int,
    log_group: str,
    stage: str,
) -> str:
    """The script for a parent. `image_digest` is `sha256:…` of the EIF, which lies in `bucket` under
    `image_key(image_digest)`; `memory` is in MiB; `stage` is what the guest reads from vsock port 8003.

    Raises JewelhouseError when it would be longer than EC2 takes.
    """
    script = templates.render(
        "aws/enclave-user-data.sh.j2",
        region=region,
        bucket=bucket,
        image_key=image_key(image_digest),
        digest=image_digest.removeprefix("sha256:"),
        cpus=cpus,
        memory=memory,
        pages=-(-memory // 1024),
        log_group=log_group,
        stage=stage,
        proxies=proxies(region),
        stage_port=STAGE_PORT,
    )
    size = len(script.encode())
    if size > LIMIT:
        raise JewelhouseError(
            f"the user data has {size} bytes, EC2 takes {LIMIT}",
            remedy="let the stage open and seal fewer artifacts",
            source="EC2 user guide, instance user data, 2026-10",
        )
    return script


def image_key(digest: str) -> str:
    """Where an enclave image lies in the bucket of images, by its digest."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise JewelhouseError(
            f"{digest!r} does not name an enclave image",
            remedy="write sha256: and 64 lower-case hex digits of the EIF file",
        )
    return f"sha256/{digest.removeprefix('sha256:')}.eif"
