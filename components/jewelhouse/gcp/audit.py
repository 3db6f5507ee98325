"""Audit logs of an owner's project, and alerts for what evidence does not explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_gcp import logging, monitoring, projects

# Data Access logs are off by default for these, and without them a decrypt leaves no trace.
# cloud.google.com/logging/docs/audit/configure-data-access
SERVICES = {
    "kms": "cloudkms.googleapis.com",
    "sts": "sts.googleapis.com",
    "iam": "iam.googleapis.com",
}
LOG_TYPES = ("ADMIN_READ", "DATA_READ", "DATA_WRITE")
LOGS = ("activity", "data_access", "policy")
RETENTION_DAYS = 400

TITLES = {
    "unattested": "A key was used, or tried, without evidence",
    "administration": "A call that could open a key, or hide it",
}
# Calls that could open a key, give ciphertext away, or hide either: (service, regular expression of methods).
ADMINISTRATION = (
    ("cloudkms.googleapis.com", "SetIamPolicy|Destroy|Restore|Import|UpdateCryptoKey"),
    ("iam.googleapis.com", "WorkloadIdentityPool|Policies[.](Create|Update|Delete)Policy"),
    ("cloudresourcemanager.googleapis.com", "SetIamPolicy"),
    ("storage.googleapis.com", "storage[.](setIamPermissions|buckets[.](update|delete))"),
    ("logging.googleapis.com", "(Update|Delete)(Bucket|Sink|Exclusion)|CreateExclusion"),
    ("monitoring.googleapis.com", "(Update|Delete)(AlertPolicy|NotificationChannel)"),
)


@dataclass(frozen=True, kw_only=True)
class AuditTrailArgs:
    """`pools` are the paths of the pools of attested keys: decrypts by anyone else raise an alert."""

    project: pulumi.Input[str]
    location: pulumi.Input[str]
    pools: Sequence[pulumi.Input[str]]
    emails: Sequence[str] = ()
    labels: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    destroyable: bool = False


class AuditTrail(pulumi.ComponentResource):
    """Data Access logs for keys and tokens, kept in a log bucket of their own; counters and alerts."""

    bucket: pulumi.Output[str]

    def __init__(self, name: str, args: AuditTrailArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:AuditTrail", name, {}, opts)
        child = ResourceOptions(parent=self)
        for short, service in SERVICES.items():
            projects.IAMAuditConfig(
                f"{name}-{short}",
                project=args.project,
                service=service,
                audit_log_configs=[
                    projects.IAMAuditConfigAuditLogConfigArgs(log_type=log_type) for log_type in LOG_TYPES
                ],
                opts=child,
            )
        channels = [
            monitoring.NotificationChannel(
                f"{name}-mail-{index}",
                project=args.project,
                type="email",
                display_name=f"{name} {email}",
                labels={"email_address": email},
                opts=child,
            ).id
            for index, email in enumerate(args.emails)
        ]
        filters = {
            "unattested": pulumi.Output.all(*args.pools).apply(unattested),
            "administration": pulumi.Output.from_input(administration()),
        }
        counters = {
            slug: logging.Metric(
                f"{name}-{slug}",
                project=args.project,
                filter=query,
                description=TITLES[slug],
                metric_descriptor=logging.MetricMetricDescriptorArgs(metric_kind="DELTA", value_type="INT64"),
                opts=child,
            )
            for slug, query in filters.items()
        }
        for slug, query in filters.items():
            # Matched on the log entry itself: a condition on the counter would have to name the resource
            # types of all entries that may come, and stay silent about the one it forgot.
            monitoring.AlertPolicy(
                f"{name}-{slug}-alert",
                project=args.project,
                display_name=TITLES[slug],
                combiner="OR",
                severity="CRITICAL",
                conditions=[
                    monitoring.AlertPolicyConditionArgs(
                        display_name=TITLES[slug],
                        condition_matched_log=monitoring.AlertPolicyConditionConditionMatchedLogArgs(
                            filter=query
                        ),
                    )
                ],
                alert_strategy=monitoring.AlertPolicyAlertStrategyArgs(
                    notification_rate_limit=monitoring.AlertPolicyAlertStrategyNotificationRateLimitArgs(
                        period="300s"
                    ),
                    auto_close="604800s",
                ),
                notification_channels=channels,
                user_labels=args.labels,
                opts=child,
            )
        bucket = logging.ProjectBucketConfig(
            f"{name}-logs",
            project=args.project,
            location=args.location,
            # Ids of deleted log buckets stay taken for 7 days and the engine makes none up; the counter's
            # name ends in random characters, new for each new counter.
            bucket_id=counters["unattested"].name.apply(lambda counter: f"{name}-logs-{counter[-7:]}"),
            retention_days=RETENTION_DAYS,
            description="Audit logs of attested keys",
            # A locked log bucket can never be unlocked and holds its logs for these days, so that is left
            # to a person; a lock set by hand stays.
            opts=ResourceOptions.merge(
                child, ResourceOptions(protect=not args.destroyable, ignore_changes=["locked"])
            ),
        )
        logging.ProjectSink(
            f"{name}-sink",
            project=args.project,
            destination=pulumi.Output.concat("logging.googleapis.com/", bucket.id),
            filter=" OR ".join(f'log_id("cloudaudit.googleapis.com/{log}")' for log in LOGS),
            unique_writer_identity=True,
            opts=child,
        )
        self.bucket = bucket.id
        self.register_outputs({"bucket": self.bucket})


def unattested(pools: Sequence[str]) -> str:
    """Query for decrypts, also refused ones, by a principal outside the pools of attested keys.

    Entries of federated callers name `principal://iam.googleapis.com/<pool>/subject/<google.subject>`:
    cloud.google.com/iam/docs/audit-logging/examples-workload-identity
    """
    decrypts = (
        'protoPayload.serviceName="cloudkms.googleapis.com"'
        ' AND protoPayload.methodName=~"(Decrypt|Decapsulate)$"'
    )
    if not pools:
        return decrypts
    # All pools lie in the owner's project, so one expression holds them; alerts limit the length of theirs.
    (path,) = {pool.rpartition("/")[0] for pool in pools}
    names = "|".join(sorted(pool.rpartition("/")[2] for pool in pools))
    return (
        f"{decrypts} AND NOT protoPayload.authenticationInfo.principalSubject"
        f'=~"^principal://iam[.]googleapis[.]com/{path}/({names})/subject/"'
    )


def administration() -> str:
    """Query for administrative calls that could open a key or hide that it was opened."""
    return " OR ".join(
        f'(protoPayload.serviceName="{service}" AND protoPayload.methodName=~"{methods}")'
        for service, methods in ADMINISTRATION
    )
