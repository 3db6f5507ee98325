"""Inputs and arguments against the pinned SDKs' own types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jewelhouse.sandbox.schema import Schema, Schemas, extract, extract_function, undated

KEY = "aws:kms/key:Key"
VAULT_KEY = "azure-native:keyvault:Key"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
INSTANCE = "gcp:compute/instance:Instance"
BOOT = {"bootDisk": {}, "networkInterfaces": [], "machineType": "n2d-standard-4"}
RELEASED = {"vaultName": "v", "resourceGroupName": "g"}

_extracted: dict[str, Schema] = {}


def schema(token: str) -> Schema:
    if token not in _extracted:
        found = extract(token.split(":")[0], token)
        assert found is not None
        _extracted[token] = found
    return _extracted[token]


@pytest.mark.parametrize(
    ("token", "values", "expected"),
    [
        pytest.param(KEY, {"description": "x", "deletionWindowInDays": 30}, [], id="fits"),
        pytest.param(
            KEY,
            {"polcy": "{}"},
            ["polcy is not a property of aws:kms/key:Key; did you mean policy?"],
            id="name",
        ),
        pytest.param(
            KEY, {"isEnabled": "perhaps"}, ["isEnabled must be of type boolean, found 'perhaps'"], id="bool"
        ),
        pytest.param(
            KEY,
            {"deletionWindowInDays": 7.5},
            ["deletionWindowInDays must be of type integer, found 7.5"],
            id="int",
        ),
        pytest.param(
            KEY,
            {"description": {"a": 1}},
            ["description must be of type string, found an object"],
            id="string",
        ),
        pytest.param(KEY, {"policy": None}, [], id="unknown-value"),
        pytest.param(KEY, {"__defaults": ["name"]}, [], id="providers-own-mark"),
        pytest.param(
            TEMPLATE,
            {"metadataOptions": {"httpTokenz": "required"}},
            [
                "metadataOptions.httpTokenz is not a property of aws:ec2/launchTemplate:LaunchTemplate; did "
                "you mean httpTokens?"
            ],
            id="nested-name",
        ),
        pytest.param(
            TEMPLATE, {"enclaveOptions": True}, ["enclaveOptions must be an object"], id="nested-object"
        ),
        pytest.param(
            TEMPLATE,
            {"vpcSecurityGroupIds": "sg-1"},
            ["vpcSecurityGroupIds must be a list, found 'sg-1'"],
            id="list",
        ),
        pytest.param(TEMPLATE, {"tags": ["a"]}, ["tags must be a map, found a list"], id="map"),
        pytest.param(
            VAULT_KEY,
            {**RELEASED, "properties": {"kty": "RSA-HMS"}},
            ["properties.kty 'RSA-HMS' is not allowed; did you mean RSA-HSM?"],
            id="enum",
        ),
        pytest.param(
            VAULT_KEY, {"vaultName": "v", "properties": {}}, ["resourceGroupName is required"], id="required"
        ),
        pytest.param(
            "azure-native:compute:VirtualMachine",
            {"resourceGroupName": "g", "hardwareProfile": {"vmSize": "Standard_DC4as_v7"}},
            [],
            id="open-enum-that-grows",
        ),
        pytest.param(
            INSTANCE,
            {**BOOT, "attachedDisks": [{}]},
            ["attachedDisks[0].source is required"],
            id="required-in-list",
        ),
    ],
)
def test_inputs_are_checked_against_the_sdk(token: str, values: dict[str, Any], expected: list[str]) -> None:
    found = [f"{where} {reason}" for where, reason in schema(token).problems(values)]
    assert len(found) == len(expected), found
    for text, wanted in zip(found, expected, strict=True):
        assert text.startswith(wanted)


@pytest.mark.parametrize(
    ("token", "immutable"),
    [
        pytest.param(INSTANCE, "hostname", id="documented"),
        pytest.param("gcp:kms/keyRing:KeyRing", "", id="none"),
    ],
)
def test_what_the_sdk_itself_calls_immutable(token: str, immutable: str) -> None:
    found = schema(token).immutable
    assert immutable in found if immutable else found == []


@pytest.mark.parametrize(
    "token", ["aws:kms/nothing:Nothing", "azure-native:keyvault:Safe", "gcp:batch/job:Job", "aws:kms:Key"]
)
def test_a_type_that_the_sdk_lacks_has_no_schema(token: str) -> None:
    assert extract(token.split(":")[0], token) is None


def test_a_dated_azure_type_is_the_undated_one() -> None:
    assert undated("azure-native:containerinstance/v20240501preview:ContainerGroup") == (
        "azure-native:containerinstance:ContainerGroup"
    )
    assert undated(KEY) == KEY


@pytest.mark.parametrize(
    ("token", "required"),
    [
        ("aws:kms/getPublicKey:getPublicKey", ["keyId"]),
        ("aws:index/getRegion:getRegion", []),
        ("azure-native:keyvault:getKey", ["keyName", "resourceGroupName", "vaultName"]),
        ("gcp:kms/getKMSCryptoKeyVersion:getKMSCryptoKeyVersion", ["cryptoKey"]),
    ],
)
def test_arguments_of_functions(token: str, required: list[str]) -> None:
    function = extract_function(token.split(":")[0], token)
    assert function is not None
    assert function.required == required
    assert extract_function("aws", "aws:kms/getNothing:getNothing") is None


def test_a_cached_type_needs_no_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Schemas("aws", tmp_path).get(KEY)
    assert first is not None
    monkeypatch.setattr("jewelhouse.sandbox.schema.extract", lambda package, token: pytest.fail("read again"))
    assert Schemas("aws", tmp_path).get(KEY) == first
