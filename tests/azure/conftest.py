from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from recording import Recording, record
from samples import shipped

from jewelhouse.azure.provision import provision
from jewelhouse.outputs import CloudOutputs

INVENTORY = Path(__file__).parent / "inventory"


def guid(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(parts)))


def outputs(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What Azure or the provider would add: names with random digits, ids of identities, addresses."""
    named = next((value for key, value in inputs.items() if key in NAMES.get(token, ())), f"{name}1a2b3c4d")
    identity = inputs.get("identity")
    if identity and "userAssignedIdentities" in identity:
        # Given as a list, returned as a map.
        ids = {one: {} for one in identity["userAssignedIdentities"]}
        inputs = {**inputs, "identity": {**identity, "userAssignedIdentities": ids}}
    match token:
        case "azure-native:managedidentity:UserAssignedIdentity":
            return {"principalId": guid("principal", name), "clientId": guid("client", name), "name": named}
        case "azure-native:compute:DiskEncryptionSet":
            return {"identity": {**inputs["identity"], "principalId": guid("set", name)}, "name": named}
        case "azure-native:keyvault:Vault":
            uri = f"https://{named}.vault.azure.net/"
            return {"name": named, "properties": {**inputs["properties"], "vaultUri": uri}}
        case "azure-native:keyvault:Key":
            uri = f"https://{inputs['vaultName']}.vault.azure.net/keys/{named}"
            return {"name": named, "keyUri": uri, "keyUriWithVersion": f"{uri}/0123456789abcdef"}
        case "azure-native:network:NetworkInterface":
            return {"ipConfigurations": [{**inputs["ipConfigurations"][0], "privateIPAddress": "10.61.1.4"}]}
        case "azure-native:network:PrivateEndpoint":
            cards = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces"
            return {"name": named, "networkInterfaces": [{"id": f"{cards}/{name}.nic"}]}
        case "azure-native:containerinstance:ContainerGroup":
            return {"ipAddress": {**inputs["ipAddress"], "ip": "10.61.2.4"}, "identity": inputs["identity"]}
        case "azure-native:compute:VirtualMachine":
            return {"name": named, "identity": inputs["identity"]}
        case _:
            return {"name": named}


def call(token: str, args: dict[str, Any]) -> dict[str, Any]:
    assert token == "azure-native:network:getNetworkInterface"
    return {**args, "ipConfigurations": [{"name": "ip", "privateIPAddress": "10.61.3.9"}]}


NAMES = {
    "azure-native:keyvault:Vault": ("vaultName",),
    "azure-native:storage:StorageAccount": ("accountName",),
}


@pytest.fixture
def recorded() -> Callable[..., Recording]:
    return partial(record, outputs=outputs, call=call)


@pytest.fixture
def inventory() -> Path:
    return INVENTORY


@pytest.fixture(scope="session")
def stacks() -> dict[str, tuple[Recording, CloudOutputs]]:
    """What the shipped stacks with stages on Azure register there, and hand back."""
    found = {}
    for name in ("dev", "prod-azure", "gpu", "federated"):
        made: list[CloudOutputs] = []
        recording = record(
            lambda name=name, made=made: made.append(provision(shipped(name))), outputs=outputs, call=call
        )
        found[name] = recording, made[0]
    return found
