"""Tokens of Azure Attestation: what verifies, and each attack or mistake that must not."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
import real
from judging_maa import authority, judged, passes, says, unsigned

from jewelhouse.evidence import maa
from jewelhouse.evidence.verdict import Endorsements, Kind, MalformedEvidence
from jewelhouse.rehearsal.minting_tokens import (
    ISSUED,
    MAA_ISSUER,
    b64url,
    container_claims,
    guest_claims,
    jwk_rsa,
    platform_claims,
    put,
    rsa_key,
)

TEE = "x-ms-isolation-tee"
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("claims", "measured"),
    [
        (guest_claims(), {"hostdata": "00" * 32, "launchmeasurement": "ad" * 48}),
        (guest_claims("tdxvm"), {"mrtd": "5a" * 48, "rtmr3": "03" * 48}),
        (platform_claims(), {"hostdata": "00" * 32, "reportdata": "c6" * 32 + "00" * 32}),
        (platform_claims("tdxvm"), {"mrtd": "5a" * 48}),
        (container_claims("fe" * 32), {"hostdata": "fe" * 32}),
    ],
    ids=["guest-snp", "guest-tdx", "platform-snp", "platform-tdx", "container"],
)
def test_both_shapes_verify_and_give_measurements_by_their_last_name(claims, measured) -> None:
    verdict = judged(authority().token(claims))
    assert verdict.verified, verdict.problems
    assert verdict.kind is Kind.MAA
    assert not verdict.debug
    assert measured.items() <= verdict.measurements.items()
    assert verdict.measurements["x-ms-policy-hash"] == claims["x-ms-policy-hash"]
    assert verdict.claims == claims
    assert (verdict.at, verdict.issued, verdict.expires) == (ISSUED, ISSUED, ISSUED + timedelta(hours=8))
    assert authority().kid in verdict.chain[0]
    assert "Intel SGX Root CA" in verdict.chain[-1]


def test_what_cannot_be_verified_offline_is_said() -> None:
    checked = " ".join(judged(authority().token()).checked)
    assert "not verified offline: Intel's TCB level and revocation" in checked


CLAIMS = {
    "expired": ({"exp": int(ISSUED.timestamp()) - 1}, "exp", "is not after iat"),
    "issued-in-the-future": ({"iat": int(ISSUED.timestamp()) + 60}, "iat", "was issued at"),
    "not-yet-valid": ({"nbf": int(ISSUED.timestamp()) + 60}, "nbf", "not yet"),
    "no-expiry": ({"exp": ...}, "exp", "absent"),
    "no-issue-time": ({"iat": ...}, "iat", "absent"),
    "time-as-text": ({"exp": "1790000000"}, "exp", "expected seconds"),
    "time-as-true": ({"iat": True}, "iat", "expected seconds"),
    "time-as-fraction": ({"exp": 1790000000.5}, "exp", "expected seconds"),
    "time-beyond-the-calendar": ({"exp": 10**18}, "exp", "expected seconds"),
    "time-of-400-digits": ({"exp": 10**400}, "exp", "expected seconds"),
    "negative-time": ({"nbf": -1}, "nbf", "expected seconds"),
    "no-issuer": ({"iss": ...}, "iss", "absent"),
    "issuer-elsewhere": ({"iss": "https://attest.example.com"}, "iss", "expected https://"),
    "issuer-with-our-name-in-front": (
        {"iss": "https://sharedweu.weu.attest.azure.net.example.com"},
        "iss",
        "expected",
    ),
    "issuer-behind-a-user-name": ({"iss": "https://x@y.attest.azure.net"}, "iss", "expected"),
    "issuer-without-tls": ({"iss": MAA_ISSUER.replace("https", "http")}, "iss", "expected https://"),
    "issuer-with-slash": ({"iss": MAA_ISSUER + "/"}, "iss", "expected"),
    "issuer-with-newline": ({"iss": MAA_ISSUER + "\n"}, "iss", "expected"),
    "another-instance-of-the-service": (
        {"iss": "https://mine.weu.attest.azure.net"},
        "endorsement 1 keys[0]",
        "not for https://mine",
    ),
    "trusted-launch-vm-without-tee": ({TEE: ...}, TEE, "not confidential"),
    "tee-claims-are-no-object": ({TEE: "sevsnpvm"}, TEE, "not confidential"),
    "no-attestation-type": ({"x-ms-attestation-type": ...}, "x-ms-attestation-type", "absent"),
    "sgx-enclave": ({"x-ms-attestation-type": "sgx"}, "x-ms-attestation-type", "no confidential VM"),
    "nested-vbs": ({(TEE, "x-ms-attestation-type"): "vbs"}, f"{TEE}.x-ms-attestation-type", "vbs"),
    "flat-token-with-nested-tee": (
        {"x-ms-attestation-type": "sevsnpvm", "x-ms-sevsnpvm-is-debuggable": False},
        TEE,
        "which has none",
    ),
    "debuggable-not-said": (
        {(TEE, "x-ms-sevsnpvm-is-debuggable"): ...},
        "is-debuggable",
        "absent",
    ),
    "debuggable-as-text": ({(TEE, "x-ms-sevsnpvm-is-debuggable"): "false"}, "is-debuggable", "expected true"),
    "debuggable-as-null": ({(TEE, "x-ms-sevsnpvm-is-debuggable"): None}, "is-debuggable", "absent"),
    "debuggable-as-zero": ({(TEE, "x-ms-sevsnpvm-is-debuggable"): 0}, "is-debuggable", "expected true"),
    "short-launch-measurement": (
        {(TEE, "x-ms-sevsnpvm-launchmeasurement"): "ad" * 47},
        "launchmeasurement",
        "48 bytes",
    ),
    "hostdata-as-number": ({(TEE, "x-ms-sevsnpvm-hostdata"): 0}, "hostdata", "in hex"),
    "hostdata-with-fullwidth-digits": (
        {(TEE, "x-ms-sevsnpvm-hostdata"): "\uff10" * 64},
        "hostdata",
        "32 bytes",
    ),
    "policy-hash-as-list": ({"x-ms-policy-hash": ["wm9m"]}, "x-ms-policy-hash", "expected text"),
}


@pytest.mark.parametrize(("changes", "where", "what"), CLAIMS.values(), ids=CLAIMS)
def test_signed_claims_that_are_refused(changes, where, what) -> None:
    claims = put(guest_claims(), changes)
    header = {"jku": f"{claims['iss']}/certs"} if "iss" in claims else {}
    says(judged(authority().token(claims, header), at=ISSUED), where, what)


@pytest.mark.parametrize(
    ("at", "where"),
    [
        (ISSUED - MINUTE, "nbf"),
        (ISSUED + timedelta(hours=8), "exp"),
        (ISSUED + timedelta(days=900), "exp"),
    ],
    ids=["before-it-was-issued", "at-the-second-of-expiry", "recorded-token-years-later"],
)
def test_stale_or_early(at, where) -> None:
    says(judged(authority().token(), at=at), where, "")


def test_it_holds_until_the_last_second() -> None:
    assert judged(authority().token(), at=ISSUED + timedelta(hours=8, seconds=-1)).verified


def test_test_rings_of_the_service_are_refused_even_when_all_else_holds() -> None:
    ring = authority(issuer="https://sharedweu.weu.test.attest.azure.net", name="ring")
    verdict = judged(ring.token(), endorsements=ring.endorsements, roots=ring.roots)
    assert [one.where for one in verdict.problems] == ["iss"]
    assert "test ring" in verdict.problems[0].what


DEBUG = {
    "snp-debug-policy": ("sevsnpvm", {(TEE, "x-ms-sevsnpvm-is-debuggable"): True}),
    "td-debug-attribute": ("tdxvm", {(TEE, "tdx_td_attributes_debug"): True}),
    "td-dbgstat-enabled": ("tdxvm", {(TEE, "dbgstat"): "enabled"}),
    "boot-debugger": ("sevsnpvm", {"x-ms-azurevm-bootdebug-enabled": True}),
    "kernel-debugger": ("sevsnpvm", {"x-ms-azurevm-kerneldebug-enabled": True}),
    "hypervisor-debugger": ("tdxvm", {"x-ms-azurevm-hypervisordebug-enabled": True}),
    "debuggers-not-disabled": ("sevsnpvm", {"x-ms-azurevm-debuggersdisabled": False}),
}


@pytest.mark.parametrize(("tee", "changes"), DEBUG.values(), ids=DEBUG)
def test_debug_shows_in_claims_and_never_in_the_signature(tee, changes) -> None:
    verdict = judged(authority().token(put(guest_claims(tee), changes)))
    assert verdict.verified, verdict.problems
    assert verdict.debug


def test_debug_of_a_flat_token() -> None:
    assert judged(authority().token(put(platform_claims(), {"x-ms-sevsnpvm-is-debuggable": True}))).debug


NESTED_ONLY = put(guest_claims(kek=None), {("x-ms-runtime", "keys"): ...})
RUNTIME = {
    "guest": (guest_claims(), "TpmEphemeralEncryptionKey"),
    "platform": (platform_claims(), "HCLTransferKey"),
    "by-use": (
        put(
            guest_claims(),
            {("x-ms-runtime", "keys"): [jwk_rsa(rsa_key("kek").public_key(), kid="k", use="enc")]},
        ),
        "k",
    ),
    "by-key-use": (
        put(
            guest_claims(),
            {("x-ms-runtime", "keys"): [jwk_rsa(rsa_key("kek").public_key(), kid="k", key_use="enc")]},
        ),
        "k",
    ),
    "first-of-two": (
        put(
            guest_claims(),
            {
                ("x-ms-runtime", "keys"): [
                    jwk_rsa(rsa_key("ak").public_key(), kid="signs", key_ops=["sign"]),
                    jwk_rsa(rsa_key("kek").public_key(), kid="first", key_ops=["encrypt"]),
                    jwk_rsa(rsa_key("ek").public_key(), kid="second", key_ops=["encrypt"]),
                ]
            },
        ),
        "first",
    ),
    "none-though-the-vtpm-has-one-for-encryption": (NESTED_ONLY, None),
    "empty-list": (guest_claims(kek=None), None),
    "no-runtime-data": (put(platform_claims(), {"x-ms-runtime": ...}), None),
    "signing-key-only": (
        put(
            guest_claims(),
            {("x-ms-runtime", "keys"): [jwk_rsa(rsa_key("ak").public_key(), key_ops=["sign"])]},
        ),
        None,
    ),
    "key-that-is-no-key": (
        put(
            guest_claims(),
            {("x-ms-runtime", "keys"): [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"}]},
        ),
        None,
    ),
    "elliptic-curve": (
        put(guest_claims(), {("x-ms-runtime", "keys"): [{"kty": "EC", "crv": "P-256", "use": "enc"}]}),
        None,
    ),
    "list-of-nonsense": (
        put(guest_claims(), {("x-ms-runtime", "keys"): [1, None, "x", [], {"kty": "RSA"}]}),
        None,
    ),
    "runtime-is-text": (put(platform_claims(), {"x-ms-runtime": "x"}), None),
}


@pytest.mark.parametrize(("claims", "kid"), RUNTIME.values(), ids=RUNTIME)
def test_the_key_that_key_vault_would_wrap_to(claims, kid) -> None:
    verdict = judged(authority().token(claims))
    assert verdict.verified, verdict.problems
    key = maa.release_key(verdict.claims)
    assert (key.kid if key else None) == kid
    told = verdict.checked[-1]
    assert f"{kid} (RSA 2048)" in told if kid else "releases nothing" in told


NONCES = {
    "guest": (guest_claims(nonce=b"fresh"), "x-ms-runtime.client-payload.nonce"),
    "runtime-data-of-a-container": (
        put(container_claims(), {("x-ms-runtime", "nonce"): "fresh"}),
        "x-ms-runtime.nonce",
    ),
    "echoed": (container_claims(nonce=b"fresh"), "not part of the evidence"),
}


@pytest.mark.parametrize(("claims", "told"), NONCES.values(), ids=NONCES)
def test_nonce_and_how_far_it_binds(claims, told) -> None:
    verdict = judged(authority().token(claims), nonce=b"fresh")
    assert verdict.verified, verdict.problems
    assert verdict.nonce == b"fresh"
    assert any(told in line for line in verdict.checked)


@pytest.mark.parametrize(
    ("claims", "nonce"),
    [
        (guest_claims(nonce=b"yesterday's"), b"fresh"),
        (guest_claims(), b"fresh"),
        (guest_claims(), b""),
        (guest_claims(nonce=b"fresh"), base64.b64encode(b"fresh")),
        (put(guest_claims(), {("x-ms-runtime", "client-payload", "nonce"): "fresh!"}), b"fresh!"),
        (put(guest_claims(), {("x-ms-runtime", "client-payload", "nonce"): 7}), b"7"),
    ],
    ids=["replayed", "absent", "empty-matches-nothing", "encoded-twice", "not-base64", "a-number"],
)
def test_nonces_that_do_not_bind(claims, nonce) -> None:
    says(judged(authority().token(claims), nonce=nonce), "nonce", "")


def snapshot() -> Endorsements:
    return Endorsements(files=(real.evidence("azure-maa/sharedweu-certs-snapshot.jsonc"),))


def test_real_guest_token_verifies_to_intel_at_its_own_time() -> None:
    verdict = maa.verify(real.evidence("azure-maa/tvl-sharedweu-cvm.jwt"), at=None, endorsements=snapshot())
    assert verdict.verified, verdict.problems
    assert not verdict.debug
    assert verdict.at == datetime(2022, 12, 23, 23, 0, 18, tzinfo=UTC)
    assert verdict.chain[-1].startswith("Intel SGX Root CA sha256:44a0196b")
    assert verdict.measurements["launchmeasurement"].startswith("ad6de16a")
    key = maa.release_key(verdict.claims)
    assert key is not None
    assert (key.kid, key.bits) == ("TpmEphemeralEncryptionKey", 2048)


def test_the_2022_layout_has_an_encryption_key_below_the_tee_that_does_not_count() -> None:
    token = maa.parse(real.evidence("azure-maa/tvl-sharedweu-cvm.jwt"))
    nested = token.claims[TEE]["x-ms-runtime"]["keys"]
    assert [(key["kid"], key["key_ops"]) for key in nested] == [("HCLAkPub", ["encrypt"])]
    assert maa.release_key({**token.claims, "x-ms-runtime": {}}) is None


REAL = {
    "no-key-was-ever-published": ("ms-aks-cvm-sharedwus.jwt", None, "signature", "cannot be verified"),
    "test-ring": ("ms-sevsnpvm-testring.jwt", None, "iss", "test ring"),
    "expired-a-second-ago": (
        "tvl-sharedweu-cvm.jwt",
        datetime(2022, 12, 24, 7, 0, 19, tzinfo=UTC),
        "exp",
        "expired",
    ),
}


@pytest.mark.parametrize(("name", "at", "where", "what"), REAL.values(), ids=REAL)
def test_real_tokens_that_are_refused(name, at, where, what) -> None:
    verdict = maa.verify(real.evidence(f"azure-maa/{name}"), at=at, endorsements=snapshot())
    says(verdict, where, what)


def test_real_test_ring_token_has_no_key_to_release_to() -> None:
    verdict = maa.verify(real.evidence("azure-maa/ms-sevsnpvm-testring.jwt"), at=None)
    assert maa.release_key(verdict.claims) is None
    says(verdict, "signature", "no JWKS was handed in")


def test_real_token_with_its_claims_changed_in_one_letter() -> None:
    header, payload, signature = real.evidence("azure-maa/tvl-sharedweu-cvm.jwt").split(b".")
    claims = base64.urlsafe_b64decode(payload + b"==").replace(b'"Ubuntu"', b'"ubuntu"')
    token = b".".join((header, b64url(claims).encode(), signature))
    says(maa.verify(token, at=None, endorsements=snapshot()), "signature", "was changed")


def test_synthetic_claims_are_never_verified_whoever_encodes_them() -> None:
    claims = json.loads(real.evidence("azure-maa/uid2-aci-claims.json"))
    bare = json.dumps(claims).encode()
    with pytest.raises(MalformedEvidence):
        maa.verify(bare, at=None)
    token = unsigned({"alg": "RS256", "kid": "x", "typ": "JWT"}, claims) + b"."
    verdict = maa.verify(token, at=None, endorsements=snapshot())
    says(verdict, "signature", "cannot be verified")
    assert verdict.measurements["hostdata"].startswith("fef932e0")


VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    "",
    "x",
    "\x00",
    [],
    [[]],
    {},
    {"keys": 1},
    ["x"],
    {"": None},
]
USED = [
    *(
        ("iss",),
        ("iat",),
        ("nbf",),
        ("exp",),
        ("x-ms-attestation-type",),
        (TEE,),
        (TEE, "x-ms-attestation-type"),
    ),
    *((TEE, "x-ms-sevsnpvm-is-debuggable"), (TEE, "x-ms-sevsnpvm-hostdata")),
    *(("x-ms-runtime",), ("x-ms-runtime", "keys"), ("x-ms-runtime", "client-payload")),
    *(("x-ms-policy-hash",), ("nonce",), ("x-ms-azurevm-debuggersdisabled",)),
]
MAY_BE_ANYTHING = {("x-ms-runtime",), ("x-ms-runtime", "keys"), ("x-ms-runtime", "client-payload")}


@pytest.mark.parametrize("path", USED, ids=".".join)
def test_no_other_type_of_a_claim_breaks_or_opens(path) -> None:
    for value in VALUES:
        claims = put(guest_claims(), {path: value})
        believed = passes(authority().token(claims), nonce=b"nothing has this")
        assert not believed
        if path not in MAY_BE_ANYTHING and value not in (None, "x", "\x00", True, False, ""):
            assert not passes(authority().token(claims)), (path, value)
