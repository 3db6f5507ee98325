"""NVIDIA's attestation service in a rehearsal: what is right is attested, the rest is not."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import jwt
import pytest

from jewelhouse.rehearsal import gpus, http
from jewelhouse.rehearsal.minting_nvidia import Gpu
from jewelhouse.rehearsal.nras import Attested, Nras

AUTHORITY = http.Authority()
NONCE = bytes(range(32))
GPU = gpus.gpus({"count": 1, "mode": "SPT"})[0]


def entry(one: Gpu) -> dict[str, str]:
    answered = replace(one, nonce=NONCE)
    return {
        "evidence": base64.b64encode(answered.report()).decode(),
        "certificate": base64.b64encode(answered.pem).decode(),
    }


def body(*devices: Gpu, **changed: Any) -> dict[str, Any]:
    found = {
        "nonce": NONCE.hex(),
        "arch": "HOPPER",
        "claims_version": "3.0",
        "evidence_list": [entry(one) for one in devices],
    }
    return {name: value for name, value in {**found, **changed}.items() if value is not None}


def asked(url: str, sent: Any = None) -> Any:
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    data = None if sent is None else json.dumps(sent).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), context=context, timeout=10) as reply:
        return json.loads(reply.read())


@pytest.fixture
def service():
    with Nras(GPU.roots, authority=AUTHORITY) as running:
        yield running


def claims(service: Nras, answer: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Claims of all tokens, verified by another library against the keys that the service publishes."""
    keys = {
        key.key_id: key for key in jwt.PyJWKSet.from_dict(asked(f"{service.url}/.well-known/jwks.json")).keys
    }

    def read(token: str) -> dict[str, Any]:
        key = keys[jwt.get_unverified_header(token)["kid"]]
        return jwt.decode(token, key, ["ES384"], issuer="https://nras.attestation.nvidia.com")

    [[kind, whole], devices] = answer
    assert kind == "JWT"
    return read(whole), {name: read(token) for name, token in devices.items()}


def test_gpus_that_are_right_are_attested(service):
    other = gpus.gpus({"count": 2, "mode": "SPT"})[1]
    whole, devices = claims(service, asked(f"{service.url}/v4/attest/gpu", body(GPU, other)))
    assert whole["x-nvidia-overall-att-result"] is True
    assert whole["eat_nonce"] == NONCE.hex()
    assert list(devices) == ["GPU-0", "GPU-1"]
    assert {one["measres"] for one in devices.values()} == {"success"}
    assert {one["dbgstat"] for one in devices.values()} == {"disabled"}
    assert devices["GPU-0"]["x-nvidia-gpu-driver-version"] == "590.12"
    assert service.log == [Attested(good=True)]


@pytest.mark.parametrize(
    ("devices", "because"),
    [
        pytest.param((replace(GPU, keys="foreign"),), "no pinned root", id="foreign-root"),
        pytest.param((GPU, GPU), "signed by one key", id="one-gpu-twice"),
        pytest.param((replace(GPU, measurements={1: b"debug"}),), "measurements", id="firmware-of-nobody"),
    ],
)
def test_others_are_not(service, devices, because):
    whole, _ = claims(service, asked(f"{service.url}/v4/attest/gpu", body(*devices)))
    assert whole["x-nvidia-overall-att-result"] is False
    assert because in " ".join(service.log[-1].because)


def test_of_measurements_that_nobody_released_it_tells_nothing_more(service):
    sent = body(replace(GPU, measurements={1: b"debug"}))
    _, devices = claims(service, asked(f"{service.url}/v4/attest/gpu", sent))
    assert [devices["GPU-0"][name] for name in ("measres", "secboot", "dbgstat")] == ["fail", None, None]


def test_a_report_for_another_nonce_is_not_attested(service):
    sent = body(GPU, nonce=bytes(32).hex())
    whole, _ = claims(service, asked(f"{service.url}/v4/attest/gpu", sent))
    assert whole["x-nvidia-overall-att-result"] is False


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"evidence_list": []}, id="no-gpu"),
        pytest.param({"evidence_list": [{"evidence": "AAAA", "certificate": "AAAA"}]}, id="no-report"),
        pytest.param({"evidence_list": [7]}, id="a-number"),
        pytest.param({"nonce": None}, id="no-nonce"),
        pytest.param({"nonce": "nonce"}, id="nonce-that-is-no-hexadecimal"),
        pytest.param({"arch": "ADA"}, id="architecture-without-attestation"),
        pytest.param({"claims_version": "9.0"}, id="claims-of-the-future"),
    ],
)
def test_what_is_no_evidence_is_refused_in_words(service, changed):
    with pytest.raises(urllib.error.HTTPError) as caught:
        asked(f"{service.url}/v4/attest/gpu", body(GPU, **changed))
    assert caught.value.code == 400
    assert json.loads(caught.value.read())["message"]
    assert not service.log[-1].good


def test_there_is_nothing_else(service):
    with pytest.raises(urllib.error.HTTPError) as caught:
        asked(f"{service.url}/v3/attest/gpu", {})
    assert caught.value.code == 404
