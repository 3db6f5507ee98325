"""Whether a token of Azure Attestation is an answer to what was asked."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import real
from azure_rehearsed import MAA_ISSUER, closed, signer, stage
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import maa as evidence
from jewelhouse.guest import maa
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal.minting_claims import container_claims, guest_claims, jwk_rsa, put
from jewelhouse.rehearsal.minting_sgx import rsa_key

NONCE = "00ff"
_PUBLIC = rsa_key("kek").public_key().public_numbers()
OWN = (_PUBLIC.n, _PUBLIC.e)


def token(changes: dict[Any, Any] | None = None, **header: Any) -> bytes:
    claims = put(container_claims(issued=now()), {("x-ms-runtime", "nonce"): NONCE, **(changes or {})})
    return signer().token(claims, header)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def asked(**changes: Any) -> maa.Asked:
    return maa.Asked(**{"authority": MAA_ISSUER, "kind": "sevsnpvm", "key": OWN, "nonce": NONCE, **changes})


def test_an_answer_says_what_gates_will_see():
    seen = maa.check(token(), asked())
    assert 'x-ms-compliance-status "azure-compliant-uvm"' in seen
    assert f'x-ms-sevsnpvm-hostdata "{"fe" * 32}"' in seen
    assert "secureboot" not in seen


def test_claims_of_a_vm_are_looked_for_below_its_tee():
    nonce = "AAAA"
    claims = put(guest_claims(issued=now()), {("x-ms-runtime", "client-payload", "nonce"): nonce})
    seen = maa.check(signer().token(claims), asked(kind="azurevm", nonce=nonce))
    assert 'x-ms-compliance-status "azure-compliant-cvm"' in seen
    assert "secureboot true" in seen


OTHER = rsa_key("another").public_key()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"iss": "https://sharedneu.neu.attest.azure.net"}, "is issued by", id="other authority"),
        pytest.param({"iss": f"{MAA_ISSUER}/"}, "is issued by", id="authority spelt otherwise"),
        pytest.param({"exp": 1}, "it is stale", id="expired"),
        pytest.param({"exp": ...}, "does not say", id="no end"),
        pytest.param({"exp": True}, "does not say", id="end that is no number"),
        pytest.param({"nbf": 4102444800}, "is valid from 2100", id="not yet"),
        pytest.param({"x-ms-attestation-type": "sgx"}, "is of type", id="other TEE"),
        pytest.param({("x-ms-runtime", "keys"): []}, "has no key", id="no key"),
        pytest.param(
            {("x-ms-runtime", "keys"): [jwk_rsa(OTHER, kid="skr-key", key_ops=["encrypt"])]},
            "is for another key (skr-key)",
            id="key of another run",
        ),
        pytest.param(
            {
                ("x-ms-runtime", "keys"): [
                    jwk_rsa(OTHER, kid="first", key_ops=["encrypt"]),
                    jwk_rsa(rsa_key("kek").public_key(), kid="own", key_ops=["encrypt"]),
                ]
            },
            "is for another key (first)",
            id="another key before the own one",
        ),
        pytest.param(
            {("x-ms-runtime", "keys"): [jwk_rsa(OTHER, kid="bad\x1b[2J", key_ops=["encrypt"])]},
            r"bad\u001b[2J",
            id="name that writes to the terminal",
        ),
        pytest.param({("x-ms-runtime", "nonce"): "00fe"}, "answers another nonce", id="other nonce"),
        pytest.param({("x-ms-runtime", "nonce"): ...}, "answers another nonce", id="no nonce"),
        pytest.param(
            {("x-ms-runtime", "nonce"): ..., "nonce": NONCE},
            "answers another nonce",
            id="nonce that is echoed, not attested",
        ),
    ],
)
def test_what_is_no_answer(changes, says):
    assert says in closed(lambda: maa.check(token(changes), asked()))


def test_a_clock_that_is_a_little_late_is_no_reason(monkeypatch):
    ahead = put(container_claims(issued=now() + timedelta(minutes=4)), {("x-ms-runtime", "nonce"): NONCE})
    assert maa.check(signer().token(ahead), asked())


@pytest.mark.parametrize("algorithm", ["none", "HS256", "PS256", None])
def test_only_one_algorithm(algorithm):
    assert "is signed by" in closed(lambda: maa.check(token(alg=algorithm), asked()))


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_hostile_tokens_are_refused(data):
    with pytest.raises(Closed):
        maa.check(data, asked())


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_is_refused_or_changes_nothing_that_was_asked_for(at, value):
    """The signature is Key Vault's to check; what is read here still has to be this run's."""
    good = bytearray(GOOD)
    good[at % len(good)] = value
    try:
        maa.check(bytes(good), asked())
    except Closed:
        return
    found = evidence.parse(bytes(good)).claims
    key = evidence.release_key(found)
    assert (found["iss"], found["x-ms-runtime"]["nonce"]) == (MAA_ISSUER, NONCE)
    assert key is not None
    assert key.numbers == OWN


GOOD = token()


def test_a_real_token_is_an_answer_of_another_day():
    data = real.evidence("azure-maa/tvl-sharedweu-cvm.jwt")
    text = closed(lambda: maa.check(data.strip(), asked(kind="azurevm")))
    assert "expired at 2022-12-24T07:00:18Z" in text


@pytest.mark.parametrize(
    ("authority", "good"),
    [
        ("https://sharedweu.weu.attest.azure.net", True),
        ("https://sharedweu.weu.attest.azure.net/", True),
        ("https://own.weu.attest.azure.net", True),
        ("sharedweu.weu.attest.azure.net", False),
        ("https://attest.azure.net", False),
        ("https://x.attest.azure.net@example.org", False),
        ("https://example.org/.attest.azure.net", False),
        ("https://x.attest.azure.net:443", False),
        ("", False),
        (None, False),
    ],
)
def test_evidence_goes_to_azure_attestation_and_nowhere_else(authority, good):
    if good:
        assert maa.authority(stage(authority=authority)) == authority.rstrip("/")
    else:
        text = closed(lambda: maa.authority(stage(authority=authority)))
        assert re.search("no attestation endpoint", text)
