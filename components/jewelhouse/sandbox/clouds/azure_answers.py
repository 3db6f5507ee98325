"""What the stand-in Azure answers to functions (`azure_native.*.get_*`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jewelhouse.sandbox.clouds.common import Answer, Refused, guid
from jewelhouse.sandbox.world import World


def get_client_config(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    return {
        "clientId": guid("client", scope["name"]),
        "objectId": guid("object", scope["name"]),
        "subscriptionId": scope["subscription"],
        "tenantId": scope["tenant"],
    }


def existing(provider: str, kind: str, *names: str) -> Answer:
    """A getter of what a stack has made, by its path below the resource group."""

    def answer(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
        group = f"/subscriptions/{scope['subscription']}/resourceGroups/{args['resourceGroupName']}"
        types = kind.split("/")
        path = "".join(f"/{part}/{args[name]}" for part, name in zip(types, names, strict=True))
        identity = f"{group}/providers/{provider}{path}"
        thing = world.find("azure-native", identity)
        if thing is None:
            raise Refused(
                f"ResourceNotFound: The Resource '{provider}/{kind}/{args[names[-1]]}' under resource group "
                f"'{args['resourceGroupName']}' was not found."
            )
        return {**thing.inputs, **thing.outputs, "id": thing.id, "name": thing.id.rsplit("/", 1)[-1]}

    return answer


def get_network_interface(
    args: Mapping[str, Any], scope: Mapping[str, str], world: World
) -> Mapping[str, Any]:
    """One of a private endpoint, which Azure makes with it: its address is one of the endpoint's subnet."""
    name = args["networkInterfaceName"]
    group = f"/subscriptions/{scope['subscription']}/resourceGroups/{args['resourceGroupName']}"
    endpoint = f"{group}/providers/Microsoft.Network/privateEndpoints/{name.removesuffix('.nic')}"
    if world.find("azure-native", endpoint) is None:
        raise Refused(
            f"ResourceNotFound: The Resource 'Microsoft.Network/networkInterfaces/{name}' under resource "
            f"group '{args['resourceGroupName']}' was not found."
        )
    return {
        "id": f"{group}/providers/Microsoft.Network/networkInterfaces/{name}",
        "name": name,
        "ipConfigurations": [{"name": "privateEndpointIpConfig", "privateIPAddress": "10.0.3.4"}],
    }


ANSWERS: Mapping[str, Answer] = {
    "azure-native:authorization:getClientConfig": get_client_config,
    "azure-native:keyvault:getKey": existing("Microsoft.KeyVault", "vaults/keys", "vaultName", "keyName"),
    "azure-native:keyvault:getVault": existing("Microsoft.KeyVault", "vaults", "vaultName"),
    "azure-native:managedidentity:getUserAssignedIdentity": existing(
        "Microsoft.ManagedIdentity", "userAssignedIdentities", "resourceName"
    ),
    "azure-native:network:getNetworkInterface": get_network_interface,
    "azure-native:storage:getStorageAccount": existing("Microsoft.Storage", "storageAccounts", "accountName"),
}
