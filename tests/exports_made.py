"""Exports, plans and previews of the engine, made from a lifecycle: the resources of its keys alone."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping
from typing import Any

from jewelhouse import lifecycle as graph
from jewelhouse.model import Cloud, Lifecycle
from jewelhouse.release import compiler, proofs
from jewelhouse.release.resources import UNKNOWN

STACK = "urn:pulumi:made::jewelhouse::pulumi:pulumi:Stack::jewelhouse-made"
SHORT = {"gcp-confidential-space": "space", "gcp-cvm": "vm"}
RELEASE_ROLE = "/providers/Microsoft.Authorization/roleDefinitions/08bbd89e-9f13-488c-ac41-acfcb10c90ab"


def urn(kind: str, name: str) -> str:
    return f"urn:pulumi:made::jewelhouse::{kind}::{name}"


def outputs_of(lifecycle: Lifecycle) -> dict[str, Any]:
    """What the program exports of a lifecycle, without what only a deployment knows."""
    found = graph.release_policies(lifecycle)
    return {
        "lifecycle": {"name": lifecycle.name, "weakened": list(graph.weakenings(lifecycle))},
        "artifacts": {name: {} for name in lifecycle.artifacts},
        "stages": {
            stage.name: {
                "identity": next(
                    (
                        gate.identity
                        for policy in found.values()
                        for gate in policy.gates
                        if gate.stage == stage.name
                    ),
                    None,
                ),
                "image": {"name": stage.image, "declared": lifecycle.image(stage).declared},
            }
            for stage in lifecycle.stages.values()
        },
        "policies": {
            key.name: {
                "artifact": key.artifact,
                "platform": key.platform.value,
                "region": key.region,
                "owner": policy.owner.boundary,
                "document": compiler.compile(policy),
                "gates": [
                    {
                        "stage": gate.stage,
                        "account": gate.account.boundary,
                        "identity": gate.identity,
                        "proofs": {
                            proof.value: status.state.value
                            for proof, status in proofs.of_gate(policy, gate).items()
                        },
                    }
                    for gate in policy.gates
                ],
            }
            for key, policy in found.items()
        },
    }


def identity_of(kind: str, name: str) -> str:
    """Ids in the form of each cloud, since plans have none and others name a key by them."""
    if kind == "gcp:kms/cryptoKey:CryptoKey":
        return f"projects/p/locations/l/keyRings/ring-of-{name}/cryptoKeys/{name}"
    if kind == "azure-native:keyvault:Key":
        return f"/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v/keys/{name}"
    return f"id-of-{name}"


def resource(kind: str, name: str, parent: str = STACK, /, **inputs: Any) -> dict[str, Any]:
    return {
        "urn": urn(kind, name),
        "type": kind,
        "custom": True,
        "id": identity_of(kind, name),
        "inputs": inputs,
        "outputs": dict(inputs),
        "parent": parent,
        "propertyDependencies": {},
    }


def resources_of(lifecycle: Lifecycle) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    projects: dict[str, list[str]] = {}
    for key, policy in graph.release_policies(lifecycle).items():
        document = compiler.compile(policy)
        name = key.name
        if key.cloud is Cloud.AWS:
            name = f"{lifecycle.name}-{key.name}"
        elif key.cloud is Cloud.GCP:
            name = f"{key.artifact}-{SHORT[key.platform]}-{key.region}"
        parent = urn(f"jewelhouse:{key.cloud}:AttestedKey", name)
        found.append({"urn": parent, "type": f"jewelhouse:{key.cloud}:AttestedKey", "custom": False})
        if key.cloud is Cloud.AWS:
            tags = {"jewelhouse:artifact": key.artifact}
            found.append(
                resource("aws:kms/key:Key", f"{name}-key", parent, policy=json.dumps(document), tags=tags)
            )
        elif key.cloud is Cloud.AZURE:
            data = base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
            properties = {"releasePolicy": {"contentType": "application/json", "data": data}}
            tags = {"jewelhouse-artifact": key.artifact}
            found.append(
                resource(
                    "azure-native:keyvault:Key",
                    f"{name}-key",
                    parent,
                    properties=properties,
                    resourceGroupName="g",
                    vaultName="v",
                    keyName=f"{name}-key",
                    tags=tags,
                )
            )
            found[-1]["propertyDependencies"] = {
                "resourceGroupName": [urn("azure-native:resources:ResourceGroup", "g")],
                "vaultName": [urn("azure-native:keyvault:Vault", "v")],
            }
            found += [
                resource(
                    "azure-native:authorization:RoleAssignment",
                    f"{name}-release-{gate.stage}",
                    parent,
                    scope=identity_of("azure-native:keyvault:Key", f"{name}-key"),
                    principalId=f"principal-of-{gate.stage}",
                    roleDefinitionId=RELEASE_ROLE,
                )
                for gate in policy.gates
            ]
        else:
            project = policy.owner.boundary
            pool = f"projects/1/locations/global/workloadIdentityPools/jh-{name}"
            projects.setdefault(project, []).append(f"principalSet://iam.googleapis.com/{pool}/*")
            found.append(
                resource(
                    "gcp:kms/cryptoKey:CryptoKey",
                    f"{name}-key",
                    parent,
                    keyRing=f"projects/p/locations/l/keyRings/ring-of-{name}-key",
                    name=f"{name}-key",
                    labels={"artifact": key.artifact},
                )
            )
            found.append(
                resource(
                    "gcp:iam/workloadIdentityPool:WorkloadIdentityPool",
                    f"{name}-pool",
                    parent,
                    project=project,
                    workloadIdentityPoolId=f"jh-{name}",
                )
            )
            found.append(
                resource(
                    "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider",
                    f"{name}-attestation",
                    parent,
                    project=project,
                    workloadIdentityPoolId=f"jh-{name}",
                    attributeCondition=document["condition"],
                    attributeMapping=document["mapping"],
                    oidc={"issuerUri": document["issuer"], "allowedAudiences": document["audiences"]},
                )
            )
            for binding in document["bindings"]:
                for number, member in enumerate(binding["members"]):
                    condition = {"condition": binding["condition"]} if "condition" in binding else {}
                    found.append(
                        resource(
                            "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember",
                            f"{name}-opens-{number}",
                            parent,
                            cryptoKeyId=identity_of("gcp:kms/cryptoKey:CryptoKey", f"{name}-key"),
                            role=binding["role"],
                            member=f"principalSet://iam.googleapis.com/{pool}/{member}",
                            **condition,
                        )
                    )
    for project, pools in projects.items():
        rule = {
            "deniedPrincipals": ["principalSet://goog/public:all"],
            "deniedPermissions": ["cloudkms.googleapis.com/cryptoKeyVersions.useToDecrypt"],
            "exceptionPrincipals": pools,
        }
        found.append(
            resource(
                "gcp:iam/denyPolicy:DenyPolicy",
                f"{project}-deny",
                STACK,
                parent=f"cloudresourcemanager.googleapis.com%2Fprojects%2F{project}",
                rules=[{"denyRule": rule}],
            )
        )
    return found


def export_of(lifecycle: Lifecycle, *further: Mapping[str, Any]) -> dict[str, Any]:
    """What `pulumi stack export` prints, with further resources."""
    stack = {
        "urn": STACK,
        "type": "pulumi:pulumi:Stack",
        "custom": False,
        "outputs": outputs_of(lifecycle),
    }
    found = [stack, *resources_of(lifecycle), *copy.deepcopy(list(further))]
    return {"version": 3, "deployment": {"manifest": {}, "resources": found}}


def plan_of(lifecycle: Lifecycle, *further: Mapping[str, Any], new: bool = False) -> dict[str, Any]:
    """What `pulumi preview --save-plan` writes. `new`: of a stack that is not deployed yet."""
    plans = {}
    for one in export_of(lifecycle, *further)["deployment"]["resources"]:
        inputs, outputs = dict(one.get("inputs", {})), dict(one.get("outputs", {}))
        if new:
            for name in ("member", "cryptoKeyId", "scope", "principalId", "keyRing"):
                if name in inputs and one not in further:
                    inputs[name] = outputs[name] = UNKNOWN
        if one["type"] == "aws:kms/key:Key" and not new:
            outputs["keyId"] = one["id"]
        plans[one["urn"]] = {
            "goal": {
                "type": one["type"],
                "parent": one.get("parent"),
                "inputDiff": {"adds": inputs} if new else {},
                "propertyDependencies": one.get("propertyDependencies", {}),
            },
            "steps": ["create" if new else "same"],
            "state": outputs if new else {"__inputs": inputs, **outputs},
        }
    return {"manifest": {}, "config": {}, "resourcePlans": plans}


def preview_of(lifecycle: Lifecycle, *changed: Mapping[str, Any], op: str = "update") -> dict[str, Any]:
    """What `pulumi preview --json` prints of a deployed stack when these resources change."""
    stack = {"urn": STACK, "type": "pulumi:pulumi:Stack"}
    steps = [
        {
            "op": "same",
            "urn": STACK,
            "oldState": {**stack, "outputs": outputs_of(lifecycle)},
            "newState": stack,
        }
    ]
    steps += [
        {"op": op, "urn": one["urn"], "newState": None if op == "delete" else one, "oldState": one}
        for one in copy.deepcopy(list(changed))
    ]
    return {"config": {}, "steps": steps, "changeSummary": {}}
