from __future__ import annotations

import inventory as expected
import pytest
from recording import Recording

from jewelhouse.azure import PrivateLink, PrivateLinkArgs, PrivateNetwork, PrivateNetworkArgs


@pytest.fixture
def network(recorded) -> Recording:
    args = PrivateNetworkArgs(location="westeurope", resource_group="group", tags={"team": "ml"})
    return recorded(lambda: PrivateNetwork("run", args))


def test_a_network_without_a_way_in(network: Recording, inventory) -> None:
    expected.check(network, inventory / "network.yaml")


def test_no_rule_lets_anything_in_from_outside_or_out_to_the_internet(network: Recording) -> None:
    for group in network.of_type("azure-native:network:NetworkSecurityGroup"):
        for rule in group.inputs["securityRules"]:
            if rule["access"] == "Allow":
                side = "source" if rule["direction"] == "Inbound" else "destination"
                assert rule[f"{side}AddressPrefix"] not in ("*", "Internet", "0.0.0.0/0"), rule["name"]
                assert rule["destinationPortRange"] == "443", rule["name"]


def test_every_subnet_has_a_guard(network: Recording) -> None:
    for subnet in network.of_type("azure-native:network:Subnet"):
        assert subnet.inputs["networkSecurityGroup"]["id"], subnet.name


def test_subnets_change_one_after_another(network: Recording) -> None:
    hosts, containers, endpoints = (
        network.named(f"run-{role}") for role in ("hosts", "containers", "endpoints")
    )
    assert hosts.urn in containers.depends_on
    assert containers.urn in endpoints.depends_on


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("vault", "vault"),
        ("blob", "blob"),
        ("dfs", "dfs"),
        ("registry", "registry"),
        ("attestation", "standard"),
    ],
)
def test_a_private_link_joins_one_service_by_name(recorded, kind: str, group: str) -> None:
    args = PrivateLinkArgs(
        location="westeurope",
        resource_group="group",
        subnet="subnet",
        zone="zone",
        kind=kind,
        target="target",
    )
    recording = recorded(lambda: PrivateLink("to-keys", args))
    endpoint = recording.one("azure-native:network:PrivateEndpoint")
    assert endpoint.parent_name == "to-keys"
    assert endpoint.inputs["subnet"]["id"] == "subnet"
    (connection,) = endpoint.inputs["privateLinkServiceConnections"]
    assert connection["groupIds"] == [group]
    assert connection["privateLinkServiceId"] == "target"
    names = recording.one("azure-native:network:PrivateDnsZoneGroup")
    assert names.inputs["privateDnsZoneConfigs"] == [{"name": kind, "privateDnsZoneId": "zone"}]
