from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pytest
from recording import Recording

from jewelhouse.aws import EnclaveHost, EnclaveHostArgs
from jewelhouse.errors import JewelhouseError

PROFILE = "arn:aws:iam::444455556666:instance-profile/llm-tune"


def args(**changes: Any) -> EnclaveHostArgs:
    values: dict[str, Any] = {
        "region": "eu-central-1",
        "machine_type": "m7i.4xlarge",
        "cpus": 8,
        "memory": 32768,
        "image_digest": "sha256:" + "ab" * 32,
        "image_bucket": "images-1a2b3c4",
        "stage": '{"stage": "tune"}',
        "subnet_ids": ["subnet-a", "subnet-b"],
        "security_group_ids": ["sg-hosts", "sg-parents"],
        "profile_arn": PROFILE,
        "log_group": "/jewelhouse/llm/tune",
        "count": 2,
        "tags": {"jewelhouse:stage": "tune"},
    }
    return EnclaveHostArgs(**{**values, **changes})


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    recording = recorded(lambda: EnclaveHost("tune", args()))
    inventories.check(recording, inventory / "enclave.yaml")


def test_user_data_is_the_script_of_this_stage(recorded: Callable[..., Recording]) -> None:
    template = recorded(lambda: EnclaveHost("tune", args())).named("tune-template")
    script = base64.b64decode(template.inputs["userData"], validate=True).decode()
    assert script.startswith("#!/bin/bash")
    assert "--bucket images-1a2b3c4" in script
    assert '{"stage": "tune"}' in script


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        ("m7i.4xlarge", "x86_64"),
        ("g6e.4xlarge", "x86_64"),
        ("c8gn.2xlarge", "arm64"),
        ("r7g.large", "arm64"),
    ],
)
def test_the_parent_runs_amazon_linux_of_its_architecture(
    recorded: Callable[..., Recording], machine: str, architecture: str
) -> None:
    template = recorded(lambda: EnclaveHost("tune", args(machine_type=machine))).named("tune-template")
    assert template.inputs["imageId"].endswith(f"al2023-ami-kernel-default-{architecture}")


def test_spot_is_asked_for(recorded: Callable[..., Recording]) -> None:
    template = recorded(lambda: EnclaveHost("tune", args(spot=True))).named("tune-template")
    assert template.inputs["instanceMarketOptions"] == {"marketType": "spot"}


@pytest.mark.parametrize(
    "machine", ["t3.large", "m7i-flex.4xlarge", "m7i.metal-24xl", "m7i.large", "p6-b200.48xlarge"]
)
def test_a_machine_without_enclaves_is_refused(recorded: Callable[..., Recording], machine: str) -> None:
    with pytest.raises(JewelhouseError, match="cannot host a Nitro Enclave"):
        recorded(lambda: EnclaveHost("tune", args(machine_type=machine)))


def test_an_image_without_digest_is_refused_before_anything_exists(
    recorded: Callable[..., Recording],
) -> None:
    with pytest.raises(JewelhouseError, match="does not name an enclave image"):
        recorded(lambda: EnclaveHost("tune", args(image_digest="tuner:latest")))
