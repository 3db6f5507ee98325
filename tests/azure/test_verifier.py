from __future__ import annotations

import inventory as expected
import pytest

from jewelhouse.azure import GpuVerifierLink, GpuVerifierLinkArgs


@pytest.fixture
def link():
    args = GpuVerifierLinkArgs(
        location="westeurope",
        resource_group="group",
        network="network",
        subnet="endpoints",
        forwarder="forwarder",
        tags={"team": "ml"},
    )
    return lambda: GpuVerifierLink("gpu", args)


def test_the_service_is_reached_under_its_own_name_through_the_forwarder(recorded, link, inventory) -> None:
    expected.check(recorded(link), inventory / "verifier.yaml")


def test_a_preview_does_not_need_the_address(recorded, link) -> None:
    recording = recorded(link, preview=True)
    assert recording.one("azure-native:privatedns:PrivateRecordSet").inputs["recordType"] == "A"
