from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import inventory as inventories
import pytest
from recording import Recording

from jewelhouse.gcp import AuditTrail, AuditTrailArgs
from jewelhouse.gcp.audit import ADMINISTRATION, administration, unattested

POOL = "projects/100000000001/locations/global/workloadIdentityPools/jh-base-1a2b3c4"


def args(*, destroyable: bool = False) -> AuditTrailArgs:
    return AuditTrailArgs(
        project="mp-strongroom",
        location="europe-west4",
        pools=[POOL],
        emails=["security@example.com", "owner@example.com"],
        labels={"lifecycle": "llm"},
        destroyable=destroyable,
    )


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    inventories.check(recorded(lambda: AuditTrail("mp", args())), inventory / "audit.yaml")


def test_alerts_reach_every_address(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: AuditTrail("mp", args()))
    for alert in recording.of_type("gcp:monitoring/alertPolicy:AlertPolicy"):
        assert alert.inputs["notificationChannels"] == ["mp-mail-0-id", "mp-mail-1-id"]


def test_logs_are_kept_unless_they_may_be_destroyed(recorded: Callable[..., Recording]) -> None:
    assert recorded(lambda: AuditTrail("mp", args())).named("mp-logs").protect is True
    assert recorded(lambda: AuditTrail("mp", args(destroyable=True))).named("mp-logs").protect is False


def test_a_lock_set_by_hand_stays(recorded: Callable[..., Recording]) -> None:
    assert recorded(lambda: AuditTrail("mp", args())).named("mp-logs").ignore_changes == ("locked",)


class TestUnattested:
    def test_query(self) -> None:
        assert unattested([f"{POOL}-two", POOL]) == (
            'protoPayload.serviceName="cloudkms.googleapis.com"'
            ' AND protoPayload.methodName=~"(Decrypt|Decapsulate)$"'
            ' AND NOT protoPayload.authenticationInfo.principalSubject=~"^principal://iam[.]googleapis[.]com/'
            "projects/100000000001/locations/global/workloadIdentityPools/(jh-base-1a2b3c4|jh-base-1a2b3c4-two)"
            '/subject/"'
        )

    @pytest.mark.parametrize("method", ["AsymmetricDecrypt", "Decrypt", "RawDecrypt", "Decapsulate"])
    def test_every_way_to_decrypt_is_matched(self, method: str) -> None:
        assert re.search(pattern(unattested([]), "methodName"), method)

    @pytest.mark.parametrize("method", ["Encrypt", "GetPublicKey", "GetCryptoKey", "DecryptLater"])
    def test_other_calls_are_not(self, method: str) -> None:
        assert not re.search(pattern(unattested([]), "methodName"), method)

    @pytest.mark.parametrize(
        ("subject", "attested"),
        [
            (f"principal://iam.googleapis.com/{POOL}/subject/gcpcs::sha256:1::2::3", True),
            (f"principal://iam.googleapis.com/{POOL}-two/subject/gcpcs::sha256:1::2::3", False),
            (
                "principal://iam.googleapis.com/projects/9/locations/global/workloadIdentityPools/x/subject/y",
                False,
            ),
            # A subject of somebody else's pool that spells ours.
            (
                f"principal://iam.googleapis.com/projects/9/x/subject/iam.googleapis.com/{POOL}/subject/z",
                False,
            ),
            ("serviceAccount:llm-serve@op.iam.gserviceaccount.com", False),
            ("user:admin@example.com", False),
        ],
    )
    def test_only_the_pools_of_keys_count_as_attested(self, subject: str, attested: bool) -> None:
        assert bool(re.search(pattern(unattested([POOL]), "principalSubject"), subject)) is attested

    def test_without_pools_every_decrypt_counts(self) -> None:
        assert "NOT" not in unattested([])


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("cloudkms.googleapis.com", "SetIamPolicy"),
        ("cloudkms.googleapis.com", "DestroyCryptoKeyVersion"),
        ("cloudkms.googleapis.com", "RestoreCryptoKeyVersion"),
        ("cloudkms.googleapis.com", "ImportCryptoKeyVersion"),
        ("cloudkms.googleapis.com", "UpdateCryptoKeyVersion"),
        ("iam.googleapis.com", "google.iam.v1.WorkloadIdentityPools.UpdateWorkloadIdentityPoolProvider"),
        ("iam.googleapis.com", "google.iam.v1.WorkloadIdentityPools.CreateWorkloadIdentityPoolProvider"),
        ("iam.googleapis.com", "google.iam.v1.WorkloadIdentityPools.UndeleteWorkloadIdentityPool"),
        ("iam.googleapis.com", "google.iam.v2.Policies.UpdatePolicy"),
        ("iam.googleapis.com", "google.iam.v2.Policies.DeletePolicy"),
        ("cloudresourcemanager.googleapis.com", "SetIamPolicy"),
        ("storage.googleapis.com", "storage.setIamPermissions"),
        ("storage.googleapis.com", "storage.buckets.update"),
        ("logging.googleapis.com", "google.logging.v2.ConfigServiceV2.DeleteSink"),
        ("logging.googleapis.com", "google.logging.v2.ConfigServiceV2.UpdateBucket"),
        ("logging.googleapis.com", "google.logging.v2.ConfigServiceV2.CreateExclusion"),
        ("monitoring.googleapis.com", "google.monitoring.v3.AlertPolicyService.DeleteAlertPolicy"),
        (
            "monitoring.googleapis.com",
            "google.monitoring.v3.NotificationChannelService.UpdateNotificationChannel",
        ),
    ],
)
def test_calls_that_could_open_a_key_or_hide_it(service: str, method: str) -> None:
    assert re.search(dict(ADMINISTRATION)[service], method)
    assert f'serviceName="{service}"' in administration()


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("cloudkms.googleapis.com", "AsymmetricDecrypt"),
        ("cloudkms.googleapis.com", "CreateKeyRing"),
        ("iam.googleapis.com", "google.iam.admin.v1.CreateServiceAccount"),
        ("logging.googleapis.com", "google.logging.v2.ConfigServiceV2.CreateSink"),
        ("storage.googleapis.com", "storage.objects.create"),
    ],
)
def test_everyday_calls_raise_no_alert(service: str, method: str) -> None:
    assert not re.search(dict(ADMINISTRATION)[service], method)


def pattern(query: str, field: str) -> str:
    """The regular expression that a query compares a field with."""
    match = re.search(rf'{field}=~"([^"]+)"', query)
    assert match
    return match[1]
