"""The stand-in AWS: ids, ARNs, names, default outputs; `aws_refusals` and `aws_answers` say the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jewelhouse.sandbox.clouds import limits
from jewelhouse.sandbox.clouds.aws_answers import ANSWERS
from jewelhouse.sandbox.clouds.aws_refusals import DELETE_RULES, NOT_FOUND, RULES
from jewelhouse.sandbox.clouds.common import Autoname, Cloud, Make, Name, Request, digits, fresh, strings
from jewelhouse.sandbox.schema import Schema
from jewelhouse.sandbox.world import World

# Types that AWS names by an id of its own: prefix of the id.
ID_PREFIXES: Mapping[str, str] = {
    "aws:ec2/vpc:Vpc": "vpc",
    "aws:ec2/subnet:Subnet": "subnet",
    "aws:ec2/securityGroup:SecurityGroup": "sg",
    "aws:ec2/routeTable:RouteTable": "rtb",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "vpce",
    "aws:ec2/launchTemplate:LaunchTemplate": "lt",
    "aws:ec2/instance:Instance": "i",
    "aws:ec2/ami:Ami": "ami",
    "aws:ec2/flowLog:FlowLog": "fl",
    "aws:ec2/routeTableAssociation:RouteTableAssociation": "rtbassoc",
    "aws:ec2/networkAcl:NetworkAcl": "acl",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": "sgr",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": "sgr",
    "aws:ec2/securityGroupRule:SecurityGroupRule": "sgrule",
}
# Types whose id is their name.
BY_NAME: Mapping[str, str] = {
    "aws:iam/role:Role": "name",
    "aws:iam/instanceProfile:InstanceProfile": "name",
    "aws:s3/bucket:Bucket": "bucket",
    "aws:kms/alias:Alias": "name",
    "aws:cloudwatch/logGroup:LogGroup": "name",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "name",
    "aws:cloudwatch/logMetricFilter:LogMetricFilter": "name",
    "aws:autoscaling/group:Group": "name",
}
# Resource part of the ARN, after arn:aws:service:region:account: (global services leave some parts out).
ARNS: Mapping[str, str] = {
    "aws:ec2/vpc:Vpc": "ec2:{region}:{account}:vpc/{id}",
    "aws:ec2/subnet:Subnet": "ec2:{region}:{account}:subnet/{id}",
    "aws:ec2/securityGroup:SecurityGroup": "ec2:{region}:{account}:security-group/{id}",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "ec2:{region}:{account}:vpc-endpoint/{id}",
    "aws:ec2/launchTemplate:LaunchTemplate": "ec2:{region}:{account}:launch-template/{id}",
    "aws:ec2/instance:Instance": "ec2:{region}:{account}:instance/{id}",
    "aws:ec2/ami:Ami": "ec2:{region}::image/{id}",
    "aws:kms/key:Key": "kms:{region}:{account}:key/{id}",
    "aws:kms/alias:Alias": "kms:{region}:{account}:{id}",
    "aws:iam/role:Role": "iam::{account}:role/{id}",
    "aws:iam/instanceProfile:InstanceProfile": "iam::{account}:instance-profile/{id}",
    "aws:iam/policy:Policy": "iam::{account}:policy/{name}",
    "aws:s3/bucket:Bucket": "s3:::{id}",
    "aws:sns/topic:Topic": "sns:{region}:{account}:{name}",
    "aws:cloudwatch/logGroup:LogGroup": "logs:{region}:{account}:log-group:{id}",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "cloudwatch:{region}:{account}:alarm:{id}",
    "aws:cloudtrail/trail:Trail": "cloudtrail:{region}:{account}:trail/{name}",
    "aws:autoscaling/group:Group": (
        "autoscaling:{region}:{account}:autoScalingGroup:{uuid}:autoScalingGroupName/{id}"
    ),
}
ARN_IDS = frozenset({"aws:sns/topic:Topic", "aws:iam/policy:Policy", "aws:cloudtrail/trail:Trail"})


def _arn(what: Request, identity: str) -> str:
    # One pattern for all: enough for policies and references to have the real shape.
    service, kind = what.type.split(":")[1].split("/")
    pattern = ARNS.get(what.type, f"{service}:{{region}}:{{account}}:{kind.lower()}/{{id}}")
    values = {
        "region": what.inputs.get("region") or what.scope["region"],
        "account": what.scope["account"],
        "id": identity,
        "name": what.inputs.get("name", what.name),
        "uuid": _uuid(digits(what.scope["name"], what.name, length=32)),
    }
    return "arn:aws:" + pattern.format(**values)


def _uuid(hexadecimal: str) -> str:
    return "-".join(
        (hexadecimal[:8], hexadecimal[8:12], hexadecimal[12:16], hexadecimal[16:20], hexadecimal[20:32])
    )


def versioned(what: Request, world: World) -> Mapping[str, Any]:
    previous = int(what.previous.outputs.get("latestVersion", 0)) if what.previous else 0
    return {
        "latestVersion": previous + 1,
        "defaultVersion": previous + 1 if what.inputs.get("updateDefaultVersion") else 1,
    }


NAMES: Mapping[str, Name] = {
    "aws:s3/bucket:Bucket": Name(
        "s3", "{bucket}", "BucketAlreadyExists: The requested bucket name {name} is not available."
    ),
    "aws:kms/alias:Alias": Name(
        "alias {account} {region}",
        "{name}",
        "AlreadyExistsException: An alias with the name {name} already exists",
    ),
    "aws:iam/role:Role": Name(
        "role {account}", "{name}", "EntityAlreadyExists: Role with name {name} already exists."
    ),
    "aws:iam/instanceProfile:InstanceProfile": Name(
        "profile {account}", "{name}", "EntityAlreadyExists: Instance Profile {name} already exists."
    ),
    "aws:cloudwatch/logGroup:LogGroup": Name(
        "logs {account} {region}",
        "{name}",
        "ResourceAlreadyExistsException: The specified log group {name} already exists",
    ),
}
# `ForceNew` in hashicorp/terraform-provider-aws: internal/service, 2026-10; the SDK does not say it.
FIXED: Mapping[str, frozenset[str]] = {
    kind: frozenset(properties.split())
    for kind, properties in {
        "aws:kms/key:Key": "customerMasterKeySpec keyUsage multiRegion customKeyStoreId",
        "aws:iam/role:Role": "path",
        "aws:iam/rolePolicy:RolePolicy": "role name",
        "aws:iam/instanceProfile:InstanceProfile": "path",
        "aws:s3/bucket:Bucket": "objectLockEnabled",
        "aws:s3/bucketPolicy:BucketPolicy": "bucket",
        "aws:s3/bucketVersioning:BucketVersioning": "bucket",
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "bucket",
        "aws:s3/bucketOwnershipControls:BucketOwnershipControls": "bucket",
        "aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration": "bucket",
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": "bucket",
        "aws:ec2/vpc:Vpc": "cidrBlock",
        "aws:ec2/subnet:Subnet": "vpcId cidrBlock availabilityZone",
        "aws:ec2/securityGroup:SecurityGroup": "vpcId name description",
        "aws:ec2/routeTable:RouteTable": "vpcId",
        "aws:ec2/routeTableAssociation:RouteTableAssociation": "subnetId",
        "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": "securityGroupId",
        "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": "securityGroupId",
        "aws:ec2/vpcEndpoint:VpcEndpoint": "vpcId serviceName vpcEndpointType",
        "aws:ec2/instance:Instance": (
            "ami availabilityZone cpuOptions enclaveOptions hibernation keyName subnetId "
            "rootBlockDevice.encrypted rootBlockDevice.kmsKeyId"
        ),
        "aws:ec2/launchTemplate:LaunchTemplate": "name",
        "aws:ec2/ami:Ami": (
            "architecture bootMode ebsBlockDevices imdsSupport name rootDeviceName tpmSupport uefiData"
        ),
        "aws:cloudtrail/trail:Trail": "name",
        "aws:cloudwatch/logMetricFilter:LogMetricFilter": "logGroupName",
        "aws:sns/topic:Topic": "name fifoTopic",
        "aws:sns/topicSubscription:TopicSubscription": "topicArn protocol endpoint",
    }.items()
}
OUTPUTS: Mapping[str, Make] = {
    "aws:kms/key:Key": lambda what, world: {"keyId": what.id},
    "aws:ec2/launchTemplate:LaunchTemplate": versioned,
    "aws:ec2/vpc:Vpc": lambda what, world: {
        "defaultSecurityGroupId": f"sg-{digits(what.id)}",
        "mainRouteTableId": f"rtb-{digits(what.id)}",
        "defaultNetworkAclId": f"acl-{digits(what.id)}",
        "defaultRouteTableId": f"rtb-{digits(what.id)}",
    },
    "aws:ec2/vpcEndpoint:VpcEndpoint": lambda what, world: {
        "prefixListId": f"pl-{digits(what.scope['region'], length=8)}",
        "state": "available",
        "dnsEntries": [
            {"dnsName": f"vpce-{digits(what.name)}.example.vpce.amazonaws.com", "hostedZoneId": "Z1"}
        ],
    },
    "aws:ec2/instance:Instance": lambda what, world: {
        "privateIp": "10.0.0.10",
        "privateDns": "ip-10-0-0-10.ec2.internal",
        "instanceState": "running",
    },
    "aws:s3/bucket:Bucket": lambda what, world: {
        "bucketDomainName": f"{what.inputs.get('bucket')}.s3.amazonaws.com",
        "bucketRegionalDomainName": f"{what.inputs.get('bucket')}.s3.{what.scope['region']}.amazonaws.com",
    },
    "aws:iam/role:Role": lambda what, world: {"uniqueId": f"AROA{digits(what.name).upper()}"},
}


class Aws(Cloud):
    names = NAMES
    rules = RULES
    delete_rules = DELETE_RULES
    answers = ANSWERS
    fixed = FIXED
    outputs = OUTPUTS

    def scope(self, configuration: Mapping[str, Any]) -> dict[str, str]:
        # Nested provider settings keep the case that the program wrote them in.
        assumed = configuration.get("assumeRoles") or []
        roles = [arn for role in assumed if (arn := role.get("roleArn") or role.get("role_arn"))]
        accounts = [*(configuration.get("allowedAccountIds") or []), *(arn.split(":")[4] for arn in roles)]
        account = str(accounts[0]) if accounts else "000000000000"
        region = str(configuration.get("region") or "us-east-1")
        for arn in roles:
            # A role that somebody deploys with exists before anything is deployed.
            self.world.take("iam", arn, "beforehand")
        caller = roles[-1] if roles else ""
        return {"name": f"{account} {region}", "account": account, "region": region, "caller": caller}

    def autoname(self, kind: str, schema: Schema) -> Autoname | None:
        if kind == "aws:s3/bucket:Bucket":
            return Autoname("bucket", 7, limit=63)
        if kind == "aws:kms/alias:Alias":
            return None
        if schema.inputs.get("name") == "string" and "name" not in schema.required:
            return Autoname("name", 7)
        return None

    def limits(self, kind: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from limits.aws(kind, values)

    def immutable(self, schema: Schema, inputs: Mapping[str, Any]) -> frozenset[str]:
        found = super().immutable(schema, inputs) | {"region", BY_NAME.get(schema.token, "region")}
        # The instance reads its user data at its first start only; the provider replaces it when asked to.
        asked = inputs.get("userDataReplaceOnChange") is True
        return found | ({"userData", "userDataBase64"} if asked else set())

    def identity(self, what: Request) -> str:
        if what.type == "aws:kms/key:Key":
            return _uuid(fresh(what, 32))
        if what.type == "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup":
            # It is there with its VPC; the resource only takes it over.
            found = self.world.find("aws", str(what.inputs.get("vpcId")), "aws:ec2/vpc:Vpc")
            return str(found.outputs["defaultSecurityGroupId"]) if found else f"sg-{fresh(what)}"
        if what.type in ID_PREFIXES:
            return f"{ID_PREFIXES[what.type]}-{fresh(what)}"
        if what.type in BY_NAME:
            return str(what.inputs.get(BY_NAME[what.type]))
        if what.type in ARN_IDS:
            return _arn(what, "")
        parents = [
            what.inputs[name]
            for name in ("bucket", "role", "keyId")
            if isinstance(what.inputs.get(name), str)
        ]
        own = what.inputs.get("name")
        if parents:
            return ":".join([*parents[:1], own] if isinstance(own, str) else parents[:1])
        return own if isinstance(own, str) else fresh(what)

    def defaults(self, what: Request, identity: str) -> Mapping[str, Any]:
        region = what.inputs.get("region") or what.scope["region"]
        return {
            "arn": _arn(what, identity),
            "region": region,
            "tagsAll": what.inputs.get("tags") or {},
            "ownerId": what.scope["account"],
            "name": what.inputs.get("name", what.name),
        }

    def create(self, what: Request) -> tuple[str, Mapping[str, Any]]:
        identity, computed = super().create(what)
        if what.type == "aws:iam/role:Role":
            self.world.take("iam", _arn(what, identity), identity)
        for value in self._made(what, identity, computed):
            self.world.take("ids", value, identity)
        return identity, computed

    def delete(self, what: Request) -> None:
        super().delete(what)
        if what.type == "aws:iam/role:Role":
            self.world.give_back("iam", _arn(what, what.id))
        if what.type == "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup":
            return
        for value in self._made(what, what.id, what.previous.outputs if what.previous else {}):
            self.world.give_back("ids", value)

    def _made(self, what: Request, identity: str, outputs: Mapping[str, Any]) -> list[str]:
        """Ids that come and go with a resource: its own, and those of the defaults that a VPC brings."""
        brought = strings(dict(outputs)) if what.type == "aws:ec2/vpc:Vpc" else ()
        return [value for value in (identity, *brought) if value.split("-")[0] in NOT_FOUND]


def cloud(world: World) -> Cloud:
    return Aws(world)
