from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pytest
from recording import Recording

from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp import ConfidentialGpu, ConfidentialGpuArgs
from jewelhouse.model import Tee

CONTAINER = "europe-west4-docker.pkg.dev/op/models/server@sha256:" + "9" * 64
IMAGES = "projects/confidential-space-images/global/images"
TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"


@pytest.fixture
def host(recorded: Callable[..., Recording]) -> Callable[..., Recording]:
    def build(**changes: Any) -> Recording:
        values: dict[str, Any] = {
            "project": "op",
            "region": "europe-west4",
            "zones": ("europe-west4-c",),
            "machine_type": "a3-highgpu-1g",
            "tee": Tee.TDX,
            "subnetwork": "subnet-id",
            "service_account": "llm-serve@op.iam.gserviceaccount.com",
            "container": CONTAINER,
            "settings": '{"stage": "serve"}',
            "count": 2,
            "provisioning": "flex-start",
            "run_duration": 604800,
            **changes,
        }
        return recorded(lambda: ConfidentialGpu("serve", ConfidentialGpuArgs(**values)))

    return build


def test_flex_start_inventory(host: Callable[..., Recording], inventory: Path) -> None:
    inventories.check(host(), inventory / "gpu-flex-start.yaml")


def test_spot_inventory(host: Callable[..., Recording], inventory: Path) -> None:
    inventories.check(host(provisioning="spot", run_duration=None), inventory / "gpu-spot.yaml")


def test_local_ssds_are_declared(host: Callable[..., Recording]) -> None:
    """The machine has two; without them every plan wants new instances."""
    disks = host().one(TEMPLATE).inputs["disks"]
    assert [disk.get("type") for disk in disks] == [None, "SCRATCH", "SCRATCH"]
    assert [disk["diskSizeGb"] for disk in disks[1:]] == [375, 375]
    assert {disk["interface"] for disk in disks} == {"NVME"}
    assert disks[0]["diskSizeGb"] >= 30


def test_a_new_image_does_not_leave_old_hosts_running(host: Callable[..., Recording]) -> None:
    """Flex-start instances would keep their old image until their time is up."""
    group = host().named("serve-group")
    assert group.replace_on_changes == ("versions",)
    assert group.delete_before_replace is True


def test_the_request_raises_the_size_so_the_group_does_not_enforce_it(host: Callable[..., Recording]) -> None:
    group = host().named("serve-group")
    assert group.inputs["targetSize"] == 0
    assert group.ignore_changes == ("targetSize",)


@pytest.mark.parametrize("provisioning", ["spot", "flex-start"])
def test_nothing_is_ever_stopped(host: Callable[..., Recording], provisioning: str) -> None:
    """Stopping with local SSDs fails and leaves an H100 running; a reboot breaks its attestation."""
    recording = host(provisioning=provisioning)
    assert recording.one(TEMPLATE).inputs["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert recording.one(TEMPLATE).inputs["metadata"]["tee-restart-policy"] == "Never"
    assert not any("desiredStatus" in request.inputs for request in recording.resources)


def test_a_plain_vm_boots_its_own_image(host: Callable[..., Recording]) -> None:
    image = "projects/op/global/images/server-20261101"
    inputs = host(container=None, boot_image=image).one(TEMPLATE).inputs
    assert inputs["disks"][0]["sourceImage"] == image
    assert "user-data" in inputs["metadata"]
    assert not [key for key in inputs["metadata"] if key.startswith("tee-")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"provisioning": "on-demand"}, "not sold on-demand", id="on demand"),
        pytest.param({"run_duration": None}, "flex-start capacity for None", id="no end"),
        pytest.param({"run_duration": 599}, "for 599 seconds", id="under ten minutes"),
        pytest.param({"run_duration": 604801}, "for 604801 seconds", id="over seven days"),
        pytest.param({"machine_type": "a3-highgpu-8g"}, "no confidential GPU", id="eight GPUs"),
        pytest.param({"tee": Tee.SEV}, "no confidential GPU", id="SEV"),
        pytest.param({"container": None}, "neither a container nor an image", id="nothing to run"),
        pytest.param({"container": "server:latest"}, "not pinned", id="tag"),
        pytest.param(
            {"boot_image": f"{IMAGES}/confidential-space-preview-cgpu-260500"},
            "not a production image",
            id="preview image, EXPERIMENTAL only",
        ),
    ],
)
def test_refused(host: Callable[..., Recording], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(JewelhouseError, match=says):
        host(**changes)
