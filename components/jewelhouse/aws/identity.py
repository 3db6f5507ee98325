"""Workload identities: the role of a stage, and what it may do once keys and stores exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import iam

from jewelhouse.aws.hosts import dns_suffix
from jewelhouse.aws.policy import allow, document, service
from jewelhouse.aws.store import LISTING, READING, READING_KEY, WRITING, WRITING_KEY, SealedStore, signed

# Session Manager's agent:
# docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-create-iam-instance-profile.html
MANAGEMENT: Mapping[str, tuple[str, ...]] = {
    "ssm": ("ssm:UpdateInstanceInformation",),
    "ssmmessages": (
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
    ),
    "ec2messages": (
        "ec2messages:AcknowledgeMessage",
        "ec2messages:DeleteMessage",
        "ec2messages:FailMessage",
        "ec2messages:GetEndpoint",
        "ec2messages:GetMessages",
        "ec2messages:SendReply",
    ),
}
LOGGING = ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents")
PULLING = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
REGISTRY_LOGIN = ("ecr:GetAuthorizationToken",)


@dataclass(frozen=True, kw_only=True)
class WorkloadIdentityArgs:
    """`role_name` is given because key policies name the role before it exists
    (`jewelhouse.names.identity_name`)."""

    role_name: str
    region: str
    tags: Mapping[str, str] = field(default_factory=dict)


class WorkloadIdentity(pulumi.ComponentResource):
    """The role that the hosts of one stage run as; it may do nothing until `WorkloadPermissions`."""

    arn: pulumi.Output[str]
    role_name: pulumi.Output[str]
    profile_name: pulumi.Output[str]
    profile_arn: pulumi.Output[str]
    role: iam.Role

    def __init__(self, name: str, args: WorkloadIdentityArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:WorkloadIdentity", name, {}, opts)
        self.role = iam.Role(
            f"{name}-role",
            name=args.role_name,
            description="A stage of a jewelhouse lifecycle",
            assume_role_policy=document(
                allow("Hosts", ["sts:AssumeRole"], None, principal=service(f"ec2.{dns_suffix(args.region)}"))
            ),
            tags=args.tags,
            # The given name leaves no room for a second role beside the first.
            opts=ResourceOptions(parent=self, delete_before_replace=True),
        )
        profile = iam.InstanceProfile(
            f"{name}-profile", role=self.role.name, tags=args.tags, opts=ResourceOptions(parent=self)
        )
        self.arn = self.role.arn
        self.role_name = self.role.name
        self.profile_name = profile.name
        self.profile_arn = profile.arn
        self.register_outputs({"arn": self.arn, "profile_arn": self.profile_arn})


@dataclass(frozen=True, kw_only=True)
class WorkloadPermissionsArgs:
    """`keys` are the attested keys that the stage opens, `reads` and `writes` its stores, `log_group` the ARN
    of its logs. `parent` marks an enclave's parent: it alone is managed through Systems Manager and pulls
    from `repositories`."""

    role_name: pulumi.Input[str]
    keys: Sequence[pulumi.Input[str]]
    log_group: pulumi.Input[str]
    reads: Sequence[SealedStore] = ()
    writes: Sequence[SealedStore] = ()
    parent: bool = False
    repositories: Sequence[str] = ()


class WorkloadPermissions(pulumi.ComponentResource):
    """What a stage's role may do: the identity's half of what key and bucket policies allow it.

    Both halves are needed, because keys and stores belong to other accounts. Decrypting here carries no
    condition on evidence: the key's own policy has it, and its Denies hold for every allow.
    """

    def __init__(self, name: str, args: WorkloadPermissionsArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:WorkloadPermissions", name, {}, opts)
        self.policy = iam.RolePolicy(
            f"{name}-policy",
            role=args.role_name,
            policy=document(*_statements(args)),
            opts=ResourceOptions(parent=self),
        )
        self.register_outputs({})


def _statements(args: WorkloadPermissionsArgs) -> list[dict[str, Any]]:
    found = [
        allow("OpenArtifacts", ["kms:Decrypt"], args.keys),
        allow("WriteLogs", LOGGING, [args.log_group, pulumi.Output.concat(args.log_group, ":log-stream:*")]),
    ]
    for verb, stores, actions, key_actions in (
        ("Read", args.reads, READING, READING_KEY),
        ("Write", args.writes, WRITING, WRITING_KEY),
    ):
        if stores:
            inside = [store.bucket_arn.apply(lambda arn: f"{arn}/*") for store in stores]
            services = sorted({f"s3.{store.region}.{dns_suffix(store.region)}" for store in stores})
            found += [
                allow(f"{verb}Stores", actions, inside),
                allow(
                    f"{verb}StoreKeys",
                    key_actions,
                    [store.key_arn for store in stores],
                    condition={"StringEquals": {"kms:ViaService": services}},
                ),
            ]
    if args.writes:
        parts = [part for store in args.writes for part in signed(store.bucket_arn)]
        found.append(allow("ReadSigned", READING, parts))
    if stores := list(dict.fromkeys((*args.reads, *args.writes))):
        found.append(allow("ListStores", LISTING, [store.bucket_arn for store in stores]))
    if args.parent:
        # These actions know no resources.
        found.append(allow("Management", [a for actions in MANAGEMENT.values() for a in actions], "*"))
        if args.repositories:
            found.append(allow("RegistryLogin", REGISTRY_LOGIN, "*"))
            found.append(allow("PullContainers", PULLING, args.repositories))
    return found
