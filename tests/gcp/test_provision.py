from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from recording import Recording, Request
from samples import shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp.provision import provision
from jewelhouse.model import (
    GcpAccount,
    Image,
    Licence,
    Lifecycle,
    Machine,
    Party,
    Platform,
    StageKind,
    Tee,
)
from jewelhouse.outputs import CloudOutputs

STACKS = ["dev", "prod-gcp", "gpu", "federated"]
TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"
MEMBER = "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember"
BUCKET_MEMBER = "gcp:storage/bucketIAMMember:BucketIAMMember"
SPACE, VM = Platform.GCP_CONFIDENTIAL_SPACE, Platform.GCP_CVM


@pytest.fixture
def provisioned(recorded: Callable[..., Recording]) -> Callable[[Lifecycle], Recording]:
    return lambda lifecycle: recorded(lambda: provision(lifecycle))


@pytest.fixture(scope="module", params=STACKS)
def whole(request: pytest.FixtureRequest, recorded: Callable[..., Recording]) -> tuple[Lifecycle, Recording]:
    """A shipped stack and what it registers."""
    lifecycle = shipped(request.param)
    return lifecycle, recorded(lambda: provision(lifecycle))


def serving() -> Lifecycle:
    """One Confidential Space stage that serves the base model with an adapter of another owner."""
    lifecycle = shipped("prod-gcp")
    artifacts = {name: lifecycle.artifacts[name] for name in ("base", "adapter")}
    return replace(lifecycle, artifacts=artifacts, stages={"serve": lifecycle.stages["serve"]})


def with_stage(lifecycle: Lifecycle, name: str, **changes: Any) -> Lifecycle:
    stages = {**lifecycle.stages, name: replace(lifecycle.stages[name], **changes)}
    return replace(lifecycle, stages=stages)


def named(recording: Recording) -> list[Request]:
    """Resources with a name of their own in the cloud; bindings have none."""
    return [request for request in recording.resources if "Member" not in request.type]


class TestEveryStack:
    def test_no_resource_has_an_ambient_provider(self, whole: tuple[Lifecycle, Recording]) -> None:
        for request in whole[1].resources:
            if request.type.startswith(("gcp:", "jewelhouse:")):
                project, region = request.provider_name.split("-europe-")
                assert request.provider_name == f"{project}-europe-{region}"
                # What names a project lies in the project of its provider.
                assert request.inputs.get("project", project) == project or request.name.endswith("-pull")

    def test_components_register_their_outputs_once(self, whole: tuple[Lifecycle, Recording]) -> None:
        components = [item for item in whole[1].components if item.type.startswith("jewelhouse:")]
        assert components
        for component in components:
            assert len(whole[1].component_outputs[component.urn]) == 1
            assert component.type.startswith("jewelhouse:gcp:")

    def test_children_are_named_after_their_component(self, whole: tuple[Lifecycle, Recording]) -> None:
        for request in whole[1].resources:
            if request.type.startswith("gcp:"):
                assert request.name.startswith(f"{request.parent_name}-")

    def test_names_leave_room_for_the_engine(self, whole: tuple[Lifecycle, Recording]) -> None:
        """Most names on Google Cloud have 63 characters, of which the engine adds 8."""
        for request in named(whole[1]):
            assert len(request.name) <= 55

    def test_labels_are_what_google_takes(self, whole: tuple[Lifecycle, Recording]) -> None:
        for request in whole[1].resources:
            for key, value in request.inputs.get("labels", {}).items():
                if key != "email_address":
                    assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key)
                    assert re.fullmatch(r"[a-z0-9_-]{0,63}", value)

    def test_every_host_is_confidential_and_private(self, whole: tuple[Lifecycle, Recording]) -> None:
        templates = whole[1].of_type(TEMPLATE)
        assert templates
        for template in templates:
            assert template.inputs["confidentialInstanceConfig"]["confidentialInstanceType"] in ("TDX", "SEV")
            assert all("accessConfigs" not in nic for nic in template.inputs["networkInterfaces"])

    def test_keys_and_stores_are_kept_unless_the_stack_says_otherwise(
        self, whole: tuple[Lifecycle, Recording]
    ) -> None:
        lifecycle, recording = whole
        kept = {
            "gcp:kms/cryptoKey:CryptoKey",
            "gcp:storage/bucket:Bucket",
            "gcp:iam/denyPolicy:DenyPolicy",
            "gcp:logging/projectBucketConfig:ProjectBucketConfig",
        }
        found = [request for request in recording.resources if request.type in kept]
        assert {request.type for request in found} == kept
        assert {request.protect for request in found} == {not lifecycle.destroyable}


def test_the_longest_names_still_fit(provisioned: Any) -> None:
    lifecycle = serving()
    region, artifact, stage = "northamerica-northeast1", "a" * 32, "s" * 32
    long = replace(
        lifecycle,
        name="l" * 20,
        artifacts={artifact: replace(lifecycle.artifacts["base"], name=artifact)},
        stages={
            stage: replace(
                lifecycle.stages["serve"],
                name=stage,
                region=region,
                opens=(artifact,),
                tee=Tee.SEV,
                machine=Machine(type="n2d-standard-4"),
            )
        },
    )
    recording = provisioned(long)
    assert [request.name for request in named(recording) if len(request.name) > 55] == []
    (pool,) = recording.of_type("gcp:iam/workloadIdentityPool:WorkloadIdentityPool")
    assert len(pool.inputs["workloadIdentityPoolId"]) <= 32
    assert len(pool.inputs["displayName"]) <= 32
    (account,) = recording.of_type("gcp:serviceaccount/account:Account")
    assert re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", account.inputs["accountId"])


def test_release_policies_and_deployment_name_the_same_accounts(provisioned: Any) -> None:
    recording = provisioned(shipped("federated"))
    emails = {
        f"{account.inputs['accountId']}@{account.inputs['project']}.iam.gserviceaccount.com"
        for account in recording.of_type("gcp:serviceaccount/account:Account")
    }
    conditions = " ".join(
        provider.inputs["attributeCondition"]
        for provider in recording.of_type("gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider")
    )
    assert set(re.findall(r"'([^']+@[^']+)' in assertion", conditions)) == emails


def test_each_owner_denies_all_but_its_own_pools(provisioned: Any) -> None:
    recording = provisioned(shipped("dev"))
    pools = {
        pool.inputs["project"]: pool.inputs["workloadIdentityPoolId"]
        for pool in recording.of_type("gcp:iam/workloadIdentityPool:WorkloadIdentityPool")
    }
    exceptions = {
        policy.inputs["parent"].rpartition("%2F")[2]: policy.inputs["rules"][0]["denyRule"][
            "exceptionPrincipals"
        ]
        for policy in recording.of_type("gcp:iam/denyPolicy:DenyPolicy")
    }
    assert set(exceptions) == set(pools) == {"mp-strongroom-dev", "do-strongroom-dev"}
    for project, principals in exceptions.items():
        (principal,) = principals
        assert principal.endswith(f"/workloadIdentityPools/{pools[project]}/*")


def test_sealing_stages_write_and_attested_ones_read(provisioned: Any) -> None:
    recording = provisioned(shipped("federated"))
    members = {
        (request.parent_name, request.inputs["role"]): request.inputs["member"]
        for request in recording.of_type(BUCKET_MEMBER)
        if "-follows-" not in request.name
    }
    writer = "roles/storage.objectCreator"
    reader = "roles/storage.objectViewer"
    assert members["update-c-europe-west4", writer] == (
        "serviceAccount:fraud-fed-tune-c@op-runtime.iam.gserviceaccount.com"
    )
    assert members["next-base-europe-west4", writer] == (
        "serviceAccount:fraud-fed-aggregate@op-runtime.iam.gserviceaccount.com"
    )
    # Nobody opens the next base on Google Cloud yet, so nobody reads its data there.
    assert ("next-base-europe-west4", reader) not in members
    assert members["update-c-europe-west4", reader].startswith("principalSet://")
    assert ("ledger-c-europe-west4", writer) not in members


def test_the_guest_finds_its_keys_credentials_and_stores(provisioned: Any) -> None:
    recording = provisioned(shipped("federated"))
    template = next(item for item in recording.of_type(TEMPLATE) if item.parent_name == "fraud-fed-tune-c")
    settings = json.loads(template.inputs["metadata"]["jewelhouse-stage"])
    assert (settings["lifecycle"], settings["stage"]) == ("fraud-fed", "tune-c")
    assert settings["platform"] == "gcp-confidential-space"
    assert set(settings["opens"]) == {"base", "ledger-c"}
    assert settings["seals"] == {"update-c": {"store": "gs://update-c-europe-west4-bucket-1a2b3c4"}}
    ledger = settings["opens"]["ledger-c"]
    assert ledger["store"] == "gs://ledger-c-europe-west4-bucket-1a2b3c4"
    assert ledger["key"].endswith("/cryptoKeyVersions/1")
    assert ledger["credentials"] == {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/530000000003/locations/global/workloadIdentityPools/"
        "jh-ledger-c-space-europe-1a2b3c4/providers/attestation",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": "/run/container_launcher/attestation_verifier_claims_token"},
    }


def test_a_host_waits_for_keys_guards_stores_and_roles(provisioned: Any) -> None:
    recording = provisioned(serving())
    group = recording.one("gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager")
    waits = {urn.rsplit("::", 1)[-1] for urn in group.depends_on}
    for name in (
        "base-space-europe-west4-key",
        "adapter-space-europe-west4-attestation",
        "mp-strongroom-deny",
        "do-strongroom-deny",
        "base-europe-west4-bucket",
        "fraud-llm-serve-attest",
        "fraud-llm-serve-pull",
        "op-runtime-europe-west4-deny-out",
    ):
        assert name in waits, name
    assert any(name.startswith("base-space-europe-west4-opens-") for name in waits)


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        (StageKind.INFERENCE, "REPAIR"),
        (StageKind.TRAINING, "DO_NOTHING"),
        (StageKind.FINE_TUNING, "DO_NOTHING"),
        (StageKind.EVALUATION, "DO_NOTHING"),
        (StageKind.AGGREGATION, "DO_NOTHING"),
    ],
)
def test_only_serving_starts_again(provisioned: Any, kind: StageKind, action: str) -> None:
    lifecycle = with_stage(serving(), "serve", kind=kind)
    group = provisioned(lifecycle).one("gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager")
    assert group.inputs["instanceLifecyclePolicy"]["defaultActionOnFailure"] == action


def plain_vm(lifecycle: Lifecycle, **changes: Any) -> Lifecycle:
    image = Image(name="server", platform=VM, reference="projects/op-runtime/global/images/server-1")
    lifecycle = replace(lifecycle, images={**lifecycle.images, ("server", VM): image})
    return with_stage(lifecycle, "serve", platform=VM, **changes)


@pytest.mark.parametrize(
    ("change", "component"),
    [
        (lambda lifecycle: lifecycle, "jewelhouse:gcp:EnclaveHost"),
        (plain_vm, "jewelhouse:gcp:ConfidentialVm"),
        (
            lambda lifecycle: with_stage(
                lifecycle, "serve", gpu="H100", machine=Machine(type="a3-highgpu-1g", provisioning="spot")
            ),
            "jewelhouse:gcp:ConfidentialGpu",
        ),
        (
            lambda lifecycle: plain_vm(
                lifecycle, gpu="H100", machine=Machine(type="a3-highgpu-1g", provisioning="spot")
            ),
            "jewelhouse:gcp:ConfidentialGpu",
        ),
    ],
)
def test_a_stage_gets_the_host_of_its_platform(
    provisioned: Any, change: Callable[[Lifecycle], Lifecycle], component: str
) -> None:
    recording = provisioned(change(serving()))
    hosts = {item.type for item in recording.components if item.name == "fraud-llm-serve"}
    assert hosts == {component, "jewelhouse:gcp:WorkloadIdentity"}


@pytest.mark.parametrize("gpus", [1, None])
def test_a_guest_that_attests_gpus_reaches_nvidias_service_before_it_starts(
    provisioned: Any, gpus: int | None
) -> None:
    machine = Machine(type="a3-highgpu-1g", provisioning="spot")
    lifecycle = plain_vm(serving(), gpu="H100", machine=machine)
    image = replace(lifecycle.images["server", VM], gpus=gpus)
    forwarder = "projects/hub/regions/europe-west4/serviceAttachments/nras"
    operator = replace(
        lifecycle.parties["operator"], gcp=GcpAccount(project="op-run", gpu_verifier=forwarder)
    )
    recording = provisioned(
        replace(
            lifecycle,
            images={**lifecycle.images, ("server", VM): image},
            parties={**lifecycle.parties, "operator": operator},
        )
    )
    ways = recording.of_type("gcp:compute/forwardingRule:ForwardingRule")
    assert [way.inputs["target"] for way in ways] == ([forwarder] if gpus else [])
    (group,) = (one for one in recording.resources if one.type.endswith("InstanceGroupManager"))
    assert all(way.urn in group.depends_on for way in ways)


def test_a_plain_vm_opens_by_its_stage_and_asks_for_its_own_token(provisioned: Any) -> None:
    recording = provisioned(plain_vm(serving()))
    assert {item.inputs["member"].rpartition("/attribute.")[2] for item in recording.of_type(MEMBER)} == {
        "stage/serve"
    }
    assert not recording.of_type("gcp:artifactregistry/repositoryIamMember:RepositoryIamMember")
    assert "user-data" in recording.one(TEMPLATE).inputs["metadata"]


def test_a_licence_ends_for_key_and_ciphertext(provisioned: Any) -> None:
    lifecycle = serving()
    ends = datetime(2027, 12, 31, tzinfo=UTC)
    licence = Licence(tier="community", holders=("operator",), kinds=(StageKind.INFERENCE,), expires=ends)
    base = replace(lifecycle.artifacts["base"], licences=(licence,))
    recording = provisioned(replace(lifecycle, artifacts={**lifecycle.artifacts, "base": base}))
    for token in (MEMBER, BUCKET_MEMBER):
        ending = {
            item.name.split("-")[0]: item.inputs.get("condition", {}).get("expression")
            for item in recording.of_type(token)
        }
        assert ending == {"base": "request.time < timestamp('2027-12-31T00:00:00Z')", "adapter": None}


def test_outputs_name_every_key_store_and_stage(recorded: Callable[..., Recording]) -> None:
    lifecycle = serving()
    made: list[CloudOutputs] = []
    recorded(lambda: made.append(provision(lifecycle)))
    (outputs,) = made
    assert {key.name for key in outputs.keys} == {
        "base-gcp-confidential-space-europe-west4",
        "adapter-gcp-confidential-space-europe-west4",
    }
    assert all(set(value) == {"id", "uri", "public_key"} for value in outputs.keys.values())
    assert set(outputs.stores) == {("base", "europe-west4"), ("adapter", "europe-west4")}
    assert set(outputs.stages["serve"]) == {"identity", "host", "endpoint"}


def bad_number(lifecycle: Lifecycle) -> Lifecycle:
    provider = Party(name="model-provider", gcp=GcpAccount(project="mp-strongroom"))
    return replace(lifecycle, parties={**lifecycle.parties, "model-provider": provider})


def bad_registry(lifecycle: Lifecycle) -> Lifecycle:
    image = lifecycle.images["server", SPACE]
    moved = replace(
        image, reference=image.reference.replace("europe-west4-docker.pkg.dev/op-runtime", "quay.io/op")
    )
    return replace(lifecycle, images={**lifecycle.images, ("server", SPACE): moved})


def bad_image(lifecycle: Lifecycle) -> Lifecycle:
    image = replace(lifecycle.images["server", SPACE], measurements=())
    return replace(lifecycle, images={**lifecycle.images, ("server", SPACE): image})


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        (bad_number, "parties.model-provider.gcp.number", "principal sets name its project by number"),
        (bad_registry, "images.server.gcp-confidential-space.reference", "not in Artifact Registry"),
        (bad_image, "stages.serve.image", "no measurements"),
        (lambda lifecycle: with_stage(lifecycle, "serve", tee=Tee.SEV_SNP), "stages.serve.tee", "no hwmodel"),
        (
            lambda lifecycle: with_stage(lifecycle, "serve", machine=None),
            "stages.serve.machine",
            "is missing",
        ),
    ],
)
def test_what_cannot_work_registers_nothing(
    recorded: Callable[..., Recording], change: Callable[[Lifecycle], Lifecycle], where: str, says: str
) -> None:
    caught: list[JewelhouseError] = []

    def program() -> None:
        with pytest.raises(JewelhouseError, match=says) as error:
            provision(change(serving()))
        caught.append(error.value)

    recording = recorded(program)
    assert caught[0].where == where
    assert recording.resources == []
