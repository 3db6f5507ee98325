"""A network without public addresses: hosts reach private endpoints of vaults and stores, and attestation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import network, privatedns

# What a private endpoint connects to -> its DNS zone.
# learn.microsoft.com/azure/private-link/private-endpoint-dns, 2026-10
ZONES: Mapping[str, str] = {
    "vault": "privatelink.vaultcore.azure.net",
    "blob": "privatelink.blob.core.windows.net",
    "dfs": "privatelink.dfs.core.windows.net",
    "registry": "privatelink.azurecr.io",
    "attestation": "privatelink.attest.azure.net",
}
HOSTS, CONTAINERS, ENDPOINTS = "10.61.1.0/24", "10.61.2.0/24", "10.61.3.0/24"


@dataclass(frozen=True, kw_only=True)
class PrivateNetworkArgs:
    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class PrivateNetwork(pulumi.ComponentResource):
    """A virtual network with subnets for VMs, container groups and private endpoints, and their DNS zones.

    Nothing comes in. Out goes only 443 to the private endpoints and to Azure Attestation: its shared
    endpoints have no private link, so they are reached by their service tag and the default way out of
    Azure's, which gives no host an address of its own.
    """

    network: pulumi.Output[str]
    hosts: pulumi.Output[str]
    containers: pulumi.Output[str]
    endpoints: pulumi.Output[str]
    zones: Mapping[str, pulumi.Output[str]]

    def __init__(self, name: str, args: PrivateNetworkArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:PrivateNetwork", name, {}, opts)
        child = ResourceOptions(parent=self)
        guard = network.NetworkSecurityGroup(
            f"{name}-guard",
            resource_group_name=args.resource_group,
            location=args.location,
            security_rules=[
                _rule("endpoints", 100, "Outbound", "Allow", to=ENDPOINTS, port="443"),
                _rule("attestation", 110, "Outbound", "Allow", to="AzureAttestation", port="443"),
                _rule("nothing-else-out", 4000, "Outbound", "Deny"),
                _rule("nothing-in", 4000, "Inbound", "Deny"),
            ],
            tags=args.tags,
            opts=child,
        )
        endpoint_guard = network.NetworkSecurityGroup(
            f"{name}-endpoint-guard",
            resource_group_name=args.resource_group,
            location=args.location,
            security_rules=[
                _rule("hosts", 100, "Inbound", "Allow", source=HOSTS, to=ENDPOINTS, port="443"),
                _rule("containers", 110, "Inbound", "Allow", source=CONTAINERS, to=ENDPOINTS, port="443"),
                _rule("nothing-else-in", 4000, "Inbound", "Deny"),
                _rule("nothing-out", 4000, "Outbound", "Deny"),
            ],
            tags=args.tags,
            opts=child,
        )
        vnet = network.VirtualNetwork(
            f"{name}-network",
            resource_group_name=args.resource_group,
            location=args.location,
            address_space=network.AddressSpaceArgs(address_prefixes=["10.61.0.0/16"]),
            tags=args.tags,
            opts=child,
        )
        # One after another: a network takes one change at a time (AnotherOperationInProgress).
        hosts = self._subnet(name, "hosts", HOSTS, args, vnet, guard)
        containers = self._subnet(
            name, "containers", CONTAINERS, args, vnet, guard, after=hosts, delegated=True
        )
        endpoints = self._subnet(name, "endpoints", ENDPOINTS, args, vnet, endpoint_guard, after=containers)
        self.network = vnet.id
        self.hosts, self.containers, self.endpoints = hosts.id, containers.id, endpoints.id
        self.zones = {kind: self._zone(name, kind, args, vnet) for kind in ZONES}
        self.register_outputs(
            {
                "network": self.network,
                "hosts": self.hosts,
                "containers": self.containers,
                "endpoints": self.endpoints,
                "zones": self.zones,
            }
        )

    def _subnet(
        self,
        name: str,
        role: str,
        prefix: str,
        args: PrivateNetworkArgs,
        vnet: network.VirtualNetwork,
        guard: network.NetworkSecurityGroup,
        *,
        after: network.Subnet | None = None,
        delegated: bool = False,
    ) -> network.Subnet:
        delegation = network.DelegationArgs(
            name="containers", service_name="Microsoft.ContainerInstance/containerGroups"
        )
        return network.Subnet(
            f"{name}-{role}",
            resource_group_name=args.resource_group,
            virtual_network_name=vnet.name,
            subnet_name=role,
            address_prefix=prefix,
            network_security_group=network.NetworkSecurityGroupArgs(id=guard.id),
            private_endpoint_network_policies="Enabled",
            # Endpoints never call out; whoever attests must reach the shared attestation endpoint.
            default_outbound_access=role != "endpoints",
            delegations=[delegation] if delegated else [],
            opts=ResourceOptions(parent=self, depends_on=[after] if after else []),
        )

    def _zone(
        self, name: str, kind: str, args: PrivateNetworkArgs, vnet: network.VirtualNetwork
    ) -> pulumi.Output[str]:
        zone = privatedns.PrivateZone(
            f"{name}-{kind}-zone",
            resource_group_name=args.resource_group,
            private_zone_name=ZONES[kind],
            location="Global",
            tags=args.tags,
            opts=ResourceOptions(parent=self),
        )
        link = privatedns.VirtualNetworkLink(
            f"{name}-{kind}-link",
            resource_group_name=args.resource_group,
            private_zone_name=zone.name,
            virtual_network_link_name=kind,
            location="Global",
            registration_enabled=False,
            virtual_network=privatedns.SubResourceArgs(id=vnet.id),
            tags=args.tags,
            opts=ResourceOptions(parent=self),
        )
        # Who uses the zone gets it only once the network resolves it.
        return pulumi.Output.all(zone.id, link.id).apply(lambda ids: ids[0])


def _rule(
    name: str,
    priority: int,
    direction: str,
    access: str,
    *,
    source: str = "*",
    to: str = "*",
    port: str = "*",
) -> network.SecurityRuleArgs:
    return network.SecurityRuleArgs(
        name=name,
        priority=priority,
        direction=direction,
        access=access,
        protocol="Tcp" if port != "*" else "*",
        source_address_prefix=source,
        source_port_range="*",
        destination_address_prefix=to,
        destination_port_range=port,
    )


@dataclass(frozen=True, kw_only=True)
class PrivateLinkArgs:
    """`kind` is one of ZONES; `subnet` and `zone` come from a PrivateNetwork, `target` is a resource id.

    Whoever deploys it approves the connection too, so needs that right on the target
    (privateEndpointConnectionsApproval/action).
    """

    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    subnet: pulumi.Input[str]
    zone: pulumi.Input[str]
    kind: str
    target: pulumi.Input[str]
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class PrivateLink(pulumi.ComponentResource):
    """A private endpoint of one service in a network, with its name in the network's DNS."""

    endpoint: pulumi.Output[str]

    def __init__(self, name: str, args: PrivateLinkArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:PrivateLink", name, {}, opts)
        child = ResourceOptions(parent=self)
        endpoint = network.PrivateEndpoint(
            f"{name}-endpoint",
            resource_group_name=args.resource_group,
            location=args.location,
            subnet=network.SubnetArgs(id=args.subnet),
            private_link_service_connections=[
                network.PrivateLinkServiceConnectionArgs(
                    name=args.kind,
                    group_ids=["standard" if args.kind == "attestation" else args.kind],
                    private_link_service_id=args.target,
                )
            ],
            tags=args.tags,
            opts=child,
        )
        group = network.PrivateDnsZoneGroup(
            f"{name}-names",
            resource_group_name=args.resource_group,
            private_endpoint_name=endpoint.name,
            private_dns_zone_group_name="default",
            private_dns_zone_configs=[
                network.PrivateDnsZoneConfigArgs(name=args.kind, private_dns_zone_id=args.zone)
            ],
            opts=child,
        )
        self.endpoint = pulumi.Output.all(endpoint.id, group.id).apply(lambda ids: ids[0])
        self.register_outputs({"endpoint": self.endpoint})
