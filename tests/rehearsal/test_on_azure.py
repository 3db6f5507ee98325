"""Stages on Azure, rehearsed with the documents and role assignments of their stack."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from exports_made import export_of, identity_of, outputs_of
from samples import shipped

from jewelhouse import lifecycle as graph
from jewelhouse.guest import memory
from jewelhouse.rehearsal import on_azure, on_azure_vm, play, tampering, vtpm
from jewelhouse.rehearsal.services import Wrong

LIFECYCLE = shipped("prod-azure")
STAGES = {"train": on_azure.WRONG, "serve-open": on_azure_vm.WRONG}
ASSIGNMENT = on_azure.ASSIGNMENT


def deployed() -> tuple[dict[str, Any], dict[str, Any]]:
    """Export and outputs of the stack, as a deployment leaves them."""
    keys = sorted(graph.opens_by_key(LIFECYCLE))
    outputs = outputs_of(LIFECYCLE)
    for name in outputs["artifacts"]:
        outputs["artifacts"][name] = {
            "keys": [
                {
                    "name": key.name,
                    "uri": f"https://jh-keys.vault.azure.net/keys/{key.name}",
                    "id": identity_of("azure-native:keyvault:Key", f"{key.name}-key"),
                }
                for key in keys
                if key.artifact == name
            ]
        }
    for name, stage in outputs["stages"].items():
        stage["identity"] = f"principal-of-{name}"
    return export_of(LIFECYCLE), outputs


@pytest.fixture(autouse=True)
def _needs():
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")
    if not vtpm.available():
        pytest.skip("swtpm is not installed")


@pytest.fixture(scope="module")
def result():
    return play.rehearse(LIFECYCLE, *deployed())


def test_every_stage_opens_what_it_should(result):
    right = {scene.stage: scene for scene in result.scenes if scene.wrong == "nothing"}
    assert set(right) == set(STAGES)
    assert right["train"].opened == ("corpus", "recipe")
    assert right["train"].note == "sealed base"
    assert right["serve-open"].opened == ("open-base",)
    assert all(scene.expected for scene in right.values()), right


def test_everything_that_must_not_open_is_played_and_stopped(result):
    for stage, wrong in STAGES.items():
        played = {str(scene.wrong) for scene in result.scenes if scene.stage == stage} - {"nothing"}
        assert played == {*map(str, wrong), *tampering.TAMPERS, tampering.ROLLED_BACK}
    assert [scene for scene in result.scenes if not scene.expected] == []
    assert result.good


@pytest.mark.parametrize(
    ("stage", "wrong", "says"),
    [
        pytest.param("train", "debug evidence", "Key Vault: Forbidden", id="by-the-release-policy"),
        pytest.param("train", "another image", "x-ms-sevsnpvm-hostdata", id="by-the-pinned-policy"),
        pytest.param("train", "another stage's identity", "not authorized", id="by-the-role"),
        pytest.param("train", "evidence under a foreign root", "no pinned root", id="by-attestation"),
        pytest.param("train", "replayed evidence", "for another key", id="by-the-guest"),
        pytest.param("train", "stale evidence", "it is stale", id="by-the-guests-clock"),
        pytest.param(
            "train",
            "key service that answers with a forged reply",
            "answers with the key",
            id="by-the-name-in-the-reply",
        ),
        pytest.param("serve-open", "debug evidence", "Key Vault: Forbidden", id="a-VM-in-debug-mode"),
        pytest.param("serve-open", "evidence under a foreign root", "no pinned root", id="a-foreign-VM"),
    ],
)
def test_each_is_stopped_at_the_right_place(result, stage, wrong, says):
    (scene,) = [one for one in result.scenes if (one.stage, one.wrong) == (stage, wrong)]
    assert scene.opened == ()
    assert says in " ".join(scene.stopped)


def test_a_role_that_somebody_gave_away_by_hand_is_a_surprise():
    """The policy names no identity: who has the role on the vault may ask with a stage's evidence."""
    export, outputs = deployed()
    widened = copy.deepcopy(export)
    given = [one for one in widened["deployment"]["resources"] if one["type"] == ASSIGNMENT]
    for one in given:
        extra = copy.deepcopy(one)
        extra["urn"] += "-by-hand"
        extra["outputs"]["principalId"] += "-other"
        extra["outputs"]["scope"] = extra["outputs"]["scope"].rpartition("/keys/")[0]
        widened["deployment"]["resources"].append(extra)
    result = play.rehearse(LIFECYCLE, widened, outputs, stages=("train",))
    assert {str(one.wrong) for one in result.scenes if not one.expected} == {
        "another stage's identity",
        "another account",
        "policy widened by hand",
    }
    named = {words for one in result.scenes if one.wrong is Wrong.WIDENED for words in one.stopped}
    assert "principal-of-train-other may newly ask for it" in named
