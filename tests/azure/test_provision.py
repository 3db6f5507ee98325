from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from recording import Recording, Request
from samples import shipped

from jewelhouse.azure.provision import ORCHESTRATOR, provision
from jewelhouse.errors import JewelhouseError
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud, Lifecycle, Platform
from jewelhouse.outputs import CloudOutputs
from jewelhouse.release import azure as release

KEY = "azure-native:keyvault:Key"
ROLE = "azure-native:authorization:RoleAssignment"
RELEASE = "08bbd89e-9f13-488c-ac41-acfcb10c90ab"
HOSTS = ("azure-native:compute:VirtualMachine", "azure-native:containerinstance:ContainerGroup")
STACKS = ("dev", "prod-azure", "gpu", "federated")
OWNER, OPERATOR = "10000000-0000-4000-8000-000000000001", "30000000-0000-4000-8000-000000000003"

Stacks = Mapping[str, tuple[Recording, CloudOutputs]]


def with_account(lifecycle: Lifecycle, party: str, **changes: Any) -> Lifecycle:
    before = lifecycle.parties[party]
    assert before.azure is not None
    after = replace(before, azure=replace(before.azure, **changes))
    return replace(lifecycle, parties={**lifecycle.parties, party: after})


def releases(recording: Recording) -> list[Request]:
    return [role for role in recording.of_type(ROLE) if role.inputs["roleDefinitionId"].endswith(RELEASE)]


def key_of(recording: Recording, component: str) -> Request:
    (found,) = (key for key in recording.of_type(KEY) if key.parent_name == component)
    return found


@pytest.mark.parametrize("stack", STACKS)
class TestEveryStack:
    def test_nothing_uses_an_ambient_provider(self, stacks: Stacks, stack: str) -> None:
        recording, _ = stacks[stack]
        providers = recording.of_type("pulumi:providers:azure-native")
        for request in recording.resources:
            if request not in providers:
                assert request.provider_name in {provider.name for provider in providers}, request.name

    def test_nothing_has_a_public_address(self, stacks: Stacks, stack: str) -> None:
        recording, _ = stacks[stack]
        for request in recording.resources:
            assert "PublicIP" not in request.type
            assert "publicIPAddress" not in json.dumps(request.inputs)
        for group in recording.of_type(HOSTS[1]):
            assert group.inputs["ipAddress"]["type"] == "Private"

    def test_keys_hold_the_compiled_policies(self, stacks: Stacks, stack: str) -> None:
        recording, _ = stacks[stack]
        for key, policy in release_policies(shipped(stack)).items():
            if key.cloud is Cloud.AZURE:
                found = key_of(recording, key.name)
                data = found.inputs["properties"]["releasePolicy"]["data"]
                assert json.loads(base64.urlsafe_b64decode(data + "==")) == release.compile(policy)
                assert found.provider_name == recording.named(found.parent_name).provider_name

    def test_only_stages_that_open_an_artifact_may_ask_for_its_key(self, stacks: Stacks, stack: str) -> None:
        recording, outputs = stacks[stack]
        expected = {
            (f"{key.name}-release-{gate.stage}", f"{key_of(recording, key.name).name}-id")
            for key, policy in release_policies(shipped(stack)).items()
            for gate in policy.gates
            if key.cloud is Cloud.AZURE
        }
        found = {
            (role.name, role.inputs["scope"])
            for role in releases(recording)
            if not role.name.endswith("-orchestrator")
        }
        assert found == expected
        assert set(outputs.stages) == {
            stage.name for stage in shipped(stack).stages.values() if _azure(stage)
        }

    def test_hosts_wait_for_roles_keys_stores_and_links(self, stacks: Stacks, stack: str) -> None:
        recording, _ = stacks[stack]
        lifecycle = shipped(stack)
        for stage in lifecycle.stages.values():
            if not _azure(stage):
                continue
            count = stage.machine.count if stage.machine else 1
            needed = {
                *(role.urn for role in releases(recording) if role.name.endswith(f"-release-{stage.name}")),
                *(
                    role.urn
                    for role in recording.of_type(ROLE)
                    if role.name.endswith((f"-reads-{stage.name}", f"-writes-{stage.name}"))
                ),
            }
            if stage.machine:
                needed |= {role.urn for role in recording.of_type(ROLE) if "-disk-" in role.name}
            assert len(needed) >= 2 * len(stage.opens)
            hosts = [host for kind in HOSTS for host in recording.of_type(kind) if _of(host, stage.name)]
            assert len(hosts) == count
            for host in hosts:
                assert needed <= set(host.depends_on), host.name
                assert any("PrivateDnsZoneGroup" in urn for urn in host.depends_on), host.name

    def test_stage_settings_name_keys_stores_and_endpoint_and_no_secret(
        self, stacks: Stacks, stack: str
    ) -> None:
        recording, _ = stacks[stack]
        lifecycle = shipped(stack)
        for stage in lifecycle.stages.values():
            if not _azure(stage):
                continue
            host = next(host for kind in HOSTS for host in recording.of_type(kind) if _of(host, stage.name))
            settings = _settings(host)
            assert settings["stage"] == stage.name
            assert settings["authority"].startswith("https://shared")
            assert set(settings["opens"]) == set(stage.opens)
            assert set(settings["seals"]) == set(stage.seals)
            for opened in settings["opens"].values():
                assert ".vault.azure.net/keys/" in opened["key"]
                assert opened["store"].startswith("abfs://sealed@")

    def test_every_vault_and_store_is_audited(self, stacks: Stacks, stack: str) -> None:
        recording, _ = stacks[stack]
        watched = {
            setting.inputs["resourceUri"].removesuffix("/blobServices/default")
            for setting in recording.of_type("azure-native:monitor:DiagnosticSetting")
        }
        kept = [
            *recording.of_type("azure-native:keyvault:Vault"),
            *recording.of_type("azure-native:storage:StorageAccount"),
        ]
        assert watched == {f"{thing.name}-id" for thing in kept}

    def test_parents_and_outputs_of_every_component(self, stacks: Stacks, stack: str) -> None:
        recording, _ = stacks[stack]
        components = {request.urn: request for request in recording.components}
        for request in recording.resources:
            free = request.type.startswith(("pulumi:providers:", "azure-native:resources:ResourceGroup"))
            if request.custom and not free:
                assert request.parent in components, request.name
        for urn, component in components.items():
            assert len(recording.component_outputs[urn]) == 1, component.name


def _azure(stage: Any) -> bool:
    return stage.cloud is Cloud.AZURE


def _of(host: Request, stage: str) -> bool:
    return host.inputs["tags"].get("jewelhouse-stage") == stage


def _settings(host: Request) -> dict[str, Any]:
    if host.type == HOSTS[1]:
        (variable,) = host.inputs["containers"][0]["environmentVariables"]
        return json.loads(variable["value"])
    config = yaml.safe_load(base64.b64decode(host.inputs["osProfile"]["customData"]))
    return json.loads(config["write_files"][0]["content"])


class TestApartness:
    def test_keys_and_stores_lie_with_their_owner_and_hosts_with_their_operator(self, stacks: Stacks) -> None:
        recording, _ = stacks["prod-azure"]
        subscription = {
            provider.name: provider.inputs["subscriptionId"]
            for provider in recording.of_type("pulumi:providers:azure-native")
        }
        for request in recording.resources:
            where = subscription.get(request.provider_name)
            if request.type == KEY or request.type.startswith("azure-native:storage:"):
                assert where == (OPERATOR if "disk" in request.name else OWNER), request.name
            if request.type in HOSTS or request.type.startswith(
                ("azure-native:network:", "azure-native:compute:")
            ):
                assert where == OPERATOR, request.name

    def test_disk_keys_and_weights_keys_have_vaults_apart(self, stacks: Stacks) -> None:
        recording, _ = stacks["prod-azure"]
        vaults = {key.name: key.inputs["vaultName"] for key in recording.of_type(KEY)}
        disks = {vault for name, vault in vaults.items() if "disk" in name}
        assert disks
        assert not disks & {vault for name, vault in vaults.items() if "disk" not in name}

    def test_the_orchestrator_never_reaches_an_artifact_s_key(self, stacks: Stacks) -> None:
        recording, _ = stacks["prod-azure"]
        orchestrator = shipped("prod-azure").parties["operator"].azure
        assert orchestrator is not None
        scopes = [
            role.inputs["scope"]
            for role in releases(recording)
            if role.inputs["principalId"] == orchestrator.orchestrator
        ]
        assert scopes == [f"{key_of(recording, 'operator-westeurope-tdx-disk').name}-id"]

    def test_sealers_write_and_read_public_halves_and_never_ask_for_a_release(self, recorded) -> None:
        sealer = "00000000-0000-4000-8000-0000000000b1"
        lifecycle = with_account(shipped("prod-azure"), "model-provider", sealers=(sealer,))
        roles = [
            role
            for role in recorded(lambda: provision(lifecycle)).of_type(ROLE)
            if role.inputs["principalId"] == sealer
        ]
        assert {role.inputs["roleDefinitionId"].rsplit("/")[-1] for role in roles} == {
            "21090545-7ca7-4776-b22c-e363652d74d2",
            "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
        }
        assert {role.name for role in roles if "-sealer-" in role.name} >= {
            "corpus-azure-container-westeurope-sealer-0",
            "corpus-azure-westeurope-writes-sealer-0",
        }

    def test_alerts_know_the_identities_of_the_owner_s_stages_only(self, stacks: Stacks) -> None:
        recording, _ = stacks["federated"]
        owner, bank = (
            recording.named(f"{party}-westeurope-unknown-release").inputs["criteria"]["allOf"][0]["query"]
            for party in ("model-provider", "bank-a")
        )
        assert owner.count("identity_claim_appid_g") == bank.count("identity_claim_appid_g") == 1
        disks = stacks["prod-azure"][0].named("operator-westeurope-unknown-release")
        assert f'!in ("{ORCHESTRATOR}")' in disks.inputs["criteria"]["allOf"][0]["query"]


class TestRegistry:
    def test_containers_come_from_the_operator_s_private_registry(self, stacks: Stacks) -> None:
        recording, _ = stacks["prod-azure"]
        account = shipped("prod-azure").parties["operator"].azure
        assert account is not None
        endpoint = recording.named("operator-to-images-registry-endpoint")
        (connection,) = endpoint.inputs["privateLinkServiceConnections"]
        assert connection["privateLinkServiceId"] == account.registry
        pulls = recording.named("train-pulls")
        assert pulls.inputs["scope"] == account.registry
        assert pulls.inputs["roleDefinitionId"].endswith("7f951dda-4ed3-4680-a7ca-43fe172d538d")
        assert pulls.urn in recording.named("train-group").depends_on

    def test_without_one_nothing_is_assigned(self, recorded) -> None:
        lifecycle = with_account(shipped("prod-azure"), "operator", registry=None)
        recording = recorded(lambda: provision(lifecycle))
        assert not [request for request in recording.resources if "-pulls" in request.name]
        assert "imageRegistryCredentials" not in recording.named("train-group").inputs


class TestProtection:
    def test_a_production_stack_keeps_keys_vaults_stores_and_logs(self, stacks: Stacks) -> None:
        recording, _ = stacks["prod-azure"]
        for token in (
            "azure-native:keyvault:Vault",
            "azure-native:storage:StorageAccount",
            "azure-native:storage:BlobContainer",
            "azure-native:operationalinsights:Workspace",
        ):
            assert recording.of_type(token)
            assert all(request.protect for request in recording.of_type(token)), token
        assert all(key.retain_on_delete for key in recording.of_type(KEY))

    def test_a_destroyable_stack_can_be_destroyed_and_still_keeps_keys(self, stacks: Stacks) -> None:
        recording, _ = stacks["dev"]
        assert not any(request.protect for request in recording.resources)
        assert all(key.retain_on_delete for key in recording.of_type(KEY))


@pytest.mark.parametrize("gpus", [1, None])
def test_a_guest_that_attests_gpus_reaches_nvidias_service_before_it_starts(recorded, gpus) -> None:
    lifecycle = shipped("gpu")
    place = ("gpu-server", Platform.AZURE_CVM)
    image = replace(lifecycle.images[place], gpus=gpus)
    changed = replace(lifecycle, images={**lifecycle.images, place: image})
    recording = recorded(lambda: provision(changed))
    ways = recording.of_type("azure-native:privatedns:PrivateRecordSet")
    assert [way.parent_name for way in ways] == (["operator-westeurope-gpu-verifier"] if gpus else [])
    (host,) = recording.of_type(HOSTS[0])
    assert all(way.urn in host.depends_on for way in ways)


ORPHAN = "00000000-0000-4000-8000-0000000000cc"


def ended(lifecycle: Lifecycle) -> Lifecycle:
    base = lifecycle.artifacts["open-base"]
    licences = tuple(replace(tier, expires=datetime(2027, 12, 31, tzinfo=UTC)) for tier in base.licences)
    return replace(
        lifecycle, artifacts={**lifecycle.artifacts, "open-base": replace(base, licences=licences)}
    )


@pytest.mark.parametrize(
    ("lifecycle", "where", "what"),
    [
        (
            with_account(shipped("prod-azure"), "operator", tenant=ORPHAN),
            "parties.operator.azure.tenant",
            "can have no role",
        ),
        (
            with_account(shipped("prod-azure"), "operator", orchestrator=None),
            "parties.operator.azure.orchestrator",
            "serve-open runs on confidential VMs",
        ),
        (
            with_account(shipped("prod-azure"), "operator", registry="/subscriptions/s/registries/other"),
            "parties.operator.azure.registry",
            "trainer lies in jewelhouse.azurecr.io, not in other.azurecr.io",
        ),
        (ended(shipped("prod-azure")), "artifacts.open-base.licences", "releases expired keys"),
    ],
    ids=["another tenant", "no orchestrator", "another registry", "a licence that ends"],
)
def test_what_azure_would_not_enforce_is_refused_before_anything_is_registered(
    recorded, lifecycle: Lifecycle, where: str, what: str
) -> None:
    found: list[JewelhouseError] = []

    def program() -> None:
        try:
            provision(lifecycle)
        except JewelhouseError as error:
            found.append(error)

    recording = recorded(program)
    assert not recording.resources
    assert found[0].where == where
    assert what in found[0].what
