from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pulumi
import pytest
from recording import Recording, Request

from jewelhouse.aws import PrivateNetwork, PrivateNetworkArgs, Traffic
from jewelhouse.errors import JewelhouseError

SERVE = "arn:aws:iam::444455556666:role/llm-serve"
TUNE = "arn:aws:iam::444455556666:role/llm-tune"
KEY = "arn:aws:kms:eu-central-1:111122223333:key/1"
BUCKET = "arn:aws:s3:::base-1a2b3c4"
LOGS = "arn:aws:logs:eu-central-1:444455556666:log-group:/jewelhouse/llm/serve"
REPOSITORIES = "arn:aws:ecr:eu-central-1:444455556666:repository/llm/*"
ENDPOINT = "aws:ec2/vpcEndpoint:VpcEndpoint"


def args(**changes: Any) -> PrivateNetworkArgs:
    traffic = {
        "region": "eu-central-1",
        "roles": [SERVE, TUNE],
        "keys": [KEY],
        "buckets": [BUCKET],
        "log_groups": [LOGS],
        "parents": [TUNE],
        "repositories": [REPOSITORIES],
    }
    zones = changes.pop("zones", ["eu-central-1a", "eu-central-1b"])
    return PrivateNetworkArgs(zones=zones, traffic=Traffic(**{**traffic, **changes}))


@pytest.fixture(scope="module")
def recording(recorded: Callable[..., Recording]) -> Recording:
    return recorded(lambda: PrivateNetwork("net", args()))


def test_inventory(recording: Recording, inventory: Path) -> None:
    inventories.check(recording, inventory / "network.yaml")


@pytest.mark.parametrize(
    ("endpoint", "sid", "who", "actions", "what"),
    [
        ("net-kms", "OpenArtifacts", [SERVE, TUNE], {"kms:Decrypt"}, [KEY]),
        ("net-sts", "WhoAmI", [SERVE, TUNE], {"sts:GetCallerIdentity"}, "*"),
        (
            "net-logs",
            "WriteLogs",
            [SERVE, TUNE],
            {"logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"},
            [LOGS, f"{LOGS}:log-stream:*"],
        ),
        ("net-ssm", "Management", [TUNE], {"ssm:UpdateInstanceInformation"}, "*"),
        ("net-ecr-api", "RegistryLogin", [TUNE], {"ecr:GetAuthorizationToken"}, "*"),
        (
            "net-ecr-dkr",
            "PullContainers",
            [TUNE],
            {"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"},
            [REPOSITORIES],
        ),
    ],
)
def test_an_endpoint_lets_through(
    recording: Recording,
    statements: Callable[..., Any],
    endpoint: str,
    sid: str,
    who: list[str],
    actions: set[str],
    what: Any,
) -> None:
    found = statements(recording.named(endpoint))[sid]
    assert found["Principal"] == {"AWS": who}
    assert set(found["Action"]) == actions
    assert found["Resource"] == what


def test_only_parents_of_enclaves_are_managed(recording: Recording, statements: Callable[..., Any]) -> None:
    for name in ("net-ssm", "net-ssmmessages", "net-ec2messages", "net-ecr-api", "net-ecr-dkr"):
        endpoint = recording.named(name)
        assert endpoint.inputs["securityGroupIds"] == ["net-management-id"]
        for statement in statements(endpoint).values():
            assert statement["Principal"] == {"AWS": [TUNE]}


def test_attestable_hosts_have_no_way_in(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: PrivateNetwork("net", args(parents=[])))
    services = {endpoint.inputs["serviceName"].rsplit(".", 1)[-1] for endpoint in recording.of_type(ENDPOINT)}
    assert services == {"s3", "kms", "sts", "logs"}
    assert {group.name for group in recording.of_type("aws:ec2/securityGroup:SecurityGroup")} == {
        "net-hosts",
        "net-services",
    }


def test_the_storage_gateway_leads_to_the_stores(
    recording: Recording, statements: Callable[..., Any]
) -> None:
    found = statements(recording.named("net-s3"))
    stages = {"ArnEquals": {"aws:PrincipalArn": [SERVE, TUNE]}}
    assert found["Objects"]["Resource"] == [f"{BUCKET}/*"]
    assert found["Buckets"]["Resource"] == [BUCKET]
    assert found["Objects"]["Condition"] == found["Buckets"]["Condition"] == stages
    # Without a role there are only the packages and layers that AWS itself publishes.
    assert {sid: (s["Action"], s["Resource"]) for sid, s in found.items() if "Condition" not in s} == {
        "Packages": (["s3:GetObject"], ["arn:aws:s3:::al2023-repos-eu-central-1-de612dc2/*"]),
        "ContainerLayers": (
            ["s3:GetObject"],
            ["arn:aws:s3:::prod-eu-central-1-starport-layer-bucket/*"],
        ),
    }


def test_without_parents_the_gateway_leads_to_the_stores_alone(
    recorded: Callable[..., Recording], statements: Callable[..., Any]
) -> None:
    recording = recorded(lambda: PrivateNetwork("net", args(parents=[])))
    assert set(statements(recording.named("net-s3"))) == {"Objects", "Buckets"}


def test_no_endpoint_allows_everything(recording: Recording, statements: Callable[..., Any]) -> None:
    for endpoint in recording.of_type(ENDPOINT):
        for statement in statements(endpoint).values():
            assert not any("*" in action for action in statement["Action"])


def test_security_groups_reach_endpoints_and_nothing_else(recording: Recording) -> None:
    rules = [
        *recording.of_type("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"),
        *recording.of_type("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"),
    ]

    def target(rule: Request) -> str:
        assert not {"cidrIpv4", "cidrIpv6"} & set(rule.inputs)
        assert (rule.inputs["fromPort"], rule.inputs["toPort"], rule.inputs["ipProtocol"]) == (
            443,
            443,
            "tcp",
        )
        return rule.inputs.get("prefixListId") or rule.inputs["referencedSecurityGroupId"]

    assert {rule.name: (rule.inputs["securityGroupId"], target(rule)) for rule in rules} == {
        "net-hosts-s3": ("net-hosts-id", "pl-1a2b3c4"),
        "net-services-out": ("net-hosts-id", "net-services-id"),
        "net-services-in": ("net-services-id", "net-hosts-id"),
        "net-management-out": ("net-parents-id", "net-management-id"),
        "net-management-in": ("net-management-id", "net-parents-id"),
    }
    for group in recording.of_type("aws:ec2/securityGroup:SecurityGroup"):
        assert not {"ingress", "egress"} & set(group.inputs)


def test_zones_are_each_a_subnet_of_their_own(recorded: Callable[..., Recording]) -> None:
    def program() -> None:
        network = PrivateNetwork("net", args(zones=["eu-central-1c", "eu-central-1a", "eu-central-1b"]))
        pulumi.export("some", network.subnets(["eu-central-1c"]))
        pulumi.export("all", network.subnets())

    recording = recorded(program)
    subnets = {
        subnet.inputs["availabilityZone"]: subnet.inputs["cidrBlock"]
        for subnet in recording.of_type("aws:ec2/subnet:Subnet")
    }
    assert subnets == {
        "eu-central-1a": "10.64.0.0/20",
        "eu-central-1b": "10.64.16.0/20",
        "eu-central-1c": "10.64.32.0/20",
    }
    assert recording.exports["some"] == ["net-eu-central-1c-id"]
    assert len(recording.exports["all"]) == 3


def test_one_zone_is_not_enough(recorded: Callable[..., Recording]) -> None:
    with pytest.raises(JewelhouseError, match="eu-central-1a is not enough") as refused:
        recorded(lambda: PrivateNetwork("net", args(zones=["eu-central-1a"])))
    assert "two zones" in refused.value.remedy


@pytest.mark.parametrize("nothing", ["keys", "buckets"])
def test_an_endpoint_without_resources_is_refused(recorded: Callable[..., Recording], nothing: str) -> None:
    # AWS drops a statement without resources silently.
    with pytest.raises(ValueError, match="needs actions and resources"):
        recorded(lambda: PrivateNetwork("net", args(**{nothing: []})))
