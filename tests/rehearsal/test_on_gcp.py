"""Stages on Google Cloud, rehearsed with the providers, bindings and deny policies of their stack."""

from __future__ import annotations

import base64
import copy
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from exports_made import export_of, outputs_of, resource
from samples import shipped

from jewelhouse import lifecycle as graph
from jewelhouse.errors import JewelhouseError
from jewelhouse.evidence import confidential_space
from jewelhouse.guest import memory, opening, settings
from jewelhouse.guest.opening import Asked, Closed
from jewelhouse.model import Stage
from jewelhouse.rehearsal import on_gcp, on_gcp_vm, play, vtpm, world
from jewelhouse.rehearsal.minting_tokens import GoogleAuthority
from jewelhouse.rehearsal.services import Wrong, services
from jewelhouse.rehearsal.world import World
from jewelhouse.weights import wrap

LIFECYCLE = shipped("prod-gcp")
STAGES = {"serve": on_gcp.WRONG, "serve-open": on_gcp_vm.WRONG}
PROVIDER = "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider"
MEMBER = "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember"
DENY = "gcp:iam/denyPolicy:DenyPolicy"


def deployed() -> tuple[dict[str, Any], dict[str, Any]]:
    """Export and outputs of the stack, as a deployment leaves them."""
    outputs = outputs_of(LIFECYCLE)
    names: dict[str, dict[str, str]] = {}
    for key, policy in graph.release_policies(LIFECYCLE).items():
        ring = f"projects/{policy.owner.boundary}/locations/l/keyRings/r"
        uri = f"{ring}/cryptoKeys/{key.name}/cryptoKeyVersions/1"
        names[key.artifact] = {"name": key.name, "uri": uri}
    for name in outputs["artifacts"]:
        outputs["artifacts"][name] = {"keys": [names[name]] if name in names else []}
    export = export_of(LIFECYCLE, *(template(stage, names) for stage in LIFECYCLE.stages.values()))
    for one in export["deployment"]["resources"]:
        if one["type"] == PROVIDER:
            one["outputs"]["workloadIdentityPoolProviderId"] = "attestation"
    return export, outputs


def template(stage: Stage, names: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A stage's hosts, with the settings in their metadata as each platform has them."""
    short = {"gcp-confidential-space": "space", "gcp-cvm": "vm"}[stage.platform]
    told = {
        "stage": stage.name,
        "opens": {
            artifact: {
                "key": names[artifact]["uri"],
                "credentials": {
                    "type": "external_account",
                    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/"
                    f"jh-{artifact}-{short}-{stage.region}/providers/attestation",
                    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                    "token_url": "https://sts.googleapis.com/v1/token",
                    "credential_source": {"file": "/run/token"},
                },
            }
            for artifact in stage.opens
        },
    }
    text = json.dumps(told)
    file = {"path": "/etc/jewelhouse/stage.json", "content": base64.b64encode(text.encode()).decode()}
    metadata = (
        {"jewelhouse-stage": text} if short == "space" else {"user-data": json.dumps({"write_files": [file]})}
    )
    return resource(on_gcp.TEMPLATE, f"{stage.name}-template", metadata=metadata)


@pytest.fixture(autouse=True)
def _needs():
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")
    if not vtpm.available():
        pytest.skip("swtpm is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> World:
    return world.build(LIFECYCLE, *deployed(), tmp_path_factory.mktemp("world"))


def release(made: World, name: str, wrong: Wrong) -> tuple[str, list[str]]:
    """What a stage's guest says about its first artifact, and what the services do; empty when it opens."""
    stage = LIFECYCLE.stages[name]
    artifact = stage.opens[0]
    with mock.patch.dict(os.environ), services(made, stage, wrong) as given:
        told = settings.stage(json.dumps(given.settings(world.settings(made, stage))).encode())
        endpoints = settings.endpoints(json.dumps(given.endpoints).encode())
        dek = os.urandom(32)
        key = made.key(stage, artifact)
        (wrapped,) = wrap.wrap(dek, [key.recipient])
        asked = Asked(
            artifact=artifact,
            key=key.uri,
            wrapped=wrapped.ciphertext,
            credentials=told.opens[artifact].credentials,
            bound=b"b" * 32,
        )
        try:
            opened = opening.opener(told, endpoints)(asked)
        except Closed as error:
            return str(error), given.refused()
        assert opened.dek == dek
        return "", given.refused()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_opens_what_it_should(made, stage):
    assert release(made, stage, Wrong.NOTHING) == ("", [])


# Stage, what is wrong, what the guest says, what a service says that stopped it.
STOPPED = [
    ("serve", Wrong.DEBUG, "does not admit", "dbgstat enabled"),
    ("serve", Wrong.IMAGE, "does not admit", "image_digest sha256:"),
    ("serve", Wrong.IDENTITY, "does not admit", "other-"),
    ("serve", Wrong.ACCOUNT, "does not admit", "project_id"),
    ("serve", Wrong.ROOT, "does not take the attestation token", "cannot be verified"),
    ("serve", Wrong.REPLAYED, "answers another nonce", ""),
    ("serve", Wrong.STALE, "does not take the attestation token", "expired"),
    ("serve", Wrong.FORGED, "another checksum", ""),
    ("serve", Wrong.RELAY_ASKS, "does not take the attestation token", "invalid_grant"),
    ("serve", Wrong.RELAY_ANSWERS, "another checksum", ""),
    ("serve", Wrong.RELAY_TLS, "no certificate of the service", ""),
    ("serve-open", Wrong.IDENTITY, "does not admit", "other-"),
    ("serve-open", Wrong.ACCOUNT, "does not admit", "project_id"),
    ("serve-open", Wrong.ROOT, "not from the CA of Google's VMs", "Google Cloud Attestation"),
    ("serve-open", Wrong.REPLAYED, "answers another nonce", ""),
    ("serve-open", Wrong.STALE, "does not take the attestation token", "expired"),
    ("serve-open", Wrong.FORGED, "another checksum", ""),
    ("serve-open", Wrong.RELAY_ASKS, "does not take the attestation token", "invalid_grant"),
    ("serve-open", Wrong.RELAY_ANSWERS, "another checksum", ""),
    ("serve-open", Wrong.RELAY_TLS, "no certificate of the service", ""),
]


@pytest.mark.parametrize(("stage", "wrong", "guest", "service"), STOPPED)
def test_each_is_stopped_at_the_right_place(made, stage, wrong, guest, service):
    says, refused = release(made, stage, wrong)
    assert guest in says
    assert service in " ".join(refused)
    assert bool(refused) is bool(service)


def test_all_that_can_be_wrong_is_in_the_table_above():
    assert {(stage, wrong) for stage, wrong, *_ in STOPPED} == {
        (stage, wrong) for stage, wrongs in STAGES.items() for wrong in wrongs
    }
    # Their tokens name no image and say nothing about debugging: nothing there stops either.
    assert {*on_gcp.WRONG} - {*on_gcp_vm.WRONG} == {Wrong.DEBUG, Wrong.IMAGE}


def test_the_whole_lifecycle_is_played_by_real_guests():
    result = play.rehearse(LIFECYCLE, *deployed(), stages=("nobody",))
    right = {scene.stage: scene for scene in result.scenes if scene.stage in STAGES}
    assert set(right) == set(STAGES)
    assert right["serve"].opened == ("adapter", "base")
    assert right["serve-open"].opened == ("open-base",)
    assert result.good, right


def changed(kind: str, change: Any) -> World:
    export, outputs = deployed()
    for one in export["deployment"]["resources"]:
        if one["type"] == kind:
            change(one["outputs"])
            one["inputs"] = copy.deepcopy(one["outputs"])
    return world.build(LIFECYCLE, export, outputs, Path("/nonexistent"))


def test_a_condition_that_somebody_took_away_by_hand_lets_debug_images_in():
    open_ = changed(PROVIDER, lambda found: found.update(attributeCondition=""))
    assert release(open_, "serve", Wrong.DEBUG) == ("", [])
    # The binding still names the image.
    assert "does not admit" in release(open_, "serve", Wrong.IMAGE)[0]


def test_a_pool_that_fell_out_of_the_deny_policy_opens_nothing():
    def forget(found: dict[str, Any]) -> None:
        found["rules"][0]["denyRule"]["exceptionPrincipals"] = []

    says, refused = release(changed(DENY, forget), "serve", Wrong.NOTHING)
    assert "does not admit" in says
    assert "deny policy" in refused[0]


def test_a_binding_that_somebody_took_away_by_hand_opens_nothing():
    def look(found: dict[str, Any]) -> None:
        found["role"] = "roles/cloudkms.viewer"

    assert "does not admit" in release(changed(MEMBER, look), "serve", Wrong.NOTHING)[0]


def test_a_host_that_was_told_another_pool_opens_nothing():
    def mislead(found: dict[str, Any]) -> None:
        for name, text in found["metadata"].items():
            found["metadata"][name] = text.replace("/providers/attestation", "/providers/other")

    says, refused = release(changed(on_gcp.TEMPLATE, mislead), "serve", Wrong.NOTHING)
    assert "does not know the key's workload identity pool" in says
    assert "invalid_target" in refused[0]


def test_a_stack_without_the_stages_hosts_says_so(made):
    bare = World(
        **{**vars(made), "resources": [one for one in made.resources if one.get("type") != on_gcp.TEMPLATE]}
    )
    with pytest.raises(JewelhouseError, match="no instance template for stage serve"):
        release(bare, "serve", Wrong.NOTHING)


def test_a_production_verifier_refuses_what_the_rehearsal_believes(made):
    signer = GoogleAuthority.new(name=on_gcp.BELIEVED)
    recorded = on_gcp._recorded(made, LIFECYCLE.stages["serve"], signer)
    assert not confidential_space.verify(recorded, at=None).verified
    assert confidential_space.verify(recorded, at=None, endorsements=signer.endorsements).verified
