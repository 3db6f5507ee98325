"""Tokens of Google Cloud Attestation, both flavours: what verifies, and each mistake that must not."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import real
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import confidential_space as space
from jewelhouse.evidence.verdict import Endorsements, Kind, MalformedEvidence, Verdict
from jewelhouse.rehearsal.minting_tokens import (
    ISSUED,
    GoogleAuthority,
    b64url,
    debug_claims,
    jwk_rsa,
    jws,
    put,
    rsa_key,
    space_claims,
    vm_claims,
)

MINUTE = timedelta(minutes=1)
DIGEST = "sha256:" + "e2" * 32
CONTAINER = ("submods", "container")
FLAVOURS = ("pki", "oidc")


@functools.cache
def authority(**changes: Any) -> GoogleAuthority:
    return GoogleAuthority.new(**changes)


def judged(data: bytes, **options: Any) -> Verdict:
    options.setdefault("endorsements", authority().endorsements)
    options.setdefault("roots", authority().roots)
    return space.verify(data, at=options.pop("at", None), **options)


def says(verdict: Verdict, where: str, what: str) -> None:
    assert not verdict.verified
    assert any(where in one.where and what in one.what for one in verdict.problems), verdict.problems


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("claims", "kind", "debug", "measured"),
    [
        (space_claims(), Kind.CONFIDENTIAL_SPACE, False, {"image_digest": DIGEST}),
        (space_claims(hwmodel="GCP_AMD_SEV"), Kind.CONFIDENTIAL_SPACE, False, {"image_digest": DIGEST}),
        (space_claims(gpu=True), Kind.CONFIDENTIAL_SPACE, False, {"image_digest": DIGEST}),
        (debug_claims(), Kind.CONFIDENTIAL_SPACE, True, {"image_digest": DIGEST}),
        (vm_claims(), Kind.GCE_VM, False, {}),
        (put(vm_claims(), {"dbgstat": "enabled"}), Kind.GCE_VM, True, {}),
    ],
    ids=["tdx", "sev", "gpu", "debug-image", "plain-vm", "plain-vm-open-to-debugging"],
)
def test_both_flavours_verify(flavour, claims, kind, debug, measured) -> None:
    verdict = judged(authority().token(claims, flavour=flavour))
    assert verdict.verified, verdict.problems
    assert (verdict.kind, verdict.debug) == (kind, debug)
    assert measured.items() <= verdict.measurements.items()
    assert bool(verdict.measurements) is bool(measured)
    assert verdict.claims == claims
    assert (verdict.at, verdict.expires) == (ISSUED, ISSUED + timedelta(hours=1))


def test_the_flavours_rest_on_different_things_and_say_so() -> None:
    pki, oidc = (judged(authority().token(flavour=flavour)) for flavour in FLAVOURS)
    assert len(pki.chain) == 3
    assert "pinned root" in pki.checked[0]
    assert oidc.chain == (f"{space.ISSUER} kid {authority().kid}",)
    assert "rests on how it was fetched" in oidc.checked[0]


def test_a_plain_vm_is_not_said_to_have_debugging_off() -> None:
    assert any("do not say" in line for line in judged(authority().token(vm_claims())).checked)


START = int(ISSUED.timestamp())
CLAIMS = {
    "issuer-elsewhere": ({"iss": "https://example.com"}, "iss", "expected"),
    "issuer-with-slash": ({"iss": space.ISSUER + "/"}, "iss", "expected"),
    "intel-trust-authority": ({"iss": "https://portal.trustauthority.intel.com"}, "iss", "expected"),
    "no-issuer": ({"iss": ...}, "iss", "absent"),
    "no-audience": ({"aud": ...}, "aud", "absent"),
    "empty-audience": ({"aud": ""}, "aud", "expected text"),
    "audience-as-number": ({"aud": 1}, "aud", "expected text"),
    "audience-empty-list": ({"aud": []}, "aud", "expected text"),
    "audience-with-null": ({"aud": ["a", None]}, "aud", "expected text"),
    "expired-when-issued": ({"exp": START}, "exp", "not after"),
    "issued-in-the-future": ({"iat": START + 1}, "iat", "was issued at"),
    "not-yet-valid": ({"nbf": START + 1}, "nbf", "not yet"),
    "no-expiry": ({"exp": ...}, "exp", "absent"),
    "expiry-as-text": ({"exp": "9999999999"}, "exp", "expected seconds"),
    "expiry-as-null": ({"exp": None}, "exp", "absent"),
    "expiry-of-400-digits": ({"exp": 10**400}, "exp", "expected seconds"),
    "shielded-vm-is-not-confidential": ({"hwmodel": "GCP_SHIELDED_VM"}, "hwmodel", "not confidential"),
    "hardware-as-the-assertion-page-writes-it": ({"hwmodel": "INTEL_TDX"}, "hwmodel", "expected GCP_AMD_SEV"),
    "hardware-no-page-lists": ({"hwmodel": "GCP_AMD_SEV_SNP"}, "hwmodel", "expected"),
    "no-hardware": ({"hwmodel": ...}, "hwmodel", "absent"),
    "software-unknown": ({"swname": "COS"}, "swname", "expected CONFIDENTIAL_SPACE or GCE"),
    "no-software": ({"swname": ...}, "swname", "absent"),
    "debug-status-as-the-assertion-page-writes-it": ({"dbgstat": "enable"}, "dbgstat", "expected"),
    "debug-status-absent-from-a-workload": ({"dbgstat": ...}, "dbgstat", "absent"),
    "debug-status-null": ({"dbgstat": None}, "dbgstat", "absent"),
    "debug-status-false": ({"dbgstat": False}, "dbgstat", "expected text"),
    "another-maker": ({"oemid": 1}, "oemid", "Google"),
    "maker-as-true": ({"oemid": True}, "oemid", "Google"),
    "secure-boot-not-said": ({"secboot": ...}, "secboot", "absent"),
    "secure-boot-as-text": ({"secboot": "true"}, "secboot", "expected true"),
    "no-container": ({CONTAINER: ...}, "submods.container.image_digest", "absent"),
    "container-is-null": ({CONTAINER: None}, "image_digest", "absent"),
    "submods-is-a-list": ({"submods": []}, "image_digest", "absent"),
    "tag-for-a-digest": ({(*CONTAINER, "image_digest"): "latest"}, "image_digest", "64 hex digits"),
    "digest-without-algorithm": ({(*CONTAINER, "image_digest"): "e2" * 32}, "image_digest", "sha256:"),
    "digest-in-capitals": ({(*CONTAINER, "image_digest"): "sha256:" + "E2" * 32}, "image_digest", "sha256:"),
    "digest-with-newline": ({(*CONTAINER, "image_digest"): DIGEST + "\n"}, "image_digest", "sha256:"),
    "image-id-as-number": ({(*CONTAINER, "image_id"): 7}, "image_id", "expected text"),
    "nonce-as-number": ({"eat_nonce": 7}, "eat_nonce", "list"),
    "nonces-with-null": ({"eat_nonce": ["a", None]}, "eat_nonce", "list"),
    "nonce-as-object": ({"eat_nonce": {"a": "b"}}, "eat_nonce", "list"),
}


@pytest.mark.parametrize(("changes", "where", "what"), CLAIMS.values(), ids=CLAIMS)
def test_signed_claims_that_are_refused(changes, where, what) -> None:
    for flavour in FLAVOURS:
        token = authority().token(put(space_claims(), changes), flavour=flavour)
        says(judged(token, at=ISSUED), where, what)


def test_a_debug_status_that_is_not_understood_counts_as_debug() -> None:
    for status in ("enable", "", None, 1, ...):
        assert judged(authority().token(put(space_claims(), {"dbgstat": status}))).debug


ABSENT = {
    "support-attributes-absent": {("submods", "confidential_space", "support_attributes"): ...},
    "support-attributes-null": {("submods", "confidential_space", "support_attributes"): None},
    "confidential-space-null": {("submods", "confidential_space"): None},
    "overrides-null": {(*CONTAINER, "env_override"): None, (*CONTAINER, "cmd_override"): None},
    "image-id-null": {(*CONTAINER, "image_id"): None},
    "nonce-null": {"eat_nonce": None},
    "tdx-null": {"tdx": None, "attester_tcb": None},
}


@pytest.mark.parametrize("changes", ABSENT.values(), ids=ABSENT)
def test_absent_and_null_members_stay_what_they_are(changes) -> None:
    claims = put(space_claims(), changes)
    verdict = judged(authority().token(claims))
    assert verdict.verified, verdict.problems
    assert verdict.claims == claims


@pytest.mark.parametrize(
    ("at", "where"),
    [(ISSUED - MINUTE, "nbf"), (ISSUED + timedelta(hours=1), "exp"), (ISSUED + timedelta(days=400), "exp")],
    ids=["before-it-was-issued", "at-the-second-of-expiry", "recorded-token-a-year-later"],
)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_stale_or_early(flavour, at, where) -> None:
    says(judged(authority().token(flavour=flavour), at=at), where, "")


HEADERS = {
    "alg-none": ({"alg": "none"}, "header.alg"),
    "alg-absent": ({"alg": None}, "header.alg"),
    "alg-HS256": ({"alg": "HS256"}, "header.alg"),
    "alg-PS256": ({"alg": "PS256"}, "header.alg"),
    "critical-extension": ({"crit": ["b64"], "b64": False}, "header.crit"),
    "key-in-the-header": ({"jwk": jwk_rsa(rsa_key("google/leaf").public_key())}, "header.jwk"),
    "address-of-keys": ({"jku": "https://example.com/jwks"}, "header.jku"),
    "address-of-a-certificate": ({"x5u": "https://example.com/c"}, "header.x5u"),
    "encrypted": ({"enc": "A256GCM"}, "header.enc"),
    "another-type": ({"typ": "JOSE"}, "header.typ"),
    "no-kid": ({"kid": None}, "header.kid"),
}


@pytest.mark.parametrize(("header", "where"), HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_headers_that_are_refused(flavour, header, where) -> None:
    says(judged(authority().token(flavour=flavour, header=header)), where, "")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_hs256_keyed_with_the_public_key(flavour) -> None:
    header, payload, _ = authority().token(flavour=flavour).split(b".")
    members = json.loads(base64.urlsafe_b64decode(header + b"=="))
    key = authority().key if flavour == "pki" else authority().oidc_key
    secret = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for algorithm in ("HS256", "RS256"):
        signed = b64url(json.dumps({**members, "alg": algorithm}).encode()).encode() + b"." + payload
        mac = b64url(hmac.new(secret, signed, hashlib.sha256).digest()).encode()
        says(judged(signed + b"." + mac), "signature", "is not by")


def x5c(*certificates: bytes) -> list[str]:
    return [base64.b64encode(one).decode() for one in certificates]


LEAF, MIDDLE, ROOT = GoogleAuthority.new().chain
FOREIGN = GoogleAuthority.new(name="foreign")
CHAINS = {
    "not-a-list": ("MII", "expected a list"),
    "empty": ([], "expected a list"),
    "leaf-alone": (x5c(LEAF), "expected a list"),
    "too-long": (x5c(LEAF, *[MIDDLE] * 4, ROOT), "expected a list"),
    "of-numbers": ([1, 2], "cannot be read"),
    "no-base64": (["!!", "!!"], "cannot be read"),
    "base64url": ([b64url(LEAF), b64url(MIDDLE)], "cannot be read"),
    "no-certificates": (["AAAA", "AAAA"], "cannot be read"),
    "certificate-with-a-trailing-byte": (x5c(LEAF + b"\0", MIDDLE, ROOT), "cannot be read"),
    "root-left-out": (x5c(LEAF, MIDDLE), "foreign root"),
    "intermediate-left-out": (x5c(LEAF, ROOT), "was not issued by"),
    "out-of-order": (x5c(LEAF, ROOT, MIDDLE), "foreign root"),
    "real-root-appended-to-a-foreign-chain": (x5c(*FOREIGN.chain[:2], ROOT), "was not issued by"),
    "foreign-leaf-on-the-real-chain": (x5c(FOREIGN.chain[0], MIDDLE, ROOT), "was not issued by"),
    "intermediate-as-signer": (x5c(MIDDLE, ROOT), "is a CA"),
    "root-as-its-own-leaf": (x5c(ROOT, ROOT), "is a CA"),
}


@pytest.mark.parametrize(("listed", "what"), CHAINS.values(), ids=CHAINS)
def test_chains_that_are_refused(listed, what) -> None:
    says(judged(authority().token(header={"x5c": listed})), "", what)


def test_null_for_a_chain_is_refused_and_does_not_fall_back_to_a_jwks() -> None:
    header = {"alg": "RS256", "kid": authority().kid, "typ": "JWT", "x5c": None}
    says(judged(jws(header, space_claims(), authority().oidc_key)), "header.x5c", "expected a list")


def test_everything_right_under_a_foreign_root_is_refused_for_the_root() -> None:
    for token, roots in ((FOREIGN.token(), authority().roots), (authority().token(), space.ROOTS)):
        verdict = judged(token, roots=roots)
        assert [one.where for one in verdict.problems] == ["header.x5c"]
        assert "foreign root" in verdict.problems[0].what


def test_a_leaf_key_of_the_attacker_under_the_certificate_of_google() -> None:
    header = {"alg": "RS256", "kid": "x", "typ": "JWT", "x5c": x5c(LEAF, MIDDLE, ROOT)}
    says(judged(jws(header, space_claims(), rsa_key("attacker"))), "signature", "is not by")


def test_pki_needs_no_endorsements_and_oidc_keys_do_not_help_a_broken_chain() -> None:
    assert judged(authority().token(), endorsements=Endorsements()).verified
    token = authority().token(flavour="oidc", header={"x5c": x5c(LEAF, MIDDLE, ROOT)})
    says(judged(token), "signature", "is not by the token's own certificate")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"end": ISSUED - MINUTE}, "is valid from"),
        ({"start": ISSUED + MINUTE}, "is valid from"),
        ({"ca": False}, "may not issue certificates"),
    ],
    ids=["leaf-expired", "leaf-not-yet-valid", "intermediate-is-no-ca"],
)
def test_certificates_that_do_not_count_at_that_moment(changes, what) -> None:
    other = GoogleAuthority.new(**changes)
    says(judged(other.token(), roots=other.roots), "header.x5c", what)


def saved(*keys: dict[str, Any]) -> Endorsements:
    return Endorsements(files=(json.dumps({"keys": list(keys)}).encode(),))


def key(**changes: Any) -> dict[str, Any]:
    return {**authority().jwks["keys"][0], **changes}


KEYS = {
    "no-jwks": (Endorsements(), "no JWKS was handed in"),
    "rotated-away": (saved(key(kid="older")), "no key"),
    "attacker's-key-under-the-real-kid": (
        saved(jwk_rsa(rsa_key("attacker").public_key(), kid=authority().kid)),
        "is not by",
    ),
    "two-keys-under-one-kid": (
        saved(jwk_rsa(rsa_key("attacker").public_key(), kid=authority().kid), key()),
        "two different keys",
    ),
    "for-encryption": (saved(key(use="enc")), "not a key for RS256"),
    "for-another-algorithm": (saved(key(alg="RS512")), "not a key for RS256"),
    "secret": (saved({"kty": "oct", "k": "AAAA", "n": "", "kid": authority().kid}), "expected RSA"),
    "modulus-of-64-bits": (saved(key(n="AAAAAAAAAAA")), "bits"),
    "modulus-as-number": (saved(key(n=7)), "expected base64url"),
    "modulus-in-another-alphabet": (saved(key(n="é" * 300)), "expected base64url"),
    "exponent-one-which-signs-everything": (saved(key(e="AQ")), "exponent"),
    "exponent-even": (saved(key(e="AQAC")), "exponent"),
    "even-modulus": (saved(key(n=b64url(b"\xff" * 255 + b"\xfe"))), "bits"),
    "certificate-entry-of-another-service": (
        saved({"kty": "RSA", "kid": authority().kid, "x5c": x5c(LEAF)}),
        "no JWKS was handed in",
    ),
}


@pytest.mark.parametrize(("endorsements", "what"), KEYS.values(), ids=KEYS)
def test_saved_keys_that_do_not_count(endorsements, what) -> None:
    verdict = judged(authority().token(flavour="oidc"), endorsements=endorsements)
    says(verdict, "", what)
    assert verdict.chain == ()


FRESH = bytes(range(32))


@pytest.mark.parametrize(
    "nonce",
    [
        FRESH.hex(),
        base64.b64encode(FRESH).decode(),
        b64url(FRESH),
        ["another nonce", FRESH.hex()],
    ],
    ids=["hex", "base64", "base64url", "one-of-several"],
)
def test_the_nonce_as_text_or_list(nonce) -> None:
    verdict = judged(authority().token(space_claims(nonce=nonce)), nonce=FRESH)
    assert verdict.verified, verdict.problems
    assert verdict.nonce == FRESH


def test_the_nonce_as_the_very_text() -> None:
    assert judged(
        authority().token(space_claims(nonce="a nonce of words")), nonce=b"a nonce of words"
    ).verified


@pytest.mark.parametrize(
    ("nonce", "asked"),
    [
        ("yesterday's nonce", FRESH),
        (None, FRESH),
        ([], FRESH),
        (FRESH.hex()[:-2], FRESH),
        (FRESH.hex() + "00", FRESH),
        ("", b""),
        (None, b""),
    ],
    ids=["replayed", "absent", "empty-list", "cut", "longer", "empty-matches-nothing", "empty-and-absent"],
)
def test_nonces_that_do_not_bind(nonce, asked) -> None:
    says(judged(authority().token(space_claims(nonce=nonce)), nonce=asked), "eat_nonce", "expected")


def test_real_production_token_verifies_by_itself_at_its_own_time() -> None:
    verdict = space.verify(real.evidence("gcp-confidential-space/oak-ctf-production-tdx.jwt"), at=None)
    assert verdict.verified, verdict.problems
    assert (verdict.kind, verdict.debug) == (Kind.CONFIDENTIAL_SPACE, False)
    assert verdict.at == datetime(2025, 9, 5, 8, 17, 30, tzinfo=UTC)
    assert verdict.measurements["image_digest"].startswith("sha256:e2e5e367")
    assert verdict.claims["submods"]["confidential_space"]["support_attributes"] == [
        "LATEST",
        "STABLE",
        "USABLE",
    ]
    assert "Confidential Space Root CA" in verdict.chain[-1]
    assert verdict.chain[-1].endswith(next(iter(space.ROOTS)))


def test_the_real_root_certificate_is_the_one_that_is_pinned() -> None:
    pem = real.evidence("gcp-confidential-space/confidential_space_root.pem")
    der = base64.b64decode(b"".join(pem.split(b"-----")[2].split()))
    assert hashlib.sha256(der).hexdigest() in space.ROOTS


def test_real_token_an_hour_later_is_expired() -> None:
    token = real.evidence("gcp-confidential-space/oak-ctf-production-tdx.jwt")
    says(space.verify(token, at=datetime(2025, 9, 5, 9, 17, 30, tzinfo=UTC)), "exp", "expired")


def test_real_token_with_its_nonce() -> None:
    token = real.evidence("gcp-confidential-space/oak-ctf-production-tdx.jwt")
    nonce = bytes.fromhex("75a91c8dbe289f190d5e70ab1cb70c93cc14d7243f0ef3ff5326a622ead220a6")
    assert space.verify(token, at=None, nonce=nonce).verified
    says(space.verify(token, at=None, nonce=nonce[::-1]), "eat_nonce", "expected")


def test_real_debug_token_with_one_signature_byte_changed_is_refused_for_the_signature() -> None:
    verdict = space.verify(real.evidence("gcp-confidential-space/oak-invalid-signature.jwt"), at=None)
    assert [one.where for one in verdict.problems] == ["signature"]
    assert verdict.debug
    assert "support_attributes" not in verdict.claims["submods"]["confidential_space"]


@pytest.mark.parametrize("name", ["claims.json", "uid2-null.json", "uid2-policy-valid.json"])
def test_synthetic_claims_are_never_verified_whoever_encodes_them(name) -> None:
    claims = real.evidence(f"gcp-confidential-space/synthetic-claims/{name}")
    with pytest.raises(MalformedEvidence):
        space.verify(claims, at=None)
    for header in ({"alg": "none"}, {"alg": "RS256", "kid": "x", "typ": "JWT"}):
        token = b64url(json.dumps(header).encode()) + "." + b64url(claims) + "."
        assert not space.verify(token.encode(), at=None, endorsements=authority().endorsements).verified


@pytest.mark.parametrize("name", ["uid2-null.json", "uid2-policy-valid.json"])
def test_layout_of_2023_with_null_members_reads_like_any_other(name) -> None:
    """The same claims under a test root: nothing but the signature stood against them."""
    claims = json.loads(real.evidence(f"gcp-confidential-space/synthetic-claims/{name}"))
    verdict = judged(authority().token(claims))
    assert verdict.verified, verdict.problems
    assert verdict.measurements["image_digest"].startswith("sha256:fedbd6ea")


def test_a_real_token_proves_nothing_about_an_azure_one() -> None:
    with pytest.raises(MalformedEvidence):
        space.parse(real.evidence("azure-maa/tvl-sharedweu-cvm.jwt"))


def passes(data: bytes, **options: Any) -> bool:
    """Whether hostile bytes are believed. Anything but a verdict or MalformedEvidence fails the test."""
    try:
        verdict = judged(data, **options)
    except MalformedEvidence:
        return False
    json.dumps(verdict.json())
    return verdict.verified


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(FLAVOURS))
def test_no_flipped_bit_and_no_cut_is_believed(data, flavour) -> None:
    token = authority().token(flavour=flavour)
    place = data.draw(st.integers(0, len(token) - 1))
    bit = data.draw(st.integers(0, 7))
    assert not passes(token[:place] + bytes([token[place] ^ 1 << bit]) + token[place + 1 :])
    assert not passes(token[:place])


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(0, 2))
def test_no_damaged_certificate_is_believed_even_under_a_signature_that_covers_it(data, which) -> None:
    chain = [bytearray(one) for one in (LEAF, MIDDLE, ROOT)]
    raw = chain[which]
    # The byte before a signature counts its unused bits, and nothing signs it.
    place = data.draw(st.integers(0, len(raw) - 1).filter(lambda at: at != len(raw) - 257))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    assert not passes(authority().token(header={"x5c": x5c(*map(bytes, chain))}))


VALUES = [0, -1, 1.5, 10**30, "x", [], [[]], {}, {"keys": 1}, ["x"], {"": None}, True]
USED = [
    *(("iss",), ("aud",), ("iat",), ("nbf",), ("exp",), ("swname",), ("hwmodel",), ("dbgstat",), ("oemid",)),
    *(("secboot",), ("eat_nonce",), ("submods",), CONTAINER, (*CONTAINER, "image_digest")),
    (*CONTAINER, "image_id"),
]
ALLOWED = [
    *((("aud",), value) for value in ("x", ["x"])),
    *((("eat_nonce",), value) for value in ("x", [], ["x"])),
    (("secboot",), True),
]


@pytest.mark.parametrize("path", USED, ids=".".join)
def test_no_other_type_of_a_claim_breaks_or_opens(path) -> None:
    for value in VALUES:
        token = authority().token(put(space_claims(), {path: value}))
        assert passes(token) is ((path, value) in [one for one in ALLOWED if type(one[1]) is type(value)])


def test_white_space_of_a_file_around_a_token_is_no_part_of_it() -> None:
    assert judged(authority().token() + b"\n").verified


RAW = {
    "doubled-claim": b'{"iss":"https://confidentialcomputing.googleapis.com","swname":"GCE","swname":"x"}',
    "NaN": b'{"swname":NaN}',
    "number-that-overflows": b'{"swname":1e999}',
    "nested-deeper-than-the-stack": b'{"swname":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "half-a-surrogate": b'{"swname":"\\udfff"}',
    "a-list": b'["swname"]',
    "no-claim-of-the-service": b'{"iss":"https://example.com"}',
}


@pytest.mark.parametrize("payload", RAW.values(), ids=RAW)
def test_payloads_that_two_readers_could_read_differently(payload) -> None:
    with pytest.raises(MalformedEvidence):
        judged(authority().token(payload))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_bytes_never_do_more_than_be_refused(first, second, third) -> None:
    assert not passes(first)
    assert not passes(b".".join(b64url(part).encode() for part in (first, second, third)))
    oidc = authority().token(flavour="oidc")
    assert not passes(oidc, endorsements=Endorsements(files=(b'{"keys":' + first, second)))
