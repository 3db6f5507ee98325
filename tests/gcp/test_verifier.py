from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import inventory as inventories
from recording import Recording

from jewelhouse.gcp import GpuVerifierLink, GpuVerifierLinkArgs


def test_the_service_is_reached_under_its_own_name_through_the_forwarder(
    recorded: Callable[..., Recording], inventory: Path
) -> None:
    args = GpuVerifierLinkArgs(
        project="op",
        region="europe-west4",
        network="vpc",
        subnetwork="hosts",
        forwarder="projects/hub/regions/europe-west4/serviceAttachments/nras",
    )
    inventories.check(recorded(lambda: GpuVerifierLink("gpu", args)), inventory / "verifier.yaml")
