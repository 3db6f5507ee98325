from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pytest
from recording import Recording

from jewelhouse.aws import AuditTrail, AuditTrailArgs

OWNER = "arn:aws:iam::111122223333:role/jewelhouse-deployer"
KEY, OTHER = (f"arn:aws:kms:eu-central-1:111122223333:key/{n}" for n in (1, 2))
TRAIL = "arn:aws:cloudtrail:eu-central-1:111122223333:trail/audit"
FILTER = "aws:cloudwatch/logMetricFilter:LogMetricFilter"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"


def args(**changes: Any) -> AuditTrailArgs:
    values: dict[str, Any] = {
        "account": "111122223333",
        "region": "eu-central-1",
        "administrator": OWNER,
        "keys": {"base": KEY, "cases": OTHER},
        "buckets": ["arn:aws:s3:::base-1a2b3c4"],
        "hosts": True,
        "emails": ["security@example.com", "second@example.com"],
    }
    return AuditTrailArgs(**{**values, **changes})


@pytest.fixture(scope="module")
def recording(recorded: Callable[..., Recording]) -> Recording:
    return recorded(lambda: AuditTrail("audit", args()))


def patterns(recording: Recording, alarm: str) -> list[str]:
    """The patterns that feed an alarm, which goes to the topic."""
    found = recording.one(ALARM, alarm)
    assert found.inputs["alarmActions"] == ["arn:aws:service:eu-central-1:444455556666:audit-alarms"]
    return sorted(
        request.inputs["pattern"]
        for request in recording.of_type(FILTER)
        if request.inputs["metricTransformation"]["name"] == found.inputs["metricName"]
        and request.inputs["metricTransformation"]["namespace"] == found.inputs["namespace"]
    )


def test_inventory(recording: Recording, inventory: Path) -> None:
    inventories.check(recording, inventory / "audit.yaml")


def test_a_decrypt_without_evidence_raises_an_alarm_for_each_key(recording: Recording) -> None:
    assert patterns(recording, "audit-unattested-decrypt") == [
        f'{{ ($.eventSource = "kms.amazonaws.com") && ($.resources[0].ARN = "{key}") '
        '&& ($.eventName = "Decrypt") '
        "&& ($.additionalEventData.recipient.attestationDocumentModuleId NOT EXISTS) }"
        for key in (KEY, OTHER)
    ]


@pytest.mark.parametrize(
    "call", ["PutKeyPolicy", "CreateGrant", "ReEncrypt", "ScheduleKeyDeletion", "DisableKey", "ReplicateKey"]
)
def test_a_call_that_could_open_a_key_raises_an_alarm(recording: Recording, call: str) -> None:
    found = patterns(recording, "audit-key-changed")
    assert len(found) == 2
    for pattern, key in zip(found, (KEY, OTHER), strict=True):
        assert f'($.eventName = "{call}")' in pattern
        assert key in pattern


@pytest.mark.parametrize(
    ("alarm", "says"),
    [
        ("audit-denied-kms", '$.errorCode = "AccessDenied*"'),
        ("audit-trail-changed", '$.eventName = "StopLogging"'),
        ("audit-trail-changed", '$.eventName = "DeleteTrail"'),
        ("audit-trail-changed", '$.eventName = "PutEventSelectors"'),
        ("audit-host-launched-by-hand", "$.requestParameters.enclaveOptions.enabled NOT EXISTS"),
        ("audit-host-launched-by-hand", f'!= "{OWNER}"'),
        ("audit-host-opened", '$.eventName = "ModifyInstanceMetadataOptions"'),
        ("audit-host-opened", '$.eventName = "EnableSerialConsoleAccess"'),
    ],
)
def test_other_alarms(recording: Recording, alarm: str, says: str) -> None:
    (pattern,) = patterns(recording, alarm)
    assert says in pattern


def test_patterns_fit(recording: Recording) -> None:
    # PutMetricFilter takes 1024 characters: one filter a key, because a list of keys would not fit.
    for request in recording.of_type(FILTER):
        assert len(request.inputs["pattern"]) <= 1024
        assert request.inputs["pattern"].count("(") == request.inputs["pattern"].count(")")


@pytest.mark.parametrize(
    ("changes", "alarms"),
    [
        ({"keys": {}}, {"trail-changed", "denied-kms", "host-launched-by-hand", "host-opened"}),
        ({"hosts": False}, {"trail-changed", "denied-kms", "unattested-decrypt", "key-changed"}),
    ],
)
def test_an_account_is_watched_for_what_is_in_it(
    recorded: Callable[..., Recording], changes: dict[str, Any], alarms: set[str]
) -> None:
    recording = recorded(lambda: AuditTrail("audit", args(**changes)))
    assert {request.name for request in recording.of_type(ALARM)} == {f"audit-{alarm}" for alarm in alarms}


def test_only_this_trail_writes_to_the_bucket(recording: Recording, statements: Callable[..., Any]) -> None:
    found = statements(recording.named("audit-policy"))
    bucket = "arn:aws:service:eu-central-1:444455556666:audit-bucket"
    assert found["TrailFiles"]["Resource"] == [f"{bucket}/AWSLogs/111122223333/*"]
    for sid in ("TrailAcl", "TrailFiles"):
        assert found[sid]["Principal"] == {"Service": "cloudtrail.amazonaws.com"}
        assert found[sid]["Condition"] == {"StringEquals": {"aws:SourceArn": TRAIL}}
    # CloudTrail writes its digests under S3's own keys: a Deny on other keys would end the validation.
    assert set(found) == {"TrailAcl", "TrailFiles", "TlsOnly", "ModernTls"}


def test_the_key_serves_trail_log_group_and_alarms(
    recording: Recording, statements: Callable[..., Any]
) -> None:
    found = statements(recording.named("audit-key"))
    group = "arn:aws:logs:eu-central-1:111122223333:log-group:/jewelhouse/audit/audit"
    assert {
        sid: (s["Principal"].get("Service"), s["Condition"]) for sid, s in found.items() if "Condition" in s
    } == {
        "ReadFiles": (None, {"StringEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}}),
        "TrailEncrypts": ("cloudtrail.amazonaws.com", {"StringEquals": {"aws:SourceArn": TRAIL}}),
        "TrailDescribes": ("cloudtrail.amazonaws.com", {"StringEquals": {"aws:SourceArn": TRAIL}}),
        "LogGroup": (
            "logs.eu-central-1.amazonaws.com",
            {"ArnEquals": {"kms:EncryptionContext:aws:logs:arn": group}},
        ),
        "Topic": ("cloudwatch.amazonaws.com", {"StringEquals": {"aws:SourceAccount": "111122223333"}}),
    }
    assert not any("*" in action for statement in found.values() for action in statement["Action"])


def test_the_topic_takes_alarms_of_its_account(recording: Recording, statements: Callable[..., Any]) -> None:
    (publish,) = statements(recording.named("audit-alarms-policy")).values()
    assert publish["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert publish["Condition"] == {"StringEquals": {"aws:SourceAccount": "111122223333"}}


def test_a_trail_without_stores_records_no_objects(recorded: Callable[..., Recording]) -> None:
    trail = recorded(lambda: AuditTrail("audit", args(buckets=[]))).named("audit-trail")
    (selector,) = trail.inputs["eventSelectors"]
    assert not selector["dataResources"]
    assert selector["includeManagementEvents"] is True


def test_a_destroyable_trail_can_go(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: AuditTrail("audit", args(destroyable=True)))
    assert not any(request.protect for request in recording.resources)
