from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from recording import Recording, record

INVENTORY = Path(__file__).parent / "inventory"
SUFFIX = "1a2b3c4"
# Project numbers as the shipped stacks configure them.
NUMBERS = {
    "mp-strongroom": "100000000001",
    "do-strongroom": "100000000002",
    "mp-strongroom-dev": "100000000011",
    "do-strongroom-dev": "100000000012",
    "mp-strongroom-federated": "100000000021",
    "mp-strongroom-gpu": "100000000031",
    "bank-a-keys": "510000000001",
    "bank-b-keys": "520000000002",
    "bank-c-keys": "530000000003",
}


def outputs(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What Google or the engine would add: random names, emails, self links, names of pools by number."""
    named = inputs.get("name", f"{name}-{SUFFIX}")
    match token:
        case "gcp:serviceaccount/account:Account":
            return {"email": f"{inputs['accountId']}@{inputs['project']}.iam.gserviceaccount.com"}
        case "gcp:iam/workloadIdentityPool:WorkloadIdentityPool":
            pool = inputs["workloadIdentityPoolId"]
            number = NUMBERS[inputs["project"]]
            return {"name": f"projects/{number}/locations/global/workloadIdentityPools/{pool}"}
        case "gcp:compute/address:Address":
            return {
                "name": named,
                "address": "10.64.0.9",
                "selfLink": f"https://www.googleapis.com/compute/v1/{named}",
            }
        case _:
            return {"name": named, "selfLink": f"https://www.googleapis.com/compute/v1/{named}"}


def call(token: str, args: dict[str, Any]) -> dict[str, Any]:
    assert token == "gcp:kms/getKMSCryptoKeyVersion:getKMSCryptoKeyVersion"
    return {
        **args,
        "name": f"{args['cryptoKey']}/cryptoKeyVersions/1",
        "publicKeys": [{"algorithm": "RSA_DECRYPT_OAEP_4096_SHA256", "pem": "-----BEGIN PUBLIC KEY-----"}],
    }


@pytest.fixture(scope="session")
def recorded() -> Callable[..., Recording]:
    return partial(record, outputs=outputs, call=call)


@pytest.fixture
def inventory() -> Path:
    return INVENTORY
