from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import nvidia_eat
from jewelhouse.evidence.verdict import Endorsements, Kind, MalformedEvidence, Verdict
from jewelhouse.rehearsal import minting_nvidia as minting
from jewelhouse.rehearsal.minting_nvidia import (
    ABSENT,
    GPU_CHECKS,
    NONCE,
    NOW,
    Service,
    b64url,
    digest,
    written,
)

NRAS = Service()
LATER = NOW + timedelta(minutes=5)


@cache
def endorsed() -> Endorsements:
    return NRAS.endorsements()


def verified(data: bytes, **how: Any) -> Verdict:
    return nvidia_eat.verify(data, **{"at": LATER, "endorsements": endorsed(), **how})


def said(verdict: Verdict) -> str:
    return "\n".join(f"{problem.where}: {problem.what}" for problem in verdict.problems)


@pytest.mark.parametrize("version", ["2.0", "3.0", "4.0"])
@pytest.mark.parametrize("gpus", [1, 8])
def test_a_bundle_verifies_with_the_key_set_that_was_saved_with_it(gpus: int, version: str) -> None:
    service = replace(NRAS, version=version)
    data = service.bundle(*([service.device()] * gpus))
    verdict = verified(data, nonce=NONCE)
    assert verdict.verified, said(verdict)
    assert verdict.kind is Kind.NVIDIA_EAT
    assert not verdict.debug
    assert verdict.issued == NOW
    assert verdict.expires == NOW + timedelta(hours=1)
    assert verdict.nonce == NONCE
    assert len(verdict.claims["devices"]) == gpus
    assert verdict.claims["x-nvidia-ver"] == version
    assert verdict.measurements["GPU-0 x-nvidia-gpu-driver-version"] == "590.12"
    assert len(verdict.chain) == 1
    assert verdict.chain[0].startswith(NRAS.kid)


def test_its_own_time_is_its_issue() -> None:
    assert verified(NRAS.bundle(), at=None).at == NOW


@pytest.mark.parametrize("status", ["enabled", "disabled-since-boot", ABSENT, False, ""])
def test_debug_is_whatever_is_not_disabled(status: Any) -> None:
    verdict = verified(NRAS.bundle(NRAS.device(), NRAS.device(dbgstat=status)))
    assert verdict.verified, said(verdict)
    assert verdict.debug


def test_a_switch_verifies_as_a_gpu_does() -> None:
    claims = {"x-nvidia-switch-bios-version": "96.10.6D.00.01", "x-nvidia-switch-arch-check": True}
    named = {"SWITCH-0": NRAS.sign(NRAS.device(**claims))}
    verdict = verified(written(NRAS.sign(NRAS.overall(named)), named))
    assert verdict.verified, said(verdict)
    assert verdict.measurements["SWITCH-0 x-nvidia-switch-bios-version"] == "96.10.6D.00.01"


# Binding of the tokens


def rebuilt(overall: Mapping[str, Any], devices: Mapping[str, str]) -> bytes:
    return written(NRAS.sign(overall), devices)


GOOD = NRAS.sign(NRAS.device())
OTHER = NRAS.sign(NRAS.device(hwmodel="GB100"))
DEBUG = NRAS.sign(NRAS.device(dbgstat="enabled"))


@pytest.mark.parametrize(
    ("submods", "devices", "says"),
    [
        ({"GPU-0": digest(DEBUG)}, {"GPU-0": GOOD}, "GPU-0 digest: is not the one"),
        ({"GPU-0": digest(GOOD)}, {"GPU-0": OTHER}, "GPU-0 digest: is not the one"),
        (
            {"GPU-0": digest(GOOD), "GPU-1": digest(OTHER)},
            {"GPU-0": OTHER, "GPU-1": GOOD},
            "GPU-1 digest: is not the one",
        ),
        ({"GPU-0": digest(GOOD)}, {}, "submods.GPU-0: has no token in the bundle"),
        (
            {"GPU-0": digest(GOOD), "GPU-1": digest(DEBUG)},
            {"GPU-0": GOOD},
            "submods.GPU-1: has no token in the bundle",
        ),
        ({"GPU-0": digest(GOOD)}, {"GPU-0": GOOD, "GPU-1": OTHER}, "GPU-1: is not named"),
        ({}, {"GPU-0": GOOD}, "submods: names no device"),
        (None, {"GPU-0": GOOD}, "submods: names no device"),
        ("GPU-0", {"GPU-0": GOOD}, "submods: names no device"),
        ({"GPU-0": ["DIGEST", ["SHA-1", "00" * 20]]}, {"GPU-0": GOOD}, "GPU-0 digest: is not the one"),
        (
            {"GPU-0": ["DIGEST", ["SHA-256", digest(GOOD)[1][1].upper()]]},
            {"GPU-0": GOOD},
            "GPU-0 digest: is not the one",
        ),
        ({"GPU-0": digest(GOOD)[1]}, {"GPU-0": GOOD}, "GPU-0 digest: is not the one"),
        ({"evil name": digest(GOOD)}, {"evil name": GOOD}, "is no name of a device"),
    ],
    ids=[
        "good-token-for-a-debug-device",
        "token-of-another-device",
        "tokens-swapped",
        "all-devices-left-out",
        "bad-device-left-out",
        "device-added",
        "no-submods",
        "submods-null",
        "submods-are-text",
        "weak-digest",
        "digest-in-another-spelling",
        "digest-without-its-kind",
        "strange-name",
    ],
)
def test_tokens_that_do_not_belong_together_are_refused(
    submods: Any, devices: Mapping[str, str], says: str
) -> None:
    verdict = verified(rebuilt(NRAS.overall({}, submods=submods), devices))
    assert not verdict.verified
    assert says in said(verdict)


def test_white_space_around_a_device_token_changes_its_digest() -> None:
    verdict = verified(rebuilt(NRAS.overall({"GPU-0": GOOD}), {"GPU-0": f" {GOOD}"}))
    assert not verdict.verified
    assert "GPU-0 digest" in said(verdict)


def test_the_token_for_the_whole_alone_proves_no_device() -> None:
    verdict = verified(NRAS.sign(NRAS.overall({"GPU-0": GOOD})).encode())
    assert not verdict.verified
    assert verdict.debug
    assert "submods.GPU-0: has no token" in said(verdict)


# Claims


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"x-nvidia-overall-att-result": False}, "NVIDIA did not attest it"),
        ({"x-nvidia-overall-att-result": "true"}, "NVIDIA did not attest it"),
        ({"x-nvidia-overall-att-result": ABSENT}, "NVIDIA did not attest it"),
        ({"x-nvidia-ver": "5.0"}, 'x-nvidia-ver: is "5.0"'),
        ({"x-nvidia-ver": ABSENT}, "x-nvidia-ver: is absent"),
        ({"sub": "NVIDIA-GPU-ATTESTATION"}, "sub: is"),
        ({"iss": "https://nras.attestation.nvidia.com.evil.example"}, "overall iss: is"),
        ({"iss": "https://nras.attestation-stg.nvidia.com"}, "overall iss: is"),
        ({"iss": ABSENT}, "overall iss: is absent"),
        ({"eat_nonce": "not hexadecimal"}, "eat_nonce: is"),
        ({"eat_nonce": ABSENT}, "eat_nonce: is absent"),
        ({"exp": ABSENT}, "exp: is absent"),
        ({"iat": "now"}, "iat: is"),
        ({"exp": 10**400}, "exp: is"),
    ],
    ids=[
        "failed",
        "result-is-text",
        "result-absent",
        "version-unknown",
        "version-absent",
        "device-token-as-the-whole",
        "issuer-that-looks-alike",
        "staging-issuer",
        "issuer-absent",
        "nonce-is-text",
        "nonce-absent",
        "expiry-absent",
        "issue-is-text",
        "expiry-beyond-time",
    ],
)
def test_a_token_for_the_whole_that_breaks_a_rule_is_refused(changed: dict[str, Any], says: str) -> None:
    verdict = verified(NRAS.bundle(**changed))
    assert not verdict.verified
    assert says in said(verdict)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"measres": "fail"}, "GPU-0 measres: is"),
        ({"measres": "absent"}, "GPU-0 measres: is"),
        ({"measres": ABSENT}, "GPU-0 measres: is absent"),
        ({"secboot": False}, "GPU-0 secboot: is false"),
        ({"secboot": ABSENT}, "GPU-0 secboot: is absent"),
        ({"eat_nonce": "00" * 32}, "GPU-0 eat_nonce: is not the one of the token for the whole"),
        ({"eat_nonce": ABSENT}, "GPU-0 eat_nonce: is not the one of the token for the whole"),
        ({"iss": "https://evil.example"}, "GPU-0 iss: is"),
        ({"exp": int(LATER.timestamp())}, "GPU-0 exp: expired"),
        ({"nbf": int(LATER.timestamp()) + 1}, "GPU-0 nbf: is valid from"),
        (
            {"x-nvidia-gpu-driver-rim-cert-chain": {"x-nvidia-cert-status": "valid"}},
            "x-nvidia-cert-ocsp-status: is absent",
        ),
        (
            {
                "x-nvidia-gpu-attestation-report-cert-chain": {
                    "x-nvidia-cert-status": "revoked",
                    "x-nvidia-cert-ocsp-status": "revoked",
                }
            },
            'x-nvidia-cert-status: is "revoked"',
        ),
        *(({f"x-nvidia-gpu-{name}": False}, f"x-nvidia-gpu-{name}: is false") for name in GPU_CHECKS),
    ],
)
def test_a_device_token_that_breaks_a_rule_is_refused(changed: dict[str, Any], says: str) -> None:
    verdict = verified(NRAS.bundle(NRAS.device(**changed)))
    assert not verdict.verified
    assert says in said(verdict)


@pytest.mark.parametrize(
    ("nonce", "fits"),
    [(NONCE, True), (bytes(32), False), (NONCE[:16], False), (b"", False)],
    ids=["the-nonce", "replayed", "cut", "empty"],
)
def test_the_nonce_is_compared(nonce: bytes, fits: bool) -> None:
    assert verified(NRAS.bundle(), nonce=nonce).verified is fits


@pytest.mark.parametrize(
    ("after", "fits"),
    [(timedelta(minutes=59), True), (timedelta(hours=1), False), (timedelta(seconds=-1), False)],
    ids=["within-the-hour", "expired", "before-its-issue"],
)
def test_a_bundle_lives_for_an_hour(after: timedelta, fits: bool) -> None:
    assert verified(NRAS.bundle(), at=NOW + after).verified is fits


# Keys and signatures


@pytest.mark.parametrize(
    ("endorsements", "says"),
    [
        (lambda: Endorsements(), "no saved key set has"),
        (lambda: replace(NRAS, kid="nv-eat-kid-other").endorsements(), "no saved key set has"),
        (lambda: replace(NRAS, name="foreign").endorsements(), "is not made by the key"),
        (lambda: NRAS.endorsements(x=NRAS.jwk()["y"]), "is no point of P-384"),
        (lambda: NRAS.endorsements(x=7), "x is 7"),
        (lambda: NRAS.endorsements(x5c=[]), "x5c is []"),
        (lambda: NRAS.endorsements(x5c=[7]), "x5c holds something else than text"),
        (lambda: NRAS.endorsements(x5c=["*"]), "x5c is not base64"),
        (lambda: NRAS.endorsements(x5c=["AAAA"]), "is no X.509"),
        (
            lambda: NRAS.endorsements(x5c=replace(NRAS, name="foreign").jwk()["x5c"]),
            "is not the key of its own certificate",
        ),
        (
            lambda: NRAS.endorsements(
                x5c=[NRAS.jwk()["x5c"][0], replace(NRAS, name="foreign").jwk()["x5c"][1]]
            ),
            "leaf was not issued by intermediate",
        ),
        (
            lambda: replace(
                NRAS, certified=(NOW - timedelta(days=9), NOW - timedelta(days=7))
            ).endorsements(),
            "overall key: was certified from",
        ),
        (lambda: NRAS.endorsements(crv="P-256"), "no saved key set has"),
        (lambda: NRAS.endorsements(kty="RSA"), "no saved key set has"),
        (lambda: Endorsements(files=(b'{"keys": ' + b"[" * 50_000,)), "no saved key set has"),
        (lambda: Endorsements(files=(b'{"keys": {"kid": 1}}',)), "no saved key set has"),
    ],
    ids=[
        "no-key-set",
        "rotated-out-after-two-days",
        "key-set-of-another-service",
        "not-on-the-curve",
        "coordinate-is-a-number",
        "chain-empty",
        "chain-of-numbers",
        "chain-not-base64",
        "chain-of-junk",
        "certificate-of-another-key",
        "certificate-of-another-issuer",
        "key-used-after-its-two-days",
        "other-curve",
        "other-kind-of-key",
        "nested-deeply",
        "keys-are-no-list",
    ],
)
def test_a_bundle_without_its_key_is_refused(endorsements: Any, says: str) -> None:
    verdict = verified(NRAS.bundle(), endorsements=endorsements())
    assert not verdict.verified
    assert says in said(verdict)


def test_a_key_without_certificates_is_taken_as_it_was_saved() -> None:
    bare = {name: value for name, value in NRAS.jwk().items() if name != "x5c"}
    endorsements = Endorsements(files=(json.dumps({"keys": [bare]}).encode(),))
    assert verified(NRAS.bundle(), endorsements=endorsements).verified


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"alg": "none"}, 'header.alg: is "none"'),
        ({"alg": "HS384"}, 'header.alg: is "HS384"'),
        ({"alg": "ES256"}, 'header.alg: is "ES256"'),
        ({"alg": ABSENT}, "header.alg: is absent"),
        ({"jwk": {"kty": "EC"}}, "header.jwk: is not accepted"),
        ({"jku": "https://evil.example"}, "header.jku: is not accepted"),
        ({"x5c": ["AAAA"]}, "header.x5c: is not accepted"),
        ({"crit": ["b64"], "b64": False}, "header.crit: is not accepted"),
        ({"kid": ["nv-eat-kid-test-1"]}, "no saved key set has"),
    ],
    ids=[
        "none",
        "mac",
        "es256",
        "absent",
        "own-key",
        "own-address",
        "own-chain",
        "critical",
        "kid-is-a-list",
    ],
)
def test_a_token_does_not_bring_its_own_rules(header: dict[str, Any], says: str) -> None:
    real = {name: value for name, value in header.items() if value is not ABSENT}
    token = NRAS.sign(NRAS.device(), **real)
    if header.get("alg") is ABSENT:
        _, payload, signature = token.split(".")
        token = f"{b64url(json.dumps({'kid': NRAS.kid}).encode())}.{payload}.{signature}"
    verdict = verified(rebuilt(NRAS.overall({"GPU-0": token}), {"GPU-0": token}))
    assert not verdict.verified
    assert f"GPU-0 {says}" in said(verdict) or says in said(verdict)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["header", "claims", "signature"])
@pytest.mark.parametrize("which", ["overall", "device"])
def test_a_changed_token_loses_its_signature(which: str, part: int) -> None:
    tokens = {"overall": NRAS.sign(NRAS.overall({"GPU-0": GOOD})), "device": GOOD}
    pieces = tokens[which].split(".")
    at = len(pieces[part]) // 2
    letter = "A" if pieces[part][at] != "A" else "B"
    pieces[part] = pieces[part][:at] + letter + pieces[part][at + 1 :]
    tokens[which] = ".".join(pieces)
    if which == "device":
        tokens["overall"] = NRAS.sign(NRAS.overall({"GPU-0": tokens["device"]}))
    try:
        verdict = verified(written(tokens["overall"], {"GPU-0": tokens["device"]}))
    except MalformedEvidence:
        assert part < 2
        return
    assert not verdict.verified


@pytest.mark.parametrize("size", [0, 95, 97, 192])
def test_a_signature_of_another_size_is_refused(size: int) -> None:
    signed = GOOD.rpartition(".")[0]
    token = f"{signed}.{b64url(bytes(size))}"
    verdict = verified(rebuilt(NRAS.overall({"GPU-0": token}), {"GPU-0": token}))
    assert not verdict.verified


# Outside bytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[[], {}]",
        b'[["JWT"], {}]',
        b'[["JWT", 7], {}]',
        b'[["CWT", "a.b.c"], {}]',
        b'[["JWT", "a.b.c"], []]',
        b'[["JWT", "e30.e30.AA"], {"GPU-0": null}]',
        b'[["JWT", "e30.e30.AA"], {"GPU-0": "e30.e30.AA", "GPU-0": "e30.e30.AA"}]',
        b'[["JWT", "e30.e30.AA"], {"GPU-0": "\xc3\xa9"}]',
        b'[["JWT", "e30.e30.AA"], {}, {}]',
        b'[["JWT", "e30.e30.AA"], {' + b",".join(b'"%d": ""' % n for n in range(65)) + b"}]",
        b"[" * 200_000,
        b"[" + b" " * 2_000_000,
        b"\xff\xfe",
        b"a.b",
    ],
    ids=[
        "empty",
        "no-members",
        "empty-members",
        "no-token",
        "token-is-a-number",
        "another-kind-of-token",
        "devices-are-a-list",
        "device-token-is-null",
        "device-named-twice",
        "token-is-not-ascii",
        "third-member",
        "too-many-devices",
        "nested-deeply",
        "too-large",
        "not-text",
        "two-parts",
    ],
)
def test_what_is_no_bundle_says_so(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        verified(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*NRAS.device(), *NRAS.overall({})])


@given(whole=st.dictionaries(NAMES, JSON, max_size=4), device=st.dictionaries(NAMES, JSON, max_size=4))
@settings(max_examples=60, deadline=None)
def test_claims_of_any_type_are_no_traceback(whole: dict[str, Any], device: dict[str, Any]) -> None:
    for at in (None, LATER):
        try:
            verdict = verified(NRAS.bundle(NRAS.device(**device), **whole), at=at)
        except MalformedEvidence:
            continue
        json.dumps(verdict.json())
        if verdict.verified:
            assert verdict.claims["x-nvidia-overall-att-result"] is True


@given(value=JSON)
@settings(max_examples=60, deadline=None)
def test_any_json_is_refused_without_a_traceback(value: Any) -> None:
    for one in (value, [value, value], [["JWT", value], {"GPU-0": value}], [["JWT", GOOD], value]):
        try:
            verdict = verified(json.dumps(one).encode())
        except MalformedEvidence:
            continue
        assert not verdict.verified


@given(cut=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_bundle_that_is_cut_is_refused(cut: int) -> None:
    data = NRAS.bundle()
    with pytest.raises(MalformedEvidence):
        verified(data[: cut % len(data)])


def test_the_rotating_key_lives_for_two_days_as_minted() -> None:
    start, end = NRAS.certified
    assert end - start == timedelta(days=2)
    assert minting.ISSUER in nvidia_eat.ROOTS
