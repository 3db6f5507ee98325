"""What the stand-in Google Cloud refuses, in the services' words where those are known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jewelhouse.hardware import gcp as hardware
from jewelhouse.sandbox.clouds.common import Request, Rule
from jewelhouse.sandbox.world import World

PRINCIPAL_SET = re.compile(
    r"principalSet://iam\.googleapis\.com/projects/\d+/locations/global/workloadIdentityPools/[a-z0-9-]{4,32}"
    r"/(\*|attribute\.[a-z0-9_]+/.+)"
)
# Beginnings of an algorithm's name and the purpose that it belongs to: cloud.google.com/kms/docs/algorithms.
PURPOSES = (
    ("RSA_DECRYPT_", "ASYMMETRIC_DECRYPT"),
    ("RSA_SIGN_", "ASYMMETRIC_SIGN"),
    ("EC_SIGN_", "ASYMMETRIC_SIGN"),
    ("GOOGLE_SYMMETRIC_", "ENCRYPT_DECRYPT"),
    ("HMAC_", "MAC"),
    ("AES_", "RAW_ENCRYPT_DECRYPT"),
)


def confidential(what: Request, world: World) -> Iterator[str]:
    """What Compute refuses about confidential instances and templates.

    docs.cloud.google.com/confidential-computing: supported configurations; the provider's documentation of
    `confidentialInstanceConfig`.
    """
    kind = what.get("confidentialInstanceConfig.confidentialInstanceType")
    legacy = what.get("confidentialInstanceConfig.enableConfidentialCompute")
    if not kind and not legacy:
        return
    machine = str(what.inputs.get("machineType") or "").rsplit("/", 1)[-1]
    tee = next((tee for tee, name in hardware.CONFIDENTIAL_TYPES.items() if name == (kind or "SEV")), None)
    offer = hardware.offer(machine, tee) if tee else None
    if machine and offer is None:
        yield (
            f"Invalid value for field 'resource.confidentialInstanceConfig': {kind} is not supported "
            f"on {machine}"
        )
    zone = what.inputs.get("zone")
    if offer and offer.zones and isinstance(zone, str) and zone not in offer.zones:
        yield (
            f"Invalid value for field 'resource.machineType': {kind} on {machine} does not exist in zone "
            f"{zone}"
        )
    maintenance = what.get("scheduling.onHostMaintenance", "MIGRATE")
    if maintenance != "TERMINATE" and not (offer and offer.migrates):
        yield (
            f"Instance cannot have onHostMaintenance {maintenance}: {kind} on {machine} does not support "
            "live migration, set it to TERMINATE"
        )
    platform = offer.min_cpu_platform if offer and kind == "SEV_SNP" else None
    if platform and what.inputs.get("minCpuPlatform") != platform:
        yield f"SEV_SNP requires minCpuPlatform {platform}"
    if machine == hardware.GPU_MACHINE and what.get("scheduling.provisioningModel") not in (
        "SPOT",
        "FLEX_START",
    ):
        yield f"{machine} with confidential computing is offered as SPOT or FLEX_START only"
    for disk in _list(what.inputs.get("scratchDisks")) + _list(what.inputs.get("disks")):
        if disk.get("interface") == "SCSI":
            yield "Invalid value for field 'disk.interface': confidential instances take NVME only"


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def run_duration(what: Request, world: World) -> Iterator[str]:
    """FLEX_START runs between ten minutes and seven days."""
    seconds = what.get("requestedRunDuration.seconds") or what.get("scheduling.maxRunDuration.seconds")
    low, high = hardware.FLEX_SECONDS
    if seconds is not None and not low <= int(seconds) <= high:
        yield f"Invalid value for field 'maxRunDuration.seconds': {seconds}, must be {low} to {high}"


def identity_provider(what: Request, world: World) -> Iterator[str]:
    condition = what.inputs.get("attributeCondition")
    if isinstance(condition, str) and len(condition) > 4096:
        yield f"INVALID_ARGUMENT: attribute_condition has {len(condition)} characters, the limit is 4096"
    mapping = what.inputs.get("attributeMapping") or {}
    if "google.subject" not in mapping:
        yield "INVALID_ARGUMENT: attribute_mapping must have google.subject"
    yield from (
        f"INVALID_ARGUMENT: attribute_mapping[{name}] has more than 2048 characters"
        for name, value in mapping.items()
        if isinstance(value, str) and len(value) > 2048
    )
    if len(mapping) > 50:
        yield f"INVALID_ARGUMENT: attribute_mapping has {len(mapping)} entries, the limit is 50"
    yield from _pool_id(
        what.inputs.get("workloadIdentityPoolProviderId"), "workload_identity_pool_provider_id"
    )
    pool = what.inputs.get("workloadIdentityPoolId")
    project = what.inputs.get("project") or what.scope["project"]
    if isinstance(pool, str) and world.holder(f"pools {project}", pool) is None:
        yield f"googleapi: Error 404: workload identity pool {pool} not found., notFound"


def identity_pool(what: Request, world: World) -> Iterator[str]:
    yield from _pool_id(what.inputs.get("workloadIdentityPoolId"), "workload_identity_pool_id")


def _pool_id(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, str) and (not re.fullmatch(r"[a-z0-9-]{4,32}", value) or value.startswith("gcp-")):
        yield f"INVALID_ARGUMENT: {name} {value!r} must be 4-32 of [a-z0-9-] and not begin with gcp-"


def member(what: Request, world: World) -> Iterator[str]:
    value = what.inputs.get("member")
    if not isinstance(value, str):
        return
    if value in ("allUsers", "allAuthenticatedUsers"):
        yield f"constraints/iam.allowedPolicyMemberDomains: {value} is not allowed"
    if value.startswith("principalSet:") and not PRINCIPAL_SET.fullmatch(value):
        yield f"INVALID_ARGUMENT: {value} is not a principal set (project NUMBER, pool, attribute)"


def prevented(what: Request, world: World) -> Iterator[str]:
    if what.inputs.get("deletionPolicy") == "PREVENT":
        yield "cannot destroy resource without setting deletion_policy to another value than PREVENT"


def account_id(what: Request, world: World) -> Iterator[str]:
    account = what.inputs.get("accountId")
    if isinstance(account, str) and not re.fullmatch(r"[a-z](?:[-a-z0-9]{4,28}[a-z0-9])", account):
        yield f'"account_id" ("{account}") doesn\'t match regexp "^[a-z](?:[-a-z0-9]{{4,28}}[a-z0-9])$"'


def ring_exists(what: Request, world: World) -> Iterator[str]:
    ring = what.inputs.get("keyRing")
    if isinstance(ring, str) and world.find("gcp", ring, "gcp:kms/keyRing:KeyRing") is None:
        yield f"googleapi: Error 404: KeyRing {ring} not found., notFound"


def key_exists(what: Request, world: World) -> Iterator[str]:
    key = what.inputs.get("cryptoKeyId")
    if isinstance(key, str) and world.find("gcp", key, "gcp:kms/cryptoKey:CryptoKey") is None:
        yield f"googleapi: Error 404: CryptoKey {key} not found., notFound"


def bucket_exists(what: Request, world: World) -> Iterator[str]:
    bucket = what.inputs.get("bucket")
    if isinstance(bucket, str) and world.holder("buckets", bucket.removeprefix("b/")) is None:
        yield f"googleapi: Error 404: The specified bucket does not exist., notFound ({bucket})"


def key_purpose(what: Request, world: World) -> Iterator[str]:
    """Cloud KMS: an algorithm belongs to one purpose, and only symmetric keys rotate by themselves."""
    purpose = what.inputs.get("purpose", "ENCRYPT_DECRYPT")
    algorithm = what.get("versionTemplate.algorithm")
    if isinstance(algorithm, str):
        wanted = next((name for prefix, name in PURPOSES if algorithm.startswith(prefix)), purpose)
        if wanted != purpose:
            yield f"googleapi: Error 400: {algorithm} is not valid for purpose {purpose}., badRequest"
    if purpose != "ENCRYPT_DECRYPT" and what.inputs.get("rotationPeriod"):
        yield f"googleapi: Error 400: keys with purpose {purpose} take no rotation_period., badRequest"


RULES: Mapping[str, tuple[Rule, ...]] = {
    "gcp:compute/instance:Instance": (confidential, run_duration),
    "gcp:compute/instanceTemplate:InstanceTemplate": (confidential, run_duration),
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": (confidential, run_duration),
    "gcp:compute/resizeRequest:ResizeRequest": (run_duration,),
    "gcp:iam/workloadIdentityPool:WorkloadIdentityPool": (identity_pool,),
    "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider": (identity_provider,),
    "gcp:kms/cryptoKey:CryptoKey": (ring_exists, key_purpose),
    "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": (key_exists, member),
    "gcp:storage/bucketIAMMember:BucketIAMMember": (bucket_exists, member),
    "gcp:projects/iAMMember:IAMMember": (member,),
    "gcp:serviceaccount/account:Account": (account_id,),
}
DELETE_RULES: Mapping[str, tuple[Rule, ...]] = {"gcp:kms/cryptoKey:CryptoKey": (prevented,)}
