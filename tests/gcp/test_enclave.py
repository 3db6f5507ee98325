from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pytest
from recording import Recording, Request

from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp import EnclaveHost, EnclaveHostArgs, PrivateNetwork, PrivateNetworkArgs
from jewelhouse.gcp.enclave import BOOT_IMAGE, production
from jewelhouse.model import Tee

CONTAINER = "europe-west4-docker.pkg.dev/op/models/server@sha256:" + "9" * 64
TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"
GROUP = "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager"


def args(**changes: Any) -> EnclaveHostArgs:
    values: dict[str, Any] = {
        "project": "op",
        "region": "europe-west4",
        "zones": ("europe-west4-a", "europe-west4-b"),
        "machine_type": "c3-standard-4",
        "tee": Tee.TDX,
        "subnetwork": "subnet-id",
        "service_account": "llm-serve@op.iam.gserviceaccount.com",
        "container": CONTAINER,
        "settings": '{"stage": "serve"}',
        "count": 2,
        "labels": {"lifecycle": "llm", "stage": "serve"},
        **changes,
    }
    return EnclaveHostArgs(**values)


@pytest.fixture
def host(recorded: Callable[..., Recording]) -> Callable[..., Recording]:
    return lambda **changes: recorded(lambda: EnclaveHost("serve", args(**changes)))


def test_inventory(host: Callable[..., Recording], inventory: Path) -> None:
    inventories.check(host(), inventory / "enclave.yaml")


def test_a_host_has_no_address_outside(host: Callable[..., Recording]) -> None:
    (interface,) = host().one(TEMPLATE).inputs["networkInterfaces"]
    assert "accessConfigs" not in interface
    assert "ipv6AccessConfigs" not in interface


def test_only_the_type_names_the_technology(host: Callable[..., Recording]) -> None:
    """enable_confidential_compute means SEV and contradicts TDX."""
    assert host().one(TEMPLATE).inputs["confidentialInstanceConfig"] == {"confidentialInstanceType": "TDX"}


def test_metadata_is_text_and_overrides_nothing(host: Callable[..., Recording]) -> None:
    metadata = host().one(TEMPLATE).inputs["metadata"]
    assert all(isinstance(value, str) for value in metadata.values())
    assert not [key for key in metadata if key == "tee-cmd" or key.startswith("tee-env-")]
    assert not [key for key in metadata if key.startswith(("tee-monitoring", "ita-"))]


def test_metadata_is_read_at_boot_so_a_change_makes_new_hosts(host: Callable[..., Recording]) -> None:
    recording = host()
    assert recording.one(TEMPLATE).replace_on_changes == ("metadata",)
    update = recording.one(GROUP).inputs["updatePolicy"]
    assert (update["type"], update["minimalAction"]) == ("PROACTIVE", "REPLACE")


@pytest.mark.parametrize(
    ("machine", "tee", "maintenance", "platform"),
    [
        ("c3-standard-4", Tee.TDX, "TERMINATE", None),
        ("c4-standard-8", Tee.TDX, "TERMINATE", None),
        ("n2d-standard-4", Tee.SEV, "MIGRATE", "AMD Milan"),
        ("c3d-standard-4", Tee.SEV, "MIGRATE", "AMD Genoa"),
        ("c2d-standard-4", Tee.SEV, "TERMINATE", None),
        ("c4d-standard-8", Tee.SEV, "TERMINATE", None),
    ],
)
def test_maintenance_and_processor(
    host: Callable[..., Recording], machine: str, tee: Tee, maintenance: str, platform: str | None
) -> None:
    inputs = host(machine_type=machine, tee=tee).one(TEMPLATE).inputs
    assert inputs["scheduling"]["onHostMaintenance"] == maintenance
    # What is stopped for maintenance starts again by itself.
    assert inputs["scheduling"]["automaticRestart"] is True
    assert inputs.get("minCpuPlatform") == platform


@pytest.mark.parametrize(
    ("machine", "tee", "given", "disk"),
    [
        ("c3-standard-4", Tee.TDX, None, "pd-balanced"),
        ("c4-standard-8", Tee.TDX, None, "hyperdisk-balanced"),
        ("c4d-standard-8", Tee.SEV, None, "hyperdisk-balanced"),
        ("c3-standard-4", Tee.TDX, "pd-ssd", "pd-ssd"),
    ],
)
def test_boot_disks(
    host: Callable[..., Recording], machine: str, tee: Tee, given: str | None, disk: str
) -> None:
    (boot,) = host(machine_type=machine, tee=tee, disk_type=given).one(TEMPLATE).inputs["disks"]
    assert boot["diskType"] == disk
    assert boot["interface"] == "NVME"


@pytest.mark.parametrize(
    ("machine", "tee", "disk"),
    [
        ("c3d-standard-4", Tee.SEV, "hyperdisk-balanced"),
        ("c3d-standard-4", Tee.SEV, "hyperdisk-throughput"),
        ("c4-standard-8", Tee.TDX, "pd-balanced"),
        ("c4d-standard-8", Tee.SEV, "pd-ssd"),
    ],
)
def test_refused_boot_disks(host: Callable[..., Recording], machine: str, tee: Tee, disk: str) -> None:
    with pytest.raises(JewelhouseError, match=f"does not boot from {disk}"):
        host(machine_type=machine, tee=tee, disk_type=disk)


def test_a_run_that_is_done_is_not_repaired(host: Callable[..., Recording]) -> None:
    def policy(repair: bool) -> str:
        return host(repair=repair).one(GROUP).inputs["instanceLifecyclePolicy"]["defaultActionOnFailure"]

    assert policy(True) == "REPAIR"
    assert policy(False) == "DO_NOTHING"


def test_a_spot_host_is_deleted_not_stopped(host: Callable[..., Recording]) -> None:
    recording = host(provisioning="spot")
    assert recording.one(TEMPLATE).inputs["scheduling"] == {
        "provisioningModel": "SPOT",
        "preemptible": True,
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
        "instanceTerminationAction": "DELETE",
    }


@pytest.mark.parametrize("provisioning", ["on-demand", "spot"])
def test_steps_of_an_update_fit_a_regional_group(host: Callable[..., Recording], provisioning: str) -> None:
    """Compute takes 0 or at least the number of zones, and not 0 for both."""
    update = host(provisioning=provisioning).one(GROUP).inputs["updatePolicy"]
    assert {update["maxSurgeFixed"], update["maxUnavailableFixed"]} == {0, 2}


def test_a_host_waits_for_what_it_needs(recorded: Callable[..., Recording]) -> None:
    def program() -> None:
        network = PrivateNetwork("net", PrivateNetworkArgs(project="op", region="europe-west4"))
        EnclaveHost("serve", args(after=[network]))

    group: Request = recorded(program).one(GROUP)
    waits = {urn.rsplit("::", 1)[-1] for urn in group.depends_on}
    assert {"net-deny-out", "net-to-google", "net-googleapis-any"} <= waits


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"container": CONTAINER.split("@")[0] + ":latest"}, "not pinned by its digest", id="tag"
        ),
        pytest.param({"container": CONTAINER[:-1]}, "not pinned by its digest", id="short digest"),
        pytest.param(
            {"tee": Tee.SEV_SNP, "machine_type": "n2d-standard-4"}, "does not attest sev-snp", id="SNP"
        ),
        pytest.param({"machine_type": "c3-highmem-4"}, "not offered with tdx", id="c3-highmem"),
        pytest.param({"machine_type": "n2d-standard-4"}, "not offered with tdx", id="AMD with TDX"),
        pytest.param(
            {"boot_image": BOOT_IMAGE.replace("space-2", "space-debug-2")}, "not a production", id="debug"
        ),
        pytest.param(
            {"boot_image": "projects/confidential-space-images/global/images/family/confidential-space"},
            "not a production image",
            id="family alias",
        ),
        pytest.param(
            {"boot_image": BOOT_IMAGE.replace("space-2", "space-preview-cgpu-2")},
            "not a production image",
            id="preview, EXPERIMENTAL only",
        ),
    ],
)
def test_refused(host: Callable[..., Recording], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(JewelhouseError, match=says):
        host(**changes)


def test_the_shipped_boot_image_is_a_production_image() -> None:
    assert production(BOOT_IMAGE) == BOOT_IMAGE
    assert "/family/" not in BOOT_IMAGE
