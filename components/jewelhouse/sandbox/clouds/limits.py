"""Enumerations, patterns and lengths from the vendors' own machine-readable API models.

AWS: botocore's service models. Google: the discovery documents in google-api-python-client. Azure's
enumerations are types of its SDK and are checked with them (`sandbox.schema`). Only the table that says
which API a resource type is created by is ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

# Type -> service, operation, and the member of its request that the resource's properties stand in.
AWS_OPERATIONS: Mapping[str, tuple[str, str, str]] = {
    "aws:kms/key:Key": ("kms", "CreateKey", ""),
    "aws:kms/alias:Alias": ("kms", "CreateAlias", ""),
    "aws:iam/role:Role": ("iam", "CreateRole", ""),
    "aws:iam/rolePolicy:RolePolicy": ("iam", "PutRolePolicy", ""),
    "aws:iam/instanceProfile:InstanceProfile": ("iam", "CreateInstanceProfile", ""),
    "aws:cloudwatch/logMetricFilter:LogMetricFilter": ("logs", "PutMetricFilter", ""),
    "aws:ec2/launchTemplate:LaunchTemplate": ("ec2", "CreateLaunchTemplate", "LaunchTemplateData"),
    "aws:ec2/instance:Instance": ("ec2", "RunInstances", ""),
    "aws:ec2/vpcEndpoint:VpcEndpoint": ("ec2", "CreateVpcEndpoint", ""),
    "aws:ec2/ami:Ami": ("ec2", "RegisterImage", ""),
    "aws:ec2/vpc:Vpc": ("ec2", "CreateVpc", ""),
    "aws:autoscaling/group:Group": ("autoscaling", "CreateAutoScalingGroup", ""),
    "aws:cloudtrail/trail:Trail": ("cloudtrail", "CreateTrail", ""),
    "aws:cloudwatch/metricAlarm:MetricAlarm": ("cloudwatch", "PutMetricAlarm", ""),
    "aws:cloudwatch/logGroup:LogGroup": ("logs", "CreateLogGroup", ""),
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": (
        "s3",
        "PutPublicAccessBlock",
        "PublicAccessBlockConfiguration",
    ),
    "aws:s3/bucketVersioning:BucketVersioning": ("s3", "PutBucketVersioning", ""),
    "aws:sns/topic:Topic": ("sns", "CreateTopic", ""),
}
# The SDK's names where they are not the API's.
AWS_RENAMED: Mapping[str, Mapping[str, str]] = {
    "aws:kms/key:Key": {"customerMasterKeySpec": "KeySpec"},
    "aws:kms/alias:Alias": {"name": "AliasName"},
    "aws:iam/role:Role": {"name": "RoleName", "assumeRolePolicy": "AssumeRolePolicyDocument"},
    "aws:iam/rolePolicy:RolePolicy": {"name": "PolicyName", "role": "RoleName", "policy": "PolicyDocument"},
    "aws:iam/instanceProfile:InstanceProfile": {"name": "InstanceProfileName"},
    "aws:cloudwatch/logGroup:LogGroup": {"name": "logGroupName"},
    "aws:cloudwatch/logMetricFilter:LogMetricFilter": {"name": "filterName", "pattern": "filterPattern"},
    "aws:autoscaling/group:Group": {"name": "AutoScalingGroupName"},
    "aws:cloudwatch/metricAlarm:MetricAlarm": {"name": "AlarmName"},
}
# A map here, a list of pairs there.
AWS_NOT_COMPARED = frozenset({"tags"})
GOOGLE_SCHEMAS: Mapping[str, tuple[str, str]] = {
    "gcp:kms/cryptoKey:CryptoKey": ("cloudkms.v1", "CryptoKey"),
    "gcp:kms/keyRing:KeyRing": ("cloudkms.v1", "KeyRing"),
    "gcp:compute/instance:Instance": ("compute.v1", "Instance"),
    "gcp:compute/instanceTemplate:InstanceTemplate": ("compute.v1", "InstanceProperties"),
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": ("compute.v1", "InstanceProperties"),
    "gcp:compute/network:Network": ("compute.v1", "Network"),
    "gcp:compute/subnetwork:Subnetwork": ("compute.v1", "Subnetwork"),
    "gcp:compute/firewall:Firewall": ("compute.v1", "Firewall"),
    "gcp:iam/workloadIdentityPool:WorkloadIdentityPool": ("iam.v1", "WorkloadIdentityPool"),
    "gcp:storage/bucket:Bucket": ("storage.v1", "Bucket"),
}


def aws(kind: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(property, reason) wherever a value breaks a limit of the API that creates the type."""
    if kind not in AWS_OPERATIONS:
        return
    service, operation, member = AWS_OPERATIONS[kind]
    model = _aws_model(service)
    shapes = model["shapes"]
    name = model["operations"][operation]["input"]["shape"]
    if member:
        name = shapes[name]["members"][member]["shape"]
    renamed = AWS_RENAMED.get(kind, {})
    for key, value in values.items():
        if key not in AWS_NOT_COMPARED:
            target = _member(shapes[name].get("members", {}), renamed.get(key, key))
            if target:
                yield from _aws_value(shapes, target["shape"], value, key)


def _aws_value(shapes: Mapping[str, Any], name: str, value: Any, path: str) -> Iterator[tuple[str, str]]:
    shape = shapes[name]
    kind = shape["type"]
    if isinstance(value, dict) and kind == "structure":
        for key, item in value.items():
            target = _member(shape.get("members", {}), key)
            if target:
                yield from _aws_value(shapes, target["shape"], item, f"{path}.{key}")
    elif isinstance(value, list) and kind == "list":
        for index, item in enumerate(value):
            yield from _aws_value(shapes, shape["member"]["shape"], item, f"{path}[{index}]")
    elif isinstance(value, str) and kind == "string":
        if "enum" in shape and value not in shape["enum"]:
            yield path, f"{value!r} is not one of {', '.join(shape['enum'][:12])}"
        elif "pattern" in shape and not _fits(shape["pattern"], value):
            yield path, f"{value!r} does not match {shape['pattern']}"
        elif not shape.get("min", 0) <= len(value) <= shape.get("max", len(value)):
            yield (
                path,
                f"has {len(value)} characters, allowed are {shape.get('min', 0)} to {shape.get('max')}",
            )
    elif isinstance(value, int) and not isinstance(value, bool) and kind in ("integer", "long"):
        low, high = shape.get("min", value), shape.get("max", value)
        if not low <= value <= high:
            yield path, f"{value} is not between {low} and {high}"


def google(kind: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(property, reason) wherever a value is not in an enumeration of the API's discovery document."""
    if kind not in GOOGLE_SCHEMAS:
        return
    document, name = GOOGLE_SCHEMAS[kind]
    schemas = _google_model(document)
    for key, value in values.items():
        if key not in ("name", "labels", "metadata"):
            yield from _google_value(schemas, _member(schemas[name]["properties"], key), value, key)


def _google_value(
    schemas: Mapping[str, Any], schema: Mapping[str, Any] | None, value: Any, path: str
) -> Iterator[tuple[str, str]]:
    if not schema:
        return
    if "$ref" in schema:
        schema = {"type": "object", "properties": schemas[schema["$ref"]].get("properties", {})}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _google_value(
                schemas, _member(schema.get("properties", {}), key), item, f"{path}.{key}"
            )
    elif isinstance(value, list) and schema.get("type") == "array":
        for index, item in enumerate(value):
            yield from _google_value(schemas, schema["items"], item, f"{path}[{index}]")
    elif isinstance(value, str) and "enum" in schema and value not in schema["enum"]:
        yield path, f"{value!r} is not one of {', '.join(schema['enum'][:12])}"


def _member(members: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    if name in members:
        return members[name]
    return next((value for key, value in members.items() if key.lower() == name.lower()), None)


def _fits(pattern: str, value: str) -> bool:
    try:
        return re.fullmatch(pattern, value) is not None
    except re.error:
        # Some of AWS's patterns use Java's character classes (\p{L}), which Python's `re` does not know.
        return True


@cache
def _aws_model(service: str) -> Mapping[str, Any]:
    from botocore.loaders import Loader

    return Loader().load_service_model(service, "service-2")


@cache
def _google_model(document: str) -> Mapping[str, Any]:
    text = (
        files("googleapiclient.discovery_cache").joinpath("documents", f"{document}.json").read_text("utf-8")
    )
    return json.loads(text)["schemas"]
