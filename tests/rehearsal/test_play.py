"""A stage on AWS, rehearsed with the documents of its stack: what opens, what does not, what surprises."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from exports_made import export_of, outputs_of, resource
from samples import shipped

from jewelhouse import lifecycle as graph
from jewelhouse.errors import JewelhouseError
from jewelhouse.evidence import nitro
from jewelhouse.guest import memory
from jewelhouse.rehearsal import data, play, tampering
from jewelhouse.rehearsal.minting_nitro import Authority, recipient, registers
from jewelhouse.rehearsal.on_aws import WRONG

LIFECYCLE = shipped("prod-aws")
STAGE = LIFECYCLE.stages["finetune"]


def uri(key):
    owner = graph.release_policies(LIFECYCLE)[key].owner
    return f"arn:aws:kms:{key.region}:{owner.account}:key/{key.name}"


def deployed():
    """Export and outputs of the stack, with the policy that the kit gives its stage's role."""
    keys = sorted(graph.opens_by_key(LIFECYCLE))
    outputs = outputs_of(LIFECYCLE)
    for name in outputs["artifacts"]:
        outputs["artifacts"][name] = {
            "keys": [{"name": key.name, "uri": uri(key)} for key in keys if key.artifact == name]
        }
    statement = {"Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": [uri(key) for key in keys]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    role = outputs["stages"]["finetune"]["identity"].rpartition("/")[2]
    return export_of(
        LIFECYCLE, resource("aws:iam/rolePolicy:RolePolicy", "permissions", role=role, policy=policy)
    ), outputs


@pytest.fixture(autouse=True)
def _memory():
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")


@pytest.fixture(scope="module")
def result():
    return play.rehearse(LIFECYCLE, *deployed())


def test_the_stage_opens_what_it_should_and_seals_what_it_made(result):
    (right,) = [scene for scene in result.scenes if scene.wrong == "nothing"]
    assert right.expected
    assert right.opened == ("base", "cases")
    assert right.note == "sealed adapter"


def test_everything_that_must_not_open_is_played_and_stopped(result):
    played = {str(scene.wrong) for scene in result.scenes} - {"nothing"}
    assert played == {*map(str, WRONG), *tampering.TAMPERS, tampering.ROLLED_BACK}
    assert [scene for scene in result.scenes if not scene.expected] == []
    assert result.good


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param("debug evidence", "AccessDeniedException", id="by-the-key-service"),
        pytest.param("another stage's identity", "no Allow of kms:Decrypt names it", id="by-the-key-policy"),
        pytest.param("replayed evidence", "another public key", id="by-the-guest-before-it-is-sent"),
        pytest.param("unknown signer", "signed by 0", id="by-the-measured-trust-settings"),
        pytest.param("reordered ciphertext", "does not open", id="by-the-stream"),
        pytest.param("rolled-back version", "has been retired", id="by-the-floor-of-versions"),
    ],
)
def test_each_is_stopped_at_the_right_place(result, wrong, says):
    (scene,) = [one for one in result.scenes if one.wrong == wrong]
    assert scene.opened == ()
    assert says in " ".join(scene.stopped)


def test_a_policy_that_was_widened_by_hand_is_a_surprise():
    export, outputs = deployed()
    widened = copy.deepcopy(export)
    for one in widened["deployment"]["resources"]:
        if one["type"] == "aws:kms/key:Key":
            policy = json.loads(one["outputs"]["policy"])
            policy["Statement"] = [
                {name: value for name, value in statement.items() if name != "Condition"}
                for statement in policy["Statement"]
                if statement["Effect"] == "Allow"
            ]
            one["inputs"]["policy"] = one["outputs"]["policy"] = json.dumps(policy)
    result = play.rehearse(LIFECYCLE, widened, outputs)
    surprises = {str(scene.wrong) for scene in result.scenes if not scene.expected}
    assert {"debug evidence", "another image"} <= surprises
    assert not result.good


def test_a_stack_without_its_keys_cannot_be_rehearsed():
    export, outputs = deployed()
    outputs["artifacts"]["base"]["keys"] = []
    with pytest.raises(JewelhouseError, match="has no key base-aws-enclave"):
        play.rehearse(LIFECYCLE, export, outputs)


def test_a_production_verifier_refuses_the_rehearsals_root():
    authority = Authority.new(datetime.now(UTC), "rehearsal")
    document = authority.document(
        registers(),
        timestamp=int(datetime.now(UTC).timestamp() * 1000),
        public_key=recipient(),
        nonce=None,
        user_data=None,
    )
    assert not nitro.verify(document, at=datetime.now(UTC)).verified
    assert nitro.verify(document, at=datetime.now(UTC), roots=authority.roots).verified


def test_the_same_seed_makes_the_same_data_and_a_model_can_learn_it(tmp_path):
    x, y = data.points(1)
    again, _ = data.points(1)
    assert (x == again).all()
    guess = 1 / (1 + 2.718281828 ** -(x @ data._direction()))
    assert data.right(list(guess), list(y)) > data.GOOD
