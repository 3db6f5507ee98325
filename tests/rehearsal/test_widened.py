"""Documents that somebody changed by hand in a stack's state: said key by key, before any stage runs."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path

import aws_deployed
import pytest
from exports_made import export_of
from samples import shipped

from jewelhouse import lifecycle as graph
from jewelhouse.guest import memory
from jewelhouse.rehearsal import on_aws, play, tampering, widened
from jewelhouse.rehearsal.services import Wrong

AWS, AZURE, GCP = (shipped(name) for name in ("prod-aws", "prod-azure", "prod-gcp"))
STAGE = "finetune"
KEY = "base-aws-enclave-eu-central-1"


def by_hand(change, lifecycle=AWS):
    """The export of a stack in which `change` has been at every resource."""
    export = copy.deepcopy(
        aws_deployed.deployed(lifecycle, STAGE)[0] if lifecycle is AWS else export_of(lifecycle)
    )
    for one in export["deployment"]["resources"]:
        change(one)
    return export


def on_key_policy(change, only=KEY):
    def changed(one):
        if one["type"] == "aws:kms/key:Key" and only in one["urn"]:
            policy = json.loads(one["outputs"]["policy"])
            policy["Statement"] = [found for found in map(change, policy["Statement"]) if found]
            one["inputs"]["policy"] = one["outputs"]["policy"] = json.dumps(policy)

    return changed


def without_attestation(statement):
    if statement["Effect"] == "Deny":
        return None
    return {name: value for name, value in statement.items() if name != "Condition"}


def another_image(statement):
    text = json.dumps(statement)
    values = AWS.image(AWS.stages[STAGE]).measurements[0].values
    return json.loads(text.replace(values["PCR0"], "5a" * 48))


def for_everybody(statement):
    return {**statement, "Principal": {"AWS": "*"}} if "Principal" in statement else statement


def on_release_policy(change):
    def changed(one):
        if one["type"] == "azure-native:keyvault:Key":
            for place in (one["inputs"], one["outputs"]):
                policy = place["properties"]["releasePolicy"]
                text = base64.urlsafe_b64decode(policy["data"] + "==")
                data = json.dumps(change(json.loads(text))).encode()
                policy["data"] = base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return changed


def without_hostdata(policy):
    return {
        **policy,
        "anyOf": [
            {**one, "allOf": [claim for claim in one["allOf"] if "hostdata" not in claim.get("claim", "")]}
            for one in policy["anyOf"]
        ],
    }


def on_pool(change):
    def changed(one):
        if one["type"].endswith("WorkloadIdentityPoolProvider"):
            for place in (one["inputs"], one["outputs"]):
                place["attributeCondition"] = change(place["attributeCondition"])

    return changed


@pytest.mark.parametrize("lifecycle", [AWS, AZURE, GCP], ids=["aws", "azure", "gcp"])
def test_what_the_lifecycle_compiles_to_is_no_surprise(lifecycle):
    found = list(widened.scenes(lifecycle, by_hand(lambda one: None, lifecycle)))
    assert found
    assert all(scene.expected for scene in found), [scene for scene in found if not scene.expected]
    assert {scene.wrong for scene in found} == {Wrong.WIDENED}


@pytest.mark.parametrize(
    ("lifecycle", "change", "says"),
    [
        pytest.param(AWS, on_key_policy(without_attestation), "no longer proven", id="attestation-dropped"),
        pytest.param(AWS, on_key_policy(another_image), "5a5a5a", id="another-image-admitted"),
        pytest.param(AWS, on_key_policy(for_everybody), "newly", id="any-principal"),
        pytest.param(AZURE, on_release_policy(without_hostdata), "hostdata", id="containers-policy-dropped"),
        pytest.param(GCP, on_pool(lambda _: "true"), "no longer proven", id="pool-for-all"),
    ],
)
def test_a_document_that_was_widened_is_named_with_what_it_lets_open_and_the_remedy(lifecycle, change, says):
    found = [scene for scene in widened.scenes(lifecycle, by_hand(change, lifecycle)) if not scene.expected]
    keys = {key.name for key in graph.opens_by_key(lifecycle)}
    assert found
    for scene in found:
        assert scene.stage in keys
        assert "pulumi up" in scene.note
    assert any(says in " ".join(scene.stopped) for scene in found), found


def test_only_the_key_that_was_widened_is_named():
    found = widened.scenes(AWS, by_hand(on_key_policy(without_attestation)))
    assert [scene.stage for scene in found if not scene.expected] == [KEY]


def test_a_document_that_was_narrowed_is_no_surprise():
    """It opens less: then the stages themselves show what no longer works."""
    found = widened.scenes(AWS, by_hand(on_key_policy(lambda one: one if one["Effect"] == "Deny" else None)))
    assert all(scene.expected for scene in found)


def test_under_a_widened_policy_the_wrong_image_opens_and_the_rehearsal_shows_it(monkeypatch):
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")
    monkeypatch.setattr(on_aws, "WRONG", (Wrong.IMAGE, Wrong.DEBUG))
    monkeypatch.setattr(tampering, "TAMPERS", {})
    export = by_hand(on_key_policy(without_attestation, only=""))
    lines = []
    result = play.rehearse(AWS, export, aws_deployed.deployed(AWS, STAGE)[1], report=lines.append)
    assert not result.good
    surprises = {(scene.stage, str(scene.wrong)): scene for scene in result.scenes if not scene.expected}
    assert surprises[STAGE, "another image"].opened == ("base", "cases")
    assert surprises[STAGE, "debug evidence"].opened == ("base", "cases")
    assert (KEY, "policy widened by hand") in surprises
    said = [line for line in lines if "SURPRISE" in line]
    assert "policy widened by hand" in said[0], "it is said before any stage runs"
