from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import inventory as expected
import pulumi
import pytest
import yaml
from recording import Recording

from jewelhouse.azure import (
    ConfidentialGpu,
    ConfidentialVm,
    ConfidentialVmArgs,
    DiskEncryption,
    DiskEncryptionArgs,
)
from jewelhouse.azure.vm import nobodys_key
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Tee
from jewelhouse.templates import render

ARGS = ConfidentialVmArgs(
    location="westeurope",
    resource_group="group",
    subnet="subnet-id",
    size="Standard_DC4as_v6",
    image="Canonical:ubuntu-24_04-lts:cvm:24.04.202609150",
    identity="identity-id",
    disk_encryption="set-id",
    user_data="#cloud-config\n",
    zone="2",
)


@pytest.fixture
def machine(recorded):
    def make(**changes: Any) -> Recording:
        return recorded(lambda: ConfidentialVm("serve", replace(ARGS, **changes)))

    return make


class TestConfidentialVm:
    def test_memory_and_disk_are_closed_and_nobody_logs_in(self, machine, inventory) -> None:
        expected.check(machine(), inventory / "vm.yaml")

    def test_user_data_reaches_it_as_base64(self, machine) -> None:
        data = machine().named("serve-machine").inputs["osProfile"]["customData"]
        assert base64.b64decode(data) == b"#cloud-config\n"

    def test_a_gallery_image_is_named_by_its_id(self, machine) -> None:
        image = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/g/images/i"
        found = machine(image=image).named("serve-machine").inputs["storageProfile"]["imageReference"]
        assert found == {"id": image}

    def test_it_waits_for_its_roles(self, recorded) -> None:
        def program() -> None:
            first = pulumi.CustomResource("test:index:Role", "role", {})
            ConfidentialVm("serve", replace(ARGS, depends_on=[first]))

        recording = recorded(program)
        assert recording.named("role").urn in recording.named("serve-machine").depends_on

    def test_its_address_is_private(self, machine) -> None:
        recording = machine()
        (outputs,) = recording.component_outputs[recording.components[0].urn]
        assert outputs == {"id": "serve-machine-id", "address": "10.61.1.4"}


class TestNobodysKey:
    def test_it_is_a_public_key_as_azure_wants_one(self) -> None:
        kind, blob, _ = nobodys_key().split()
        raw = base64.b64decode(blob)
        assert kind == "ssh-ed25519"
        assert raw[4:15] == b"ssh-ed25519"
        assert len(raw) == 4 + 11 + 4 + 32

    def test_it_is_the_same_in_every_run_so_that_no_machine_is_replaced(self, machine) -> None:
        linux = machine().named("serve-machine").inputs["osProfile"]["linuxConfiguration"]
        assert linux["ssh"]["publicKeys"] == [
            {"keyData": nobodys_key(), "path": "/home/nobody-logs-in/.ssh/authorized_keys"}
        ]


class TestDiskEncryption:
    @pytest.fixture
    def disks(self, recorded):
        args = DiskEncryptionArgs(
            location="westeurope",
            resource_group="group",
            subscription="s",
            tenant="t",
            tee=Tee.TDX,
            orchestrator="00000000-0000-4000-8000-00000000000f",
        )
        return recorded(lambda: DiskEncryption("run", args))

    def test_disks_have_a_vault_and_a_key_of_their_own(self, disks: Recording, inventory) -> None:
        expected.check(disks, inventory / "disks.yaml")

    def test_the_platform_s_own_token_opens_the_key(self, disks: Recording) -> None:
        data = disks.one("azure-native:keyvault:Key").inputs["properties"]["releasePolicy"]["data"]
        (entry,) = json.loads(base64.urlsafe_b64decode(data + "=="))["anyOf"]
        assert entry["authority"].endswith(".attest.azure.net/")
        assert [condition["claim"] for condition in entry["allOf"]] == [
            "x-ms-attestation-type",
            "x-ms-compliance-status",
        ]

    def test_the_set_names_a_version_of_the_key(self, disks: Recording) -> None:
        url = disks.named("run-set").inputs["activeKey"]["keyUrl"]
        assert len(url.split("/keys/")[1].split("/")) == 2


class TestConfidentialGpu:
    def test_it_is_a_confidential_vm(self, recorded) -> None:
        args = replace(ARGS, size="Standard_NCC40ads_H100_v5")
        recording = recorded(lambda: ConfidentialGpu("serve", args))
        machine = recording.one("azure-native:compute:VirtualMachine")
        assert machine.inputs["securityProfile"]["securityType"] == "ConfidentialVM"
        assert machine.parent_name == "serve-vm"
        assert recording.named("serve-vm").parent_name == "serve"

    @pytest.mark.parametrize(
        "size", ["Standard_NC40ads_H100_v5", "Standard_NCC80adis_H100_v5", "Standard_DC4as_v6"]
    )
    def test_other_sizes_have_no_confidential_gpu(self, recorded, size: str) -> None:
        with pytest.raises(JewelhouseError, match="has no confidential GPU"):
            recorded(lambda: ConfidentialGpu("serve", replace(ARGS, size=size)))


class TestUserData:
    @pytest.mark.parametrize("gpu", [False, True])
    def test_it_closes_every_way_in_and_starts_the_guest(self, gpu: bool) -> None:
        text = render("azure/host.yaml.j2", stage="serve", settings='{"stage": "serve"}', gpu=gpu)
        assert text.startswith("#cloud-config\n")
        config = yaml.safe_load(text)
        assert config["users"] == []
        assert config["disable_root"] is True
        (masked,) = config["bootcmd"]
        assert {"mask", "ssh.service", "ssh.socket", "serial-getty@ttyS0.service"} <= set(masked)
        files = {file["path"]: file["content"] for file in config["write_files"]}
        assert json.loads(files["/etc/jewelhouse/stage.json"]) == {"stage": "serve"}
        guest = files["/etc/systemd/system/jewelhouse-guest.service"]
        assert "ExecStart=/usr/bin/python3 -m jewelhouse.guest" in guest
        # The GPU must be up before the guest attests it, and with it before any key.
        assert ("Requires=jewelhouse-gpu.service" in guest) is gpu
        assert ("/etc/systemd/system/jewelhouse-gpu.service" in files) is gpu
        assert ("jewelhouse-gpu.service" in config["runcmd"][-1]) is gpu
        assert config["runcmd"][-1][-1] == "jewelhouse-guest.service"
