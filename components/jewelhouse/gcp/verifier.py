"""A private way from hosts with confidential GPUs to NVIDIA's attestation service, and to nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_gcp import compute, dns

from jewelhouse.hardware import GPU_VERIFIER


@dataclass(frozen=True, kw_only=True)
class GpuVerifierLinkArgs:
    """`network` and `subnetwork` come from a PrivateNetwork; `forwarder` is a service attachment of the same
    region, behind which TCP connections are forwarded to port 443 of NVIDIA's service."""

    project: pulumi.Input[str]
    region: pulumi.Input[str]
    network: pulumi.Input[str]
    subnetwork: pulumi.Input[str]
    forwarder: pulumi.Input[str]
    labels: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class GpuVerifierLink(pulumi.ComponentResource):
    """A Private Service Connect endpoint, under the name of NVIDIA's service in this network.

    The forwarder fixes where connections go, so hosts get no way out; TLS ends at NVIDIA's service, so the
    forwarder sees and changes nothing.
    """

    address: pulumi.Output[str]

    def __init__(self, name: str, args: GpuVerifierLinkArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:GpuVerifierLink", name, {}, opts)
        child = ResourceOptions(parent=self)
        address = compute.Address(
            f"{name}-address",
            project=args.project,
            region=args.region,
            subnetwork=args.subnetwork,
            address_type="INTERNAL",
            labels=args.labels,
            opts=child,
        )
        compute.ForwardingRule(
            f"{name}-endpoint",
            project=args.project,
            region=args.region,
            network=args.network,
            ip_address=address.self_link,
            target=args.forwarder,
            # What an endpoint of Private Service Connect has in place of a scheme.
            load_balancing_scheme="",
            no_automate_dns_zone=True,
            labels=args.labels,
            opts=child,
        )
        compute.Firewall(
            f"{name}-out",
            project=args.project,
            network=args.network,
            direction="EGRESS",
            priority=1000,
            destination_ranges=[pulumi.Output.concat(address.address, "/32")],
            allows=[compute.FirewallAllowArgs(protocol="tcp", ports=["443"])],
            log_config=compute.FirewallLogConfigArgs(metadata="INCLUDE_ALL_METADATA"),
            opts=child,
        )
        zone = dns.ManagedZone(
            f"{name}-zone",
            project=args.project,
            dns_name=f"{GPU_VERIFIER}.",
            description="NVIDIA's attestation service, through the operator's forwarder",
            visibility="private",
            private_visibility_config=dns.ManagedZonePrivateVisibilityConfigArgs(
                networks=[dns.ManagedZonePrivateVisibilityConfigNetworkArgs(network_url=args.network)]
            ),
            labels=args.labels,
            opts=child,
        )
        dns.RecordSet(
            f"{name}-a",
            project=args.project,
            managed_zone=zone.name,
            name=f"{GPU_VERIFIER}.",
            type="A",
            ttl=300,
            rrdatas=[address.address],
            opts=child,
        )
        self.address = address.address
        self.register_outputs({"address": self.address})
