from __future__ import annotations

import re
from dataclasses import replace

import inventory as expected

from jewelhouse.azure import SealedStore, SealedStoreArgs

ARGS = SealedStoreArgs(
    location="westeurope",
    resource_group="group",
    subscription="s",
    readers={"serve": "00000000-0000-4000-8000-0000000000a1"},
    writers={"train": "00000000-0000-4000-8000-0000000000a2"},
    sealers=["00000000-0000-4000-8000-0000000000b1"],
)


def test_ciphertext_is_closed_versioned_and_immutable(recorded, inventory) -> None:
    recording = recorded(lambda: SealedStore("base", ARGS))
    expected.check(recording, inventory / "store.yaml")


def test_the_container_comes_after_versioning(recorded) -> None:
    recording = recorded(lambda: SealedStore("base", ARGS))
    assert recording.named("base-versions").urn in recording.named("base-container").depends_on


def test_a_destroyable_store_only_leaves_out_what_would_keep_it(recorded) -> None:
    weaker = recorded(lambda: SealedStore("base", replace(ARGS, destroyable=True))).named("base-account")
    normal = recorded(lambda: SealedStore("base", ARGS)).named("base-account")
    assert not weaker.protect
    assert weaker.inputs["immutableStorageWithVersioning"]["enabled"] is True
    assert weaker.inputs["immutableStorageWithVersioning"]["immutabilityPolicy"]["state"] == "Disabled"
    assert {**weaker.inputs, "immutableStorageWithVersioning": ...} == {
        **normal.inputs,
        "immutableStorageWithVersioning": ...,
    }


def test_its_url_names_the_container_in_the_account(recorded) -> None:
    recording = recorded(lambda: SealedStore("base", ARGS))
    account = recording.named("base-account").inputs["accountName"]
    assert re.fullmatch(r"[a-z0-9]{3,24}", account)
    (outputs,) = recording.component_outputs[recording.components[0].urn]
    assert outputs["url"] == f"abfs://sealed@{account}.dfs.core.windows.net"
