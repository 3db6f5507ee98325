from __future__ import annotations

from dataclasses import replace
from typing import Any

import inventory as expected
import pytest
from recording import Recording

from jewelhouse.azure import AuditTrail, AuditTrailArgs

ARGS = AuditTrailArgs(
    location="westeurope",
    resource_group="group",
    subscription="s",
    vaults={"keys": "vault-id"},
    stores={"base": "account-id"},
    known=["client-b", "client-a"],
    emails=["security@example.com"],
)


@pytest.fixture
def trail(recorded):
    def make(**changes: Any) -> Recording:
        return recorded(lambda: AuditTrail("owner", replace(ARGS, **changes)))

    return make


def query(recording: Recording, name: str) -> str:
    return recording.named(name).inputs["criteria"]["allOf"][0]["query"]


def test_vaults_and_stores_write_to_a_workspace_that_alerts(trail, inventory) -> None:
    expected.check(trail(), inventory / "audit.yaml")


def test_a_release_to_anybody_but_a_stage_is_told(trail) -> None:
    found = query(trail(), "owner-unknown-release")
    assert '"KeyRelease"' in found
    assert found.endswith('| where identity_claim_appid_g !in ("client-a", "client-b")')


def test_without_known_identities_every_release_is_told(trail) -> None:
    found = query(trail(known=[]), "owner-unknown-release")
    assert '"KeyRelease"' in found
    assert "identity_claim_appid_g" not in found


@pytest.mark.parametrize("operation", ["KeyUpdate", "KeyBackup", "KeyRestore", "KeyImport", "KeyRotate"])
def test_changes_of_keys_through_the_data_plane_are_told(trail, operation: str) -> None:
    assert f'"{operation}"' in query(trail(), "owner-tampering")


@pytest.mark.parametrize(
    "operation",
    [
        "Microsoft.Authorization/roleAssignments/write",
        "Microsoft.KeyVault/vaults/write",
        "Microsoft.KeyVault/vaults/keys/write",
        "Microsoft.KeyVault/vaults/accessPolicies/write",
        "Microsoft.Insights/diagnosticSettings/delete",
    ],
)
def test_administrative_changes_that_could_open_a_key_are_told(trail, operation: str) -> None:
    category, names = trail().named("owner-changes").inputs["condition"]["allOf"]
    assert category == {"field": "category", "equals": "Administrative"}
    assert {"field": "operationName", "equals": operation} in names["anyOf"]
