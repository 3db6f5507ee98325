"""Private networks: no way to the internet, only to the services and resources that the stages need."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import ec2, vpc

from jewelhouse.aws.endpoints import Traffic, management, services, storage
from jewelhouse.aws.policy import document
from jewelhouse.errors import JewelhouseError

HTTPS = {"from_port": 443, "to_port": 443, "ip_protocol": "tcp"}


@dataclass(frozen=True, kw_only=True)
class PrivateNetworkArgs:
    """`traffic` is all that its endpoints let through. One subnet for each of `zones`, a /20 of `cidr`."""

    zones: Sequence[str]
    traffic: Traffic
    cidr: str = "10.64.0.0/16"
    tags: Mapping[str, str] = field(default_factory=dict)


class PrivateNetwork(pulumi.ComponentResource):
    """A VPC without internet gateway, NAT or public address, and with the endpoints of its stages.

    `host_group` is the security group of every host; enclave parents take `parent_group` beside it.
    `endpoints` are what a host needs before it starts.
    """

    vpc_id: pulumi.Output[str]
    subnet_ids: list[pulumi.Output[str]]
    host_group: pulumi.Output[str]
    parent_group: pulumi.Output[str] | None
    endpoints: list[pulumi.Resource]

    def __init__(self, name: str, args: PrivateNetworkArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:PrivateNetwork", name, {}, opts)
        if len(set(args.zones)) < 2:
            raise JewelhouseError(
                f"{', '.join(args.zones) or 'no zone'} is not enough for a network",
                where=name,
                remedy=f"name two zones of {args.traffic.region}",
            )
        child = ResourceOptions(parent=self)
        network = ec2.Vpc(
            f"{name}-vpc",
            cidr_block=args.cidr,
            enable_dns_support=True,
            enable_dns_hostnames=True,
            tags={**args.tags, "Name": name},
            opts=child,
        )
        # Adopted and emptied: what names no group gets this one, so it reaches nothing.
        ec2.DefaultSecurityGroup(f"{name}-default", vpc_id=network.id, tags=args.tags, opts=child)
        table = ec2.RouteTable(f"{name}-routes", vpc_id=network.id, tags=args.tags, opts=child)
        self._by_zone: dict[str, pulumi.Output[str]] = {}
        blocks = ipaddress.ip_network(args.cidr).subnets(new_prefix=20)
        for zone, block in zip(sorted(set(args.zones)), blocks, strict=False):
            subnet = ec2.Subnet(
                f"{name}-{zone}",
                vpc_id=network.id,
                availability_zone=zone,
                cidr_block=str(block),
                map_public_ip_on_launch=False,
                tags={**args.tags, "Name": f"{name}-{zone}"},
                opts=child,
            )
            ec2.RouteTableAssociation(
                f"{name}-{zone}-routes", subnet_id=subnet.id, route_table_id=table.id, opts=child
            )
            self._by_zone[zone] = subnet.id
        self.subnet_ids = list(self._by_zone.values())
        gateway = ec2.VpcEndpoint(
            f"{name}-s3",
            vpc_id=network.id,
            service_name=f"com.amazonaws.{args.traffic.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[table.id],
            policy=document(*storage(args.traffic)),
            tags=args.tags,
            opts=child,
        )

        def group(suffix: str, description: str) -> ec2.SecurityGroup:
            # Without inline rules: those would delete the ones that stand on their own.
            return ec2.SecurityGroup(
                f"{name}-{suffix}", vpc_id=network.id, description=description, tags=args.tags, opts=child
            )

        def interfaces(
            suffix: str, users: ec2.SecurityGroup, policies: Mapping[str, list[dict[str, Any]]]
        ) -> list[pulumi.Resource]:
            """Interface endpoints behind a group that `users` alone reach, on HTTPS alone."""
            guard = group(suffix, f"Endpoints of {suffix}")
            vpc.SecurityGroupIngressRule(
                f"{name}-{suffix}-in",
                security_group_id=guard.id,
                referenced_security_group_id=users.id,
                description="From the hosts",
                **HTTPS,
                opts=child,
            )
            vpc.SecurityGroupEgressRule(
                f"{name}-{suffix}-out",
                security_group_id=users.id,
                referenced_security_group_id=guard.id,
                description=f"To {suffix}",
                **HTTPS,
                opts=child,
            )
            return [
                ec2.VpcEndpoint(
                    f"{name}-{service.replace('.', '-')}",
                    vpc_id=network.id,
                    service_name=f"com.amazonaws.{args.traffic.region}.{service}",
                    vpc_endpoint_type="Interface",
                    private_dns_enabled=True,
                    subnet_ids=self.subnet_ids,
                    security_group_ids=[guard.id],
                    policy=document(*statements),
                    tags=args.tags,
                    opts=child,
                )
                for service, statements in policies.items()
            ]

        hosts = group("hosts", "Stages reach services of the region and nothing else")
        vpc.SecurityGroupEgressRule(
            f"{name}-hosts-s3",
            security_group_id=hosts.id,
            prefix_list_id=gateway.prefix_list_id,
            description="To S3",
            **HTTPS,
            opts=child,
        )
        self.endpoints = [gateway, *interfaces("services", hosts, services(args.traffic))]
        self.parent_group = None
        if args.traffic.parents:
            parents = group("parents", "Enclave parents reach management and registry")
            self.endpoints += interfaces("management", parents, management(args.traffic))
            self.parent_group = parents.id
        self.vpc_id = network.id
        self.host_group = hosts.id
        self.register_outputs({"vpc_id": self.vpc_id, "subnet_ids": self.subnet_ids})

    def subnets(self, zones: Sequence[str] = ()) -> list[pulumi.Output[str]]:
        """The subnets of `zones`; all of them when none is named."""
        return [self._by_zone[zone] for zone in sorted(set(zones))] if zones else self.subnet_ids
