"""What every stand-in does alike: names, secrets, differences, previews, drift, refusals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driving import Driver
from pulumi.provider.experimental.property_value import PropertyValue, PropertyValueType
from pulumi.runtime.rpc import UNKNOWN
from samples import PROJECT

from jewelhouse.sandbox.clouds.common import Refused
from jewelhouse.sandbox.provider import INPUTS, differences, property_value

BUCKET = "aws:s3/bucket:Bucket"
GROUP = "azure-native:resources:ResourceGroup"
ACCOUNT = "azure-native:storage:StorageAccount"
GOOGLE_BUCKET = "gcp:storage/bucket:Bucket"


@pytest.mark.parametrize(
    ("package", "kind", "inputs", "named", "pattern"),
    [
        ("aws", BUCKET, {}, "bucket", r"sealed-store-[0-9a-f]{7}"),
        (
            "aws",
            "aws:iam/role:Role",
            {"assumeRolePolicy": '{"Statement": []}'},
            "name",
            r"sealed-store-[0-9a-f]{7}",
        ),
        ("gcp", "gcp:kms/keyRing:KeyRing", {"location": "europe-west4"}, "name", r"sealed-store-[0-9a-f]{7}"),
        ("azure-native", GROUP, {"location": "westeurope"}, "resourceGroupName", r"sealed-store[0-9a-f]{8}"),
        (
            "azure-native",
            ACCOUNT,
            {"resourceGroupName": "g", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}},
            "accountName",
            r"sealedstore[0-9a-f]{8}",
        ),
    ],
)
def test_names_are_made_stay_and_change_with_a_replacement(
    start: Callable[..., Driver], package: str, kind: str, inputs: dict[str, Any], named: str, pattern: str
) -> None:
    driver = start(package)
    first = driver.check(kind, inputs, "sealed-store", seed=b"1").inputs or {}
    assert isinstance(first[named].value, str)
    assert re.fullmatch(pattern, first[named].value)
    kept = driver.check(kind, inputs, "sealed-store", old=first, seed=b"2").inputs or {}
    assert kept[named].value == first[named].value
    # The engine checks a replacement without old inputs.
    other = driver.check(kind, inputs, "sealed-store", seed=b"2").inputs or {}
    assert other[named].value != first[named].value
    given = driver.check(kind, {**inputs, named: "mine"}, "sealed-store").inputs or {}
    assert given[named].value == "mine"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1}, [], id="same"),
        pytest.param({"a": 1}, {"a": 2}, [("a", "update")], id="update"),
        pytest.param({}, {"a": {"b": 1}}, [("a", "add")], id="add"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, [("a.c", "delete")], id="nested-delete"),
        pytest.param({"a": [1, 2]}, {"a": [1, 3]}, [("a[1]", "update")], id="list-item"),
        pytest.param({"a": [1]}, {"a": [1, 3]}, [("a", "update")], id="list-length"),
        pytest.param({"a": 1}, {"a": None}, [("a", "update")], id="unknown"),
        pytest.param({"a": None}, {"a": None}, [("a", "update")], id="unknown-differs-from-unknown"),
    ],
)
def test_differences(old: dict[str, Any], new: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert differences(old, new) == expected


@pytest.mark.parametrize(
    ("package", "kind", "before", "after", "replaces", "first"),
    [
        pytest.param("aws", BUCKET, {"tags": {"a": "1"}}, {"tags": {"a": "2"}}, [], False, id="update"),
        pytest.param(
            "aws", BUCKET, {"bucket": "one-bucket"}, {"bucket": "two-bucket"}, ["bucket"], False, id="renamed"
        ),
        pytest.param(
            "aws", BUCKET, {}, {"objectLockEnabled": True}, ["objectLockEnabled"], False, id="autonamed"
        ),
        pytest.param(
            "aws",
            BUCKET,
            {"bucket": "one-bucket"},
            {"bucket": "one-bucket", "objectLockEnabled": True},
            ["objectLockEnabled"],
            True,
            id="named-by-hand",
        ),
        pytest.param(
            "azure-native",
            GROUP,
            {"location": "westeurope"},
            {"location": "northeurope"},
            ["location"],
            False,
            id="azure-autonamed",
        ),
        pytest.param(
            "azure-native",
            GROUP,
            {"location": "westeurope", "resourceGroupName": "g"},
            {"location": "northeurope", "resourceGroupName": "g"},
            ["location"],
            True,
            id="azure-named-by-hand",
        ),
        pytest.param(
            "gcp",
            GOOGLE_BUCKET,
            {"location": "EU", "versioning": {"enabled": False}},
            {"location": "EU", "versioning": {"enabled": True}},
            [],
            False,
            id="nested-update",
        ),
        pytest.param(
            "gcp", GOOGLE_BUCKET, {"location": "EU"}, {"location": "US"}, ["location"], False, id="place"
        ),
    ],
)
def test_immutable_properties_replace(
    start: Callable[..., Driver],
    package: str,
    kind: str,
    before: dict[str, Any],
    after: dict[str, Any],
    replaces: list[str],
    first: bool,
) -> None:
    driver = start(package)
    made = driver.create(kind, before)
    same = driver.diff(made, before)
    assert not same.changes, "computed outputs and names that were made up are no difference"
    found = driver.diff(made, after)
    assert found.changes
    assert list(found.replaces or []) == replaces
    assert found.delete_before_replace is first
    assert found.detailed_diff


def test_a_secret_input_stays_secret(start: Callable[..., Driver]) -> None:
    driver = start("aws")
    secret = property_value("s3cret").with_secret(True)
    checked = driver.check("aws:ssm/parameter:Parameter", {"type": "SecureString", "name": "p"})
    inputs = {**(checked.inputs or {}), "value": secret}
    made = driver.make("aws:ssm/parameter:Parameter", inputs, "p")
    assert made.properties["value"].is_secret
    assert made.properties[INPUTS].value["value"].is_secret
    read = driver.read(made)
    assert (read.inputs or {})["value"].is_secret
    assert (read.properties or {})["value"].is_secret


def test_outputs_that_the_sdk_calls_secret_are_secret(start: Callable[..., Driver]) -> None:
    made = start("gcp").create("gcp:storage/bucket:Bucket", {"location": "EU"})
    assert not made.properties["name"].is_secret
    template = start("aws").provider._schema("aws:rds/cluster:Cluster")
    assert "masterPassword" in template.secret_outputs


def test_a_preview_makes_nothing_and_leaves_outputs_unknown(start: Callable[..., Driver]) -> None:
    driver = start("aws")
    shown = driver.create(BUCKET, {"bucket": "weights"}, preview=True)
    assert shown.id == ""
    assert (
        shown.properties["arn"].value == UNKNOWN or shown.properties["arn"].type is PropertyValueType.COMPUTED
    )
    assert shown["bucket"] == "weights"
    driver.create(BUCKET, {"bucket": "weights"})


def test_unknown_inputs_pass_at_preview(start: Callable[..., Driver]) -> None:
    driver = start("aws")
    checked = driver.check(BUCKET, {}, "b")
    inputs = {**(checked.inputs or {}), "bucket": PropertyValue(UNKNOWN)}
    assert driver.make(BUCKET, inputs, "b", preview=True)["bucket"] is None


def test_what_was_deleted_by_hand_is_gone_on_refresh(start: Callable[..., Driver]) -> None:
    driver = start("aws")
    made = driver.create(BUCKET, {"bucket": "weights"})
    assert driver.read(made).resource_id == made.id
    driver.delete(made)
    assert not driver.read(made).resource_id
    with pytest.raises(Refused, match="was not found; refresh the stack"):
        driver.update(made, {"bucket": "weights", "tags": {"a": "1"}})


def test_accounts_do_not_see_each_other(start: Callable[..., Driver]) -> None:
    mine, other = start("aws"), start("aws", allowedAccountIds=json.dumps(["444455556666"]), assumeRoles="[]")
    made = mine.create("aws:kms/key:Key", {"description": "mine"})
    assert made["arn"].startswith("arn:aws:kms:eu-central-1:111122223333:key/")
    assert not other.read(made).resource_id


@pytest.mark.parametrize(
    ("package", "call", "words"),
    [
        (
            "aws",
            lambda driver: driver.create("aws:kms/safe:Safe", {}),
            "is not a resource type of pulumi_aws",
        ),
        (
            "aws",
            lambda driver: driver.invoke("aws:ec2/getVpc:getVpc", id="x"),
            "does not answer aws:ec2/getVpc:getVpc",
        ),
        (
            "gcp",
            lambda driver: driver.invoke("gcp:dns/getKeys:getKeys"),
            "docs/sandbox.md lists what it answers",
        ),
    ],
)
def test_what_it_does_not_know_is_refused_by_name(
    start: Callable[..., Driver], package: str, call: Callable[[Driver], Any], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        call(start(package))


@pytest.mark.parametrize(
    ("args", "failure"),
    [({"keyid": "k"}, "keyid: is not an argument of .* did you mean keyId"), ({}, "keyId: is required")],
)
def test_arguments_of_functions_are_checked(aws: Driver, args: dict[str, str], failure: str) -> None:
    with pytest.raises(AssertionError, match=failure):
        aws.invoke("aws:kms/getPublicKey:getPublicKey", **args)


def test_a_type_without_rules_of_its_own_works(start: Callable[..., Driver]) -> None:
    queue = start("aws").create("aws:sqs/queue:Queue", {"delaySeconds": 5})
    assert queue.id
    assert queue["arn"].startswith("arn:aws:sqs:eu-central-1:111122223333:")
    topic = start("gcp").create("gcp:pubsub/topic:Topic", {})
    assert topic.id.startswith("projects/weights-owner/topics/thing-")
    with pytest.raises(AssertionError, match="delaySecondz"):
        start("aws").create("aws:sqs/queue:Queue", {"delaySecondz": 5})


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["aws"], {}, "starts only in the sandbox"),
        (
            ["aws"],
            {"JEWELHOUSE_SANDBOX": "true", "JEWELHOUSE_SANDBOX_WORLD": "/nowhere"},
            "starts only in the sandbox",
        ),
        (["azure"], {"JEWELHOUSE_SANDBOX": "1"}, "'azure' is not one of aws, azure-native, gcp"),
        (["aws"], {"JEWELHOUSE_SANDBOX": "1"}, "JEWELHOUSE_SANDBOX_WORLD does not name"),
    ],
)
def test_it_refuses_to_start_outside_a_sandbox(
    arguments: list[str], environment: dict[str, str], words: str, tmp_path: Path
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JEWELHOUSE_")}
    done = subprocess.run(
        [sys.executable, "-m", "jewelhouse.sandbox.provider", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert words in done.stderr


def test_starting_imports_no_sdk() -> None:
    code = (
        "import sys, jewelhouse.sandbox.provider; print([m for m in sys.modules if m.startswith('pulumi_')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_lists_what_is_answered(start: Callable[..., Driver]) -> None:
    page = (PROJECT / "docs" / "sandbox.md").read_text(encoding="utf-8")
    table = page.split("<!-- answers")[1].split("\n\n")[1]
    listed = {
        (row.split("|")[1].strip(), name)
        for row in table.splitlines()[2:]
        for name in re.findall(r"`([^`]+)`", row)
    }
    answered = {
        (package, token.split(":", 1)[1] if package == "azure-native" else token.split(":")[1])
        for package in ("aws", "azure-native", "gcp")
        for token in start(package).provider._cloud.answers
    }
    assert listed == answered
