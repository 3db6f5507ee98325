"""The managed identity that a stage runs as; what it may do is assigned on single keys and stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import managedidentity


@dataclass(frozen=True, kw_only=True)
class WorkloadIdentityArgs:
    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    identity_name: pulumi.Input[str]
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class WorkloadIdentity(pulumi.ComponentResource):
    """A user-assigned identity: `id` to run as, `principal` to assign roles to, `client` for its tokens."""

    id_: pulumi.Output[str]
    principal: pulumi.Output[str]
    client: pulumi.Output[str]

    def __init__(self, name: str, args: WorkloadIdentityArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:WorkloadIdentity", name, {}, opts)
        identity = managedidentity.UserAssignedIdentity(
            f"{name}-identity",
            resource_group_name=args.resource_group,
            location=args.location,
            resource_name_=args.identity_name,
            tags=args.tags,
            opts=ResourceOptions(parent=self),
        )
        self.id_ = identity.id
        self.principal = identity.principal_id
        self.client = identity.client_id
        self.register_outputs({"id": self.id_, "principal": self.principal, "client": self.client})
