"""The release matrix: each cell says what is proven, and where there is no cell there is no gate."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from policies_made import account, policies
from samples import ALL_STACKS, changed, lock, put, shipped, stack
from snapshots_made import matrix_of

from jewelhouse.cli.matrix import of
from jewelhouse.model import AttestedKey as Key
from jewelhouse.model import Cloud, GcpAccount, Measurements, Platform, Proof, Tee
from jewelhouse.release.policy import Gate, ReleasePolicy
from jewelhouse.release.proofs import State
from jewelhouse.settings import parse

SPACE = Platform.GCP_CONFIDENTIAL_SPACE
ONE, TWO = (Measurements(values={"image_digest": "sha256:" + digit * 64}) for digit in "12")


def gate(stage: str = "serve", **changes: object) -> Gate:
    first = Gate(
        stage=stage,
        platform=SPACE,
        tee=Tee.TDX,
        account=GcpAccount(project="project-2", number="100000000002"),
        measurements=(ONE,),
        identity=f"flow-{stage}@project-2.iam.gserviceaccount.com",
    )
    return replace(first, **changes)


def policy(*gates: Gate, artifact: str = "base") -> ReleasePolicy:
    return ReleasePolicy(
        key=Key(artifact, SPACE, "europe-west4"), owner=account(Cloud.GCP, 1), gates=gates or (gate(),)
    )


@settings(max_examples=40, deadline=None)
@given(policies())
def test_there_is_a_cell_exactly_where_a_gate_is(made):
    found = matrix_of([made])
    assert set(found.cells) == {(one.stage, made.artifact) for one in made.gates}
    for one in made.gates:
        cell = found.cell(one.stage, made.artifact)
        assert cell is not None
        assert set(cell.proofs) == set(Proof)
        assert sum(cell.counts.values()) == len(Proof)
        assert cell.images == one.measurements
        assert cell.until == one.not_after


@settings(max_examples=25, deadline=None)
@given(policies())
def test_the_json_form_holds_every_cell_and_survives_json(made):
    found = matrix_of([made])
    printed = json.loads(json.dumps(found.json()))
    assert {(cell["stage"], cell["artifact"]) for cell in printed["cells"]} == set(found.cells)
    for cell in printed["cells"]:
        assert set(cell["proofs"]) == {proof.value for proof in Proof}
        assert set(cell["proofs"].values()) <= {state.value for state in State}
        weakened = {proof for proof, state in cell["proofs"].items() if state == State.WEAKENED}
        assert set(cell.get("weakened", {})) == weakened
    assert set(printed["notes"]) == {made.key.platform.value}
    assert all(printed["notes"][made.key.platform.value][proof] for proof in Proof)


def test_a_stage_without_a_gate_has_no_cell():
    found = matrix_of([policy(gate("serve")), policy(gate("train"), artifact="recipe")])
    assert found.cell("serve", "recipe") is None
    assert found.cell("nobody", "base") is None


@pytest.mark.parametrize(
    ("changes", "proof", "state"),
    [
        pytest.param({}, Proof.IMAGE, State.ENFORCED, id="pinned-image"),
        pytest.param({}, Proof.GPU, State.NOT_NEEDED, id="no-gpu-in-the-stage"),
        pytest.param({"gpu": "H100"}, Proof.GPU, State.ENFORCED, id="gpu-attested-by-confidential-space"),
        pytest.param({}, Proof.OWNER_APART, State.ENFORCED, id="owner-in-another-project"),
        pytest.param(
            {"account": GcpAccount(project="project-1", number="100000000001")},
            Proof.OWNER_APART,
            State.WEAKENED,
            id="operator-holds-the-key-itself",
        ),
        pytest.param(
            {"platform": Platform.GCP_CVM, "measurements": ()},
            Proof.IMAGE,
            State.NOT_POSSIBLE,
            id="image-that-no-key-service-can-pin",
        ),
        pytest.param(
            {"platform": Platform.AWS_ENCLAVE, "gpu": "H100"},
            Proof.GPU,
            State.NOT_POSSIBLE,
            id="gpu-that-kms-cannot-see",
        ),
    ],
)
def test_the_state_of_a_proof(changes, proof, state):
    cell = matrix_of([policy(gate(**changes))]).cell("serve", "base")
    assert cell is not None
    assert cell.proofs[proof].state is state
    assert cell.proofs[proof].note


def test_a_roll_out_shows_both_images():
    found = matrix_of([policy(gate(measurements=(ONE, TWO)))])
    cell = found.cell("serve", "base")
    assert cell is not None
    assert cell.rolling
    assert cell.images == (ONE, TWO)
    (stage,) = found.json()["stages"]
    assert stage["measurements"] == [dict(ONE.values), dict(TWO.values)]
    assert stage["rolling"] is True


def test_one_image_is_no_roll_out():
    cell = matrix_of([policy()]).cell("serve", "base")
    assert cell is not None
    assert not cell.rolling


def test_values_that_nobody_built_are_named():
    found = matrix_of([policy()], declared=True)
    assert found.declared == ("serve-image",)
    cell = found.cell("serve", "base")
    assert cell is not None
    assert cell.declared


def test_the_end_of_a_licence_is_in_the_cell():
    end = datetime(2027, 1, 1, tzinfo=UTC)
    (cell,) = matrix_of([policy(gate(not_after=end))]).json()["cells"]
    assert cell["until"] == "2027-01-01T00:00:00Z"


@pytest.mark.parametrize("name", ALL_STACKS)
def test_a_shipped_stack_has_a_cell_for_each_artifact_that_a_stage_opens(name):
    lifecycle = shipped(name)
    found = of(lifecycle)
    assert set(found.cells) == {
        (stage.name, artifact) for stage in lifecycle.stages.values() for artifact in stage.opens
    }
    assert set(found.stages) == {stage for stage, _ in found.cells}
    assert set(found.artifacts) == {artifact for _, artifact in found.cells}


@pytest.mark.parametrize("name", [name for name in ALL_STACKS if name.startswith("prod")])
def test_nothing_is_weakened_in_a_production_stack(name):
    found = of(shipped(name))
    assert not found.weakened
    assert not [
        (place, proof)
        for place, cell in found.cells.items()
        for proof, status in cell.proofs.items()
        if status.state is State.WEAKENED
    ]


def test_settings_that_weaken_everything_stand_above_the_cells():
    config = changed(stack("prod-aws"), put("destroyable", True))
    assert of(parse(config, lock())).weakened == ("destroyable",)


def test_stages_stand_in_the_order_in_which_they_run():
    lifecycle = shipped("prod-azure")
    found = of(lifecycle)
    sealed = {artifact: stage.name for stage in lifecycle.stages.values() for artifact in stage.seals}
    for stage, artifact in found.cells:
        if artifact in sealed and sealed[artifact] in found.stages:
            assert found.stages.index(sealed[artifact]) <= found.stages.index(stage)
