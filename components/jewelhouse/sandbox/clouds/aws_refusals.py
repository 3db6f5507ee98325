"""What the stand-in AWS refuses. Words follow the services' own errors where they are known."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jewelhouse.hardware import aws as hardware
from jewelhouse.sandbox.clouds.common import Request, Rule, strings
from jewelhouse.sandbox.world import World

# docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html, 2026-10.
KEY_POLICY_BYTES = 32 * 1024
# Ids that the stand-in makes itself, and EC2's code for one that does not exist.
NOT_FOUND: Mapping[str, str] = {
    "vpc": "InvalidVpcID.NotFound: The vpc ID '{id}' does not exist",
    "subnet": "InvalidSubnetID.NotFound: The subnet ID '{id}' does not exist",
    "sg": "InvalidGroup.NotFound: The security group '{id}' does not exist",
    "rtb": "InvalidRouteTableID.NotFound: The routeTable ID '{id}' does not exist",
    "lt": "InvalidLaunchTemplateId.NotFound: The launch template ID '{id}' does not exist",
}
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")
PUT_POLICY = ("kms:PutKeyPolicy", "kms:Put*", "kms:*", "*")


def key_policy(what: Request, world: World) -> Iterator[str]:
    """What CreateKey and PutKeyPolicy check: JSON, principals that exist, a caller who may change it later.

    docs.aws.amazon.com/kms/latest/APIReference/API_CreateKey.html, parameter Policy.
    """
    text = what.inputs.get("policy")
    if not isinstance(text, str):
        return
    if len(text.encode()) > KEY_POLICY_BYTES:
        yield f"LimitExceededException: the key policy has {len(text.encode())} bytes, the limit is 32768"
    statements = _statements(text)
    if statements is None:
        yield "MalformedPolicyDocumentException: the policy is not a JSON document with statements"
        return
    for statement in statements:
        name = statement.get("Sid", "without Sid")
        if "Action" not in statement and "NotAction" not in statement:
            yield f"MalformedPolicyDocumentException: statement {name} has no Action"
        if "Resource" not in statement and "NotResource" not in statement:
            yield f"MalformedPolicyDocumentException: statement {name} has no Resource"
        if statement.get("Effect") not in ("Allow", "Deny"):
            yield f"MalformedPolicyDocumentException: statement {name} has no Effect"
        for arn in _unknown_roles(statement, world):
            yield (
                "MalformedPolicyDocumentException: Policy contains a statement with one or more invalid "
                f"principals: {arn}"
            )
    allowed = any(_edits(statement, "Allow", what.scope) for statement in statements)
    denied = any(_edits(statement, "Deny", what.scope) for statement in statements)
    if (denied or not allowed) and what.inputs.get("bypassPolicyLockoutSafetyCheck") is not True:
        yield (
            "MalformedPolicyDocumentException: The new key policy will not allow you to update the key "
            f"policy in the future. (caller {what.scope['caller'] or what.scope['account']})"
        )


def _statements(text: str) -> list[Mapping[str, Any]] | None:
    try:
        found = json.loads(text)["Statement"]
    except (ValueError, KeyError, TypeError):
        return None
    statements = found if isinstance(found, list) else [found]
    return statements if all(isinstance(statement, dict) for statement in statements) else None


def _list(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _principals(statement: Mapping[str, Any]) -> list[str]:
    principal = statement.get("Principal")
    return _list(principal.get("AWS")) if isinstance(principal, dict) else _list(principal)


def _unknown_roles(statement: Mapping[str, Any], world: World) -> Iterator[str]:
    yield from (
        arn for arn in _principals(statement) if ROLE.fullmatch(arn) and world.holder("iam", arn) is None
    )


def _edits(statement: Mapping[str, Any], effect: str, scope: Mapping[str, str]) -> bool:
    """Whether a statement decides that whoever deploys may change the policy; conditions are left to KMS."""
    account, caller = scope["account"], scope["caller"]
    mine = {"*", account, f"arn:aws:iam::{account}:root"}
    mine |= {caller} if caller else {arn for arn in _principals(statement) if f"::{account}:" in arn}
    return (
        statement.get("Effect") == effect
        and any(action in PUT_POLICY for action in _list(statement.get("Action")))
        and any(principal in mine for principal in _principals(statement))
        and (effect == "Allow" or "Condition" not in statement)
    )


def policy_document(what: Request, world: World) -> Iterator[str]:
    for name in ("policy", "assumeRolePolicy"):
        text = what.inputs.get(name)
        if isinstance(text, str) and _statements(text) is None:
            yield f"MalformedPolicyDocument: {name} is not a JSON document with statements"


def trust(what: Request, world: World) -> Iterator[str]:
    """IAM and S3 resolve the roles that a trust or bucket policy names when it is written."""
    for name, words in (
        ("assumeRolePolicy", 'MalformedPolicyDocument: Invalid principal in policy: "AWS":"{arn}"'),
        ("policy", "MalformedPolicy: Invalid principal in policy: {arn}"),
    ):
        text = what.inputs.get(name)
        for statement in (_statements(text) or []) if isinstance(text, str) else []:
            yield from (words.format(arn=arn) for arn in _unknown_roles(statement, world))


def role_exists(what: Request, world: World) -> Iterator[str]:
    name = what.inputs.get("role")
    if (
        isinstance(name, str)
        and world.holder(f"role {what.scope['account']}", name.rsplit("/", 1)[-1]) is None
    ):
        yield f"NoSuchEntity: The role with name {name} cannot be found."


def bucket_exists(what: Request, world: World) -> Iterator[str]:
    name = what.inputs.get("bucket")
    if isinstance(name, str) and world.holder("s3", name) is None:
        yield f"NoSuchBucket: The specified bucket does not exist ({name})"


def key_exists(what: Request, world: World) -> Iterator[str]:
    name = what.inputs.get("targetKeyId")
    if isinstance(name, str) and world.find("aws", name.rsplit("/", 1)[-1], "aws:kms/key:Key") is None:
        yield f"NotFoundException: Key '{name}' does not exist"


def references(what: Request, world: World) -> Iterator[str]:
    """Ids inside the inputs that name nothing that exists."""
    for value in sorted(set(strings(what.inputs))):
        found = re.fullmatch(r"(vpc|subnet|sg|rtb|lt)-[0-9a-f]{17}", value)
        if found and world.holder("ids", value) is None:
            yield NOT_FOUND[found[1]].format(id=value)


def in_use(what: Request, world: World) -> Iterator[str]:
    users = [thing for thing in world.users("aws", what.id) if thing.id != what.id]
    if users:
        kind = what.type.rsplit(":", 1)[-1]
        kind = re.sub(r"(?<!^)([A-Z])", r" \1", kind).lower()
        yield (
            f"DependencyViolation: The {kind} '{what.id}' has dependencies and cannot be deleted. "
            f"({', '.join(sorted(thing.id for thing in users)[:3])})"
        )


def launch(what: Request, world: World) -> Iterator[str]:
    """Combinations that RunInstances and CreateLaunchTemplate refuse.

    botocore: RunInstances (EnclaveOptions, HibernationOptions); the EC2 user guide on SEV-SNP, 2026-10.
    """
    kind = what.inputs.get("instanceType")
    enclave = what.get("enclaveOptions.enabled") in (True, "true")
    snp = what.get("cpuOptions.amdSevSnp") == "enabled"
    hibernates = what.inputs.get("hibernation") is True or what.get("hibernationOptions.configured") is True
    if enclave and isinstance(kind, str) and hardware.enclave_problem(kind):
        yield f"InvalidParameterCombination: {hardware.enclave_problem(kind)}"
    if enclave and hibernates:
        yield "UnsupportedHibernationConfiguration: Nitro Enclaves and hibernation cannot both be enabled"
    if enclave and snp:
        yield "InvalidParameterCombination: AMD SEV-SNP is not supported with Nitro Enclaves"
    if snp and hibernates:
        yield "UnsupportedHibernationConfiguration: AMD SEV-SNP instances cannot hibernate"
    if snp and isinstance(kind, str) and not hardware.supports_snp(kind):
        yield f"InvalidParameterCombination: AMD SEV-SNP is not supported on {kind}"
    user_data = what.inputs.get("userData")
    if what.type == "aws:ec2/launchTemplate:LaunchTemplate" and isinstance(user_data, str):
        try:
            base64.b64decode(user_data, validate=True)
        except ValueError:
            yield "InvalidUserData.Malformed: Invalid BASE64 encoding of user data."


def tpm_image(what: Request, world: World) -> Iterator[str]:
    """NitroTPM needs an image that is registered for UEFI."""
    if what.inputs.get("tpmSupport") == "v2.0" and what.inputs.get("bootMode") != "uefi":
        yield "InvalidParameterCombination: TpmSupport requires an AMI with boot mode uefi"


RULES: Mapping[str, tuple[Rule, ...]] = {
    "aws:kms/key:Key": (key_policy,),
    "aws:kms/alias:Alias": (key_exists,),
    "aws:iam/role:Role": (policy_document, trust),
    "aws:iam/rolePolicy:RolePolicy": (policy_document, role_exists),
    "aws:iam/instanceProfile:InstanceProfile": (role_exists,),
    "aws:s3/bucketPolicy:BucketPolicy": (policy_document, trust, bucket_exists),
    "aws:s3/bucketVersioning:BucketVersioning": (bucket_exists,),
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": (bucket_exists,),
    "aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration": (bucket_exists,),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": (bucket_exists,),
    "aws:ec2/vpcEndpoint:VpcEndpoint": (policy_document, references),
    "aws:ec2/instance:Instance": (launch, references),
    "aws:ec2/launchTemplate:LaunchTemplate": (launch, references),
    "aws:ec2/ami:Ami": (tpm_image,),
    "aws:ec2/subnet:Subnet": (references,),
    "aws:ec2/securityGroup:SecurityGroup": (references,),
    "aws:ec2/routeTable:RouteTable": (references,),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": (references,),
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": (references,),
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": (references,),
    "aws:autoscaling/group:Group": (references,),
}
DELETE_RULES: Mapping[str, tuple[Rule, ...]] = {
    "aws:ec2/vpc:Vpc": (in_use,),
    "aws:ec2/subnet:Subnet": (in_use,),
    "aws:ec2/securityGroup:SecurityGroup": (in_use,),
}
