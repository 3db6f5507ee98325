"""Names that must be known before anything is deployed, because release policies contain them."""

from __future__ import annotations

import hashlib

from jewelhouse.model import AwsAccount, GcpAccount, Lifecycle, Stage


def short(name: str, limit: int) -> str:
    """`name` within `limit` characters; a cut name keeps apart from others by 6 hex digits of its SHA-256."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 7].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def identity_name(lifecycle: Lifecycle, stage: Stage) -> str:
    """Name of a stage's workload identity: IAM role (64 characters), service account id (6 to 30)."""
    limit = {"aws": 64, "azure": 64, "gcp": 30}[stage.cloud]
    return short(f"{lifecycle.name}-{stage.name}", limit)


def workload_identity(lifecycle: Lifecycle, stage: Stage) -> str | None:
    """The identity as key services see it: role ARN, service account email.

    None on Azure: a managed identity's object id is not known before it exists, and Key Vault binds it by a
    role assignment on the key rather than in the release policy.
    """
    account = lifecycle.operator_account(stage)
    name = identity_name(lifecycle, stage)
    if isinstance(account, AwsAccount):
        return f"arn:{aws_partition(stage.region)}:iam::{account.account}:role/{name}"
    if isinstance(account, GcpAccount):
        return f"{name}@{account.project}.iam.gserviceaccount.com"
    return None


def aws_partition(region: str) -> str:
    """AWS partition of a region; ARNs differ by it."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"
