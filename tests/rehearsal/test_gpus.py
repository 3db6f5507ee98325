"""A stage on a confidential GPU, rehearsed with the documents of its stack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from exports_made import export_of, identity_of, outputs_of
from samples import shipped

from jewelhouse import lifecycle as graph
from jewelhouse.guest import memory
from jewelhouse.model import Lifecycle
from jewelhouse.rehearsal import gpus, on_azure_vm, play, services, tampering, vtpm
from jewelhouse.rehearsal.services import Services, Wrong

SHIPPED = shipped("gpu")
STAGE = SHIPPED.stages["serve-azure"]


def alone() -> Lifecycle:
    """The stack with its stage on Azure only."""
    return replace(SHIPPED, stages={STAGE.name: STAGE})


def deployed(lifecycle: Lifecycle) -> tuple[dict[str, Any], dict[str, Any]]:
    """Export and outputs of the stack, as a deployment leaves them."""
    outputs = outputs_of(lifecycle)
    for name in outputs["artifacts"]:
        outputs["artifacts"][name] = {
            "keys": [
                {
                    "name": key.name,
                    "uri": f"https://jh-keys.vault.azure.net/keys/{key.name}",
                    "id": identity_of("azure-native:keyvault:Key", f"{key.name}-key"),
                }
                for key in sorted(graph.opens_by_key(lifecycle))
                if key.artifact == name
            ]
        }
    for name, stage in outputs["stages"].items():
        stage["identity"] = f"principal-of-{name}"
    return export_of(lifecycle), outputs


@pytest.fixture(scope="module")
def result():
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")
    if not vtpm.available():
        pytest.skip("swtpm is not installed")
    # What is wrong about the machine and its stores is played elsewhere.
    with (
        mock.patch.object(on_azure_vm, "WRONG", ()),
        mock.patch.object(tampering, "TAMPERS", {}),
    ):
        return play.rehearse(alone(), *deployed(alone()))


def test_the_stage_serves_once_its_gpu_is_attested(result):
    (right,) = [scene for scene in result.scenes if scene.wrong == Wrong.NOTHING]
    assert right.expected, right
    assert right.opened == ("base",)


def test_everything_that_is_wrong_about_gpus_is_played_and_stopped(result):
    played = {str(scene.wrong) for scene in result.scenes} - {"nothing"}
    assert {*map(str, gpus.WRONG)} <= played
    assert [scene for scene in result.scenes if not scene.expected] == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param(Wrong.GPU_DEBUG, "mode for developers", id="by-the-drivers-word"),
        pytest.param(Wrong.GPU_ROOT, "no pinned root", id="by-the-guest-itself"),
        pytest.param(Wrong.GPU_REPLAYED, "it was replayed", id="by-the-nonce-of-this-run"),
        pytest.param(Wrong.GPU_MISSING, "are 0, and the image demands 1", id="by-the-measured-demand"),
        pytest.param(Wrong.GPU_FORGED, "is not made by the key", id="by-the-services-keys"),
    ],
)
def test_each_is_stopped_by_the_guest_before_a_key_is_asked_for(result, wrong, says):
    (scene,) = [one for one in result.scenes if one.wrong == wrong]
    assert scene.opened == ()
    assert says in " ".join(scene.stopped)
    assert "Key Vault" not in " ".join(scene.stopped)


def test_what_is_played_about_gpus_is_what_the_recipe_demands():
    assert services.wrongs(STAGE) == (*on_azure_vm.WRONG, *gpus.WRONG)
    assert gpus.trusting(STAGE, {"run": ["x"]})["gpu"]["count"] == 1
    plain = replace(STAGE, image="server")
    assert services.wrongs(plain) == on_azure_vm.WRONG
    assert gpus.trusting(plain, {"run": ["x"]}) == {"run": ["x"]}
    assert gpus.demanded(replace(STAGE, image="of-somebody-else")) is None


def test_the_platforms_own_certificates_are_still_trusted(tmp_path):
    path = tmp_path / "authority.pem"
    path.write_text("platform\n")
    given = Services(endpoints={"certificates": str(path), "maa": "https://maa"}, refused=lambda: ["maa"])
    with gpus.around(given, STAGE, Wrong.NOTHING) as found:
        assert Path(found.endpoints["certificates"]).read_text().startswith("platform\n-----BEGIN")
        assert found.endpoints["maa"] == "https://maa"
        assert found.refused() == ["maa"]
        assert Path(found.endpoints["gpu"]).is_socket()
    assert not Path(found.endpoints["gpu"]).exists()
