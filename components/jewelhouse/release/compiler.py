"""Compiles a release policy with the compiler of the cloud that holds its key."""

from __future__ import annotations

from typing import Any

from jewelhouse.model import Cloud
from jewelhouse.release import aws, azure, gcp
from jewelhouse.release.policy import ReleasePolicy

_COMPILERS = {Cloud.AWS: aws.compile, Cloud.AZURE: azure.compile, Cloud.GCP: gcp.compile}


def compile(policy: ReleasePolicy) -> dict[str, Any]:
    """The native document of a policy: KMS key policy, Key Vault release policy, or the provider and
    members of a workload identity pool. Raises JewelhouseError where a gate cannot be expressed."""
    return _COMPILERS[policy.key.cloud](policy)
