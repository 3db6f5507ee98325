"""What every EC2 host of the kit has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jewelhouse.hardware.aws import graviton
from jewelhouse.names import aws_partition

# Tokens required, one hop: a container or a forwarded request does not reach the role's credentials.
# docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-options.html
METADATA: Mapping[str, Any] = {
    "http_endpoint": "enabled",
    "http_tokens": "required",
    "http_put_response_hop_limit": 1,
    "http_protocol_ipv6": "disabled",
    "instance_metadata_tags": "disabled",
}

LOG_DAYS = 365  # how long the logs of hosts are kept

# Zones by letter where a region does not offer `a` and `b` to every account (AWS: Regions and Availability
# Zones, 2026-10). us-west-1 differs by account: name `zones` on the stage there.
_LETTERS = {"ap-northeast-1": "ac", "sa-east-1": "ac"}


def zones(region: str) -> tuple[str, ...]:
    """Two zones of a region by their usual names.

    Derived rather than asked for: asking needs credentials at preview, and its answer changes when AWS
    opens a zone, which would replace subnets.
    """
    return tuple(f"{region}{letter}" for letter in _LETTERS.get(region, "ab"))


def dns_suffix(region: str) -> str:
    """Domain of AWS services: China has its own, which AWS's default vsock-proxy allow-list gets wrong."""
    return "amazonaws.com.cn" if aws_partition(region) == "aws-cn" else "amazonaws.com"


def amazon_linux(machine_type: str) -> str:
    """Amazon Linux 2023 for a machine type, in the form that EC2 resolves at launch.

    docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-systems-manager-parameter-to-find-AMI.html
    """
    architecture = "arm64" if graviton(machine_type.split(".")[0]) else "x86_64"
    return f"resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"


def packages(region: str) -> str:
    """Objects of Amazon Linux 2023's package repository (docs.aws.amazon.com/linux/al2023/ug)."""
    return f"arn:{aws_partition(region)}:s3:::al2023-repos-{region}-de612dc2/*"


def container_layers(region: str) -> str:
    """Objects that ECR serves image layers from (docs.aws.amazon.com/AmazonECR: vpc-endpoints)."""
    return f"arn:{aws_partition(region)}:s3:::prod-{region}-starport-layer-bucket/*"
