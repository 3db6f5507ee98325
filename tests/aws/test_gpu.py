from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pytest
from recording import Recording

from jewelhouse.aws import ConfidentialGpu, ConfidentialGpuArgs
from jewelhouse.errors import JewelhouseError


def args(**changes: Any) -> ConfidentialGpuArgs:
    values: dict[str, Any] = {
        "machine_type": "g6e.4xlarge",
        "image": "ami-b3eacd33433b31b52",
        "subnet_ids": ["subnet-a", "subnet-b"],
        "security_group_ids": ["sg-hosts"],
        "profile_name": "llm-serve",
        "log_group": "/jewelhouse/llm/serve",
        "user_data": '{"stage": "serve"}',
    }
    return ConfidentialGpuArgs(**{**values, **changes})


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    recording = recorded(lambda: ConfidentialGpu("serve", args(image="snap-0a1b2c3d", count=3)))
    inventories.check(recording, inventory / "gpu.yaml")


def test_a_registered_image_is_taken_as_it_is(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: ConfidentialGpu("serve", args()))
    assert not recording.of_type("aws:ec2/ami:Ami")
    assert recording.named("serve-0").inputs["ami"] == "ami-b3eacd33433b31b52"


def test_spot_is_asked_for(recorded: Callable[..., Recording]) -> None:
    instance = recorded(lambda: ConfidentialGpu("serve", args(spot=True))).named("serve-0")
    assert instance.inputs["instanceMarketOptions"] == {"marketType": "spot"}


def test_secure_boot_keys_go_into_the_registration(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: ConfidentialGpu("serve", args(image="snap-0a1b2c3d", uefi_data="QU1a")))
    assert recording.named("serve-image").inputs["uefiData"] == "QU1a"


def test_arm_snapshots_are_registered_for_arm(recorded: Callable[..., Recording]) -> None:
    recording = recorded(
        lambda: ConfidentialGpu("serve", args(machine_type="c8g.4xlarge", image="snap-0a1b2c3d"))
    )
    assert recording.named("serve-image").inputs["architecture"] == "arm64"


@pytest.mark.parametrize("machine", ["p4d.24xlarge", "g5g.4xlarge", "trn1.32xlarge", "g6.metal-48xl"])
def test_a_machine_without_nitrotpm_is_refused(recorded: Callable[..., Recording], machine: str) -> None:
    with pytest.raises(JewelhouseError, match="has no NitroTPM"):
        recorded(lambda: ConfidentialGpu("serve", args(machine_type=machine)))


def test_an_image_by_name_is_refused(recorded: Callable[..., Recording]) -> None:
    with pytest.raises(JewelhouseError, match="neither an image nor a snapshot"):
        recorded(lambda: ConfidentialGpu("serve", args(image="al2023-latest")))
