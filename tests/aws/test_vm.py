from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import inventory as inventories
import pulumi
import pytest
from recording import Recording

from jewelhouse.aws import ConfidentialVm, ConfidentialVmArgs
from jewelhouse.errors import JewelhouseError


def args(machine_type: str = "m6a.xlarge") -> ConfidentialVmArgs:
    return ConfidentialVmArgs(
        machine_type=machine_type,
        image_id="ami-b3eacd33433b31b52",
        subnet_id="subnet-a",
        security_group_ids=["sg-hosts"],
        profile_name="llm-evaluate",
    )


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    recording = recorded(lambda: ConfidentialVm("evaluate", args()))
    inventories.check(recording, inventory / "vm.yaml")


def test_its_outputs_say_that_kms_cannot_gate_on_it(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: pulumi.export("vm", ConfidentialVm("evaluate", args()).key_release))
    assert "KMS verifies no SEV-SNP report" in recording.exports["vm"]
    (outputs,) = recording.component_outputs[recording.named("evaluate").urn]
    assert outputs["key_release"].startswith("none: ")


@pytest.mark.parametrize("machine", ["m7a.xlarge", "m6a.48xlarge", "c6a.metal", "m6i.xlarge", "t3.large"])
def test_a_machine_without_snp_is_refused(recorded: Callable[..., Recording], machine: str) -> None:
    with pytest.raises(JewelhouseError, match=f"{machine} has no SEV-SNP".replace(".", r"\.")):
        recorded(lambda: ConfidentialVm("evaluate", args(machine)))
