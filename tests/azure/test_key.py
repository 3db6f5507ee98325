from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import inventory as expected
import pytest
from recording import Recording, Request
from samples import shipped

from jewelhouse.azure import AttestedKey, AttestedKeyArgs, Vault, VaultArgs
from jewelhouse.azure.key import DISK_KEY_OPERATIONS
from jewelhouse.errors import JewelhouseError
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Measurements, Platform
from jewelhouse.release import azure
from jewelhouse.release.lint import RefusedPolicy

TRAIN, TUNE, SEALER = (f"00000000-0000-4000-8000-0000000000{end}" for end in ("a1", "a2", "b1"))


def document(image: str) -> dict[str, Any]:
    """The compiled policy of a container stage with another image."""
    policy = next(
        policy
        for key, policy in release_policies(shipped("prod-azure")).items()
        if key.platform is Platform.AZURE_CONTAINER
    )
    gate = replace(policy.gates[0], measurements=(Measurements(values={"hostdata": image * 64}),))
    return azure.compile(replace(policy, gates=(gate,)))


DOCUMENT, OTHER = document("a"), document("b")
ARGS = AttestedKeyArgs(
    resource_group="group",
    subscription="s",
    vault_name="vault",
    document=DOCUMENT,
    releases={"train": TRAIN, "tune": TUNE},
    sealers=[SEALER],
)


@pytest.fixture
def vault(recorded):
    def make(**changes: Any) -> Request:
        args = replace(VaultArgs(location="westeurope", resource_group="group", tenant="tenant"), **changes)
        return recorded(lambda: Vault("keys", args)).one("azure-native:keyvault:Vault")

    return make


@pytest.fixture
def made(recorded):
    def make(name: str = "base", **changes: Any) -> Recording:
        return recorded(lambda: AttestedKey(name, replace(ARGS, **changes)))

    return make


class TestVault:
    def test_it_is_closed_and_keeps_what_is_deleted(self, recorded, inventory) -> None:
        args = VaultArgs(location="westeurope", resource_group="group", tenant="tenant")
        expected.check(recorded(lambda: Vault("keys", args)), inventory / "vault.yaml")

    def test_only_disk_vaults_let_azure_s_services_past_their_network_rules(self, vault) -> None:
        acls = vault(disk_orchestrator=True).inputs["properties"]["networkAcls"]
        assert acls == {"bypass": "AzureServices", "defaultAction": "Deny"}

    def test_destroyable_lifts_the_engine_s_protection_only(self, vault) -> None:
        weaker, normal = vault(destroyable=True), vault()
        assert not weaker.protect
        assert weaker.inputs["properties"] == normal.inputs["properties"]

    def test_its_name_fits_and_belongs_to_its_resource_group(self, vault) -> None:
        # A vault's name stays taken for 90 days after it is deleted.
        names = [vault(resource_group=group).inputs["vaultName"] for group in ("group", "group", "group2")]
        assert names[0] == names[1] != names[2]
        assert all(re.fullmatch(r"[a-z][a-z0-9]{2,23}", name) for name in names)


class TestAttestedKey:
    def test_it_leaves_its_vault_by_release_only(self, made, inventory) -> None:
        expected.check(made(), inventory / "key.yaml")

    def test_the_policy_is_inside_the_key(self, made) -> None:
        data = made().one("azure-native:keyvault:Key").inputs["properties"]["releasePolicy"]["data"]
        assert json.loads(base64.urlsafe_b64decode(data + "==")) == DOCUMENT
        assert "=" not in data

    @pytest.mark.parametrize(
        "change",
        [{"document": OTHER}, {"key_size": 3072}, {"operations": DISK_KEY_OPERATIONS}],
        ids=["policy", "size", "operations"],
    )
    def test_what_cannot_be_updated_makes_another_key(self, made, change: Mapping[str, Any]) -> None:
        before, after = (
            recording.one("azure-native:keyvault:Key").name for recording in (made(), made(**change))
        )
        assert before != after
        assert re.fullmatch(r"base-key-[0-9a-f]{12}", after)

    def test_a_role_s_name_is_a_guid_of_what_it_is_about(self, made) -> None:
        def names(recording: Recording) -> dict[str, str]:
            return {
                role.name: role.inputs["roleAssignmentName"]
                for role in recording.of_type("azure-native:authorization:RoleAssignment")
            }

        first, again, changed = names(made()), names(made()), names(made(releases={"train": TUNE}))
        assert first == again
        assert len(set(first.values())) == len(first)
        assert all(
            re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in first.values()
        )
        # Azure refuses another principal under the same name.
        assert changed["base-release-train"] != first["base-release-train"]

    def test_no_role_reaches_further_than_the_key(self, made) -> None:
        roles = made().of_type("azure-native:authorization:RoleAssignment")
        assert {role.inputs["scope"] for role in roles} == {
            f"{made().one('azure-native:keyvault:Key').name}-id"
        }

    def test_outputs_come_last_and_once(self, made) -> None:
        recording = made()
        (outputs,) = recording.component_outputs[recording.components[0].urn]
        assert outputs["uri"].startswith("https://vault.vault.azure.net/keys/base-key-")
        assert outputs["versioned_uri"].startswith(f"{outputs['uri']}/")

    def test_a_document_in_which_lint_finds_an_error_makes_no_key(self, made):
        weak = {"version": "1.0.0", "anyOf": [{"authority": DOCUMENT["anyOf"][0]["authority"], "allOf": []}]}
        with pytest.raises(RefusedPolicy, match="JH-AZ-"):
            made(document=weak)

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"releases": {}}, "nobody may ask for a release"),
            ({"sealers": [TRAIN]}, "seals and opens"),
        ],
    )
    def test_roles_that_make_no_sense_are_refused(self, made, change: Mapping[str, Any], what: str) -> None:
        with pytest.raises(JewelhouseError, match=what):
            made(**change)
