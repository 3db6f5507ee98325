"""Buckets of ciphertext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_gcp import storage

from jewelhouse.gcp.key import Principal

DAYS = 24 * 3600
RETENTION = 30 * DAYS
# Deleted objects and buckets can be restored for this long (7 to 90 days, cloud.google.com/storage/docs/
# soft-delete).
RESTORABLE = 30 * DAYS
MANDATES, MANIFESTS = "mandates/", "manifests/"
SIGNED = (MANDATES, MANIFESTS)


@dataclass(frozen=True, kw_only=True)
class SealedStoreArgs:
    """`readers` are principals of attested keys; `writers` add objects, under their slug, and read what is
    signed alone: mandates and manifests. `rewrapped`: readers may add manifests.

    `destroyable` lets `pulumi destroy` remove the bucket with everything in it.
    """

    project: pulumi.Input[str]
    location: str
    readers: Sequence[Principal] = ()
    writers: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    rewrapped: bool = False
    labels: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    destroyable: bool = False


class SealedStore(pulumi.ComponentResource):
    """A bucket for one artifact's ciphertext.

    A bucket's own key (CMEK) decrypts for whoever may read, so secrecy comes from the artifact's data key;
    here only attested code reads even the ciphertext, since readers are the principal sets of its keys.
    Sealing stages add objects with their service account and can neither read nor replace them, but for
    mandates and manifests, which they read: whom they seal for, and which version is next.
    """

    bucket: pulumi.Output[str]
    url: pulumi.Output[str]

    def __init__(self, name: str, args: SealedStoreArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:SealedStore", name, {}, opts)
        child = ResourceOptions(parent=self)
        bucket = storage.Bucket(
            f"{name}-bucket",
            project=args.project,
            location=args.location.upper(),
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            # Cloud Storage takes either a retention policy or versions on a bucket, never both. Retention
            # keeps every object as it was sealed; a bucket that may be destroyed keeps versions instead.
            retention_policy=None
            if args.destroyable
            else storage.BucketRetentionPolicyArgs(retention_period=str(RETENTION)),
            versioning=storage.BucketVersioningArgs(enabled=True) if args.destroyable else None,
            soft_delete_policy=storage.BucketSoftDeletePolicyArgs(retention_duration_seconds=RESTORABLE),
            force_destroy=args.destroyable,
            labels=args.labels,
            # A locked policy can never be lifted, so that is left to a person; a lock set by hand stays.
            opts=ResourceOptions.merge(
                child,
                ResourceOptions(protect=not args.destroyable, ignore_changes=["retentionPolicy.isLocked"]),
            ),
        )
        for reader in args.readers:
            storage.BucketIAMMember(
                f"{name}-reads-{reader.slug}",
                bucket=bucket.name,
                role="roles/storage.objectViewer",
                member=reader.member,
                condition=storage.BucketIAMMemberConditionArgs(**reader.condition)
                if reader.condition
                else None,
                opts=child,
            )
            if args.rewrapped:
                storage.BucketIAMMember(
                    f"{name}-rewraps-{reader.slug}",
                    bucket=bucket.name,
                    role="roles/storage.objectCreator",
                    member=reader.member,
                    condition=_signed(bucket.name, MANIFESTS, also=reader.condition),
                    opts=child,
                )
        for slug, member in args.writers.items():
            # Listing is a right to the bucket, which a condition on objects' names would take away.
            for verb, role, condition in (
                ("seals", "roles/storage.objectCreator", None),
                ("lists", "roles/storage.legacyBucketReader", None),
                ("follows", "roles/storage.objectViewer", _signed(bucket.name, *SIGNED)),
            ):
                storage.BucketIAMMember(
                    f"{name}-{verb}-{slug}",
                    bucket=bucket.name,
                    role=role,
                    member=member,
                    condition=condition,
                    opts=child,
                )
        self.bucket = bucket.name
        self.url = pulumi.Output.concat("gs://", bucket.name)
        self.register_outputs({"bucket": self.bucket, "url": self.url})


def _signed(
    bucket: pulumi.Output[str], *parts: str, also: Mapping[str, str] | None = None
) -> storage.BucketIAMMemberConditionArgs:
    """cloud.google.com/iam/docs/conditions-resource-attributes: names of objects, 2026-11."""
    names = [pulumi.Output.concat("projects/_/buckets/", bucket, "/objects/", part) for part in parts]

    def expression(names: list[str]) -> str:
        inside = " || ".join(f'resource.name.startsWith("{name}")' for name in names)
        return f"({inside}) && ({also['expression']})" if also else inside

    return storage.BucketIAMMemberConditionArgs(
        title="signed",
        description="What is signed and no secret: " + ", ".join(part.rstrip("/") for part in parts),
        expression=pulumi.Output.all(*names).apply(expression),
    )
