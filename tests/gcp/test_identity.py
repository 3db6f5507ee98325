from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import inventory as inventories
import pytest
from recording import Recording

from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp import Repository, WorkloadIdentity, WorkloadIdentityArgs
from jewelhouse.gcp.identity import repository


def identity(repo: Repository | None) -> WorkloadIdentityArgs:
    return WorkloadIdentityArgs(project="op", account_id="llm-serve", description="Stage", repository=repo)


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    repo = Repository(location="europe-west4", project="images", name="models")
    inventories.check(
        recorded(lambda: WorkloadIdentity("serve", identity(repo))), inventory / "identity.yaml"
    )


def test_a_plain_vm_pulls_nothing(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: WorkloadIdentity("serve", identity(None)))
    assert not recording.of_type("gcp:artifactregistry/repositoryIamMember:RepositoryIamMember")


def test_it_may_open_nothing_and_change_nothing(recorded: Callable[..., Recording]) -> None:
    """Keys and stores are released to attested principals, never to the account that anyone may run as."""
    recording = recorded(lambda: WorkloadIdentity("serve", identity(None)))
    assert {member.inputs["role"] for member in recording.of_type("gcp:projects/iAMMember:IAMMember")} == {
        "roles/confidentialcomputing.workloadUser",
        "roles/logging.logWriter",
    }


def test_the_repository_of_a_container() -> None:
    reference = "europe-west4-docker.pkg.dev/op-runtime/jewelhouse/server@sha256:" + "1" * 64
    assert repository(reference) == Repository(
        location="europe-west4", project="op-runtime", name="jewelhouse"
    )


@pytest.mark.parametrize(
    "reference",
    [
        "docker.io/library/server@sha256:1",
        "gcr.io/op-runtime/server@sha256:1",
        "jewelhouse.azurecr.io/server@sha256:1",
        "evil.example/europe-west4-docker.pkg.dev/op/repo/server",
    ],
)
def test_other_registries_are_out_of_reach(reference: str) -> None:
    with pytest.raises(JewelhouseError, match="not in Artifact Registry") as caught:
        repository(reference)
    assert "docker.pkg.dev" in caught.value.remedy
