"""A network that reaches Google's interfaces on the restricted range, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_gcp import compute, dns

# restricted.googleapis.com: the addresses that VPC Service Controls can guard. They are announced inside
# Google's network only: docs.cloud.google.com/vpc/docs/configure-private-google-access.
RESTRICTED_RANGE = "199.36.153.4/30"
RESTRICTED_ADDRESSES = tuple(f"199.36.153.{last}" for last in range(4, 8))
# Just above the implied rules of a VPC, which have 65535.
LAST = 65534
# Everything a host calls: Google's interfaces, the container registry, and the registry that Confidential
# Space fetches its GPU driver installer from.
ZONES: Mapping[str, str] = {"googleapis": "googleapis.com.", "pkg": "pkg.dev.", "gcr": "gcr.io."}


@dataclass(frozen=True, kw_only=True)
class PrivateNetworkArgs:
    """`cidr` is the IPv4 range of the hosts; no address in it is reachable from outside."""

    project: pulumi.Input[str]
    region: pulumi.Input[str]
    cidr: pulumi.Input[str] = "10.64.0.0/20"
    labels: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class PrivateNetwork(pulumi.ComponentResource):
    """A VPC with one subnet and one route: to Google's restricted range on port 443.

    No external address, no default route, no NAT and no peering exist, and the firewall denies what is left
    in both directions. Names of Google's services resolve to the restricted range.
    """

    network: pulumi.Output[str]
    subnetwork: pulumi.Output[str]

    def __init__(self, name: str, args: PrivateNetworkArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:PrivateNetwork", name, {}, opts)
        child = ResourceOptions(parent=self)
        vpc = compute.Network(
            f"{name}-vpc",
            project=args.project,
            auto_create_subnetworks=False,
            delete_default_routes_on_create=True,
            routing_mode="REGIONAL",
            opts=child,
        )
        subnet = compute.Subnetwork(
            f"{name}-hosts",
            project=args.project,
            region=args.region,
            network=vpc.id,
            ip_cidr_range=args.cidr,
            stack_type="IPV4_ONLY",
            private_ip_google_access=True,
            log_config=compute.SubnetworkLogConfigArgs(
                aggregation_interval="INTERVAL_5_SEC",
                flow_sampling=1.0,
                metadata="INCLUDE_ALL_METADATA",
            ),
            opts=child,
        )
        compute.Route(
            f"{name}-to-google",
            project=args.project,
            network=vpc.id,
            dest_range=RESTRICTED_RANGE,
            next_hop_gateway="default-internet-gateway",
            description="Private Google Access on the restricted range; there is no default route",
            opts=child,
        )
        self._firewall(name, args, vpc, child)
        self._names(name, args, vpc, child)
        self.network = vpc.id
        self.subnetwork = subnet.id
        self.register_outputs({"network": self.network, "subnetwork": self.subnetwork})

    def _firewall(
        self, name: str, args: PrivateNetworkArgs, vpc: compute.Network, child: ResourceOptions
    ) -> None:
        # Without these rules a VPC allows all egress, and what it denies implicitly leaves no log.
        log = compute.FirewallLogConfigArgs(metadata="INCLUDE_ALL_METADATA")
        compute.Firewall(
            f"{name}-google-out",
            project=args.project,
            network=vpc.id,
            direction="EGRESS",
            priority=1000,
            destination_ranges=[RESTRICTED_RANGE],
            allows=[compute.FirewallAllowArgs(protocol="tcp", ports=["443"])],
            log_config=log,
            opts=child,
        )
        compute.Firewall(
            f"{name}-deny-in",
            project=args.project,
            network=vpc.id,
            direction="INGRESS",
            priority=LAST,
            source_ranges=["0.0.0.0/0"],
            denies=[compute.FirewallDenyArgs(protocol="all")],
            log_config=log,
            opts=child,
        )
        compute.Firewall(
            f"{name}-deny-out",
            project=args.project,
            network=vpc.id,
            direction="EGRESS",
            priority=LAST,
            destination_ranges=["0.0.0.0/0"],
            denies=[compute.FirewallDenyArgs(protocol="all")],
            log_config=log,
            opts=child,
        )

    def _names(
        self, name: str, args: PrivateNetworkArgs, vpc: compute.Network, child: ResourceOptions
    ) -> None:
        for short, domain in ZONES.items():
            zone = dns.ManagedZone(
                f"{name}-{short}",
                project=args.project,
                dns_name=domain,
                description=f"{domain} at Google's restricted range",
                visibility="private",
                private_visibility_config=dns.ManagedZonePrivateVisibilityConfigArgs(
                    networks=[
                        dns.ManagedZonePrivateVisibilityConfigNetworkArgs(network_url=vpc.id),
                    ]
                ),
                labels=args.labels,
                opts=child,
            )
            host = f"restricted.{domain}" if short == "googleapis" else domain
            dns.RecordSet(
                f"{name}-{short}-a",
                project=args.project,
                managed_zone=zone.name,
                name=host,
                type="A",
                ttl=300,
                rrdatas=list(RESTRICTED_ADDRESSES),
                opts=child,
            )
            dns.RecordSet(
                f"{name}-{short}-any",
                project=args.project,
                managed_zone=zone.name,
                name=f"*.{domain}",
                type="CNAME",
                ttl=300,
                rrdatas=[host],
                opts=child,
            )
        # Names outside these zones still resolve, which is a way out of a network: queries are logged.
        dns.Policy(
            f"{name}-queries",
            project=args.project,
            enable_logging=True,
            networks=[dns.PolicyNetworkArgs(network_url=vpc.id)],
            opts=child,
        )
