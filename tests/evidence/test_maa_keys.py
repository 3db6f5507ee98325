"""Keys of Azure Attestation: which saved ones count, and what each forgery of one lacks."""

from __future__ import annotations

import base64
import json
import time
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging_maa import authority, entry, judged, jwks_of, passes, says

from jewelhouse.evidence import maa
from jewelhouse.evidence.verdict import Endorsements
from jewelhouse.rehearsal.minting_tokens import ISSUED, MaaAuthority, Quote, jwk_rsa, rsa_key

MINUTE = timedelta(minutes=1)


def attacker() -> MaaAuthority:
    return authority(name="attacker")


KEYS = {
    "no-jwks": (Endorsements(), "no JWKS was handed in"),
    "jwks-of-someone-else": (attacker().endorsements, "no key"),
    "attacker's-key-under-the-real-kid": (
        jwks_of({**attacker().jwks["keys"][0], "kid": authority().kid}),
        "is not the digest of the key",
    ),
    "bare-key-without-certificate": (
        jwks_of(jwk_rsa(rsa_key("maa").public_key(), kid=authority().kid)),
        "has no x5c",
    ),
    "x5c-is-text": (jwks_of(entry(x5c="MII")), "has no x5c"),
    "x5c-is-empty": (jwks_of(entry(x5c=[])), "has no x5c"),
    "x5c-of-numbers": (jwks_of(entry(x5c=[1])), "cannot be read"),
    "x5c-is-no-base64": (jwks_of(entry(x5c=["!!!!"])), "cannot be read"),
    "x5c-is-no-certificate": (jwks_of(entry(x5c=["AAAA"])), "cannot be read"),
    "keys-is-no-list": (Endorsements(files=(b'{"keys": {"a": 1}}',)), "no JWKS was handed in"),
    "kid-is-no-text": (jwks_of(entry(kid=7)), "no JWKS was handed in"),
    "jwks-with-a-doubled-member": (Endorsements(files=(b'{"keys": [], "keys": []}',)), "a member 2 times"),
    "jwks-cut-off": (Endorsements(files=(authority().endorsements.files[0][:-9],)), "a JWKS that"),
}


@pytest.mark.parametrize(("endorsements", "what"), KEYS.values(), ids=KEYS)
def test_saved_keys_that_do_not_count(endorsements, what) -> None:
    verdict = judged(authority().token(), endorsements=endorsements)
    says(verdict, "", what)
    assert verdict.chain == ()


QUOTES = {
    "self-made-jwks-without-a-quote": ({"with_quote": False}, "has no SGX quote"),
    "certificate-for-another-issuer": ({"subject": "https://x.weu.attest.azure.net"}, "is not for"),
    "enclave-of-another-signer": ({"recipe": Quote(signer="ab" * 32)}, "not known as Azure Attestation"),
    "another-product-of-the-signer": ({"recipe": Quote(product=2)}, "not known as Azure Attestation"),
    "service-enclave-in-debug-mode": ({"recipe": Quote(flags=0x07)}, "debug mode"),
    "quote-of-another-key": ({"recipe": Quote(report_data=b"x" * 32)}, "bound to another key"),
    "quote-with-more-report-data": (
        {"recipe": Quote(report_data=b"x" * 64)},
        "bound to another key",
    ),
    "quoting-enclave-not-intel's": ({"recipe": Quote(quoting_signer="ab" * 32)}, "not Intel's"),
    "another-enclave-of-intel-quotes": ({"recipe": Quote(quoting_product=2)}, "not Intel's"),
    "quoting-enclave-in-debug-mode": ({"recipe": Quote(quoting_flags=0x17)}, "not Intel's"),
    "attestation-key-not-vouched-for": ({"recipe": Quote(binding=b"x" * 32)}, "did not vouch"),
    "processor-certificate-ended": (
        {"recipe": Quote(certificate_end=ISSUED - MINUTE)},
        "ended at",
    ),
}


@pytest.mark.parametrize(("changes", "what"), QUOTES.values(), ids=QUOTES)
def test_keys_that_the_service_does_not_hold(changes, what) -> None:
    held = MaaAuthority.new(**changes)
    verdict = judged(held.token(), endorsements=held.endorsements, roots=held.roots)
    says(verdict, "endorsement 1 keys[0]", what)
    assert verdict.chain == ()


def test_a_quote_renewed_after_the_moment_still_binds_the_same_key_and_is_told() -> None:
    held = MaaAuthority.new(recipe=Quote(certificate_start=ISSUED + timedelta(days=50)))
    verdict = judged(held.token(), endorsements=held.endorsements, roots=held.roots)
    assert verdict.verified, verdict.problems
    assert any("renewed on 2026-04-21" in line for line in verdict.checked)


def test_a_quote_that_was_renewed_and_has_ended_before_the_moment() -> None:
    recipe = Quote(certificate_start=ISSUED - timedelta(days=50), certificate_end=ISSUED - MINUTE)
    held = MaaAuthority.new(recipe=recipe)
    says(judged(held.token(), endorsements=held.endorsements, roots=held.roots), "keys[0]", "ended at")


def test_everything_right_under_a_foreign_root_is_refused_for_the_root() -> None:
    verdict = judged(authority().token(), roots=maa.ROOTS)
    assert [one.where for one in verdict.problems] == ["endorsement 1 keys[0]"]
    assert "foreign root" in verdict.problems[0].what


def test_a_certificate_that_its_key_did_not_sign() -> None:
    raw = bytearray(authority().certificate)
    raw[-1] ^= 1
    verdict = judged(
        authority().token(), endorsements=jwks_of(entry(x5c=[base64.b64encode(bytes(raw)).decode()]))
    )
    says(verdict, "keys[0]", "not signed by its own key")


SAVED = {
    "as-it-came": lambda raw: (raw,),
    "with-comments": lambda raw: (b"// saved 2026-03 // https://x\n/* two\nlines */" + raw + b"\n// end",),
    "with-a-byte-order-mark": lambda raw: (b"\xef\xbb\xbf" + raw,),
    "twice": lambda raw: (raw, raw),
    "among-files-of-other-formats": lambda raw: (b"-----BEGIN CERTIFICATE-----", b"\0\1\2", b"{}", raw),
    "beside-an-entry-that-was-broken": lambda raw: (
        json.dumps({"keys": [entry(x5c=["AAAA"])]}).encode(),
        raw,
    ),
}


@pytest.mark.parametrize("saved", SAVED.values(), ids=SAVED)
def test_how_a_jwks_may_be_saved(saved) -> None:
    files = saved(authority().endorsements.files[0])
    verdict = judged(authority().token(), endorsements=Endorsements(files=files))
    assert verdict.verified, verdict.problems


BOMBS = {
    "comments-without-an-end": b'{"keys":' + b"/*" * 400_000,
    "string-without-an-end": b'{"keys":"' + b'\\"' * 400_000,
    "strings-without-an-end": b'{"keys":' + b'"' * 900_001 + b"//",
    "stars": b'{"keys":/*' + b"*" * 900_000,
    "members-all-alike": b'{"keys":[{' + b",".join([b'"a":1'] * 150_000) + b"}]}",
    "keys-of-one-name": json.dumps(
        {"keys": [{"kid": authority().kid, "x5c": [str(number)]} for number in range(10_000)]}
    ).encode(),
    "a-file-of-10-MiB": b'{"keys":' + b" " * 10_000_000,
}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS)
def test_a_saved_jwks_cannot_hold_the_verifier_up(raw) -> None:
    start = time.process_time()
    assert not passes(authority().token(), endorsements=Endorsements(files=(raw,)))
    assert time.process_time() - start < 2


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_damaged_certificate_or_quote_is_believed(data) -> None:
    """Every byte is signed, but for the one before the signature that counts its unused bits."""
    raw = bytearray(authority().certificate)
    place = data.draw(st.integers(0, len(raw) - 1).filter(lambda at: at != len(raw) - 257))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    saved = jwks_of(entry(x5c=[base64.b64encode(bytes(raw)).decode()]))
    assert not passes(authority().token(), endorsements=saved)
