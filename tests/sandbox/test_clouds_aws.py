"""What the stand-in AWS makes and refuses."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from driving import ACCOUNT, DEPLOYER, Driver

from jewelhouse.sandbox.clouds.common import Refused

KEY = "aws:kms/key:Key"
ROLE = "aws:iam/role:Role"
BUCKET = "aws:s3/bucket:Bucket"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
INSTANCE = "aws:ec2/instance:Instance"
TRUST = json.dumps(
    {
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ]
    }
)
RSA = {"customerMasterKeySpec": "RSA_4096", "keyUsage": "ENCRYPT_DECRYPT"}
ROOT = f"arn:aws:iam::{ACCOUNT}:root"


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(principal: Any, *actions: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": principal, "Action": list(actions), "Resource": "*", **more}


ADMIN = allow({"AWS": DEPLOYER}, "kms:PutKeyPolicy", "kms:DescribeKey")


@pytest.mark.parametrize(
    ("kind", "inputs", "identity", "arn"),
    [
        (
            KEY,
            {},
            r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
            r"arn:aws:kms:eu-central-1:111122223333:key/{id}",
        ),
        (ROLE, {"assumeRolePolicy": TRUST, "name": "serve"}, "serve", "arn:aws:iam::111122223333:role/serve"),
        (BUCKET, {"bucket": "weights"}, "weights", "arn:aws:s3:::weights"),
        (
            "aws:ec2/vpc:Vpc",
            {"cidrBlock": "10.0.0.0/16"},
            r"vpc-[0-9a-f]{17}",
            "arn:aws:ec2:eu-central-1:111122223333:vpc/{id}",
        ),
        (TEMPLATE, {}, r"lt-[0-9a-f]{17}", "arn:aws:ec2:eu-central-1:111122223333:launch-template/{id}"),
        ("aws:sns/topic:Topic", {"name": "alarms"}, r"arn:aws:sns:eu-central-1:111122223333:alarms", "{id}"),
    ],
)
def test_ids_and_arns_have_the_real_shapes(
    aws: Driver, kind: str, inputs: dict[str, Any], identity: str, arn: str
) -> None:
    made = aws.create(kind, inputs)
    assert re.fullmatch(identity, made.id)
    assert made["arn"] == arn.replace("{id}", made.id)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", "not a JSON document with statements", id="json"),
        pytest.param("[]", "not a JSON document with statements", id="list"),
        pytest.param(policy(), "will not allow you to update the key policy in the future", id="nobody"),
        pytest.param(
            policy(allow({"AWS": DEPLOYER}, "kms:DescribeKey")), "will not allow you to update", id="no-put"
        ),
        pytest.param(
            policy(allow({"AWS": "arn:aws:iam::999999999999:root"}, "kms:*")),
            "will not allow you to update",
            id="other-account",
        ),
        pytest.param(
            policy(ADMIN, {**ADMIN, "Effect": "Deny", "Principal": "*"}),
            "will not allow you to update",
            id="denied",
        ),
        pytest.param(
            policy(ADMIN, allow({"AWS": f"arn:aws:iam::{ACCOUNT}:role/nobody"}, "kms:Decrypt")),
            "one or more invalid principals: arn:aws:iam::111122223333:role/nobody",
            id="principal",
        ),
        pytest.param(
            policy(ADMIN, {"Effect": "Allow", "Principal": "*", "Resource": "*"}),
            "has no Action",
            id="action",
        ),
        pytest.param(
            policy(ADMIN, {"Effect": "Allow", "Principal": "*", "Action": "kms:Encrypt"}),
            "has no Resource",
            id="resource",
        ),
        pytest.param(policy(ADMIN, {**ADMIN, "Effect": "allow"}), "has no Effect", id="effect"),
        pytest.param(policy({**ADMIN, "Sid": "x" * 33000}), "the limit is 32768", id="size"),
    ],
)
def test_key_policies_that_kms_refuses(aws: Driver, text: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        aws.create(KEY, {**RSA, "policy": text})
    made = aws.create(KEY, {**RSA, "policy": policy(ADMIN)})
    with pytest.raises(Refused, match=words):
        aws.update(made, {**RSA, "policy": text})


@pytest.mark.parametrize(
    "text",
    [
        policy(ADMIN),
        policy(allow({"AWS": ROOT}, "kms:*")),
        policy(allow("*", "kms:Put*")),
        policy(ADMIN, {**ADMIN, "Effect": "Deny", "Principal": "*", "Condition": {"Null": {"x": "true"}}}),
    ],
)
def test_key_policies_that_kms_takes(aws: Driver, text: str) -> None:
    assert aws.create(KEY, {**RSA, "policy": text}).id


def test_a_locked_key_is_made_only_when_asked_for(aws: Driver) -> None:
    aws.create(KEY, {"policy": policy(), "bypassPolicyLockoutSafetyCheck": True})


def test_a_role_is_known_from_its_creation_to_its_deletion(aws: Driver) -> None:
    arn = f"arn:aws:iam::{ACCOUNT}:role/serve"
    text = policy(ADMIN, allow({"AWS": arn}, "kms:Decrypt"))
    role = aws.create(ROLE, {"assumeRolePolicy": TRUST, "name": "serve"})
    key = aws.create(KEY, {"policy": text})
    aws.delete(role)
    with pytest.raises(Refused, match="invalid principals"):
        aws.update(key, {"policy": text, "description": "x"})


@pytest.mark.parametrize(
    ("kind", "inputs", "words"),
    [
        (BUCKET, {"bucket": "weights"}, "BucketAlreadyExists"),
        (ROLE, {"assumeRolePolicy": TRUST, "name": "serve"}, "EntityAlreadyExists: Role with name serve"),
        ("aws:cloudwatch/logGroup:LogGroup", {"name": "/trail"}, "ResourceAlreadyExistsException"),
    ],
)
def test_names_collide_and_are_free_after_deletion(
    aws: Driver, kind: str, inputs: dict[str, Any], words: str
) -> None:
    made = aws.create(kind, inputs, "one")
    with pytest.raises(Refused, match=words):
        aws.create(kind, inputs, "two")
    aws.delete(made)
    aws.create(kind, inputs, "two")


def test_bucket_names_are_global_and_aliases_regional(start: Callable[..., Driver]) -> None:
    here, there = start("aws"), start("aws", region="us-east-2")
    here.create(BUCKET, {"bucket": "weights"})
    with pytest.raises(Refused, match="BucketAlreadyExists"):
        there.create(BUCKET, {"bucket": "weights"})
    for driver in (here, there):
        key = driver.create(KEY, {})
        driver.create("aws:kms/alias:Alias", {"name": "alias/base", "targetKeyId": key.id})
    key = here.create(KEY, {})
    with pytest.raises(Refused, match="AlreadyExistsException: An alias with the name alias/base"):
        here.create("aws:kms/alias:Alias", {"name": "alias/base", "targetKeyId": key.id})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"instanceType": "t3.large", "enclaveOptions": {"enabled": True}}, "InvalidParameterCombination"),
        (
            {"instanceType": "m7i-flex.xlarge", "enclaveOptions": {"enabled": True}},
            "InvalidParameterCombination",
        ),
        ({"instanceType": "m7i.large", "enclaveOptions": {"enabled": True}}, "InvalidParameterCombination"),
        (
            {
                "instanceType": "m7i.xlarge",
                "enclaveOptions": {"enabled": True},
                "hibernationOptions": {"configured": True},
            },
            "Nitro Enclaves and hibernation",
        ),
        (
            {
                "instanceType": "m6a.xlarge",
                "enclaveOptions": {"enabled": True},
                "cpuOptions": {"amdSevSnp": "enabled"},
            },
            "AMD SEV-SNP is not supported with Nitro Enclaves",
        ),
        (
            {"instanceType": "m7a.xlarge", "cpuOptions": {"amdSevSnp": "enabled"}},
            "not supported on m7a.xlarge",
        ),
        (
            {
                "instanceType": "m6a.xlarge",
                "hibernationOptions": {"configured": True},
                "cpuOptions": {"amdSevSnp": "enabled"},
            },
            "SEV-SNP instances cannot hibernate",
        ),
        ({"userData": "#!/bin/sh"}, "Invalid BASE64 encoding"),
        ({"vpcSecurityGroupIds": ["sg-00000000000000000"]}, "InvalidGroup.NotFound"),
    ],
)
def test_launches_that_ec2_refuses(aws: Driver, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        aws.create(TEMPLATE, inputs)


def test_launches_that_ec2_takes(aws: Driver) -> None:
    enclave = {
        "instanceType": "m7i.xlarge",
        "enclaveOptions": {"enabled": True},
        "userData": base64.b64encode(b"#").decode(),
    }
    made = aws.create(TEMPLATE, enclave)
    assert made["latestVersion"] == 1
    assert aws.update(made, {**enclave, "imageId": "ami-1"})["latestVersion"] == 2
    aws.create(TEMPLATE, {"instanceType": "m6a.xlarge", "cpuOptions": {"amdSevSnp": "enabled"}})


@pytest.mark.parametrize(
    ("kind", "inputs", "where"),
    [
        (KEY, {"keyUsage": "ENCRYPT"}, "keyUsage: 'ENCRYPT' is not one of"),
        (KEY, {"customerMasterKeySpec": "RSA_1024"}, "customerMasterKeySpec: 'RSA_1024' is not one of"),
        (
            TEMPLATE,
            {"metadataOptions": {"httpTokens": "needed"}},
            "metadataOptions.httpTokens: 'needed' is not one of",
        ),
        ("aws:ec2/ami:Ami", {"name": "stage", "bootMode": "bios"}, "bootMode: 'bios' is not one of"),
        (
            "aws:s3/bucketVersioning:BucketVersioning",
            {"bucket": "b", "versioningConfiguration": {"status": "On"}},
            "versioningConfiguration.status: 'On' is not one of Enabled, Suspended",
        ),
        (
            "aws:kms/alias:Alias",
            {"name": "alias/a b", "targetKeyId": "k"},
            "name: 'alias/a b' does not match",
        ),
        (ROLE, {"name": "r" * 65, "assumeRolePolicy": TRUST}, "name: has 65 characters, allowed are 1 to 64"),
    ],
)
def test_values_outside_the_service_model(aws: Driver, kind: str, inputs: dict[str, Any], where: str) -> None:
    found = aws.failures(kind, inputs)
    assert found
    assert found[0].startswith(where)


@pytest.mark.parametrize(
    ("kind", "inputs", "words"),
    [
        ("aws:iam/rolePolicy:RolePolicy", {"role": "none", "policy": policy()}, "NoSuchEntity"),
        ("aws:iam/rolePolicy:RolePolicy", {"role": "none", "policy": "{"}, "MalformedPolicyDocument"),
        ("aws:kms/alias:Alias", {"name": "alias/a", "targetKeyId": "1234"}, "NotFoundException: Key '1234'"),
        ("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "none", "policy": policy()}, "NoSuchBucket"),
        (
            ROLE,
            {
                "assumeRolePolicy": policy(
                    allow({"AWS": f"arn:aws:iam::{ACCOUNT}:role/none"}, "sts:AssumeRole")
                )
            },
            "Invalid principal in policy",
        ),
        (
            "aws:ec2/subnet:Subnet",
            {"vpcId": "vpc-00000000000000000", "cidrBlock": "10.0.0.0/24"},
            "InvalidVpcID.NotFound",
        ),
        (
            "aws:ec2/ami:Ami",
            {"name": "stage", "tpmSupport": "v2.0", "bootMode": "legacy-bios"},
            "boot mode uefi",
        ),
    ],
)
def test_references_to_what_is_not_there(aws: Driver, kind: str, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        aws.create(kind, inputs)


def test_a_vpc_goes_last_and_its_default_group_is_its_own(aws: Driver) -> None:
    vpc = aws.create("aws:ec2/vpc:Vpc", {"cidrBlock": "10.0.0.0/16"})
    subnet = aws.create("aws:ec2/subnet:Subnet", {"vpcId": vpc.id, "cidrBlock": "10.0.0.0/24"})
    group = aws.create("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", {"vpcId": vpc.id})
    assert group.id == vpc["defaultSecurityGroupId"]
    with pytest.raises(Refused, match=r"DependencyViolation: The vpc 'vpc-.*' has dependencies"):
        aws.delete(vpc)
    for made in (group, subnet, vpc):
        aws.delete(made)
    with pytest.raises(Refused, match=r"InvalidVpcID\.NotFound"):
        aws.create("aws:ec2/subnet:Subnet", {"vpcId": vpc.id, "cidrBlock": "10.0.0.0/24"})


def test_public_keys_are_real_lasting_and_each_its_own(aws: Driver) -> None:
    first, second = aws.create(KEY, RSA, "one"), aws.create(KEY, RSA, "two")
    answer = aws.invoke("aws:kms/getPublicKey:getPublicKey", keyId=first["arn"])
    public = load_pem_public_key(answer["publicKeyPem"].encode())
    assert isinstance(public, RSAPublicKey)
    assert public.key_size == 4096
    assert load_der_public_key(base64.b64decode(answer["publicKey"])) == public
    again = aws.invoke("aws:kms/getPublicKey:getPublicKey", keyId=first.id)
    other = aws.invoke("aws:kms/getPublicKey:getPublicKey", keyId=second.id)
    assert again["publicKeyPem"] == answer["publicKeyPem"] != other["publicKeyPem"]


def test_public_keys_of_keys_that_have_none(aws: Driver) -> None:
    symmetric = aws.create(KEY, {})
    with pytest.raises(Refused, match="UnsupportedOperationException"):
        aws.invoke("aws:kms/getPublicKey:getPublicKey", keyId=symmetric.id)
    with pytest.raises(Refused, match="NotFoundException"):
        aws.invoke("aws:kms/getPublicKey:getPublicKey", keyId="no-such-key")


@pytest.mark.parametrize(
    ("token", "args", "expected"),
    [
        ("aws:index/getCallerIdentity:getCallerIdentity", {}, {"accountId": ACCOUNT}),
        ("aws:index/getRegion:getRegion", {}, {"region": "eu-central-1"}),
        ("aws:index/getPartition:getPartition", {}, {"partition": "aws"}),
        (
            "aws:index/getAvailabilityZones:getAvailabilityZones",
            {},
            {
                "names": ["eu-central-1a", "eu-central-1b", "eu-central-1c"],
                "zoneIds": ["euc1-az1", "euc1-az2", "euc1-az3"],
            },
        ),
        (
            "aws:ec2/getInstanceType:getInstanceType",
            {"instanceType": "m7i.xlarge"},
            {"nitroEnclavesSupport": "supported"},
        ),
        (
            "aws:ec2/getInstanceType:getInstanceType",
            {"instanceType": "t3.xlarge"},
            {"nitroEnclavesSupport": "unsupported", "nitroTpmSupport": "supported"},
        ),
        ("aws:ec2/getAmi:getAmi", {"mostRecent": True}, {"architecture": "x86_64"}),
        ("aws:ssm/getParameter:getParameter", {"name": "/aws/service/ami"}, {"type": "String"}),
    ],
)
def test_functions_answer(aws: Driver, token: str, args: dict[str, Any], expected: dict[str, Any]) -> None:
    found = aws.invoke(token, **args)
    assert {name: found[name] for name in expected} == expected


def test_user_data_replaces_an_instance_only_when_asked_to(aws: Driver) -> None:
    made = aws.create(INSTANCE, {"ami": "ami-1", "instanceType": "m6a.large", "userData": "a"})
    assert not aws.diff(made, {"ami": "ami-1", "instanceType": "m6a.large", "userData": "b"}).replaces
    asked = {"ami": "ami-1", "instanceType": "m6a.large", "userData": "b", "userDataReplaceOnChange": True}
    assert aws.diff(made, asked).replaces == ["userData"]
