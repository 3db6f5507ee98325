"""What providers would make up, for programs that run under mocks: names, addresses, public keys."""

from __future__ import annotations

from typing import Any

PEM = "-----BEGIN PUBLIC KEY-----\nMIICIjANBgkq\n-----END PUBLIC KEY-----\n"


def outputs(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Values that a resource has beside its inputs; inputs stay as they are."""
    made = {
        "arn": f"arn:aws:service:eu-central-1:444455556666:{name}",
        "bucket": f"{name}-1a2b3c4",
        "email": f"{name}@project.iam.gserviceaccount.com",
        "keyId": f"{name}-key-id",
        "latestVersion": 1,
        "name": f"{name}-1a2b3c4",
        "prefixListId": "pl-1a2b3c4",
        "privateIp": "10.64.0.10",
        "selfLink": f"https://www.googleapis.com/compute/v1/{name}",
        **(AZURE if token.startswith("azure-native:") else {}),
    }
    return {key: inputs.get(key, value) for key, value in made.items()}


AZURE = {
    "clientId": "00000000-0000-4000-8000-0000000000c1",
    "principalId": "00000000-0000-4000-8000-0000000000a1",
    "keyUri": "https://vault.vault.azure.net/keys/key",
    "keyUriWithVersion": "https://vault.vault.azure.net/keys/key/0123456789abcdef",
}
LOOKUPS: dict[str, dict[str, Any]] = {
    "aws:kms/getPublicKey:getPublicKey": {"publicKeyPem": PEM},
    "gcp:kms/getKMSCryptoKeyVersion:getKMSCryptoKeyVersion": {
        "name": "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
        "publicKeys": [{"algorithm": "RSA_DECRYPT_OAEP_4096_SHA256", "pem": PEM}],
    },
}


def answer(token: str, args: dict[str, Any]) -> dict[str, Any]:
    """The answer to a lookup; one that nobody foresaw is an error, since previews should need none."""
    return LOOKUPS[token]
