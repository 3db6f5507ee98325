"""A stage on AWS, rehearsed with the documents of its stack: what opens, what does not, what surprises."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import aws_deployed
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.evidence import nitro
from jewelhouse.guest import memory
from jewelhouse.model import ArtifactKind
from jewelhouse.rehearsal import data, on_aws, play, services, stops, tampering
from jewelhouse.rehearsal.minting_nitro import Authority, recipient, registers
from jewelhouse.rehearsal.on_aws import WRONG
from jewelhouse.rehearsal.services import Wrong
from jewelhouse.rehearsal.stops import Place, Stop

LIFECYCLE = shipped("prod-aws")
STAGE = LIFECYCLE.stages["finetune"]


def deployed():
    return aws_deployed.deployed(LIFECYCLE, STAGE.name)


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
    played = {str(scene.wrong) for scene in result.scenes if scene.stage == STAGE.name} - {"nothing"}
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


def test_every_wrong_run_has_a_reason_of_its_own_to_be_stopped():
    """A run that ends for another reason than its own has shown nothing."""
    for name in ("dev", "prod-aws", "prod-azure", "prod-gcp", "gpu", "federated"):
        lifecycle = shipped(name)
        for stage in lifecycle.stages.values():
            missing = [str(one) for one in services.wrongs(stage) if stops.of(stage, one) is None]
            assert set(missing) <= {Wrong.RELAY_READS}, stage.name
    assert tampering.STOPS.keys() == {*tampering.TAMPERS, tampering.ROLLED_BACK}


@pytest.mark.parametrize(
    ("refused", "closed", "problem"),
    [
        pytest.param(["KMS: denied"], ["denied: PCR0"], "", id="as-it-should-be"),
        pytest.param([], ["denied: PCR0"], "none did", id="the-guest-stopped-what-the-service-should-have"),
        pytest.param(["KMS: denied"], [], "says nothing", id="the-guest-ended-without-a-word"),
        pytest.param(["KMS: throttled"], ["throttled"], "another reason", id="the-service-was-only-busy"),
    ],
)
def test_who_stopped_it_and_why_counts(refused, closed, problem):
    found = Stop(by=Place.SERVICE, says="denied.*PCR0").unlike(refused, closed)
    assert problem in found
    assert bool(found) == bool(problem)


def test_a_service_that_stops_what_the_guest_should_is_found():
    stop = Stop(by=Place.GUEST, says="replayed")
    assert stop.unlike([], ["replayed"]) == ""
    assert "a service did" in stop.unlike(["KMS: denied"], ["replayed"])


def test_a_run_that_was_stopped_for_another_reason_is_a_surprise(monkeypatch):
    """A key service that is out of order denies everything, and proves nothing."""
    monkeypatch.setattr(on_aws, "WRONG", (Wrong.IMAGE,))
    monkeypatch.setattr(tampering, "TAMPERS", {})
    monkeypatch.setattr(on_aws, "_registers", lambda *_: {0: b"\1" * 48})
    result = play.rehearse(LIFECYCLE, *deployed())
    (scene,) = [one for one in result.scenes if one.wrong == Wrong.IMAGE]
    assert scene.opened == ()
    assert not scene.expected
    assert "another reason" in scene.note


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


def test_everything_that_is_supplied_is_marked_and_found_wherever_it_lies(tmp_path):
    marks = set()
    for kind in ArtifactKind:
        data.supply(kind, tmp_path / kind, seed=1)
        own = data.marks(tmp_path / kind)
        assert own, kind
        for path in sorted((tmp_path / kind).iterdir()):
            assert data.marked([path.parent], own), path
        marks |= own
    lost = tmp_path / "lost"
    lost.mkdir()
    page = (tmp_path / ArtifactKind.WEIGHTS / data.BALLASTS[0]).read_bytes()[8192 : 3 * 4096]
    (lost / "page").write_bytes(b"\0" * 100 + page)
    (lost / "log").write_text(f"weights {min(marks).hex()}")
    (lost / "harmless").write_bytes(b"PK\3\4 weights.npy")
    assert data.marked([lost], marks) == [str(lost / "log"), str(lost / "page")]


@given(st.binary(max_size=4096))
@settings(max_examples=50)
def test_what_is_not_marked_is_not_found(content):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "file").write_bytes(content)
        assert data.marked([Path(folder)], [data.MARK + b"0" * 32]) == []
