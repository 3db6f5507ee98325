"""AWS: no way in, no way out, nothing at rest in the clear. Keys are in `aws_kms`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from pulumi_policy import Severity, StackValidationArgs

from . import aws_kms
from .rule import Rule, StackRule, at, items, rule, true

RULES: list[Rule] = [*aws_kms.RULES]
HOSTS = ("aws:ec2/instance:Instance", "aws:ec2/launchTemplate:LaunchTemplate")
ANYWHERE = frozenset({"0.0.0.0/0", "::/0"})


@rule(
    RULES,
    "aws-no-internet",
    "aws:ec2/internetGateway:InternetGateway",
    "aws:ec2/egressOnlyInternetGateway:EgressOnlyInternetGateway",
    "aws:ec2/carrierGateway:CarrierGateway",
    "aws:ec2/natGateway:NatGateway",
    "aws:ec2/eip:Eip",
    remedy="Reach AWS services through interface and gateway endpoints",
    source="docs.aws.amazon.com/enclaves/latest/user/security-best-practices.html",
)
def no_internet(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """A network of confidential hosts has no way to the internet."""
    if token == "aws:ec2/natGateway:NatGateway" and props.get("connectivityType") == "private":
        return
    yield f"{token.rsplit(':', 1)[-1]} opens the network to the internet"


@rule(
    RULES,
    "aws-no-public-address",
    "aws:ec2/subnet:Subnet",
    *HOSTS,
    remedy="Keep hosts in private subnets",
    source="docs.aws.amazon.com/vpc/latest/userguide/vpc-ip-addressing.html",
)
def no_public_address(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No host has a public address."""
    if true(props.get("mapPublicIpOnLaunch")):
        yield "the subnet gives public addresses to its hosts"
    if true(props.get("assignIpv6AddressOnCreation")):
        yield "the subnet gives global IPv6 addresses to its hosts"
    if true(props.get("associatePublicIpAddress")):
        yield "the host asks for a public address"
    if any(true(at(card, "associatePublicIpAddress")) for card in items(props, "networkInterfaces")):
        yield "the launch template asks for a public address"


@rule(
    RULES,
    "aws-no-key-pair",
    "aws:ec2/keyPair:KeyPair",
    *HOSTS,
    remedy="Nobody logs in to a confidential host: replace it instead",
    source="docs.aws.amazon.com/AWSEC2/latest/UserGuide/isolate-data-operators.html",
)
def no_key_pair(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No SSH key reaches a host."""
    if token == "aws:ec2/keyPair:KeyPair":
        yield "a key pair is a way to log in"
    elif props.get("keyName"):
        yield f"the host takes the key pair {props['keyName']}"


@rule(
    RULES,
    "aws-no-access-key",
    "aws:iam/accessKey:AccessKey",
    "aws:iam/userLoginProfile:UserLoginProfile",
    remedy="Use roles: their credentials expire",
    source="docs.aws.amazon.com/IAM/latest/UserGuide/best-practices.html",
)
def no_access_key(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Nothing holds credentials that last."""
    yield "credentials that never expire can be copied and kept"


@rule(
    RULES,
    "aws-closed-security-groups",
    "aws:ec2/securityGroup:SecurityGroup",
    "aws:ec2/securityGroupRule:SecurityGroupRule",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
    remedy="Name endpoint security groups, prefix lists or private ranges, and no login port",
    source="docs.aws.amazon.com/vpc/latest/userguide/security-group-rules.html",
)
def closed_security_groups(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Security groups reach endpoints only, and nothing logs in through them."""
    if token == "aws:ec2/securityGroup:SecurityGroup":
        ways = [(side, entry) for side in ("ingress", "egress") for entry in items(props, side)]
    elif token == "aws:ec2/securityGroupRule:SecurityGroupRule":
        ways = [(str(props.get("type")), props)]
    else:
        ways = [("ingress" if "Ingress" in token else "egress", props)]
    for side, way in ways:
        ranges = {
            *items(way, "cidrBlocks"),
            *items(way, "ipv6CidrBlocks"),
            *items(way, "cidrIpv4"),
            *items(way, "cidrIpv6"),
        }
        for anywhere in sorted(ranges & ANYWHERE):
            yield f"{side} is open to {anywhere}"
        if side == "ingress" and any(_covers(way, port) for port in (22, 3389)):
            yield "ingress lets a login port in"


def _covers(way: Any, port: int) -> bool:
    first, last = at(way, "fromPort"), at(way, "toPort")
    protocol = at(way, "protocol") or at(way, "ipProtocol")
    if str(protocol) == "-1":
        return True
    if str(protocol) not in ("tcp", "6") or first is None:
        return False
    return int(first) <= port <= int(first if last is None else last)


@rule(
    RULES,
    "aws-imdsv2",
    *HOSTS,
    remedy='Set metadataOptions to httpTokens "required" and httpPutResponseHopLimit 1',
    source="docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-options.html",
)
def imdsv2(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """The metadata service answers only to tokens, one hop away."""
    if at(props, "metadataOptions.httpEndpoint") == "disabled":
        return
    if at(props, "metadataOptions.httpTokens") != "required":
        yield "role credentials can be read from the metadata service without a token"
    hops = at(props, "metadataOptions.httpPutResponseHopLimit")
    if hops is None or int(hops) > 1:
        yield "metadata tokens travel more than one hop"


@rule(
    RULES,
    "aws-encrypted-disks",
    "aws:ebs/volume:Volume",
    *HOSTS,
    remedy="Set encrypted on every volume",
    source="docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption.html",
)
def encrypted_disks(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Disks are encrypted at rest."""
    if token == "aws:ebs/volume:Volume":
        disks = [props]
    elif token == "aws:ec2/instance:Instance":
        disks = [*items(props, "rootBlockDevice"), *items(props, "ebsBlockDevices")]
        if not items(props, "rootBlockDevice"):
            yield "the root disk is left as its image has it"
    else:
        disks = [at(mapping, "ebs") or {} for mapping in items(props, "blockDeviceMappings")]
        disks = [disk for disk in disks if disk]
        if not disks:
            yield "the launch template leaves disks as its image has them"
    if any(not true(at(disk, "encrypted")) for disk in disks):
        yield "a disk is not encrypted"


@rule(
    RULES,
    "aws-no-debug-enclave",
    *HOSTS,
    remedy="Run the enclave without --debug-mode",
    source="docs.aws.amazon.com/enclaves/latest/user/cmd-nitro-run-enclave.html",
    severity=Severity.CRITICAL,
)
def no_debug_enclave(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No host starts its enclave in debug mode."""
    for name in ("userData", "userDataBase64"):
        text = props.get(name)
        if isinstance(text, str) and "--debug-mode" in _decoded(text):
            yield f"{name} starts an enclave whose console anyone on the host can read"


def _decoded(text: str) -> str:
    """User data as a host sees it: launch templates take base64, instances take either."""
    try:
        return base64.b64decode(text, validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        return text


@rule(
    RULES,
    "aws-s3-closed",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
    "aws:s3/bucketAcl:BucketAcl",
    "aws:s3/bucket:Bucket",
    "aws:s3/bucketPolicy:BucketPolicy",
    remedy="Block public access altogether and let only the stages' roles in",
    source="docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-block-public-access.html",
)
def closed_buckets(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Buckets are closed to the public."""
    if token == "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock":
        for name in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"):
            if not true(props.get(name)):
                yield f"{name} is not set"
    if str(props.get("acl") or "private") not in ("private", "log-delivery-write"):
        yield f"the ACL {props['acl']} lets others in"
    if token == "aws:s3/bucketPolicy:BucketPolicy":
        for statement in aws_kms.statements(props.get("policy")):
            if statement.get("Effect") == "Allow" and aws_kms.for_anyone(statement):
                yield f"statement {statement.get('Sid', '')} lets anyone in without a condition"


@rule(
    RULES,
    "aws-trail-validated",
    "aws:cloudtrail/trail:Trail",
    remedy="Set enableLogFileValidation, and keep enableLogging on",
    source="docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-validation-intro.html",
)
def validated_trail(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """A trail proves that nobody edited its files."""
    if not true(props.get("enableLogFileValidation")):
        yield "log files can be changed unseen"
    if props.get("enableLogging") is False:
        yield "the trail records nothing"


BUCKET, BLOCK, VERSIONING = (
    "aws:s3/bucket:Bucket",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
    "aws:s3/bucketVersioning:BucketVersioning",
)


def _guarded_buckets(args: StackValidationArgs) -> Iterator[tuple[str, str]]:
    guards: dict[str, set[str]] = {BLOCK: set(), VERSIONING: set()}
    for resource in args.resources:
        if resource.resource_type in guards:
            bound = resource.property_dependencies.get("bucket") or resource.dependencies
            guards[resource.resource_type] |= {other.urn for other in bound}
    for resource in args.resources:
        if resource.resource_type == BUCKET:
            if resource.urn not in guards[BLOCK]:
                yield resource.urn, "nothing blocks public access to this bucket"
            if resource.urn not in guards[VERSIONING]:
                yield resource.urn, "this bucket keeps no earlier versions of what is overwritten"


STACK_RULES: tuple[StackRule, ...] = (
    StackRule(
        name="aws-s3-guarded",
        types=(BUCKET,),
        description="Every bucket has a public-access block and versioning.",
        remedy="Add a BucketPublicAccessBlock and a BucketVersioning for it",
        source="docs.aws.amazon.com/AmazonS3/latest/userguide/security-best-practices.html",
        severity=Severity.HIGH,
        check=_guarded_buckets,
    ),
)
