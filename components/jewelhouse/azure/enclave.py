"""Confidential container groups: the policy that pins every layer is measured into the evidence."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import containerinstance

from jewelhouse.errors import JewelhouseError

CPUS, MEMORY_GIB = 4.0, 16.0


@dataclass(frozen=True, kw_only=True)
class EnclaveHostArgs:
    """`image` is pinned by digest; `policy` is the base64 container policy whose SHA-256 is `hostdata`.

    `settings` reach the container as environment, which the policy measures by name. `private_registry` says
    that `identity` pulls the image; otherwise it is pulled anonymously, which its digest allows.
    """

    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    subnet: pulumi.Input[str]
    image: str
    policy: str
    hostdata: str
    identity: pulumi.Input[str]
    settings: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    private_registry: bool = False
    zone: str | None = None
    cpus: float = CPUS
    memory_gib: float = MEMORY_GIB
    depends_on: Sequence[pulumi.Resource] = ()
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class EnclaveHost(pulumi.ComponentResource):
    """A confidential container group in a private subnet: no public address, no exec, no debug.

    Raises JewelhouseError when the policy is not the one that `hostdata` measures, or the image is not
    pinned: such a group would start and then be refused every key.
    """

    id_: pulumi.Output[str]
    address: pulumi.Output[str]

    def __init__(self, name: str, args: EnclaveHostArgs, opts: ResourceOptions | None = None) -> None:
        _check(name, args)
        super().__init__("jewelhouse:azure:EnclaveHost", name, {}, opts)
        server = args.image.split("/", 1)[0]
        group = containerinstance.ContainerGroup(
            f"{name}-group",
            resource_group_name=args.resource_group,
            location=args.location,
            sku=containerinstance.ContainerGroupSku.CONFIDENTIAL,
            os_type=containerinstance.OperatingSystemTypes.LINUX,
            restart_policy=containerinstance.ContainerGroupRestartPolicy.ON_FAILURE,
            confidential_compute_properties=containerinstance.ConfidentialComputePropertiesArgs(
                cce_policy=args.policy
            ),
            identity=containerinstance.ContainerGroupIdentityArgs(
                type=containerinstance.ResourceIdentityType.USER_ASSIGNED,
                user_assigned_identities=[args.identity],
            ),
            image_registry_credentials=[
                containerinstance.ImageRegistryCredentialArgs(server=server, identity=args.identity)
            ]
            if args.private_registry
            else None,
            subnet_ids=[containerinstance.ContainerGroupSubnetIdArgs(id=args.subnet)],
            ip_address=containerinstance.IpAddressArgs(
                type=containerinstance.ContainerGroupIpAddressType.PRIVATE,
                ports=[containerinstance.PortArgs(port=443, protocol="TCP")],
            ),
            zones=[args.zone] if args.zone else None,
            containers=[
                containerinstance.ContainerArgs(
                    name="stage",
                    image=args.image,
                    ports=[containerinstance.ContainerPortArgs(port=443, protocol="TCP")],
                    environment_variables=[
                        containerinstance.EnvironmentVariableArgs(name=key, value=value)
                        for key, value in sorted(args.settings.items())
                    ],
                    resources=containerinstance.ResourceRequirementsArgs(
                        requests=containerinstance.ResourceRequestsArgs(
                            cpu=args.cpus, memory_in_gb=args.memory_gib
                        )
                    ),
                    security_context=containerinstance.SecurityContextDefinitionArgs(
                        allow_privilege_escalation=False, privileged=False
                    ),
                )
            ],
            tags=args.tags,
            opts=ResourceOptions(
                parent=self,
                depends_on=list(args.depends_on),
                # A group does not change in place; its measurement would not either.
                replace_on_changes=["containers", "confidentialComputeProperties", "subnetIds"],
                delete_before_replace=True,
            ),
        )
        self.id_ = group.id
        self.address = group.ip_address.apply(lambda found: (found.ip or "") if found else "")
        self.register_outputs({"id": self.id_, "address": self.address})


def _check(name: str, args: EnclaveHostArgs) -> None:
    if not re.search(r"@sha256:[0-9a-f]{64}$", args.image):
        raise JewelhouseError(
            f"{args.image} is not pinned by digest",
            where=f"{name}.image",
            remedy="write registry/name@sha256:<digest>",
        )
    try:
        policy = base64.b64decode(args.policy, validate=True)
    except binascii.Error as error:
        raise JewelhouseError(
            f"the container policy is not base64: {error}",
            where=f"{name}.policy",
            remedy="give it as `az confcom acipolicygen --print-policy` prints it",
        ) from error
    found = hashlib.sha256(policy).hexdigest()
    if found != args.hostdata:
        raise JewelhouseError(
            f"the container policy has SHA-256 {found}, the release policy pins {args.hostdata}",
            where=f"{name}.policy",
            remedy="build the image again, so that policy and hostdata belong together",
        )
