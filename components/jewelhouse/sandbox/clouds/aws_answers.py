"""What the stand-in AWS answers to functions (`aws.get_*`)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jewelhouse.hardware import aws as hardware
from jewelhouse.hardware import ec2
from jewelhouse.sandbox.clouds.common import Answer, Refused, digits, public_key
from jewelhouse.sandbox.world import World

KEY = "aws:kms/key:Key"


def get_public_key(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    """A real RSA public key; refused for keys that do not exist or are symmetric, as KMS does."""
    identity = str(args["keyId"]).rsplit("/", 1)[-1]
    key = world.find("aws", identity, KEY)
    if key is None:
        raise Refused(f"NotFoundException: Key '{args['keyId']}' does not exist")
    spec = str(key.inputs.get("customerMasterKeySpec", "SYMMETRIC_DEFAULT"))
    size = re.fullmatch(r"RSA_(\d+)", spec)
    if size is None:
        raise Refused(
            f"UnsupportedOperationException: {key.outputs['arn']} key spec is {spec} which is not valid for "
            "GetPublicKey in the sandbox"
        )
    pem = public_key(world, identity, int(size[1]))
    return {
        **args,
        "id": key.outputs["arn"],
        "arn": key.outputs["arn"],
        "customerMasterKeySpec": spec,
        "encryptionAlgorithms": ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"],
        "keyUsage": key.inputs.get("keyUsage", "ENCRYPT_DECRYPT"),
        "publicKey": "".join(line for line in pem.splitlines() if "-----" not in line),
        "publicKeyPem": pem,
        "region": key.outputs["region"],
        "signingAlgorithms": [],
    }


def get_caller_identity(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    account = scope["account"]
    role = scope["caller"].rsplit("/", 1)[-1] or "deployer"
    arn = f"arn:aws:sts::{account}:assumed-role/{role}/sandbox"
    return {"accountId": account, "arn": arn, "id": account, "userId": "AROASANDBOX:sandbox"}


def get_region(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    region = _region(args, scope)
    endpoint = f"ec2.{region}.amazonaws.com"
    return {"name": region, "region": region, "id": region, "description": region, "endpoint": endpoint}


def get_partition(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    return {
        "partition": "aws",
        "dnsSuffix": "amazonaws.com",
        "id": "aws",
        "reverseDnsPrefix": "com.amazonaws",
    }


def get_availability_zones(
    args: Mapping[str, Any], scope: Mapping[str, str], world: World
) -> Mapping[str, Any]:
    region = _region(args, scope)
    parts = region.split("-")
    short = parts[0] + "".join(part[0] for part in parts[1:-1]) + parts[-1]
    return {
        **args,
        "id": region,
        "names": [f"{region}{letter}" for letter in "abc"],
        "zoneIds": [f"{short}-az{number}" for number in (1, 2, 3)],
        "groupNames": [region],
        "region": region,
    }


def get_instance_type(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    """Support for enclaves and NitroTPM, from the same table that the checks use."""
    kind = str(args["instanceType"])
    if kind not in ec2.TYPES:
        raise Refused(f"InvalidInstanceType: The following supplied instance types do not exist: [{kind}]")
    family = kind.split(".")[0]
    memory = ec2.memory(kind)
    return {
        **args,
        "id": kind,
        "defaultVcpus": ec2.cpus(kind),
        "memorySize": memory,
        "defaultThreadsPerCore": ec2.threads_per_core(family),
        "nitroEnclavesSupport": "unsupported" if hardware.enclave_problem(kind) else "supported",
        "nitroTpmSupport": "unsupported" if hardware.tpm_problem(kind) else "supported",
        "supportedCpuFeatures": ["amd-sev-snp"] if hardware.supports_snp(kind) else [],
        "supportedArchitectures": ["arm64"] if ec2.graviton(family) else ["x86_64"],
        "region": _region(args, scope),
    }


def get_ami(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    region = _region(args, scope)
    image = f"ami-{digits(region, json.dumps(args, sort_keys=True))}"
    return {
        **args,
        "id": image,
        "imageId": image,
        "architecture": "x86_64",
        "arn": f"arn:aws:ec2:{region}::image/{image}",
        "bootMode": "uefi-preferred",
        "name": f"sandbox-{image}",
        "state": "available",
        "region": region,
    }


def get_parameter(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    """Public parameters name images; any other has to be made by this or another stack."""
    name, region = str(args["name"]), _region(args, scope)
    if name.startswith("/aws/service/"):
        value = f"ami-{digits(region, name)}"
    else:
        made = world.find("aws", name, "aws:ssm/parameter:Parameter")
        if made is None:
            raise Refused(f"ParameterNotFound: reading SSM Parameter ({name})")
        value = made.inputs.get("value")
    arn = f"arn:aws:ssm:{region}:{scope['account']}:parameter/{name.lstrip('/')}"
    return {**args, "id": name, "arn": arn, "value": value, "type": "String", "version": 1, "region": region}


def _region(args: Mapping[str, Any], scope: Mapping[str, str]) -> str:
    return str(args.get("region") or scope["region"])


ANSWERS: Mapping[str, Answer] = {
    "aws:index/getAvailabilityZones:getAvailabilityZones": get_availability_zones,
    "aws:index/getCallerIdentity:getCallerIdentity": get_caller_identity,
    "aws:index/getPartition:getPartition": get_partition,
    "aws:index/getRegion:getRegion": get_region,
    "aws:ec2/getAmi:getAmi": get_ami,
    "aws:ec2/getInstanceType:getInstanceType": get_instance_type,
    "aws:kms/getPublicKey:getPublicKey": get_public_key,
    "aws:ssm/getParameter:getParameter": get_parameter,
}
