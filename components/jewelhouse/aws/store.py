"""Sealed stores: where the ciphertext of an artifact lies, in its owner's account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import kms

from jewelhouse.aws.bucket import bucket_policy, guarded_bucket
from jewelhouse.aws.hosts import dns_suffix
from jewelhouse.aws.policy import allow, deny, document, roles
from jewelhouse.release.aws import ADMINISTRATION

READING = ("s3:GetObject", "s3:GetObjectVersion")
LISTING = ("s3:ListBucket", "s3:ListBucketVersions")
WRITING = ("s3:AbortMultipartUpload", "s3:PutObject")
# What a sealing stage reads where it opens nothing: whom it seals for, and which version is next.
SIGNED = ("mandates/*", "manifests/*")
# docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html: a multipart upload needs Decrypt too.
READING_KEY = ("kms:Decrypt",)
WRITING_KEY = ("kms:Decrypt", "kms:GenerateDataKey")
ROTATION = ("kms:DisableKeyRotation", "kms:EnableKeyRotation")


def signed(bucket_arn: pulumi.Output[str]) -> list[pulumi.Output[str]]:
    """ARNs of what is signed in a store, mandates and manifests, which are no secret."""
    return [pulumi.Output.concat(bucket_arn, "/", part) for part in SIGNED]


@dataclass(frozen=True, kw_only=True)
class SealedStoreArgs:
    """`administrator` is the role that deploys into the owner's account: it supplies artifacts and holds the
    encryption key. `readers` and `writers` are role ARNs, of other accounts too; `after` are these roles,
    since KMS and S3 refuse policies that name a role before it exists."""

    region: str
    administrator: pulumi.Input[str]
    readers: Sequence[pulumi.Input[str]] = ()
    writers: Sequence[pulumi.Input[str]] = ()
    after: Sequence[pulumi.Resource] = ()
    destroyable: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


class SealedStore(pulumi.ComponentResource):
    """A bucket for ciphertext, under a key that is not the one that opens the artifact.

    What lies here is sealed before it arrives; the store adds that nobody else reads, changes or removes it.
    `url` is what `fsspec` opens.
    """

    bucket_arn: pulumi.Output[str]
    bucket_name: pulumi.Output[str]
    key_arn: pulumi.Output[str]
    url: pulumi.Output[str]
    region: str

    def __init__(self, name: str, args: SealedStoreArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:SealedStore", name, {}, opts)
        through_s3 = {"StringEquals": {"kms:ViaService": f"s3.{args.region}.{dns_suffix(args.region)}"}}
        uses = [
            allow(sid, actions, "*", principal=roles(users), condition=through_s3)
            for sid, actions, users in (
                ("Read", READING_KEY, args.readers),
                ("Write", WRITING_KEY, [args.administrator, *args.writers]),
            )
            if users
        ]
        key = kms.Key(
            f"{name}-key",
            description=f"Storage encryption of {name}",
            policy=document(
                allow(
                    "Administration",
                    sorted((*ADMINISTRATION, *ROTATION)),
                    "*",
                    principal=roles([args.administrator]),
                ),
                *uses,
            ),
            enable_key_rotation=True,
            deletion_window_in_days=30,
            tags=args.tags,
            opts=ResourceOptions(parent=self, protect=not args.destroyable, depends_on=list(args.after)),
        )
        bucket = guarded_bucket(
            name, parent=self, key_arn=key.arn, destroyable=args.destroyable, tags=args.tags
        )
        inside = [bucket.arn.apply(lambda arn: f"{arn}/*")]
        # A request without these headers leaves the bucket's own encryption in place, so it may pass.
        statements = [
            deny(
                "KmsOnly",
                ["s3:PutObject"],
                inside,
                condition={"StringNotEqualsIfExists": {"s3:x-amz-server-side-encryption": "aws:kms"}},
            ),
            deny(
                "OwnKeyOnly",
                ["s3:PutObject"],
                inside,
                condition={
                    "StringNotEqualsIfExists": {"s3:x-amz-server-side-encryption-aws-kms-key-id": key.arn}
                },
            ),
        ]
        if args.readers:
            statements += [
                allow("ReadObjects", READING, inside, principal=roles(args.readers)),
                allow("ListObjects", LISTING, [bucket.arn], principal=roles(args.readers)),
            ]
        if args.writers:
            writers = roles(args.writers)
            statements += [
                allow("WriteObjects", WRITING, inside, principal=writers),
                allow("ReadSigned", READING, signed(bucket.arn), principal=writers),
                allow("ListForWriters", LISTING, [bucket.arn], principal=writers),
            ]
        bucket_policy(
            name,
            parent=self,
            bucket=bucket,
            statements=statements,
            destroyable=args.destroyable,
            after=args.after,
        )
        self.bucket_arn = bucket.arn
        self.bucket_name = bucket.id
        self.key_arn = key.arn
        self.url = pulumi.Output.concat("s3://", bucket.id)
        self.region = args.region
        self.register_outputs({"url": self.url, "bucket_arn": self.bucket_arn, "key_arn": self.key_arn})
