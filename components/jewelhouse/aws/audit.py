"""Audit trails: who opened what, and alarms for everything that could open a key without evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import cloudtrail, cloudwatch, iam, kms, sns

from jewelhouse.aws.bucket import bucket_policy, guarded_bucket
from jewelhouse.aws.hosts import dns_suffix
from jewelhouse.aws.policy import allow, document, roles, service
from jewelhouse.names import aws_partition
from jewelhouse.release.aws import ADMINISTRATION

NAMESPACE = "Jewelhouse"
RETENTION_DAYS = 365

# Calls that open a key, prepare it, or take it away.
KEY_CALLS = (
    "CreateGrant",
    "DisableKey",
    "PutKeyPolicy",
    "ReEncrypt",
    "ReplicateKey",
    "ScheduleKeyDeletion",
)
TRAIL_CALLS = ("DeleteTrail", "PutEventSelectors", "StopLogging", "UpdateTrail", "DeleteLogGroup")
HOST_CALLS = ("EnableSerialConsoleAccess", "ModifyInstanceMetadataOptions", "ModifyInstanceAttribute")


@dataclass(frozen=True)
class Alarm:
    """`patterns` feed one metric; the alarm goes off at `threshold` events within five minutes."""

    description: str
    patterns: tuple[pulumi.Input[str], ...]
    threshold: int = 1


@dataclass(frozen=True, kw_only=True)
class AuditTrailArgs:
    """`keys` are the attested keys of the account, `buckets` the stores whose objects are watched (ARNs).

    `hosts` says that stages run in the account. `administrator` is the role that deploys into it; `emails`
    confirm a subscription before they hear anything.
    """

    account: str
    region: str
    administrator: str
    keys: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    buckets: Sequence[pulumi.Input[str]] = ()
    hosts: bool = False
    emails: Sequence[str] = ()
    destroyable: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


class AuditTrail(pulumi.ComponentResource):
    """A trail over all regions of one account, with validated files, a locked bucket, and alarms."""

    trail_arn: pulumi.Output[str]
    topic_arn: pulumi.Output[str]
    bucket_name: pulumi.Output[str]

    def __init__(self, name: str, args: AuditTrailArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:AuditTrail", name, {}, opts)
        child = ResourceOptions(parent=self)
        place = f"{args.region}:{args.account}"
        partition = aws_partition(args.region)
        # The bucket's and the key's policies name trail and log group before these exist.
        trail_arn = f"arn:{partition}:cloudtrail:{place}:trail/{name}"
        group_name = f"/jewelhouse/audit/{name}"
        group_arn = f"arn:{partition}:logs:{place}:log-group:{group_name}"
        from_trail = {"StringEquals": {"aws:SourceArn": trail_arn}}
        key = kms.Key(
            f"{name}-key",
            description=f"Encryption of {name}: trail, log group and topic",
            policy=document(*_key_statements(args, trail_arn, group_arn)),
            enable_key_rotation=True,
            deletion_window_in_days=30,
            tags=args.tags,
            opts=ResourceOptions(parent=self, protect=not args.destroyable),
        )
        bucket = guarded_bucket(
            name, parent=self, key_arn=key.arn, destroyable=args.destroyable, tags=args.tags
        )
        trails = service("cloudtrail.amazonaws.com")
        policy = bucket_policy(
            name,
            parent=self,
            bucket=bucket,
            # Nothing here about encryption headers: CloudTrail writes its digests with S3's own keys
            # (CloudTrail user guide: encrypting log files with SSE-KMS).
            statements=[
                allow("TrailAcl", ["s3:GetBucketAcl"], [bucket.arn], principal=trails, condition=from_trail),
                allow(
                    "TrailFiles",
                    ["s3:PutObject"],
                    [bucket.arn.apply(lambda arn: f"{arn}/AWSLogs/{args.account}/*")],
                    principal=trails,
                    condition=from_trail,
                ),
            ],
            destroyable=args.destroyable,
        )
        group = cloudwatch.LogGroup(
            f"{name}-logs",
            name=group_name,
            kms_key_id=key.arn,
            retention_in_days=RETENTION_DAYS,
            tags=args.tags,
            opts=child,
        )
        writer = iam.Role(
            f"{name}-writer",
            assume_role_policy=document(
                allow("Trail", ["sts:AssumeRole"], None, principal=trails, condition=from_trail)
            ),
            tags=args.tags,
            opts=child,
        )
        writing = iam.RolePolicy(
            f"{name}-writer-policy",
            role=writer.name,
            policy=document(
                allow(
                    "WriteEvents",
                    ["logs:CreateLogStream", "logs:PutLogEvents"],
                    [f"{group_arn}:log-stream:{args.account}_CloudTrail_*"],
                )
            ),
            opts=child,
        )
        trail = cloudtrail.Trail(
            f"{name}-trail",
            name=name,
            s3_bucket_name=bucket.id,
            kms_key_id=key.arn,
            is_multi_region_trail=True,
            include_global_service_events=True,
            enable_log_file_validation=True,
            enable_logging=True,
            cloud_watch_logs_group_arn=pulumi.Output.concat(group.arn, ":*"),
            cloud_watch_logs_role_arn=writer.arn,
            event_selectors=[_events(args)],
            tags=args.tags,
            opts=ResourceOptions(parent=self, protect=not args.destroyable, depends_on=[policy, writing]),
        )
        topic = sns.Topic(f"{name}-alarms", kms_master_key_id=key.arn, tags=args.tags, opts=child)
        sns.TopicPolicy(
            f"{name}-alarms-policy",
            arn=topic.arn,
            policy=document(
                allow(
                    "Alarms",
                    ["sns:Publish"],
                    [topic.arn],
                    principal=service("cloudwatch.amazonaws.com"),
                    condition={"StringEquals": {"aws:SourceAccount": args.account}},
                )
            ),
            opts=child,
        )
        for index, email in enumerate(args.emails):
            sns.TopicSubscription(
                f"{name}-email-{index}", topic=topic.arn, protocol="email", endpoint=email, opts=child
            )
        for suffix, alarm in alarms(args).items():
            self._alarm(f"{name}-{suffix}", alarm, group, topic, args.tags)
        self.trail_arn = trail.arn
        self.topic_arn = topic.arn
        self.bucket_name = bucket.id
        self.register_outputs({"trail_arn": self.trail_arn, "topic_arn": self.topic_arn})

    def _alarm(
        self,
        name: str,
        alarm: Alarm,
        group: cloudwatch.LogGroup,
        topic: sns.Topic,
        tags: Mapping[str, str],
    ) -> None:
        child = ResourceOptions(parent=self)
        for index, pattern in enumerate(alarm.patterns):
            cloudwatch.LogMetricFilter(
                f"{name}-{index}",
                log_group_name=group.name,
                pattern=pattern,
                metric_transformation={
                    "name": name,
                    "namespace": NAMESPACE,
                    "value": "1",
                    "default_value": "0",
                },
                opts=child,
            )
        cloudwatch.MetricAlarm(
            name,
            alarm_description=alarm.description,
            namespace=NAMESPACE,
            metric_name=name,
            statistic="Sum",
            period=300,
            evaluation_periods=1,
            comparison_operator="GreaterThanOrEqualToThreshold",
            threshold=alarm.threshold,
            treat_missing_data="notBreaching",
            alarm_actions=[topic.arn],
            tags=tags,
            opts=child,
        )


def alarms(args: AuditTrailArgs) -> dict[str, Alarm]:
    """What is worth waking somebody for.

    Fields of KMS events: docs.aws.amazon.com/kms/latest/developerguide/ct-nitro-enclave.html.
    """
    found = {
        "trail-changed": Alarm(
            "Somebody changes the audit trail itself", (f"{{ {_any('eventName', TRAIL_CALLS)} }}",)
        ),
        "denied-kms": Alarm(
            "A burst of refused calls to KMS: somebody tries keys",
            ('{ ($.eventSource = "kms.amazonaws.com") && ($.errorCode = "AccessDenied*") }',),
            threshold=10,
        ),
    }
    if args.keys:
        found["unattested-decrypt"] = Alarm(
            "An attested key was asked to decrypt by a call without an attestation document",
            tuple(
                _of_key(
                    arn,
                    '($.eventName = "Decrypt") && '
                    "($.additionalEventData.recipient.attestationDocumentModuleId NOT EXISTS)",
                )
                for arn in args.keys.values()
            ),
        )
        found["key-changed"] = Alarm(
            "A call that could open an attested key, or take it away",
            tuple(_of_key(arn, _any("eventName", KEY_CALLS)) for arn in args.keys.values()),
        )
    if args.hosts:
        issuer = "$.userIdentity.sessionContext.sessionIssuer.arn"
        found["host-launched-by-hand"] = Alarm(
            "An instance without an enclave was launched by neither the scaling group nor the deployment",
            (
                '{ ($.eventName = "RunInstances") && ($.userIdentity.invokedBy NOT EXISTS) '
                "&& ($.requestParameters.enclaveOptions.enabled NOT EXISTS) "
                f'&& (({issuer} NOT EXISTS) || ({issuer} != "{args.administrator}")) }}',
            ),
        )
        found["host-opened"] = Alarm(
            "Metadata options, attributes or the serial console of hosts were changed",
            (f"{{ {_any('eventName', HOST_CALLS)} }}",),
        )
    return found


def _any(name: str, values: Sequence[str]) -> str:
    return "(" + " || ".join(f'($.{name} = "{value}")' for value in values) + ")"


def _of_key(arn: pulumi.Input[str], condition: str) -> pulumi.Output[str]:
    return pulumi.Output.concat(
        '{ ($.eventSource = "kms.amazonaws.com") && ($.resources[0].ARN = "', arn, '") && ', condition, " }"
    )


def _events(args: AuditTrailArgs) -> cloudtrail.TrailEventSelectorArgs:
    """All management events, Decrypt among them, and every object of the stores."""
    inside = [pulumi.Output.concat(bucket, "/") for bucket in args.buckets]
    return cloudtrail.TrailEventSelectorArgs(
        read_write_type="All",
        include_management_events=True,
        exclude_management_event_sources=[],
        data_resources=[cloudtrail.TrailEventSelectorDataResourceArgs(type="AWS::S3::Object", values=inside)]
        if inside
        else [],
    )


def _key_statements(args: AuditTrailArgs, trail_arn: str, group_arn: str) -> list[dict[str, Any]]:
    """Who uses the trail's own key.

    docs.aws.amazon.com/awscloudtrail/latest/userguide/create-kms-key-policy-for-cloudtrail.html
    """
    trails = service("cloudtrail.amazonaws.com")
    rotation = ("kms:DisableKeyRotation", "kms:EnableKeyRotation")
    return [
        allow(
            "Administration",
            sorted((*ADMINISTRATION, *rotation)),
            "*",
            principal=roles([args.administrator]),
        ),
        # An investigator reads the files through S3 with the administrator's role.
        allow(
            "ReadFiles",
            ["kms:Decrypt"],
            "*",
            principal=roles([args.administrator]),
            condition={"StringEquals": {"kms:ViaService": f"s3.{args.region}.{dns_suffix(args.region)}"}},
        ),
        allow(
            "TrailEncrypts",
            ["kms:GenerateDataKey"],
            "*",
            principal=trails,
            condition={"StringEquals": {"aws:SourceArn": trail_arn}},
        ),
        allow(
            "TrailDescribes",
            ["kms:DescribeKey"],
            "*",
            principal=trails,
            condition={"StringEquals": {"aws:SourceArn": trail_arn}},
        ),
        allow(
            "LogGroup",
            [
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            "*",
            principal=service(f"logs.{args.region}.{dns_suffix(args.region)}"),
            condition={"ArnEquals": {"kms:EncryptionContext:aws:logs:arn": group_arn}},
        ),
        allow(
            "Topic",
            ["kms:Decrypt", "kms:GenerateDataKey"],
            "*",
            principal=service("cloudwatch.amazonaws.com"),
            condition={"StringEquals": {"aws:SourceAccount": args.account}},
        ),
    ]
