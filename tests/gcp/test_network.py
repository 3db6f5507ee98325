from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import inventory as inventories
import pytest
from recording import Recording

from jewelhouse.gcp import PrivateNetwork, PrivateNetworkArgs


@pytest.fixture
def recording(recorded: Callable[..., Recording]) -> Recording:
    args = PrivateNetworkArgs(project="op", region="europe-west4", labels={"lifecycle": "llm"})
    return recorded(lambda: PrivateNetwork("net", args))


def test_inventory(recording: Recording, inventory: Path) -> None:
    inventories.check(recording, inventory / "network.yaml")


def test_the_only_route_leads_to_google(recording: Recording) -> None:
    routes = recording.of_type("gcp:compute/route:Route")
    assert [route.inputs["destRange"] for route in routes] == ["199.36.153.4/30"]


def test_the_only_allowed_traffic_is_tls_to_google(recording: Recording) -> None:
    rules = [rule.inputs for rule in recording.of_type("gcp:compute/firewall:Firewall")]
    allowed = [rule for rule in rules if "allows" in rule]
    assert [(rule["direction"], rule["destinationRanges"], rule["allows"]) for rule in allowed] == [
        ("EGRESS", ["199.36.153.4/30"], [{"protocol": "tcp", "ports": ["443"]}])
    ]
    denied = {rule["direction"]: rule for rule in rules if "denies" in rule}
    assert set(denied) == {"INGRESS", "EGRESS"}
    assert all(rule["denies"] == [{"protocol": "all"}] for rule in denied.values())
    assert denied["INGRESS"]["sourceRanges"] == denied["EGRESS"]["destinationRanges"] == ["0.0.0.0/0"]
    # Smaller numbers go first.
    assert all(rule["priority"] > allowed[0]["priority"] for rule in denied.values())
    assert all("disabled" not in rule and rule["logConfig"] for rule in rules)


@pytest.mark.parametrize("domain", ["googleapis.com.", "pkg.dev.", "gcr.io."])
def test_names_resolve_to_the_restricted_range(recording: Recording, domain: str) -> None:
    records = {
        (record.inputs["name"], record.inputs["type"]): record.inputs["rrdatas"]
        for record in recording.of_type("gcp:dns/recordSet:RecordSet")
        if record.inputs["name"].endswith(domain)
    }
    (host,) = [name for name, kind in records if kind == "A"]
    assert records[host, "A"] == ["199.36.153.4", "199.36.153.5", "199.36.153.6", "199.36.153.7"]
    assert records[f"*.{domain}", "CNAME"] == [host]
    # private.googleapis.com would reach services that VPC Service Controls cannot guard.
    assert host == ("restricted.googleapis.com." if domain == "googleapis.com." else domain)
