"""The bucket under stores and trails: private, versioned, locked, encrypted under a key of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import s3

from jewelhouse.aws.policy import deny, document
from jewelhouse.names import short

RETENTION_DAYS = 30


def guarded_bucket(
    name: str,
    *,
    parent: pulumi.Resource,
    key_arn: pulumi.Input[str],
    destroyable: bool,
    tags: Mapping[str, str],
) -> s3.Bucket:
    """A bucket with every public way closed and what is written to it kept for 30 days.

    `destroyable` lets `pulumi destroy` empty it, so its lock is one that its account can lift (governance);
    otherwise nobody can (compliance), and Pulumi refuses to destroy the bucket.
    """
    # Its guards stay as long as the bucket: a refused destroy would take them off first.
    child = ResourceOptions(parent=parent, protect=not destroyable)
    bucket = s3.Bucket(
        # With the random end that the provider adds, a bucket's name has 63 characters at most.
        short(f"{name}-bucket", 55),
        object_lock_enabled=True,
        force_destroy=destroyable,
        tags=tags,
        opts=child,
    )
    s3.BucketPublicAccessBlock(
        f"{name}-private",
        bucket=bucket.id,
        block_public_acls=True,
        block_public_policy=True,
        ignore_public_acls=True,
        restrict_public_buckets=True,
        opts=child,
    )
    s3.BucketOwnershipControls(
        f"{name}-ownership",
        bucket=bucket.id,
        rule={"object_ownership": "BucketOwnerEnforced"},
        opts=child,
    )
    versioning = s3.BucketVersioning(
        f"{name}-versions", bucket=bucket.id, versioning_configuration={"status": "Enabled"}, opts=child
    )
    s3.BucketServerSideEncryptionConfiguration(
        f"{name}-encryption",
        bucket=bucket.id,
        rules=[
            {
                "apply_server_side_encryption_by_default": {
                    "sse_algorithm": "aws:kms",
                    "kms_master_key_id": key_arn,
                },
                "bucket_key_enabled": True,
            }
        ],
        opts=child,
    )
    s3.BucketObjectLockConfiguration(
        f"{name}-lock",
        bucket=bucket.id,
        rule={
            "default_retention": {
                "mode": "GOVERNANCE" if destroyable else "COMPLIANCE",
                "days": RETENTION_DAYS,
            }
        },
        # A lock needs versions: S3 refuses it before they are on.
        opts=ResourceOptions.merge(child, ResourceOptions(depends_on=[versioning])),
    )
    return bucket


def bucket_policy(
    name: str,
    *,
    parent: pulumi.Resource,
    bucket: s3.Bucket,
    statements: Sequence[Mapping[str, Any]],
    destroyable: bool,
    after: Sequence[pulumi.Resource] = (),
) -> s3.BucketPolicy:
    """`statements`, and the refusals that every bucket has: plain HTTP and old TLS."""
    everything = [bucket.arn, bucket.arn.apply(lambda arn: f"{arn}/*")]
    return s3.BucketPolicy(
        f"{name}-policy",
        bucket=bucket.id,
        policy=document(
            *statements,
            deny("TlsOnly", ["s3:*"], everything, condition={"Bool": {"aws:SecureTransport": "false"}}),
            deny("ModernTls", ["s3:*"], everything, condition={"NumericLessThan": {"s3:TlsVersion": "1.2"}}),
        ),
        opts=ResourceOptions(parent=parent, protect=not destroyable, depends_on=list(after)),
    )
