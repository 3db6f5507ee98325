"""What providers would make up, for programs that run under mocks: names, addresses, public keys."""

from __future__ import annotations

import uuid
from typing import Any

from recording import Recording, Request

PEM = "-----BEGIN PUBLIC KEY-----\nMIICIjANBgkq\n-----END PUBLIC KEY-----\n"


def outputs(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Values that a resource has beside its inputs; inputs stay as they are."""
    made = {
        "address": "10.64.0.9",
        "arn": f"arn:aws:service:eu-central-1:444455556666:{name}",
        "bucket": f"{name}-1a2b3c4",
        "email": f"{name}@project.iam.gserviceaccount.com",
        "keyId": f"{name}-key-id",
        "latestVersion": 1,
        "name": f"{name}-1a2b3c4",
        "prefixListId": "pl-1a2b3c4",
        "privateIp": "10.64.0.10",
        "selfLink": f"https://www.googleapis.com/compute/v1/{name}",
    }
    known = {key: inputs.get(key, value) for key, value in made.items()}
    return {**known, **_azure(token, name, inputs)} if token.startswith("azure-native:") else known


def _azure(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Azure hands inputs back in another form, and makes up identities and addresses."""
    made: dict[str, Any] = {
        "clientId": str(uuid.uuid5(uuid.NAMESPACE_OID, f"client {name}")),
        "principalId": str(uuid.uuid5(uuid.NAMESPACE_OID, f"principal {name}")),
        "keyUri": f"https://vault.vault.azure.net/keys/{name}",
        "keyUriWithVersion": f"https://vault.vault.azure.net/keys/{name}/0123456789abcdef",
    }
    if identity := inputs.get("identity"):
        given = identity.get("userAssignedIdentities")
        # A list comes back as a map; the system's own identity comes back with its principal.
        made["identity"] = {
            **identity,
            **(
                {"userAssignedIdentities": {one: {} for one in given}}
                if given
                else {"principalId": made["principalId"]}
            ),
        }
    if token == "azure-native:keyvault:Vault":
        made["properties"] = {**inputs["properties"], "vaultUri": "https://vault.vault.azure.net/"}
    if token == "azure-native:network:PrivateEndpoint":
        made["networkInterfaces"] = [
            {"id": f"/subscriptions/s/resourceGroups/g/networkInterfaces/{name}.nic"}
        ]
    if "ipAddress" in inputs:
        made["ipAddress"] = {**inputs["ipAddress"], "ip": "10.61.2.4"}
    if "ipConfigurations" in inputs:
        first, *others = inputs["ipConfigurations"]
        made["ipConfigurations"] = [{**first, "privateIPAddress": "10.61.1.4"}, *others]
    return made


LOOKUPS: dict[str, dict[str, Any]] = {
    "aws:kms/getPublicKey:getPublicKey": {"publicKeyPem": PEM},
    "azure-native:network:getNetworkInterface": {
        "ipConfigurations": [{"name": "ip", "privateIPAddress": "10.61.3.9"}]
    },
    "gcp:kms/getKMSCryptoKeyVersion:getKMSCryptoKeyVersion": {
        "name": "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
        "publicKeys": [{"algorithm": "RSA_DECRYPT_OAEP_4096_SHA256", "pem": PEM}],
    },
}


def answer(token: str, args: dict[str, Any]) -> dict[str, Any]:
    """The answer to a lookup; one that nobody foresaw is an error, since previews should need none."""
    return LOOKUPS[token]


def inputs_as_deployed(recording: Recording, request: Request) -> dict[str, Any]:
    """Inputs of a request with ids of vault keys in Azure's form, where mocks make up `<name>-id`."""
    keys = {f"{key.name}-id": key.name for key in recording.of_type("azure-native:keyvault:Key")}
    found = dict(request.inputs)
    if found.get("scope") in keys:
        vault = "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v"
        found["scope"] = f"{vault}/keys/{keys[found['scope']]}"
    return found
