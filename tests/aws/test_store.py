from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pulumi
import pytest
from recording import Recording

from jewelhouse.aws import SealedStore, SealedStoreArgs

OWNER = "arn:aws:iam::111122223333:role/jewelhouse-deployer"
READER = "arn:aws:iam::444455556666:role/llm-serve"
WRITER = "arn:aws:iam::444455556666:role/llm-tune"
BUCKET = "arn:aws:service:eu-central-1:444455556666:llm-base-bucket"
KEY = "arn:aws:service:eu-central-1:444455556666:llm-base-key"


def args(**changes: Any) -> SealedStoreArgs:
    values = {"region": "eu-central-1", "administrator": OWNER, "readers": [READER], "writers": [WRITER]}
    return SealedStoreArgs(**{**values, **changes})


@pytest.fixture(scope="module")
def recording(recorded: Callable[..., Recording]) -> Recording:
    return recorded(lambda: pulumi.export("url", SealedStore("llm-base", args()).url))


def test_inventory(recording: Recording, inventory: Path) -> None:
    inventories.check(recording, inventory / "store.yaml")
    assert recording.exports["url"] == "s3://llm-base-bucket-id"


def test_stages_of_other_accounts_read_and_write_as_they_open_and_seal(
    recording: Recording, statements: Callable[..., Any]
) -> None:
    found = statements(recording.named("llm-base-policy"))
    allowed = {sid: statement for sid, statement in found.items() if statement["Effect"] == "Allow"}
    assert {sid: (s["Principal"]["AWS"], s["Action"], s["Resource"]) for sid, s in allowed.items()} == {
        "ReadObjects": ([READER], ["s3:GetObject", "s3:GetObjectVersion"], [f"{BUCKET}/*"]),
        "ListObjects": ([READER], ["s3:ListBucket", "s3:ListBucketVersions"], [BUCKET]),
        "WriteObjects": ([WRITER], ["s3:AbortMultipartUpload", "s3:PutObject"], [f"{BUCKET}/*"]),
        "ReadSigned": (
            [WRITER],
            ["s3:GetObject", "s3:GetObjectVersion"],
            [f"{BUCKET}/mandates/*", f"{BUCKET}/manifests/*"],
        ),
        "ListForWriters": ([WRITER], ["s3:ListBucket", "s3:ListBucketVersions"], [BUCKET]),
    }


@pytest.mark.parametrize(
    ("sid", "action", "condition"),
    [
        ("TlsOnly", "s3:*", {"Bool": {"aws:SecureTransport": "false"}}),
        ("ModernTls", "s3:*", {"NumericLessThan": {"s3:TlsVersion": "1.2"}}),
        (
            "KmsOnly",
            "s3:PutObject",
            {"StringNotEqualsIfExists": {"s3:x-amz-server-side-encryption": "aws:kms"}},
        ),
        (
            "OwnKeyOnly",
            "s3:PutObject",
            {"StringNotEqualsIfExists": {"s3:x-amz-server-side-encryption-aws-kms-key-id": KEY}},
        ),
    ],
)
def test_a_store_refuses(
    recording: Recording, statements: Callable[..., Any], sid: str, action: str, condition: dict[str, Any]
) -> None:
    refused = statements(recording.named("llm-base-policy"))[sid]
    assert (refused["Effect"], refused["Principal"]) == ("Deny", "*")
    assert refused["Action"] == [action]
    assert refused["Condition"] == condition
    if action == "s3:*":
        assert refused["Resource"] == [BUCKET, f"{BUCKET}/*"]


def test_the_storage_key_serves_s3_alone(recording: Recording, statements: Callable[..., Any]) -> None:
    found = statements(recording.named("llm-base-key"))
    through_s3 = {"StringEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}}
    assert {sid: (s["Principal"]["AWS"], s["Action"]) for sid, s in found.items() if "Condition" in s} == {
        "Read": ([READER], ["kms:Decrypt"]),
        "Write": ([OWNER, WRITER], ["kms:Decrypt", "kms:GenerateDataKey"]),
    }
    assert found["Read"]["Condition"] == found["Write"]["Condition"] == through_s3
    administration = found["Administration"]
    assert administration["Principal"] == {"AWS": [OWNER]}
    assert not {"kms:Decrypt", "kms:CreateGrant", "kms:*"} & set(administration["Action"])


def test_china_has_its_own_services(
    recorded: Callable[..., Recording], statements: Callable[..., Any]
) -> None:
    recording = recorded(lambda: SealedStore("llm-base", args(region="cn-north-1")))
    read = statements(recording.named("llm-base-key"))["Read"]
    assert read["Condition"]["StringEquals"] == {"kms:ViaService": "s3.cn-north-1.amazonaws.com.cn"}


def test_a_destroyable_store_can_be_emptied(recorded: Callable[..., Recording]) -> None:
    recording = recorded(lambda: SealedStore("llm-base", args(destroyable=True)))
    assert not any(request.protect for request in recording.resources)
    assert recording.named("llm-base-bucket").inputs["forceDestroy"] is True
    lock = recording.named("llm-base-lock").inputs["rule"]["defaultRetention"]
    assert lock == {"mode": "GOVERNANCE", "days": 30}
    # What keeps others out does not depend on it.
    assert recording.named("llm-base-private").inputs["blockPublicPolicy"] is True


def test_a_store_that_nobody_reads_yet(
    recorded: Callable[..., Recording], statements: Callable[..., Any]
) -> None:
    recording = recorded(lambda: SealedStore("llm-base", args(readers=[], writers=[])))
    assert all(s["Effect"] == "Deny" for s in statements(recording.named("llm-base-policy")).values())
    assert set(statements(recording.named("llm-base-key"))) == {"Administration", "Write"}


def test_names_of_buckets_stay_within_63_characters(recorded: Callable[..., Recording]) -> None:
    name = "a-long-lifecycle-nam-" + "an-artifact-with-a-very-long-name" + "-aws-ap-southeast-1"
    recording = recorded(lambda: SealedStore(name, args()))
    bucket = recording.one("aws:s3/bucket:Bucket")
    assert len(f"{bucket.name}-1a2b3c4") <= 63
