"""A private way from hosts with confidential GPUs to NVIDIA's attestation service, and to nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi import InvokeOutputOptions, ResourceOptions
from pulumi_azure_native import network, privatedns

from jewelhouse.hardware import GPU_VERIFIER


@dataclass(frozen=True, kw_only=True)
class GpuVerifierLinkArgs:
    """`network` and `subnet` come from a PrivateNetwork; `forwarder` is the resource id of a private link
    service behind which TCP connections are forwarded to port 443 of NVIDIA's service.

    Whoever deploys it approves the connection too, unless the service does so by itself.
    """

    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    network: pulumi.Input[str]
    subnet: pulumi.Input[str]
    forwarder: pulumi.Input[str]
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class GpuVerifierLink(pulumi.ComponentResource):
    """A private endpoint of the forwarder, under the name of NVIDIA's service in this network.

    The forwarder fixes where connections go, so hosts get no way out; TLS ends at NVIDIA's service, so the
    forwarder sees and changes nothing.
    """

    record: pulumi.Output[str]

    def __init__(self, name: str, args: GpuVerifierLinkArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:GpuVerifierLink", name, {}, opts)
        child = ResourceOptions(parent=self)
        endpoint = network.PrivateEndpoint(
            f"{name}-endpoint",
            resource_group_name=args.resource_group,
            location=args.location,
            subnet=network.SubnetArgs(id=args.subnet),
            private_link_service_connections=[
                network.PrivateLinkServiceConnectionArgs(
                    name="gpu-verifier", private_link_service_id=args.forwarder
                )
            ],
            tags=args.tags,
            opts=child,
        )
        # Private link services have no zone of Azure's, which would know the endpoint's address.
        card = network.get_network_interface_output(
            resource_group_name=args.resource_group,
            network_interface_name=endpoint.network_interfaces.apply(
                lambda cards: str(cards[0].id).rsplit("/", 1)[-1]
            ),
            opts=InvokeOutputOptions(parent=self),
        )
        zone = privatedns.PrivateZone(
            f"{name}-zone",
            resource_group_name=args.resource_group,
            private_zone_name=GPU_VERIFIER,
            location="Global",
            tags=args.tags,
            opts=child,
        )
        link = privatedns.VirtualNetworkLink(
            f"{name}-link",
            resource_group_name=args.resource_group,
            private_zone_name=zone.name,
            virtual_network_link_name="hosts",
            location="Global",
            registration_enabled=False,
            virtual_network=privatedns.SubResourceArgs(id=args.network),
            tags=args.tags,
            opts=child,
        )
        record = privatedns.PrivateRecordSet(
            f"{name}-address",
            resource_group_name=args.resource_group,
            private_zone_name=zone.name,
            record_type="A",
            relative_record_set_name="@",
            ttl=300,
            a_records=[
                privatedns.ARecordArgs(
                    ipv4_address=card.apply(
                        lambda found: (found.ip_configurations or [])[0].private_ip_address
                    )
                )
            ],
            opts=child,
        )
        self.record = pulumi.Output.all(record.id, link.id).apply(lambda ids: ids[0])
        self.register_outputs({"record": self.record})
