"""Policies of VPC endpoints: what may leave a private network, and for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from jewelhouse.aws.hosts import container_layers, packages
from jewelhouse.aws.identity import LOGGING, MANAGEMENT, PULLING, REGISTRY_LOGIN
from jewelhouse.aws.policy import Resources, allow, roles
from jewelhouse.aws.store import LISTING, READING, WRITING


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Who may reach what: `roles` (ARNs) to `keys`, `buckets` and `log_groups` (ARNs), nothing else.

    `parents` are the roles of enclave parents: for them alone there are Systems Manager, the registry
    (`repositories`, ARNs) and Amazon Linux's packages.
    """

    region: str
    roles: Sequence[pulumi.Input[str]]
    keys: Sequence[pulumi.Input[str]]
    buckets: Sequence[pulumi.Input[str]]
    log_groups: Sequence[pulumi.Input[str]]
    parents: Sequence[pulumi.Input[str]] = ()
    repositories: Sequence[str] = ()


def services(through: Traffic) -> dict[str, list[dict[str, Any]]]:
    """Endpoints for every host; what passes is the stages' own."""

    def of_stages(sid: str, actions: Sequence[str], resources: Resources) -> list[dict[str, Any]]:
        return [allow(sid, actions, resources, principal=roles(through.roles))]

    streams = [pulumi.Output.concat(group, ":log-stream:*") for group in through.log_groups]
    return {
        "kms": of_stages("OpenArtifacts", ["kms:Decrypt"], through.keys),
        "sts": of_stages("WhoAmI", ["sts:GetCallerIdentity"], "*"),
        "logs": of_stages("WriteLogs", LOGGING, [*through.log_groups, *streams]),
    }


def management(through: Traffic) -> dict[str, list[dict[str, Any]]]:
    """Endpoints for enclave parents, which hold no plaintext; attestable hosts have no way in at all."""
    parents = roles(through.parents)
    registry = [allow("RegistryLogin", REGISTRY_LOGIN, "*", principal=parents)]
    if through.repositories:
        registry.append(allow("PullContainers", PULLING, through.repositories, principal=parents))
    return {
        "ecr.api": registry,
        "ecr.dkr": registry,
        **{
            service: [allow("Management", actions, "*", principal=parents)]
            for service, actions in MANAGEMENT.items()
        },
    }


def storage(through: Traffic) -> list[dict[str, Any]]:
    """Gateway endpoints take no principal but `*`; the condition names the roles in its place.
    docs.aws.amazon.com/vpc/latest/privatelink/vpc-endpoints-access.html
    """
    inside = [pulumi.Output.concat(bucket, "/*") for bucket in through.buckets]
    stages = {"ArnEquals": {"aws:PrincipalArn": list(through.roles)}}
    found = [
        allow("Objects", (*READING, *WRITING), inside, principal="*", condition=stages),
        allow("Buckets", LISTING, list(through.buckets), principal="*", condition=stages),
    ]
    if through.parents:
        # Packages and layers are fetched without or with signed links: no principal to name. Both buckets are
        # AWS's own and only read; packages are signed and checked by dnf, layers by their digest.
        found.append(allow("Packages", ["s3:GetObject"], [packages(through.region)], principal="*"))
        found.append(
            allow("ContainerLayers", ["s3:GetObject"], [container_layers(through.region)], principal="*")
        )
    return found
