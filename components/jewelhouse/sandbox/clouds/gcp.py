"""The stand-in Google Cloud: ids, self links, outputs; `gcp_refusals` and `gcp_answers` say the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jewelhouse.sandbox.clouds import limits
from jewelhouse.sandbox.clouds.common import DAY, Autoname, Cloud, Make, Name, Request, digits
from jewelhouse.sandbox.clouds.gcp_answers import ANSWERS, COMPUTE
from jewelhouse.sandbox.clouds.gcp_refusals import DELETE_RULES, RULES
from jewelhouse.sandbox.schema import Schema
from jewelhouse.sandbox.world import World

FOREVER = float("inf")
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
    # Its documentation calls the managed zone `zone`, which is a zone of machines elsewhere.
    "gcp:dns/recordSet:RecordSet": (
        "projects/{{project}}/managedZones/{{managed_zone}}/rrsets/{{name}}/{{type}}"
    ),
    "gcp:compute/instance:Instance": "projects/{{project}}/zones/{{zone}}/instances/{{name}}",
}


def _snake(values: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub(r"(?<!^)([A-Z])", r"_\1", key).lower(): value for key, value in values.items()}


def _project(what: Request) -> str:
    return str(what.inputs.get("project") or what.scope["project"])


NAMES: Mapping[str, Name] = {
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
        "accounts {project}",
        "{accountId}",
        "Error 409: Service account {name} already exists, alreadyExists",
    ),
}
_TEMPLATE = (
    "machineType metadata disks networkInterfaces confidentialInstanceConfig shieldedInstanceConfig "
    "scheduling serviceAccount minCpuPlatform labels tags guestAccelerators reservationAffinity"
)
# `ForceNew` in hashicorp/terraform-provider-google: google/services, 2026-10, beyond what is part of the id.
FIXED: Mapping[str, frozenset[str]] = {
    kind: frozenset(properties.split())
    for kind, properties in {
        "gcp:kms/cryptoKey:CryptoKey": (
            "purpose destroyScheduledDuration importOnly versionTemplate.protectionLevel"
        ),
        "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": "condition",
        "gcp:iam/workloadIdentityPool:WorkloadIdentityPool": "mode",
        "gcp:storage/bucketIAMMember:BucketIAMMember": "condition",
        "gcp:projects/iAMMember:IAMMember": "condition",
        "gcp:storage/bucket:Bucket": "location project",
        "gcp:compute/network:Network": "autoCreateSubnetworks",
        "gcp:compute/subnetwork:Subnetwork": "network",
        "gcp:compute/address:Address": "addressType subnetwork",
        "gcp:compute/forwardingRule:ForwardingRule": "network ipAddress loadBalancingScheme",
        "gcp:compute/firewall:Firewall": "network direction",
        "gcp:compute/route:Route": "network destRange nextHopGateway priority tags",
        "gcp:compute/instance:Instance": (
            "bootDisk confidentialInstanceConfig scratchDisks guestAccelerators reservationAffinity "
            "networkInterfaces hostname"
        ),
        "gcp:compute/instanceTemplate:InstanceTemplate": _TEMPLATE,
        "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": _TEMPLATE,
        "gcp:compute/resizeRequest:ResizeRequest": "description resizeBy requestedRunDuration",
        "gcp:dns/managedZone:ManagedZone": "dnsName visibility",
        "gcp:dns/recordSet:RecordSet": "type",
    }.items()
}
OUTPUTS: Mapping[str, Make] = {
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
    "gcp:compute/address:Address": lambda what, world: {"address": "10.64.0.9"},
    "gcp:compute/subnetwork:Subnetwork": lambda what, world: {"gatewayAddress": "10.0.0.1"},
    "gcp:compute/network:Network": lambda what, world: {"gatewayIpv4": ""},
    "gcp:compute/instance:Instance": lambda what, world: {
        "instanceId": str(int(digits(_project(what), what.name, length=15), 16)),
        "currentStatus": "RUNNING",
        "cpuPlatform": "sandbox",
    },
    "gcp:iam/workloadIdentityPool:WorkloadIdentityPool": lambda what, world: {"state": "ACTIVE"},
    "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager": lambda what, world: {
        "instanceGroup": (
            f"{COMPUTE}projects/{_project(what)}/regions/{what.inputs.get('region')}/instanceGroups/"
            f"{what.inputs['name']}"
        )
    },
}


class Google(Cloud):
    names = NAMES
    rules = RULES
    delete_rules = DELETE_RULES
    answers = ANSWERS
    fixed = FIXED
    outputs = OUTPUTS

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

    def immutable(self, schema: Schema, inputs: Mapping[str, Any]) -> frozenset[str]:
        # What is part of a resource's id cannot change.
        parts = re.findall(r"\{\{(\w+)\}\}", ID_FORMATS.get(schema.token) or schema.id_format)
        path = {re.sub(r"_([a-z])", lambda match: match[1].upper(), part) for part in parts}
        return super().immutable(schema, inputs) | path

    def existing(self, what: Request, identity: str) -> str | None:
        # Bindings of a role are merged into a policy: making one twice is no conflict.
        if what.type.endswith("IAMMember") or what.type.endswith("IAMAuditConfig"):
            return None
        found = self.world.get("gcp", what.type, what.scope["name"], identity)
        return (
            f"googleapi: Error 409: The resource '{identity}' already exists, alreadyExists"
            if found
            else None
        )


def cloud(world: World) -> Cloud:
    return Google(world)
