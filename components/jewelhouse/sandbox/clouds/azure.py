"""The stand-in Azure: ids, names, default outputs; `azure_refusals` and `azure_answers` say the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jewelhouse.sandbox.clouds.azure_answers import ANSWERS
from jewelhouse.sandbox.clouds.azure_refusals import COMMON, CREATE_ONLY, DELETE_RULES, RULES
from jewelhouse.sandbox.clouds.common import DAY, Autoname, Cloud, Make, Name, Request, digits, guid
from jewelhouse.sandbox.schema import Schema
from jewelhouse.sandbox.world import World

GROUP_TYPE = "azure-native:resources:ResourceGroup"
GROUP = "/subscriptions/{subscription}/resourceGroups/{resourceGroupName}"
# ARM path of a type below its resource group, or from the root where it begins with a slash or a scope.
# Paths: learn.microsoft.com/azure/templates, 2026-10.
PATHS: Mapping[str, str] = {
    "azure-native:resources:ResourceGroup": GROUP,
    "azure-native:keyvault:Vault": "Microsoft.KeyVault/vaults/{vaultName}",
    "azure-native:keyvault:Key": "Microsoft.KeyVault/vaults/{vaultName}/keys/{keyName}",
    "azure-native:network:VirtualNetwork": "Microsoft.Network/virtualNetworks/{virtualNetworkName}",
    "azure-native:network:Subnet": (
        "Microsoft.Network/virtualNetworks/{virtualNetworkName}/subnets/{subnetName}"
    ),
    "azure-native:network:NetworkSecurityGroup": (
        "Microsoft.Network/networkSecurityGroups/{networkSecurityGroupName}"
    ),
    "azure-native:network:NetworkInterface": "Microsoft.Network/networkInterfaces/{networkInterfaceName}",
    "azure-native:network:PrivateEndpoint": "Microsoft.Network/privateEndpoints/{privateEndpointName}",
    "azure-native:network:PrivateDnsZoneGroup": (
        "Microsoft.Network/privateEndpoints/{privateEndpointName}/privateDnsZoneGroups/{privateDnsZoneGroupName}"
    ),
    "azure-native:privatedns:PrivateZone": "Microsoft.Network/privateDnsZones/{privateZoneName}",
    "azure-native:privatedns:PrivateRecordSet": (
        "Microsoft.Network/privateDnsZones/{privateZoneName}/{recordType}/{relativeRecordSetName}"
    ),
    "azure-native:privatedns:VirtualNetworkLink": (
        "Microsoft.Network/privateDnsZones/{privateZoneName}/virtualNetworkLinks/{virtualNetworkLinkName}"
    ),
    "azure-native:storage:StorageAccount": "Microsoft.Storage/storageAccounts/{accountName}",
    "azure-native:storage:BlobContainer": (
        "Microsoft.Storage/storageAccounts/{accountName}/blobServices/default/containers/{containerName}"
    ),
    "azure-native:storage:BlobServiceProperties": (
        "Microsoft.Storage/storageAccounts/{accountName}/blobServices/default"
    ),
    "azure-native:storage:ManagementPolicy": (
        "Microsoft.Storage/storageAccounts/{accountName}/managementPolicies/default"
    ),
    "azure-native:storage:BlobContainerImmutabilityPolicy": (
        "Microsoft.Storage/storageAccounts/{accountName}/blobServices/default/containers/{containerName}"
        "/immutabilityPolicies/default"
    ),
    "azure-native:managedidentity:UserAssignedIdentity": (
        "Microsoft.ManagedIdentity/userAssignedIdentities/{resourceName}"
    ),
    "azure-native:authorization:RoleAssignment": (
        "{scope}/providers/Microsoft.Authorization/roleAssignments/{roleAssignmentName}"
    ),
    "azure-native:compute:VirtualMachine": "Microsoft.Compute/virtualMachines/{vmName}",
    "azure-native:compute:DiskEncryptionSet": "Microsoft.Compute/diskEncryptionSets/{diskEncryptionSetName}",
    "azure-native:containerinstance:ContainerGroup": (
        "Microsoft.ContainerInstance/containerGroups/{containerGroupName}"
    ),
    "azure-native:operationalinsights:Workspace": "Microsoft.OperationalInsights/workspaces/{workspaceName}",
    "azure-native:monitor:DiagnosticSetting": (
        "{resourceUri}/providers/Microsoft.Insights/diagnosticSettings/{name}"
    ),
    "azure-native:monitor:ActionGroup": "Microsoft.Insights/actionGroups/{actionGroupName}",
    "azure-native:monitor:ScheduledQueryRule": "Microsoft.Insights/scheduledQueryRules/{ruleName}",
    "azure-native:monitor:ActivityLogAlert": "Microsoft.Insights/activityLogAlerts/{activityLogAlertName}",
    "azure-native:attestation:AttestationProvider": (
        "Microsoft.Attestation/attestationProviders/{providerName}"
    ),
    "azure-native:containerregistry:Registry": "Microsoft.ContainerRegistry/registries/{registryName}",
}
# Names that allow letters and digits only, or are short.
NAME_FORMS: Mapping[str, tuple[int, str]] = {
    "azure-native:storage:StorageAccount": (24, r"[^a-z0-9]"),
    "azure-native:keyvault:Vault": (24, ""),
    "azure-native:containerregistry:Registry": (50, r"[^a-zA-Z0-9]"),
    "azure-native:attestation:AttestationProvider": (24, r"[^a-z0-9]"),
}


def _place(identity: str) -> tuple[str, str]:
    """Subscription and name in the id of a user-assigned identity."""
    parts = identity.split("/")
    return parts[2], parts[-1]


NAMES: Mapping[str, Name] = {
    "azure-native:keyvault:Vault": Name(
        "vaults",
        "{vaultName}",
        "VaultAlreadyExists: The name '{name}' is already in use.",
        "ConflictError: A vault with the same name already exists in deleted state. "
        "You need to either recover or purge existing key vault.",
        held=90 * DAY,
    ),
    "azure-native:keyvault:Key": Name(
        "keys {vaultName}",
        "{keyName}",
        "Conflict: This API can only be used for creating the first version of a new key ({name}).",
        "Conflict: Key {name} is currently in a deleted but recoverable state, and its name cannot be reused",
        held=90 * DAY,
    ),
    "azure-native:storage:StorageAccount": Name(
        "storage",
        "{accountName}",
        "StorageAccountAlreadyTaken: The storage account named {name} is already taken.",
    ),
    "azure-native:authorization:RoleAssignment": Name(
        "roles {scope}",
        "{roleAssignmentName}",
        "RoleAssignmentExists: The role assignment already exists.",
    ),
}
FIXED: Mapping[str, frozenset[str]] = {
    "azure-native:keyvault:Key": frozenset({"keyName", "vaultName", "resourceGroupName"}),
    "azure-native:keyvault:Vault": frozenset({"vaultName", "resourceGroupName", "location"}),
    "azure-native:resources:ResourceGroup": frozenset({"resourceGroupName", "location"}),
    "azure-native:storage:StorageAccount": frozenset(
        {"accountName", "resourceGroupName", "location", "kind", "isHnsEnabled"}
    ),
    "azure-native:storage:BlobContainer": frozenset({"containerName", "accountName", "resourceGroupName"}),
    "azure-native:managedidentity:UserAssignedIdentity": frozenset(
        {"resourceName", "resourceGroupName", "location"}
    ),
    "azure-native:authorization:RoleAssignment": frozenset(
        {"scope", "roleAssignmentName", "roleDefinitionId", "principalId"}
    ),
    "azure-native:compute:VirtualMachine": frozenset(
        {"vmName", "resourceGroupName", "location", "osProfile", "storageProfile", "securityProfile"}
    ),
    "azure-native:containerinstance:ContainerGroup": frozenset(
        {
            "containerGroupName",
            "resourceGroupName",
            "location",
            "sku",
            "confidentialComputeProperties",
            "containers",
            "subnetIds",
            "osType",
        }
    ),
}
OUTPUTS: Mapping[str, Make] = {
    "azure-native:keyvault:Vault": lambda what, world: {
        "properties": {
            **what.inputs.get("properties", {}),
            "vaultUri": f"https://{what.inputs['vaultName']}.vault.azure.net/",
            "provisioningState": "Succeeded",
        }
    },
    "azure-native:keyvault:Key": lambda what, world: {
        "keyUri": f"https://{what.inputs['vaultName']}.vault.azure.net/keys/{what.inputs['keyName']}",
        "keyUriWithVersion": (
            f"https://{what.inputs['vaultName']}.vault.azure.net/keys/{what.inputs['keyName']}/"
            f"{digits(what.inputs['vaultName'], what.inputs['keyName'], length=32)}"
        ),
        **{
            name: what.get(f"properties.{name}")
            for name in ("kty", "keyOps", "keySize", "attributes", "releasePolicy")
            if what.get(f"properties.{name}") is not None
        },
    },
    "azure-native:storage:StorageAccount": lambda what, world: {
        "primaryEndpoints": {
            service: f"https://{what.inputs['accountName']}.{service}.core.windows.net/"
            for service in ("blob", "dfs", "file", "queue", "table", "web")
        }
    },
    "azure-native:managedidentity:UserAssignedIdentity": lambda what, world: {
        "principalId": guid("principal", what.scope["name"], what.inputs["resourceName"]),
        "clientId": guid("client", what.scope["name"], what.inputs["resourceName"]),
        "tenantId": what.scope["tenant"],
    },
    "azure-native:compute:DiskEncryptionSet": lambda what, world: {
        "identity": {
            **what.inputs.get("identity", {}),
            "principalId": guid("set", what.scope["name"], what.inputs["diskEncryptionSetName"]),
            "tenantId": what.scope["tenant"],
        }
    },
    "azure-native:compute:VirtualMachine": lambda what, world: {
        "vmId": guid("vm", what.scope["name"], what.inputs["vmName"])
    },
    "azure-native:network:NetworkInterface": lambda what, world: {
        "ipConfigurations": [
            {**configuration, "privateIPAddress": "10.0.1.4"}
            for configuration in what.inputs.get("ipConfigurations", [])
        ]
    },
    "azure-native:network:PrivateEndpoint": lambda what, world: {
        "networkInterfaces": [
            {
                "id": f"/subscriptions/{what.scope['subscription']}/resourceGroups/"
                f"{what.inputs['resourceGroupName']}/providers/Microsoft.Network/networkInterfaces/"
                f"{what.inputs['privateEndpointName']}.nic"
            }
        ]
    },
    "azure-native:containerinstance:ContainerGroup": lambda what, world: {
        "ipAddress": {**what.inputs["ipAddress"], "ip": "10.0.2.4"} if what.inputs.get("ipAddress") else None,
        "instanceView": {"state": "Running", "events": []},
    },
    "azure-native:operationalinsights:Workspace": lambda what, world: {
        "customerId": guid("workspace", what.scope["name"], what.inputs["workspaceName"])
    },
    "azure-native:attestation:AttestationProvider": lambda what, world: {
        "attestUri": f"https://{what.inputs['providerName']}.weu.attest.azure.net"
    },
}


class Azure(Cloud):
    names = NAMES
    rules = RULES
    common_rules = COMMON
    root = GROUP_TYPE
    named_by_inputs = True
    delete_rules = DELETE_RULES
    create_only = CREATE_ONLY
    answers = ANSWERS
    fixed = FIXED
    outputs = OUTPUTS

    def scope(self, configuration: Mapping[str, Any]) -> dict[str, str]:
        subscription = str(configuration.get("subscriptionId") or "00000000-0000-0000-0000-000000000000")
        tenant = str(configuration.get("tenantId") or "00000000-0000-0000-0000-000000000000")
        return {"name": subscription, "subscription": subscription, "tenant": tenant}

    def autoname(self, kind: str, schema: Schema) -> Autoname | None:
        if kind == "azure-native:authorization:RoleAssignment":
            return None
        placeholder = re.findall(r"\{(\w+)\}", PATHS.get(kind, ""))
        own = placeholder[-1] if placeholder else ""
        if own in schema.inputs and own not in schema.required:
            limit, forbidden = NAME_FORMS.get(kind, (80, ""))
            return Autoname(own, 8, limit=limit, separator="", forbidden=forbidden)
        return None

    def identity(self, what: Request) -> str:
        path = PATHS.get(what.type)
        if path is None:
            module, kind = what.type.split(":")[1:]
            names = [value for key, value in what.inputs.items() if key.lower().endswith("name")]
            plural = f"{kind[0].lower()}{kind[1:]}s"
            path = f"Microsoft.{module.capitalize()}/{plural}/{names[-1] if names else what.name}"
        whole = path if path.startswith(("/", "{scope}", "{resourceUri}")) else f"{GROUP}/providers/{path}"
        values = {
            **what.scope,
            **{key: value for key, value in what.inputs.items() if isinstance(value, str)},
        }
        values.setdefault("name", what.name)
        values.setdefault("roleAssignmentName", digits(what.name, length=32))
        return whole.format(**values)

    def defaults(self, what: Request, identity: str) -> Mapping[str, Any]:
        parts = [part for part in re.sub(r"^.*/providers/", "", identity).split("/") if part]
        return {
            "name": identity.rsplit("/", 1)[-1],
            "type": "/".join([parts[0], *parts[1::2]])
            if len(parts) > 1
            else "Microsoft.Resources/resourceGroups",
            "azureApiVersion": "sandbox",
            "provisioningState": "Succeeded",
            "location": what.inputs.get("location"),
        }

    def reshaped(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        # User-assigned identities are given as a list of ids and come back as a map by id.
        identity = inputs.get("identity")
        ids = identity.get("userAssignedIdentities") if isinstance(identity, dict) else None
        if not isinstance(identity, dict) or not isinstance(ids, list):
            return {}
        if None in ids:
            return {"identity": None}
        found = {
            one: {"clientId": guid("client", *_place(one)), "principalId": guid("principal", *_place(one))}
            for one in ids
        }
        return {"identity": {**identity, "userAssignedIdentities": found}}

    def immutable(self, schema: Schema, inputs: Mapping[str, Any]) -> frozenset[str]:
        # What is part of a resource's id, and where it is, cannot change.
        path = re.findall(r"\{(\w+)\}", PATHS.get(schema.token, ""))
        return super().immutable(schema, inputs) | {*path, "resourceGroupName", "location"}

    def existing(self, what: Request, identity: str) -> str | None:
        # provider/pkg/provider/provider.go in pulumi/pulumi-azure-native: customCreate, defaultCreate.
        found = self.world.find("azure-native", identity, what.type)
        return f"cannot create already existing resource '{found.id}'" if found else None

    def delete(self, what: Request) -> None:
        super().delete(what)
        if what.type == GROUP_TYPE:
            self.world.remove_below("azure-native", what.id)


def cloud(world: World) -> Cloud:
    return Azure(world)
