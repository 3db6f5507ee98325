from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pytest
from recording import Recording

from jewelhouse.aws import (
    SealedStore,
    SealedStoreArgs,
    WorkloadIdentity,
    WorkloadIdentityArgs,
    WorkloadPermissions,
    WorkloadPermissionsArgs,
)

KEY = "arn:aws:kms:eu-central-1:111122223333:key/1"
LOGS = "arn:aws:logs:eu-central-1:444455556666:log-group:/jewelhouse/llm/tune"
REPOSITORIES = "arn:aws:ecr:eu-central-1:444455556666:repository/llm/*"
IN, OUT = (f"arn:aws:service:eu-central-1:444455556666:{name}-bucket" for name in ("in", "out"))
IN_KEY, OUT_KEY = (f"arn:aws:service:eu-central-1:444455556666:{name}-key" for name in ("in", "out"))


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    args = WorkloadIdentityArgs(role_name="llm-tune", region="eu-central-1")
    recording = recorded(lambda: WorkloadIdentity("tune", args))
    inventories.check(recording, inventory / "identity.yaml")


@pytest.mark.parametrize(
    ("region", "service"), [("eu-central-1", "ec2.amazonaws.com"), ("cn-north-1", "ec2.amazonaws.com.cn")]
)
def test_only_hosts_take_the_role(recorded: Callable[..., Recording], region: str, service: str) -> None:
    args = WorkloadIdentityArgs(role_name="llm-tune", region=region)
    role = recorded(lambda: WorkloadIdentity("tune", args)).named("tune-role")
    assert json.loads(role.inputs["assumeRolePolicy"])["Statement"] == [
        {"Sid": "Hosts", "Effect": "Allow", "Principal": {"Service": service}, "Action": ["sts:AssumeRole"]}
    ]


def permissions(recorded: Callable[..., Recording], **changes: Any) -> dict[str, dict[str, Any]]:
    def program() -> None:
        stores = {
            name: SealedStore(
                name, SealedStoreArgs(region="eu-central-1", administrator="arn:aws:iam::1:role/d")
            )
            for name in ("in", "out")
        }
        values = {
            "role_name": "llm-tune",
            "keys": [KEY],
            "log_group": LOGS,
            "reads": [stores["in"]],
            "writes": [stores["out"]],
            **changes,
        }
        WorkloadPermissions("tune", WorkloadPermissionsArgs(**values))

    policy = recorded(program).one("aws:iam/rolePolicy:RolePolicy", "tune-policy")
    assert policy.inputs["role"] == "llm-tune"
    return {statement["Sid"]: statement for statement in json.loads(policy.inputs["policy"])["Statement"]}


def test_a_stage_may_do_what_its_place_in_the_graph_says(recorded: Callable[..., Recording]) -> None:
    found = permissions(recorded)
    assert {sid: (s["Action"], s["Resource"]) for sid, s in found.items()} == {
        "OpenArtifacts": (["kms:Decrypt"], [KEY]),
        "WriteLogs": (
            ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            [LOGS, f"{LOGS}:log-stream:*"],
        ),
        "ReadStores": (["s3:GetObject", "s3:GetObjectVersion"], [f"{IN}/*"]),
        "ReadStoreKeys": (["kms:Decrypt"], [IN_KEY]),
        "WriteStores": (["s3:AbortMultipartUpload", "s3:PutObject"], [f"{OUT}/*"]),
        "WriteStoreKeys": (["kms:Decrypt", "kms:GenerateDataKey"], [OUT_KEY]),
        "ReadSigned": (["s3:GetObject", "s3:GetObjectVersion"], [f"{OUT}/mandates/*", f"{OUT}/manifests/*"]),
        "ListStores": (["s3:ListBucket", "s3:ListBucketVersions"], [IN, OUT]),
    }
    for sid in ("ReadStoreKeys", "WriteStoreKeys"):
        assert found[sid]["Condition"] == {
            "StringEquals": {"kms:ViaService": ["s3.eu-central-1.amazonaws.com"]}
        }


def test_a_parent_is_managed_and_pulls_from_its_own_registry(recorded: Callable[..., Recording]) -> None:
    found = permissions(recorded, parent=True, repositories=[REPOSITORIES])
    assert "ssm:UpdateInstanceInformation" in found["Management"]["Action"]
    # Parameters, documents and other instances are none of its business.
    assert not any(action.startswith("ssm:Get") for action in found["Management"]["Action"])
    assert found["PullContainers"]["Resource"] == [REPOSITORIES]


def test_no_permission_is_a_pattern(recorded: Callable[..., Recording]) -> None:
    for statement in permissions(recorded, parent=True, repositories=[REPOSITORIES]).values():
        assert not any("*" in action for action in statement["Action"])
        if statement["Resource"] == "*":
            assert statement["Sid"] in ("Management", "RegistryLogin")
