from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import inventory as expected
import pytest

from jewelhouse.azure import EnclaveHost, EnclaveHostArgs
from jewelhouse.errors import JewelhouseError

POLICY = b"package policy\nallow_runtime_logging := false\n"
DIGEST = "a" * 64
ARGS = EnclaveHostArgs(
    location="westeurope",
    resource_group="group",
    subnet="subnet-id",
    image=f"r.azurecr.io/trainer@sha256:{DIGEST}",
    policy=base64.b64encode(POLICY).decode(),
    hostdata=hashlib.sha256(POLICY).hexdigest(),
    identity="identity-id",
    settings={"JEWELHOUSE_STAGE": "{}"},
    private_registry=True,
)


def test_a_group_is_confidential_private_and_pinned(recorded, inventory) -> None:
    recording = recorded(lambda: EnclaveHost("train", ARGS))
    expected.check(recording, inventory / "enclave.yaml")
    group = recording.named("train-group").inputs
    assert group["containers"][0]["image"] == ARGS.image
    # Hostdata is the digest of exactly these bytes.
    measured = hashlib.sha256(
        base64.b64decode(group["confidentialComputeProperties"]["ccePolicy"])
    ).hexdigest()
    assert measured == ARGS.hostdata
    (outputs,) = recording.component_outputs[recording.components[0].urn]
    assert outputs == {"id": "train-group-id", "address": "10.61.2.4"}


def test_a_public_image_is_pulled_without_credentials(recorded) -> None:
    recording = recorded(lambda: EnclaveHost("train", replace(ARGS, private_registry=False)))
    assert "imageRegistryCredentials" not in recording.named("train-group").inputs


REFUSED = {
    "a policy that the release policy does not pin": (
        {"policy": base64.b64encode(POLICY + b" ").decode()},
        f"the release policy pins {ARGS.hostdata}",
    ),
    "a policy that is no base64": ({"policy": "package policy"}, "is not base64"),
    "hostdata of the encoded text": (
        {"hostdata": hashlib.sha256(ARGS.policy.encode()).hexdigest()},
        "the container policy has SHA-256",
    ),
    "a tag": ({"image": "r.azurecr.io/trainer:latest"}, "is not pinned by digest"),
    "half a digest": ({"image": "r.azurecr.io/trainer@sha256:abc"}, "is not pinned by digest"),
}


@pytest.mark.parametrize(("change", "what"), REFUSED.values(), ids=REFUSED)
def test_a_group_that_would_be_refused_its_keys_is_not_started(recorded, change, what: str) -> None:
    registered = []

    def program() -> None:
        try:
            EnclaveHost("train", replace(ARGS, **change))
        except JewelhouseError as error:
            registered.append(str(error))

    recording = recorded(program)
    assert what in registered[0]
    assert not recording.resources
