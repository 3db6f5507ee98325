from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inventory as inventories
import pulumi
import pytest
from answers import PEM
from pulumi_aws import iam
from recording import Recording
from samples import shipped

from jewelhouse.aws import AttestedKey, AttestedKeyArgs
from jewelhouse.lifecycle import release_policies
from jewelhouse.release.aws import compile
from jewelhouse.release.lint import RefusedPolicy

DOCUMENT = compile(next(iter(release_policies(shipped("prod-aws")).values())))


def test_inventory(recorded: Callable[..., Recording], inventory: Path) -> None:
    recording = recorded(lambda: AttestedKey("llm-base", AttestedKeyArgs(document=DOCUMENT)))
    inventories.check(recording, inventory / "key.yaml")


def test_the_policy_is_on_the_key_and_readable_in_a_preview(recorded: Callable[..., Recording]) -> None:
    def program() -> None:
        role = iam.Role("role", name="llm-tune", assume_role_policy="{}")
        AttestedKey("llm-base", AttestedKeyArgs(document=DOCUMENT, after=[role]))

    for preview in (False, True):
        key = recorded(program, preview=preview).named("llm-base-key")
        assert json.loads(key.inputs["policy"]) == DOCUMENT
        # KMS refuses a policy with a role that does not exist yet.
        assert [urn.rsplit("::", 1)[-1] for urn in key.depends_on] == ["role"]


@pytest.mark.parametrize("destroyable", [False, True])
def test_a_key_is_kept_unless_it_may_be_destroyed(
    recorded: Callable[..., Recording], destroyable: bool
) -> None:
    args = AttestedKeyArgs(document=DOCUMENT, destroyable=destroyable)
    key = recorded(lambda: AttestedKey("llm-base", args)).named("llm-base-key")
    assert key.protect is not destroyable
    # Time to think again stays in either case.
    assert key.inputs["deletionWindowInDays"] == 30


def test_the_public_half_is_read_from_the_key_itself(recorded: Callable[..., Recording]) -> None:
    recording = recorded(
        lambda: pulumi.export("pem", AttestedKey("llm-base", AttestedKeyArgs(document=DOCUMENT)).public_key)
    )
    assert recording.exports["pem"] == PEM
    ((token, args),) = recording.calls
    assert token == "aws:kms/getPublicKey:getPublicKey"
    assert args["keyId"].endswith("llm-base-key")


def test_nothing_else_is_made_of_a_key(recorded: Callable[..., Recording]) -> None:
    calls: list[Any] = recorded(
        lambda: AttestedKey("llm-base", AttestedKeyArgs(document=DOCUMENT)), preview=True
    ).calls
    assert {token for token, _ in calls} <= {"aws:kms/getPublicKey:getPublicKey"}


@pytest.mark.parametrize(
    ("effect", "rule"),
    [
        ({"Action": "kms:*", "Principal": {"AWS": "arn:aws:iam::111122223333:root"}}, "JH-AWS-"),
        ({"Action": "kms:Decrypt", "Principal": "*"}, "JH-AWS-"),
    ],
    ids=["root delegation", "anybody"],
)
def test_a_document_in_which_lint_finds_an_error_makes_no_key(
    recorded: Callable[..., Recording], effect: dict[str, Any], rule: str
) -> None:
    weak = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*", **effect}]}
    made: list[Recording] = []
    with pytest.raises(RefusedPolicy, match=rule):
        made.append(recorded(lambda: AttestedKey("llm-base", AttestedKeyArgs(document=weak))))
    assert not made
