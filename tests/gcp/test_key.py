from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import inventory as inventories
import pytest
from recording import Recording
from samples import shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp import AttestedKey, AttestedKeyArgs, AttestedOnly, AttestedOnlyArgs
from jewelhouse.gcp.key import pool_id, pool_path
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Measurements, Platform
from jewelhouse.release import gcp
from jewelhouse.release.policy import Gate

ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")
ENDS = {
    "title": "licence until 2027-12-31T00:00:00Z",
    "expression": "request.time < timestamp('2027-12-31T00:00:00Z')",
}
POOL = "projects/100000000001/locations/global/workloadIdentityPools/jh-base-1a2b3c4"
ROLE = "roles/cloudkms.cryptoKeyDecrypter"


def document(*bindings: dict[str, Any]) -> dict[str, Any]:
    """Compiled for two images, and a third that two stages run until different times; `bindings` replaces
    those of the document."""
    policy = next(
        policy
        for key, policy in release_policies(shipped("prod-gcp")).items()
        if key.platform is Platform.GCP_CONFIDENTIAL_SPACE
    )

    def gate(stage: str, *images: str, end: datetime | None = None) -> Gate:
        return replace(
            policy.gates[0],
            stage=stage,
            identity=f"llm-{stage}@{policy.gates[0].account.boundary}.iam.gserviceaccount.com",
            measurements=tuple(Measurements(values={"image_digest": image}) for image in images),
            not_after=end,
        )

    ends = datetime(2027, 12, 31, tzinfo=UTC)
    gates = (gate("serve", ONE, TWO), gate("judge", THREE, end=ends), gate("audit", THREE))
    compiled = gcp.compile(replace(policy, gates=gates))
    return {**compiled, "bindings": list(bindings)} if bindings else compiled


def args(**changes: Any) -> AttestedKeyArgs:
    values: dict[str, Any] = {
        "project": "mp-strongroom",
        "project_number": "100000000001",
        "location": "europe-west4",
        "document": document(),
        "labels": {"lifecycle": "llm", "artifact": "base"},
        **changes,
    }
    return AttestedKeyArgs(**values)


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    inventories.check(recorded(lambda: AttestedKey("base", args())), inventory / "key.yaml")


@pytest.mark.parametrize(
    ("destroyable", "protect", "policy"), [(False, True, "PREVENT"), (True, False, "DELETE")]
)
def test_a_key_is_kept_unless_it_may_be_destroyed(
    recorded: Callable[..., Recording], destroyable: bool, protect: bool, policy: str
) -> None:
    key = recorded(lambda: AttestedKey("base", args(destroyable=destroyable))).named("base-key")
    assert key.protect is protect
    assert key.inputs["deletionPolicy"] == policy
    # The delay before a destroyed version is gone stays, whatever may be destroyed.
    assert key.inputs["destroyScheduledDuration"] == "2592000s"


def test_every_member_of_the_policy_is_bound_and_no_other(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: AttestedKey("base", args()))
    bound = {
        request.name: request.inputs
        for request in recording.of_type("gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember")
    }
    common = {"cryptoKeyId": "base-key-id", "role": ROLE}
    assert bound == {
        "base-opens-111111111111": {
            **common,
            "member": f"principalSet://iam.googleapis.com/{POOL}/attribute.image_digest/{ONE}",
        },
        "base-opens-222222222222": {
            **common,
            "member": f"principalSet://iam.googleapis.com/{POOL}/attribute.image_digest/{TWO}",
        },
        "base-opens-judge": {
            **common,
            "member": f"principalSet://iam.googleapis.com/{POOL}/attribute.stage/judge",
            "condition": ENDS,
        },
        "base-opens-audit": {
            **common,
            "member": f"principalSet://iam.googleapis.com/{POOL}/attribute.stage/audit",
        },
    }


def test_what_the_guest_needs(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: AttestedKey("base", args()))
    (component,) = recording.components
    assert recording.component_outputs[component.urn] == [
        {
            "key": "base-key-id",
            "version": "base-key-id/cryptoKeyVersions/1",
            "public_key": "-----BEGIN PUBLIC KEY-----",
            "pool": POOL,
            "audience": f"//iam.googleapis.com/{POOL}/providers/attestation",
        }
    ]


@pytest.mark.parametrize(
    ("weakened", "says"),
    [
        ({**document(), "condition": ""}, "JH-GCP-"),
        ({**document(), "condition": "assertion.swname == 'CONFIDENTIAL_SPACE'"}, "JH-GCP-"),
        (document({"role": ROLE, "members": ["*"]}), r"\* is not an attribute"),
        (document({"role": ROLE, "members": ["subject/anyone"]}), "not an attribute"),
        (document({"role": ROLE, "members": ["attribute.image_digest/"]}), "names no principal"),
    ],
)
def test_a_document_that_opens_too_far(
    recorded: Callable[..., Recording], weakened: dict[str, Any], says: str
) -> None:
    with pytest.raises(JewelhouseError, match=says):
        recorded(lambda: AttestedKey("base", args(document=weakened)))


class TestPoolIds:
    @pytest.mark.parametrize(
        "name", ["base", "gcp-models", "a" * 38, "base-space-europe-west4-", "Open_Base", "x-" * 19]
    )
    def test_are_what_google_takes(self, name: str) -> None:
        found = pool_id(name, f"{name}-ring-1A2B3C4")
        assert re.fullmatch(r"[a-z0-9-]{4,32}", found)
        assert not found.startswith("gcp-")
        assert found.endswith("-1a2b3c4")

    def test_a_new_ring_brings_a_new_pool(self) -> None:
        """Ids of deleted pools stay taken for 30 days: `up` after `destroy` must not meet its old one."""
        assert pool_id("base", "base-ring-1111111") != pool_id("base", "base-ring-2222222")


def test_a_wrong_project_number_is_refused() -> None:
    """It would bind the pool of whoever owns that other project."""
    with pytest.raises(JewelhouseError, match="has number 999, configured is 100"):
        pool_path("100", "jh-base", "projects/999/locations/global/workloadIdentityPools/jh-base")
    assert pool_path("100", "jh-base", "projects/100/locations/global/workloadIdentityPools/jh-base") == (
        "projects/100/locations/global/workloadIdentityPools/jh-base"
    )


class TestAttestedOnly:
    def test_inventory(self, recorded: Callable[..., Recording], inventory: Path) -> None:
        only = AttestedOnlyArgs(project="mp-strongroom", pools=[POOL, f"{POOL}-two"])
        inventories.check(recorded(lambda: AttestedOnly("mp", only)), inventory / "attested-only.yaml")

    def test_without_a_pool_nobody_decrypts(self, recorded: Callable[..., Recording]) -> None:
        recording = recorded(lambda: AttestedOnly("mp", AttestedOnlyArgs(project="mp-strongroom", pools=[])))
        (rule,) = recording.named("mp-deny").inputs["rules"]
        assert rule["denyRule"].get("exceptionPrincipals", []) == []

    def test_it_goes_when_keys_may_go(self, recorded: Callable[..., Recording]) -> None:
        only = AttestedOnlyArgs(project="mp-strongroom", pools=[POOL], destroyable=True)
        assert not recorded(lambda: AttestedOnly("mp", only)).named("mp-deny").protect
