"""The stand-in Google Cloud: ids, self links, and what its services refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jewelhouse.hardware import gcp as hardware
from jewelhouse.sandbox.clouds import limits
from jewelhouse.sandbox.clouds.common import DAY, Autoname, Cloud, Name, Request, digits, public_key
from jewelhouse.sandbox.schema import Schema
from jewelhouse.sandbox.world import World

# Ids of types whose documentation names no import format.
ID_FORMATS: Mapping[str, str] = {
    "gcp:serviceaccount/account:Account": (
        "projects/{{project}}/serviceAccounts/{{account_id}}@{{project}}.iam.gserviceaccount.com"
    ),
    "gcp:storage/bucket:Bucket": "{{name}}",
    "gcp:storage/bucketIAMMember:BucketIAMMember": "b/{{bucket}}/{{role}}/{{member}}",
    "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": "{{crypto_key_id}}/{{role}}/{{member}}",
    "gcp:projects/iAMMember:IAMMember": "{{project}}/{{role}}/{{member}}",
    "gcp:projects/iAMAuditConfig:IAMAuditConfig": "{{project}} {{service}}",
    "gcp:serviceaccount/iAMMember:IAMMember": "{{service_account_id}}/{{role}}/{{member}}",
    "gcp:compute/instance:Instance": "projects/{{project}}/zones/{{zone}}/instances/{{name}}",
}
COMPUTE = "https://www.googleapis.com/compute/v1/"
PRINCIPAL_SET = re.compile(
    r"principalSet://iam\.googleapis\.com/projects/\d+/locations/global/workloadIdentityPools/[a-z0-9-]{4,32}"
    r"/(\*|attribute\.[a-z0-9_]+/.+)"
)


class Google(Cloud):
    def scope(self, configuration: Mapping[str, Any]) -> dict[str, str]:
        project = str(configuration.get("project") or "sandbox-project")
        region = str(configuration.get("region") or "europe-west4")
        zone = str(configuration.get("zone") or f"{region}-a")
        return {"name": project, "project": project, "region": region, "zone": zone}

    def autoname(self, kind: str, schema: Schema) -> Autoname | None:
        if schema.inputs.get("name") == "string" and "name" not in schema.required:
            return Autoname("name", 7, limit=61, forbidden=r"[^A-Za-z0-9-]")
        return None

    def limits(self, kind: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from limits.google(kind, values)

    def identity(self, what: Request) -> str:
        template = ID_FORMATS.get(what.type) or what.schema.id_format or "{{project}}/{{name}}"
        values = {**what.scope, "name": what.name, **_snake(what.inputs)}
        return re.sub(r"\{\{(\w+)\}\}", lambda match: str(values.get(match[1], "")), template)

    def defaults(self, what: Request, identity: str) -> Mapping[str, Any]:
        project = what.inputs.get("project") or what.scope["project"]
        labels = what.inputs.get("labels") or {}
        values: dict[str, Any] = {
            "project": project,
            "region": what.scope["region"],
            "name": what.inputs.get("name", identity if what.type.startswith("gcp:iam/") else what.name),
            "effectiveLabels": labels,
            "pulumiLabels": labels,
            "etag": digits(identity),
            "createTime": "2026-01-01T00:00:00Z",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "uid": digits(identity, length=16),
        }
        if what.type.startswith("gcp:compute/"):
            values["selfLink"] = f"{COMPUTE}{identity}"
            values["selfLinkUnique"] = f"{COMPUTE}{identity}?uniqueId={int(digits(identity, length=12), 16)}"
        return values

    def invoke(self, token: str, args: Mapping[str, Any], scope: Mapping[str, str]) -> Mapping[str, Any] | None:
        project = str(args.get("project") or args.get("projectId") or scope["project"])
        if token in (
            "gcp:kms/getKMSCryptoKeyVersion:getKMSCryptoKeyVersion",
            "gcp:kms/getKMSCryptoKeyLatestVersion:getKMSCryptoKeyLatestVersion",
        ):
            key = str(args["cryptoKey"])
            version = args.get("version", 1)
            return {
                **args,
                "id": f"{key}/cryptoKeyVersions/{version}",
                "name": f"{key}/cryptoKeyVersions/{version}",
                "algorithm": "RSA_DECRYPT_OAEP_4096_SHA256",
                "protectionLevel": "HSM",
                "state": "ENABLED",
                "version": version,
                "publicKeys": [
                    {"algorithm": "RSA_DECRYPT_OAEP_4096_SHA256", "pem": public_key(self.world, key)}
                ],
            }
        if token == "gcp:organizations/getProject:getProject":
            number = str(int(digits(project, length=10), 16))
            return {"id": f"projects/{project}", "projectId": project, "number": number, "name": project}
        if token == "gcp:organizations/getClientConfig:getClientConfig":
            return {"id": project, "accessToken": "sandbox", "project": project, **_region(scope)}
        if token == "gcp:compute/getZones:getZones":
            region = str(args.get("region") or scope["region"])
            return {**args, "id": region, "names": [f"{region}-{letter}" for letter in "abc"]}
        if token == "gcp:storage/getProjectServiceAccount:getProjectServiceAccount":
            number = int(digits(project, length=10), 16)
            email = f"service-{number}@gs-project-accounts.iam.gserviceaccount.com"
            return {"id": email, "emailAddress": email, "member": f"serviceAccount:{email}", "project": project}
        if token == "gcp:compute/getImage:getImage":
            name = str(args.get("name") or f"{args.get('family')}-sandbox")
            path = f"projects/{project}/global/images/{name}"
            return {**args, "id": path, "name": name, "selfLink": COMPUTE + path, "imageId": digits(name)}
        return None


def _region(scope: Mapping[str, str]) -> dict[str, str]:
    return {"region": scope["region"], "zone": scope["zone"]}


def _snake(values: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub(r"(?<!^)([A-Z])", r"_\1", key).lower(): value for key, value in values.items()}


def confidential(what: Request, world: World) -> Iterator[str]:
    """What Compute refuses about confidential instances and templates."""
    kind = what.get("confidentialInstanceConfig.confidentialInstanceType")
    legacy = what.get("confidentialInstanceConfig.enableConfidentialCompute")
    machine = str(what.inputs.get("machineType", "")).rsplit("/", 1)[-1]
    maintenance = what.get("scheduling.onHostMaintenance", "MIGRATE")
    if not kind and not legacy:
        return
    family = machine.split("-")[0]
    if kind and machine and not hardware.supports(machine, str(kind)):
        yield f"Invalid value for field 'resource.confidentialInstanceConfig': {kind} is not supported on {machine}"
    migrates = kind == "SEV" and family in ("n2d", "c3d")
    if maintenance != "TERMINATE" and not migrates:
        yield (
            f"Instance cannot have onHostMaintenance {maintenance}: {kind} on {machine} does not support live "
            "migration, set it to TERMINATE"
        )
    if kind == "SEV_SNP" and what.inputs.get("minCpuPlatform") != "AMD Milan":
        yield "SEV_SNP requires minCpuPlatform AMD Milan"
    if machine == "a3-highgpu-1g" and what.get("scheduling.provisioningModel") not in ("SPOT", "FLEX_START"):
        yield "a3-highgpu-1g with confidential computing is offered as SPOT or FLEX_START only"
    if what.get("networkInterfaces.accessConfigs") is not None:
        yield "constraints/compute.vmExternalIpAccess: the organisation allows no external addresses"


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
    yield from _pool_id(what.inputs.get("workloadIdentityPoolProviderId"), "workload_identity_pool_provider_id")


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


def nonempty_name(what: Request, world: World) -> Iterator[str]:
    account = what.inputs.get("accountId")
    if isinstance(account, str) and not re.fullmatch(r"[a-z](?:[-a-z0-9]{4,28}[a-z0-9])", account):
        yield f'"account_id" ("{account}") doesn\'t match regexp "^[a-z](?:[-a-z0-9]{{4,28}}[a-z0-9])$"'


FOREVER = float("inf")


class _Tables(Google):
    names = {
        "gcp:kms/keyRing:KeyRing": Name(
            "key rings {project} {location}",
            "{name}",
            "Error 409: KeyRing {name} already exists. Key rings cannot be deleted: import it instead",
            held=FOREVER,
        ),
        "gcp:kms/cryptoKey:CryptoKey": Name(
            "keys {keyRing}", "{name}", "Error 409: CryptoKey {name} already exists.", held=FOREVER
        ),
        "gcp:iam/workloadIdentityPool:WorkloadIdentityPool": Name(
            "pools {project}",
            "{workloadIdentityPoolId}",
            "Error 409: Requested entity already exists ({name})",
            "Error 409: {name} is soft-deleted for 30 days; undelete it or choose another id",
            held=30 * DAY,
        ),
        "gcp:storage/bucket:Bucket": Name(
            "buckets", "{name}", "Error 409: The requested bucket name {name} is not available, conflict"
        ),
        "gcp:serviceaccount/account:Account": Name(
            "accounts {project}", "{accountId}", "Error 409: Service account {name} already exists, alreadyExists"
        ),
    }
    rules = {
        "gcp:compute/instance:Instance": (confidential,),
        "gcp:compute/instanceTemplate:InstanceTemplate": (confidential,),
        "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": (confidential,),
        "gcp:iam/workloadIdentityPool:WorkloadIdentityPool": (identity_pool,),
        "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider": (identity_provider,),
        "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": (member,),
        "gcp:storage/bucketIAMMember:BucketIAMMember": (member,),
        "gcp:projects/iAMMember:IAMMember": (member,),
        "gcp:serviceaccount/account:Account": (nonempty_name,),
    }
    delete_rules = {"gcp:kms/cryptoKey:CryptoKey": (prevented,)}
    fixed = {
        "gcp:kms/keyRing:KeyRing": frozenset({"name", "location", "project"}),
        "gcp:kms/cryptoKey:CryptoKey": frozenset({"name", "keyRing", "purpose", "destroyScheduledDuration"}),
        "gcp:iam/workloadIdentityPool:WorkloadIdentityPool": frozenset({"workloadIdentityPoolId", "project"}),
        "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider": frozenset(
            {"workloadIdentityPoolId", "workloadIdentityPoolProviderId", "project"}
        ),
        "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": frozenset({"cryptoKeyId", "role", "member", "condition"}),
        "gcp:storage/bucketIAMMember:BucketIAMMember": frozenset({"bucket", "role", "member", "condition"}),
        "gcp:projects/iAMMember:IAMMember": frozenset({"project", "role", "member", "condition"}),
        "gcp:storage/bucket:Bucket": frozenset({"name", "location", "project"}),
        "gcp:serviceaccount/account:Account": frozenset({"accountId", "project"}),
        "gcp:compute/network:Network": frozenset({"name", "autoCreateSubnetworks", "project"}),
        "gcp:compute/subnetwork:Subnetwork": frozenset({"name", "network", "region", "project"}),
        "gcp:compute/instance:Instance": frozenset(
            {"name", "zone", "bootDisk", "confidentialInstanceConfig", "scratchDisks", "project"}
        ),
        "gcp:compute/instanceTemplate:InstanceTemplate": frozenset(
            {"name", "machineType", "metadata", "disks", "networkInterfaces", "confidentialInstanceConfig",
             "shieldedInstanceConfig", "scheduling", "serviceAccount", "minCpuPlatform", "labels"}  # fmt: skip
        ),
        "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": frozenset(
            {"name", "machineType", "metadata", "disks", "networkInterfaces", "confidentialInstanceConfig",
             "shieldedInstanceConfig", "scheduling", "serviceAccount", "minCpuPlatform", "labels", "region"}  # fmt: skip
        ),
    }
    outputs = {
        "gcp:serviceaccount/account:Account": lambda what, world: {
            "email": f"{what.inputs['accountId']}@{_project(what)}.iam.gserviceaccount.com",
            "member": f"serviceAccount:{what.inputs['accountId']}@{_project(what)}.iam.gserviceaccount.com",
            "uniqueId": str(int(digits(_project(what), what.inputs["accountId"], length=17), 16)),
            "name": (
                f"projects/{_project(what)}/serviceAccounts/"
                f"{what.inputs['accountId']}@{_project(what)}.iam.gserviceaccount.com"
            ),
        },
        "gcp:storage/bucket:Bucket": lambda what, world: {"url": f"gs://{what.inputs['name']}"},
        "gcp:compute/subnetwork:Subnetwork": lambda what, world: {"gatewayAddress": "10.0.0.1"},
        "gcp:compute/network:Network": lambda what, world: {"gatewayIpv4": ""},
        "gcp:compute/instance:Instance": lambda what, world: {
            "instanceId": str(int(digits(_project(what), what.name, length=15), 16)),
            "currentStatus": "RUNNING",
            "cpuPlatform": "sandbox",
        },
        "gcp:iam/workloadIdentityPool:WorkloadIdentityPool": lambda what, world: {"state": "ACTIVE"},
        "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager": lambda what, world: {
            "instanceGroup": f"{COMPUTE}projects/{_project(what)}/regions/{what.inputs.get('region')}/instanceGroups/"
            f"{what.inputs['name']}"
        },
    }


def _project(what: Request) -> str:
    return str(what.inputs.get("project") or what.scope["project"])


def cloud(world: World) -> Cloud:
    return _Tables(world)
