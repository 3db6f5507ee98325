from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import inventory as inventories
import pulumi
from recording import Recording

from jewelhouse.gcp import Principal, SealedStore, SealedStoreArgs

SET = "principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/jh-base/"
ENDS = {"title": "licence until 2027", "expression": "request.time < timestamp('2027-12-31T00:00:00Z')"}


def build(*, destroyable: bool = False, rewrapped: bool = False) -> SealedStore:
    return SealedStore(
        "base",
        SealedStoreArgs(
            project="mp",
            location="europe-west4",
            readers=[
                Principal(
                    slug="111", member=pulumi.Output.from_input(f"{SET}attribute.image_digest/sha256:111")
                ),
                Principal(
                    slug="judge",
                    member=pulumi.Output.from_input(f"{SET}attribute.stage/judge"),
                    condition=ENDS,
                ),
            ],
            writers={"train": "serviceAccount:llm-train@op.iam.gserviceaccount.com"},
            rewrapped=rewrapped,
            labels={"artifact": "base"},
            destroyable=destroyable,
        ),
    )


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    inventories.check(recorded(build), inventory / "store.yaml")


def test_retention_and_versions_exclude_each_other(recorded: Callable[..., Recording]) -> None:
    """Cloud Storage refuses a bucket with both."""
    kept = recorded(build).named("base-bucket")
    passing = recorded(lambda: build(destroyable=True)).named("base-bucket")
    assert "versioning" not in kept.inputs
    assert "retentionPolicy" not in passing.inputs
    assert passing.inputs["versioning"] == {"enabled": True}


def test_a_store_that_may_be_destroyed(recorded: Callable[..., Recording]) -> None:
    bucket = recorded(lambda: build(destroyable=True)).named("base-bucket")
    assert bucket.protect is False
    assert bucket.inputs["forceDestroy"] is True
    # What was deleted by mistake still comes back for 30 days.
    assert bucket.inputs["softDeletePolicy"] == {"retentionDurationSeconds": 30 * 24 * 3600}


def test_a_lock_set_by_hand_stays(recorded: Callable[..., Recording]) -> None:
    """Undoing it would mean another bucket."""
    assert recorded(build).named("base-bucket").ignore_changes == ("retentionPolicy.isLocked",)


def test_sealing_neither_reads_nor_replaces(recorded: Callable[..., Recording]) -> None:
    members = recorded(build).of_type("gcp:storage/bucketIAMMember:BucketIAMMember")
    roles = {
        member.inputs["role"] for member in members if member.inputs["member"].startswith("serviceAccount:")
    }
    assert roles == {
        "roles/storage.objectCreator",
        "roles/storage.legacyBucketReader",
        "roles/storage.objectViewer",
    }
    (viewer,) = [
        member
        for member in members
        if member.inputs["role"] == "roles/storage.objectViewer"
        and member.inputs["member"].startswith("serviceAccount:")
    ]
    objects = "projects/_/buckets/base-bucket-1a2b3c4/objects/"
    assert viewer.inputs["condition"]["expression"] == (
        f'resource.name.startsWith("{objects}mandates/") || resource.name.startsWith("{objects}manifests/")'
    )


def test_only_attested_principals_read(recorded: Callable[..., Recording]) -> None:
    members = recorded(build).of_type("gcp:storage/bucketIAMMember:BucketIAMMember")
    readers = [
        member.inputs["member"]
        for member in members
        if member.inputs["role"] == "roles/storage.objectViewer" and "-follows-" not in member.name
    ]
    assert len(readers) == 2
    assert all(reader.startswith(SET) for reader in readers)


def test_url_is_what_fsspec_opens(recorded: Callable[..., Recording]) -> None:
    recording = recorded(build)
    (component,) = recording.components
    assert recording.component_outputs[component.urn][0]["url"] == "gs://base-bucket-1a2b3c4"


def test_attested_code_that_rewraps_adds_manifests_and_nothing_else(
    recorded: Callable[..., Recording],
) -> None:
    members = recorded(lambda: build(rewrapped=True)).of_type("gcp:storage/bucketIAMMember:BucketIAMMember")
    found = {one.name: one.inputs for one in members if "-rewraps-" in one.name}
    manifests = 'resource.name.startsWith("projects/_/buckets/base-bucket-1a2b3c4/objects/manifests/")'
    assert {name: one["condition"]["expression"] for name, one in found.items()} == {
        "base-rewraps-111": manifests,
        "base-rewraps-judge": f"({manifests}) && ({ENDS['expression']})",
    }
    assert {one["role"] for one in found.values()} == {"roles/storage.objectCreator"}
    assert all(one["member"].startswith(SET) for one in found.values())
