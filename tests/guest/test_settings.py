"""What the host may tell the guest, and what the measured image says: read strictly, every mistake named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from jewelhouse.guest import settings
from jewelhouse.guest.settings import (
    LIMIT,
    Endpoints,
    InvalidSettings,
    Opens,
    Seals,
    Stage,
    Trust,
    TrustedArtifact,
    TrustedGpus,
)
from jewelhouse.model import Platform

STAGE: dict[str, Any] = {
    "lifecycle": "flow",
    "stage": "finetune",
    "platform": "aws-enclave",
    "region": "eu-central-1",
    "opens": {"base": {"key": "arn:aws:kms:eu-central-1:111122223333:key/1", "store": "s3://base"}},
    "seals": {"adapter": {"store": "s3://adapter"}},
}
TRUST: dict[str, Any] = {
    "opens": {"base": {"signers": ["PEM"], "minimum-version": 3}},
    "seals": {"adapter": {"signers": ["PEM"]}},
    "run": ["/usr/bin/finetune", "--all"],
}
GPU: dict[str, Any] = {"count": 1, "architecture": "HOPPER", "mode": "SPT"}


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one value changed, or left out where it is `...`."""
    copy = json.loads(json.dumps(body))
    *way, last = path.split(".")
    inner = copy
    for name in way:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


def test_a_stage():
    assert settings.stage(encoded(STAGE)) == Stage(
        lifecycle="flow",
        stage="finetune",
        platform=Platform.AWS_ENCLAVE,
        region="eu-central-1",
        opens={"base": Opens(key="arn:aws:kms:eu-central-1:111122223333:key/1", store="s3://base")},
        seals={"adapter": Seals(store="s3://adapter")},
    )


def test_a_stage_of_another_cloud():
    body = changed(STAGE, "opens.base.credentials", {"type": "external_account"})
    body |= {"platform": "azure-cvm", "client_id": "1-2", "authority": "https://shared.weu.attest.azure.net"}
    found = settings.stage(encoded(body))
    assert (found.client_id, found.authority) == ("1-2", "https://shared.weu.attest.azure.net")
    assert found.opens["base"].credentials == {"type": "external_account"}


def test_a_stage_that_only_opens():
    body = changed(changed(STAGE, "seals", ...), "region", ...)
    found = settings.stage(encoded(body))
    assert (found.seals, found.region) == ({}, None)


def test_trust():
    assert settings.trust(encoded(TRUST)) == Trust(
        opens={"base": TrustedArtifact(signers=("PEM",), minimum_version=3)},
        seals={"adapter": ("PEM",)},
        run=("/usr/bin/finetune", "--all"),
    )


def test_any_version_will_do_unless_a_lowest_is_named():
    found = settings.trust(encoded(changed(TRUST, "opens.base.minimum-version", ...)))
    assert found.opens["base"].minimum_version == 1


@pytest.mark.parametrize(
    ("mistake", "path", "value", "where"),
    [
        ("no name", "stage", ..., "stage.stage"),
        ("a number for a name", "lifecycle", 7, "stage.lifecycle"),
        ("an empty name", "lifecycle", "", "stage.lifecycle"),
        ("a control character", "lifecycle", "a\x1b[2Jb", "stage.lifecycle"),
        ("an endless name", "lifecycle", "a" * 5000, "stage.lifecycle"),
        ("an unknown platform", "platform", "aws-something", "stage.platform"),
        ("no platform", "platform", ..., "stage.platform"),
        ("a list of artifacts, as they once were", "opens", [{"artifact": "base"}], "stage.opens"),
        ("no key", "opens.base.key", ..., "stage.opens.base.key"),
        ("no store", "opens.base.store", None, "stage.opens.base.store"),
        ("credentials as text", "opens.base.credentials", "{}", "stage.opens.base.credentials"),
        ("signers from the host", "opens.base.signers", ["PEM"], "stage.opens.base"),
        ("a key to seal to, from the host", "seals.adapter.key", "PEM", "stage.seals.adapter"),
        ("a command from the host", "run", ["/bin/sh"], "stage"),
        ("trust from the host", "trust", {}, "stage"),
        ("a region that is none", "region", 5, "stage.region"),
    ],
)
def test_a_wrong_stage_says_where(mistake, path, value, where):
    with pytest.raises(InvalidSettings) as caught:
        settings.stage(encoded(changed(STAGE, path, value)))
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("mistake", "path", "value", "where"),
    [
        ("no command", "run", [], "trust.run"),
        ("a command line as one text", "run", "/bin/sh -c x", "trust.run"),
        ("an empty word", "run", [""], "trust.run"),
        ("signers as one text", "opens.base.signers", "PEM", "trust.opens.base.signers"),
        ("no signers", "opens.base.signers", ..., "trust.opens.base.signers"),
        ("an empty signer", "seals.adapter.signers", [""], "trust.seals.adapter.signers"),
        ("version nought", "opens.base.minimum-version", 0, "trust.opens.base"),
        ("a yes for a version", "opens.base.minimum-version", True, "trust.opens.base"),
        ("a version as text", "opens.base.minimum-version", "3", "trust.opens.base"),
        ("wrapping nought", "opens.base.minimum-wrapping", 0, "trust.opens.base"),
        ("a misspelt minimum", "opens.base.minimum_version", 3, "trust.opens.base"),
        ("an unknown member", "allow", True, "trust"),
        ("no demand of GPUs, yet the name of one", "gpu", None, "trust.gpu"),
        ("GPUs without a number", "gpu", {**GPU, "count": None}, "trust.gpu.count"),
        ("no GPU demanded", "gpu", {**GPU, "count": 0}, "trust.gpu.count"),
        ("more GPUs than a machine has", "gpu", {**GPU, "count": 9}, "trust.gpu.count"),
        ("a yes for a number of GPUs", "gpu", {**GPU, "count": True}, "trust.gpu.count"),
        ("GPUs that nobody can attest", "gpu", {**GPU, "architecture": "ADA"}, "trust.gpu.architecture"),
        ("an architecture that is no text", "gpu", {**GPU, "architecture": []}, "trust.gpu.architecture"),
        ("links in the clear", "gpu", {**GPU, "mode": "PPCIE"}, "trust.gpu.mode"),
        ("no mode of GPUs", "gpu", {"count": 1, "architecture": "HOPPER"}, "trust.gpu.mode"),
        ("a driver as one text", "gpu", {**GPU, "driver": "590.12"}, "trust.gpu.driver"),
        ("a misspelt floor of GPUs", "gpu", {**GPU, "drivers": []}, "trust.gpu"),
    ],
)
def test_wrong_trust_says_where(mistake, path, value, where):
    with pytest.raises(InvalidSettings) as caught:
        settings.trust(encoded(changed(TRUST, path, value)))
    assert caught.value.where == where


def test_trust_in_gpus():
    found = settings.trust(encoded({**TRUST, "gpu": {**GPU, "vbios": ["96.00.A5.00.01"]}}))
    assert found.gpu == TrustedGpus(count=1, architecture="HOPPER", mode="SPT", vbios=("96.00.A5.00.01",))
    assert settings.trust(encoded(TRUST)).gpu is None


@pytest.mark.parametrize(
    ("attack", "data"),
    [
        ("a member twice", b'{"lifecycle": "a", "lifecycle": "b"}'),
        ("a member twice, deeper", b'{"opens": {"base": {"key": "a", "key": "b"}}}'),
        ("a number that is none", b'{"region": NaN}'),
        ("nested without end", b"[" * 100_000),
        ("other bytes", b"\xff\xfe{"),
        ("nothing", b""),
        ("more than there may be", b" " * (LIMIT + 1)),
    ],
)
@pytest.mark.parametrize("read", [settings.stage, settings.trust, settings.endpoints])
def test_what_two_readers_could_read_differently_is_refused(attack, data, read):
    with pytest.raises(InvalidSettings, match="is not JSON"):
        read(data)


@hypothesis(max_examples=200)
@given(st.binary(max_size=200))
def test_bytes_from_outside_are_refused_in_words(data):
    for read in (settings.stage, settings.trust, settings.endpoints):
        try:
            found = read(data)
        except InvalidSettings:
            continue
        assert found == Endpoints()


def test_endpoints():
    body = {"kms": "http://127.0.0.1:1", "stores": {"s3": {"endpoint_url": "http://127.0.0.1:2"}}}
    found = settings.endpoints(encoded(body))
    assert found == Endpoints(kms="http://127.0.0.1:1", stores={"s3": {"endpoint_url": "http://127.0.0.1:2"}})
    assert settings.endpoints(b"{}") == settings.THE_CLOUD


@pytest.mark.parametrize(
    ("mistake", "body", "where"),
    [
        ("misspelt", {"kmss": "http://x"}, "endpoints"),
        ("no text", {"kms": 1}, "endpoints.kms"),
        ("options as text", {"stores": {"s3": "x"}}, "endpoints.stores.s3"),
    ],
)
def test_wrong_endpoints_say_where(mistake, body, where):
    with pytest.raises(InvalidSettings) as caught:
        settings.endpoints(encoded(body))
    assert caught.value.where == where


def test_a_file_that_is_not_there_or_too_long(tmp_path):
    path = tmp_path / "trust.json"
    with pytest.raises(InvalidSettings, match=f"trust {path}: cannot be read"):
        settings.read(path, "trust")
    path.write_bytes(bytes(LIMIT + 1))
    with pytest.raises(InvalidSettings, match="has more than"):
        settings.read(path, "trust")
