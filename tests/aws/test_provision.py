from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pulumi
import pytest
from answers import PEM
from recording import Recording, Request
from samples import shipped

from jewelhouse.aws.provision import provision
from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import settings
from jewelhouse.model import AwsAccount, Lifecycle, Measurements, Platform
from jewelhouse.release import aws as release

OWNER, DATA, OPERATOR = "111122223333", "777788889999", "444455556666"


def run(recorded: Callable[..., Recording], lifecycle: Lifecycle) -> Recording:
    def program() -> None:
        made = provision(lifecycle)
        pulumi.export("keys", {key.name: dict(value) for key, value in made.keys.items()})
        pulumi.export("stores", {"/".join(place): dict(value) for place, value in made.stores.items()})
        pulumi.export("stages", {name: dict(value) for name, value in made.stages.items()})

    return recorded(program)


@pytest.fixture(scope="module")
def recording(recorded: Callable[..., Recording]) -> Recording:
    return run(recorded, shipped("prod-aws"))


def account(recording: Recording, request: Request) -> str:
    """The account that a resource goes to, by its provider."""
    (number,) = recording.named(request.provider_name).inputs["allowedAccountIds"].strip('[]"').split(",")
    return number


def components(recording: Recording, role: str) -> dict[str, Request]:
    return {request.name: request for request in recording.of_type(f"jewelhouse:aws:{role}")}


def test_what_is_made_of_the_shipped_stack(recording: Recording) -> None:
    roles = (
        "WorkloadIdentity",
        "AttestedKey",
        "SealedStore",
        "AuditTrail",
        "PrivateNetwork",
        "WorkloadPermissions",
        "EnclaveHost",
    )
    assert {role: sorted(components(recording, role)) for role in roles} == {
        "WorkloadIdentity": ["fraud-llm-finetune-identity"],
        "AttestedKey": [
            "fraud-llm-base-aws-enclave-eu-central-1",
            "fraud-llm-cases-aws-enclave-eu-central-1",
        ],
        "SealedStore": [
            "fraud-llm-adapter-aws-eu-central-1",
            "fraud-llm-base-aws-eu-central-1",
            "fraud-llm-cases-aws-eu-central-1",
            "fraud-llm-images-eu-central-1",
        ],
        "AuditTrail": [f"fraud-llm-audit-{number}" for number in (OWNER, OPERATOR, DATA)],
        "PrivateNetwork": [f"fraud-llm-{OPERATOR}-eu-central-1"],
        "WorkloadPermissions": ["fraud-llm-finetune-permissions"],
        "EnclaveHost": ["fraud-llm-finetune"],
    }


def test_a_provider_stays_in_its_account_and_region(recording: Recording) -> None:
    for number in (OWNER, DATA, OPERATOR):
        inputs = recording.one("pulumi:providers:aws", f"aws-{number}-eu-central-1").inputs
        assert inputs["region"] == "eu-central-1"
        assert json.loads(inputs["allowedAccountIds"]) == [number]
        (role,) = json.loads(inputs["assumeRoles"])
        assert role["roleArn"] == f"arn:aws:iam::{number}:role/jewelhouse-deployer"
        assert json.loads(inputs["defaultTags"]) == {"tags": {"jewelhouse:lifecycle": "fraud-llm"}}


def test_no_resource_takes_an_ambient_provider(recording: Recording) -> None:
    for request in recording.resources:
        if request.type.startswith("aws:"):
            assert request.provider_name.startswith("aws-"), request.name


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("fraud-llm-base-aws-enclave-eu-central-1-key", OWNER),
        ("fraud-llm-base-aws-eu-central-1-bucket", OWNER),
        ("fraud-llm-cases-aws-enclave-eu-central-1-key", DATA),
        ("fraud-llm-adapter-aws-eu-central-1-bucket", DATA),
        ("fraud-llm-images-eu-central-1-bucket", OPERATOR),
        ("fraud-llm-finetune-identity-role", OPERATOR),
        ("fraud-llm-finetune-template", OPERATOR),
        (f"fraud-llm-{OPERATOR}-eu-central-1-vpc", OPERATOR),
    ],
)
def test_keys_and_stores_lie_with_their_owners_and_hosts_with_the_operator(
    recording: Recording, name: str, number: str
) -> None:
    assert account(recording, recording.named(name)) == number


def test_keys_carry_the_compiled_policies_and_wait_for_the_roles(recording: Recording) -> None:
    key = recording.named("fraud-llm-base-aws-enclave-eu-central-1-key")
    document = json.loads(key.inputs["policy"])
    assert document["Id"] == "base-aws-enclave-eu-central-1"
    (allowed,) = [s for s in document["Statement"] if s["Sid"].startswith("Release")]
    role = recording.named("fraud-llm-finetune-identity-role")
    assert allowed["Principal"]["AWS"] == f"arn:aws:iam::{OPERATOR}:role/{role.inputs['name']}"
    assert role.urn in key.depends_on


def test_stores_open_to_those_who_open_and_seal(recording: Recording, statements: Callable[..., Any]) -> None:
    who = {}
    for artifact in ("base", "cases", "adapter"):
        policy = recording.named(f"fraud-llm-{artifact}-aws-eu-central-1-policy")
        who[artifact] = {sid for sid, s in statements(policy).items() if s["Effect"] == "Allow"}
    reads = {"ReadObjects", "ListObjects"}
    assert who == {"base": reads, "cases": reads, "adapter": {"WriteObjects", "ReadSigned", "ListForWriters"}}


def test_a_stage_that_rewraps_writes_to_what_it_opens(
    recorded: Callable[..., Recording], statements: Callable[..., Any]
) -> None:
    lifecycle = shipped("prod-aws")
    stage = replace(lifecycle.stages["finetune"], rewraps=("base",))
    found = run(recorded, replace(lifecycle, stages={"finetune": stage}))
    opened = {
        artifact: statements(found.named(f"fraud-llm-{artifact}-aws-eu-central-1-policy"))
        for artifact in ("base", "cases")
    }
    assert opened["base"]["WriteObjects"]["Principal"] == opened["base"]["ReadObjects"]["Principal"]
    assert "WriteObjects" not in opened["cases"]
    script = base64.b64decode(found.named("fraud-llm-finetune-template").inputs["userData"]).decode()
    line = next(line for line in script.splitlines() if line.startswith('{"lifecycle"'))
    assert settings.stage(line.encode()).rewraps == ("base",)


def test_hosts_come_last(recording: Recording) -> None:
    names = {urn.rsplit("::", 1)[-1] for urn in recording.named("fraud-llm-finetune-group").depends_on}
    assert names >= {
        "fraud-llm-finetune-permissions-policy",
        "fraud-llm-finetune-logs",
        f"fraud-llm-{OPERATOR}-eu-central-1-kms",
        f"fraud-llm-{OPERATOR}-eu-central-1-s3",
    }


def test_the_parent_serves_the_guest_its_keys_and_stores(recording: Recording) -> None:
    template = recording.named("fraud-llm-finetune-template")
    script = base64.b64decode(template.inputs["userData"]).decode()
    line = next(line for line in script.splitlines() if line.startswith('{"lifecycle"'))
    stage = json.loads(line)
    told = settings.stage(json.dumps(stage).encode())
    assert (told.platform, told.region) == (Platform.AWS_ENCLAVE, "eu-central-1")
    assert list(told.opens) == ["base", "cases"]
    assert told.opens["base"].key.endswith("fraud-llm-base-aws-enclave-eu-central-1-key")
    assert told.opens["base"].store == "s3://fraud-llm-base-aws-eu-central-1-bucket-id"
    assert {name: one.store for name, one in told.seals.items()} == {
        "adapter": "s3://fraud-llm-adapter-aws-eu-central-1-bucket-id"
    }


def test_outputs(recording: Recording) -> None:
    keys: Mapping[str, Any] = recording.exports["keys"]
    assert set(keys) == {"base-aws-enclave-eu-central-1", "cases-aws-enclave-eu-central-1"}
    for name, key in keys.items():
        assert key["public_key"] == PEM
        assert key["uri"] == key["id"] == f"arn:aws:service:eu-central-1:444455556666:fraud-llm-{name}-key"
    assert recording.exports["stores"]["base/eu-central-1"] == {
        "url": "s3://fraud-llm-base-aws-eu-central-1-bucket-id"
    }
    stage = recording.exports["stages"]["finetune"]
    assert stage["host"] == "fraud-llm-finetune-group-1a2b3c4"
    assert stage["endpoint"] is None
    assert stage["upload"].startswith("s3://fraud-llm-images-eu-central-1-bucket-id/sha256/")


def test_a_gpu_stage_is_not_managed_and_has_an_address(recorded: Callable[..., Recording]) -> None:
    recording = run(recorded, shipped("gpu"))
    assert not recording.of_type("jewelhouse:aws:EnclaveHost")
    services = {
        request.inputs["serviceName"].rsplit(".", 1)[-1]
        for request in recording.of_type("aws:ec2/vpcEndpoint:VpcEndpoint")
    }
    assert services == {"kms", "sts", "logs", "s3"}
    policy = recording.one("aws:iam/rolePolicy:RolePolicy", "fraud-gpu-serve-aws-permissions-policy")
    assert "ssm" not in policy.inputs["policy"]
    assert recording.exports["stages"]["serve-aws"]["endpoint"] == "10.64.0.10"


def test_a_destroyable_lifecycle_protects_nothing(recorded: Callable[..., Recording]) -> None:
    lifecycle = shipped("prod-aws")
    kept = {request.type for request in run(recorded, lifecycle).resources if request.protect}
    assert {"aws:kms/key:Key", "aws:s3/bucket:Bucket", "aws:s3/bucketPolicy:BucketPolicy"} <= kept
    loose = run(recorded, replace(lifecycle, destroyable=True))
    assert not [request.name for request in loose.resources if request.protect]


def test_parties_of_one_account_share_its_trail(recorded: Callable[..., Recording]) -> None:
    lifecycle = shipped("prod-aws")
    shared = AwsAccount(account=OWNER, deployer=f"arn:aws:iam::{OWNER}:role/runtime")
    operator = replace(lifecycle.parties["operator"], aws=shared)
    parties = {**lifecycle.parties, "operator": operator}
    recording = run(recorded, replace(lifecycle, parties=parties, allow_same_owner=True))
    assert sorted(components(recording, "AuditTrail")) == [
        f"fraud-llm-audit-{number}" for number in (OWNER, DATA)
    ]
    alarms = {request.name for request in recording.of_type("aws:cloudwatch/metricAlarm:MetricAlarm")}
    assert alarms >= {
        f"fraud-llm-audit-{OWNER}-unattested-decrypt",
        f"fraud-llm-audit-{OWNER}-host-opened",
    }


def test_named_zones_are_taken(recorded: Callable[..., Recording]) -> None:
    lifecycle = shipped("prod-aws")
    stage = replace(lifecycle.stages["finetune"], zones=("eu-central-1c",))
    recording = run(recorded, replace(lifecycle, stages={"finetune": stage}))
    zones = {request.inputs["availabilityZone"] for request in recording.of_type("aws:ec2/subnet:Subnet")}
    # The endpoints need two zones, the hosts stay in theirs.
    assert zones == {"eu-central-1a", "eu-central-1b", "eu-central-1c"}
    group = recording.named("fraud-llm-finetune-group")
    assert group.inputs["vpcZoneIdentifiers"] == [f"fraud-llm-{OPERATOR}-eu-central-1-eu-central-1c-id"]


def test_zones_where_letters_are_missing(recorded: Callable[..., Recording]) -> None:
    lifecycle = shipped("prod-aws")
    stage = replace(lifecycle.stages["finetune"], region="ap-northeast-1")
    recording = run(recorded, replace(lifecycle, stages={"finetune": stage}))
    assert {request.inputs["availabilityZone"] for request in recording.of_type("aws:ec2/subnet:Subnet")} == {
        "ap-northeast-1a",
        "ap-northeast-1c",
    }


def test_a_policy_that_does_not_compile_leaves_nothing_behind(recorded: Callable[..., Recording]) -> None:
    lifecycle = shipped("prod-aws")
    image = lifecycle.images["finetuner", Platform.AWS_ENCLAVE]
    debug = replace(image, measurements=(Measurements(values={"PCR0": release.ZERO}),))
    broken = replace(lifecycle, images={**lifecycle.images, ("finetuner", Platform.AWS_ENCLAVE): debug})
    made: list[Recording] = []

    def program() -> None:
        with pytest.raises(JewelhouseError, match="PCR0 of zeros is a debug enclave"):
            provision(broken)

    made.append(recorded(program))
    assert made[0].resources == []


def test_a_preview_asks_for_nothing_but_public_keys(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: provision(shipped("prod-aws")), preview=True)
    assert {token for token, _ in recording.calls} <= {"aws:kms/getPublicKey:getPublicKey"}
